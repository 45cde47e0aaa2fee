"""Meta-gradients on LEAF's CNN, beside plain loops with create_graph: ``pytest benchmarks``."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize("side", ["metaleaf", "loop"])
@pytest.mark.parametrize(
    "name", ["maml-cnn-4", "maml-cnn-8", "maml-cnn-4-5-steps", "maml-cnn-8-5-steps", "fomaml-cnn", "meta-sgd-cnn"]
)
def test_round(timed: Callable[[str, str], None], name: str, side: str) -> None:
    timed(name, side)
