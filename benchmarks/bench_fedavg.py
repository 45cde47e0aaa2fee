"""FedAvg and Reptile on LEAF's CNN, beside the plain loop: ``pytest benchmarks``."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize("side", ["metaleaf", "loop"])
@pytest.mark.parametrize(
    "name",
    [
        "fedavg-cnn-10",
        "fedavg-cnn-50",
        "fedavg-cnn-batch-20",
        "fedavg-cnn-sigma-1",
        "fedavg-cnn-adam-4",
        "fedavg-cnn-adam-10",
        "reptile-cnn",
    ],
)
def test_round(timed: Callable[[str, str], None], name: str, side: str) -> None:
    timed(name, side)
