"""Models of the lite division, logistic regression and a small CNN, beside the plain loop: ``pytest benchmarks``."""

from collections.abc import Callable

import pytest

SMALL = ["fedavg-logistic", "fedavg-small-cnn", "maml-small-cnn", "maml-small-cnn-5-steps", "ditto-small-cnn"]


@pytest.mark.parametrize("side", ["metaleaf", "loop"])
@pytest.mark.parametrize("name", SMALL)
def test_round(timed: Callable[[str, str], None], name: str, side: str) -> None:
    timed(name, side)
