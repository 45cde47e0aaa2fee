"""Whether every engine gives the numbers of one client after the other on the CPU, here or on a GPU, in float64."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

import torch

from metaleaf import registry, trees
from metaleaf.bench.contenders import Metaleaf
from metaleaf.bench.workloads import Workload
from metaleaf.engine.engine import Mode
from metaleaf.trees import Tree

SHAPES = {
    "logistic": {"classes": 3, "x_shape": (4,)},
    "cnn": {"classes": 5, "x_shape": (8, 8)},
    "lstm": {"classes": 10, "x_shape": (8,)},
}
TOLERANCE = 1e-8


class Outcome(NamedTuple):
    """error: of update and scores, by norm, relative to the reference; why: what stopped it instead."""

    algorithm: str
    model: str
    mode: str
    error: float
    why: str = ""

    @property
    def equal(self) -> bool:
        """Whether only rounding differs."""
        return self.error <= TOLERANCE

    def __str__(self) -> str:
        return f"{self.algorithm} {self.model} {self.mode}: " + (self.why or f"relative error {self.error:.1e}")


def algorithms() -> list[str]:
    """Those that learn from clients, not from whole environments."""
    known, _ = registry.loadable("algorithms")
    return [name for name, plugin in known.items() if getattr(plugin, "unit", "client") == "client"]


def check(device: str = "cpu", names: Sequence[str] = (), models: Sequence[str] = tuple(SHAPES)) -> Iterator[Outcome]:
    """Every algorithm, model and mode on the device: a round's update of a ragged cohort, and its clients' scores."""
    for name in names or algorithms():
        for model in models:
            work = Workload("check", name, model, clients=4, mean=16, sigma=1.0, shape=SHAPES[model])
            expected = _numbers(work, "cpu", "sequential")
            for mode in get_args(Mode):
                yield _compared(work, device, mode, expected)


def _compared(work: Workload, device: str, mode: Mode, expected: Tree) -> Outcome:
    try:
        found = _numbers(work, device, mode)
    except RuntimeError as error:  # what torch raises where a device lacks an operator
        return Outcome(work.algorithm, work.model, mode, float("inf"), str(error).splitlines()[0])
    difference = trees.length(trees.subtract(found, expected)) / max(trees.length(expected), 1e-30)
    return Outcome(work.algorithm, work.model, mode, difference)


def _numbers(work: Workload, device: str, mode: Mode) -> Tree:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # modes that cannot serve a plugin fall back, and say so
        contender = Metaleaf(work, device, mode, torch.float64)
        federated = getattr(contender.algorithm, "federated", True)
        update = contender.update() if federated else ()
        return trees.to((update, contender.score()), torch.device("cpu"))
