"""Run an algorithm over a cohort. Every engine computes the same, up to the rounding of float sums in another order.

`metaleaf.sequential` takes one client after the other, with ordinary weights ("sequential") or with those of big dense
layers as low-rank corrections ("lowrank", `metaleaf.factored`); `metaleaf.vectorised` takes all at once.
"""

import warnings
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithm import Algorithm
from metaleaf.allocator import keep_freed_memory
from metaleaf.factored import big_layers
from metaleaf.replies import Gathered
from metaleaf.sequential import Sequential
from metaleaf.shots import AnyEpisode, Scored
from metaleaf.task import Task
from metaleaf.trees import Tree
from metaleaf.vectorised import Vectorised

Mode = Literal["auto", "sequential", "lowrank", "vectorised"]


SMALL_MODEL = 100_000
"""Parameters up to which vectorising pays on a CPU: below, Python's overhead per operation dominates; above, copies
of the parameters per client fall out of the cache (measured roughly)."""


class Engine(Protocol):
    """Runs a plugin's `client`, `adapt` and `personal` for many clients."""

    @property
    def mode(self) -> str:
        """The name of the mode."""
        ...

    def gather(self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float]) -> Gathered:
        """Run `Algorithm.client` over the cohort; the mean is by these weights, which sum to 1."""
        ...

    def score(self, broadcast: Tree, clients: Sequence[Scored], every_step: bool) -> list[Tensor]:
        """For each client: examples that it is scored on, correct, summed loss, as rows of 3 numbers.

        Row 0 is before adapting; then a row for each adaptation step, or only for the last. All clients are of one
        kind: new ones with a support, or participants with an episode.
        """
        ...


def engine(task: Task, algorithm: Algorithm, mode: Mode = "auto", device: str = "cpu") -> Engine:
    """The engine of that mode; ``auto`` vectorises on a GPU and small models on a CPU, and is low-rank otherwise.

    A model without a big dense layer cannot be low-rank: then it is "sequential", with a warning if it was asked for.
    """
    place = torch.device(device)
    if place.type == "cuda":
        _exact_cuda()
    else:
        keep_freed_memory()
    small = trees.nbytes(task.params()) <= 4 * SMALL_MODEL
    if mode == "vectorised" or (mode == "auto" and (small or place.type == "cuda")):
        return Vectorised(task, algorithm, place)
    shapes = () if mode == "sequential" else big_layers(task.model)
    if mode == "lowrank" and not shapes:
        warnings.warn("no dense layer is big enough for mode lowrank: clients run with ordinary weights.", stacklevel=2)
    return Sequential(task, algorithm, place, shapes)


def _exact_cuda() -> None:
    """Full float32 (no TF32) and repeatable kernels."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
