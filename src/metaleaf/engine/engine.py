"""Run an algorithm over a cohort. Every engine computes the same, up to the rounding of float sums in another order.

`metaleaf.engine.sequential` takes one client after the other, with ordinary weights ("sequential") or with those of big
dense layers as low-rank corrections ("lowrank", `metaleaf.engine.factored`); `metaleaf.engine.vectorised` takes all at
once.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithm import Algorithm
from metaleaf.engine.allocator import keep_freed_memory
from metaleaf.engine.factored import big_layers
from metaleaf.engine.gathered import Gathered
from metaleaf.engine.sequential import Sequential
from metaleaf.engine.vectorisable import obstacle, said
from metaleaf.engine.vectorised import Vectorised
from metaleaf.engine.worth import pays
from metaleaf.errors import UserError
from metaleaf.shots import AnyEpisode, Scored, Shots
from metaleaf.task import Task
from metaleaf.trees import Tree

Mode = Literal["auto", "sequential", "lowrank", "vectorised"]


SMALL_MODEL = 100_000
"""Parameters up to which vectorising pays on a CPU: below, Python's overhead per operation dominates; above, copies
of the parameters per client fall out of the cache (measured roughly)."""


class Engine(Protocol):
    """Runs a plugin's `client`, `adapt` and `personal` for many clients."""

    task: Task

    @property
    def mode(self) -> str:
        """The name of the mode."""
        ...

    def gather(self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float]) -> Gathered:
        """Run `Algorithm.client` over the cohort; the mean is by these weights, which sum to 1."""
        ...

    def score(self, broadcast: Tree, clients: Sequence[Scored], every_step: bool) -> list[Tensor]:
        """For each client: examples that it is scored on, sums of the task's metrics, summed loss, as rows.

        Row 0 is before adapting; then a row for each adaptation step, or only for the last. All clients are of one
        kind: new ones with a support, or participants with an episode.
        """
        ...


def engine(
    task: Task, algorithm: Algorithm, mode: Mode = "auto", device: str = "cpu", examples: Shots | None = None
) -> Engine:
    """The engine of that mode; ``auto`` vectorises on a GPU and small models on a CPU, and is low-rank where that pays.

    Whether it pays is counted on the examples (`metaleaf.engine.worth`); without, a big dense layer is enough. What
    cannot be done is done sequentially, with a warning: vectorised, what torch.func.vmap cannot run, which is tried on
    the examples if there are some and otherwise shows with the first cohort; low-rank (if it was asked for), a model
    without a big dense layer.
    """
    place = torch.device(device)
    if place.type == "cuda":
        _exact_cuda()
    else:
        keep_freed_memory()
    small = trees.nbytes(task.params()) <= 4 * SMALL_MODEL
    if mode == "vectorised" or (mode == "auto" and (small or place.type == "cuda")):
        return _vectorised(task, algorithm, place, examples)
    shapes = big_layers(task.model) if mode != "sequential" else set()
    if mode == "auto" and shapes and examples and not pays(task, algorithm, examples, shapes):
        shapes = set()
    if mode == "lowrank" and not shapes:
        warnings.warn("no dense layer is big enough for mode lowrank: clients run with ordinary weights.", stacklevel=2)
    return Sequential(task, algorithm, place, shapes)


def _vectorised(task: Task, algorithm: Algorithm, place: torch.device, examples: Shots | None) -> Engine:
    sequential = Sequential(task, algorithm, place)
    reason = obstacle(task, algorithm, examples) if examples else None
    if reason:
        _warn(type(task.model).__name__, reason)
        return sequential
    return VectorisedAtFirst(Vectorised(task, algorithm, place), sequential)


def _warn(name: str, reason: str) -> None:
    warnings.warn(f"clients run one after the other (engine sequential): {name}: {reason}.", stacklevel=4)


class VectorisedAtFirst:
    """Vectorised, unless the first call fails and the same works sequentially: then it stays so, with a warning."""

    def __init__(self, vectorised: Vectorised, sequential: Sequential) -> None:
        self.used: Vectorised | Sequential = vectorised
        self.task = sequential.task
        self.sequential = sequential
        self.works: set[str] = set()
        """Methods that have been called."""

    @property
    def mode(self) -> str:
        """The name of the mode that is used."""
        return self.used.mode

    def gather(self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float]) -> Gathered:
        """See `Engine`."""
        found: Gathered = self._called("gather", broadcast, episodes, weights)
        return found

    def score(self, broadcast: Tree, clients: Sequence[Scored], every_step: bool) -> list[Tensor]:
        """See `Engine`."""
        found: list[Tensor] = self._called("score", broadcast, clients, every_step)
        return found

    def _called(self, method: str, *arguments: Any) -> Any:
        try:
            found = getattr(self.used, method)(*arguments)
        except UserError:
            raise
        except Exception as error:
            if method in self.works or self.used is self.sequential:
                raise
            found = getattr(self.sequential, method)(*arguments)
            self.used = self.sequential
            _warn(type(self.sequential.algorithm).__name__, f"torch.func.vmap cannot run it ({said(error)})")
        self.works.add(method)
        return found


def _exact_cuda() -> None:
    """Full float32 (no TF32) and repeatable kernels."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
