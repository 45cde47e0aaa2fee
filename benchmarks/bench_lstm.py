"""LEAF's LSTM, beside plain loops: ``pytest benchmarks``."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize("side", ["metaleaf", "loop"])
@pytest.mark.parametrize("name", ["fedavg-lstm", "maml-lstm"])
def test_round(timed: Callable[[str, str], None], name: str, side: str) -> None:
    timed(name, side)
