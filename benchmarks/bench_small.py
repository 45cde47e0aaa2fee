"""Logistic regression, 100 clients a round, beside the plain loop: ``pytest benchmarks``."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize("side", ["metaleaf", "loop"])
@pytest.mark.parametrize("name", ["fedavg-logistic"])
def test_round(timed: Callable[[str, str], None], name: str, side: str) -> None:
    timed(name, side)
