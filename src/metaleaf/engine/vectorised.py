"""Clients side by side with torch.func.vmap: the engine for small models and for GPUs."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithm import Algorithm, respond
from metaleaf.engine.gathered import Gathered, Sent
from metaleaf.engine.padding import batch
from metaleaf.engine.replay.traced import Traced
from metaleaf.engine.scoring import score
from metaleaf.engine.threads import alone, side_by_side
from metaleaf.gradient import over
from metaleaf.shots import AnyEpisode, Episode, Scored, rows
from metaleaf.task import Task
from metaleaf.trees import Tree

MEMORY = 2 << 30
"""Bytes that the copies of parameters and gradients of clients run at once may take."""
CUTS = (1 / 2, 7 / 8)
"""Where a cohort, ordered by size, is cut into groups that are padded to lengths of their own."""
OVERHEAD = 12_000
"""Python's time for a step of a group, as parameters whose arithmetic takes as long, on a CPU (measured roughly)."""
T = TypeVar("T")


class Vectorised:
    """Clients are padded to the longest of their group and masked, in groups that fit the memory.

    replay: whether recorded operators replace the algorithm's functions where possible
    (`metaleaf.engine.replay.traced`).
    """

    mode = "vectorised"

    def __init__(self, task: Task, algorithm: Algorithm, device: torch.device, *, replay: bool = True) -> None:
        self.task, self.algorithm, self.device = task, algorithm, device
        params = trees.leaves(task.params())
        # Eight: parameters, gradient, two moments and the temporaries of a step.
        self.chunk = max(1, MEMORY // (8 * trees.nbytes(params)))
        # A GPU works on a small group no faster than on a large one.
        self.overhead = OVERHEAD / sum(p.numel() for p in params) if device.type == "cpu" else math.inf
        name = type(algorithm).__name__
        self.client = Traced(_side_by_side(self._client), f"{name}.client", replay=replay)
        self.scores = {
            (method, every): Traced(_side_by_side(partial(self._score, every)), f"{name}.{method}", replay=replay)
            for method in ("adapt", "personal")
            for every in (False, True)
        }

    def gather(self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float]) -> Gathered:
        """See `Engine`."""
        sent = Sent(self.algorithm, weights)
        groups = list(self._groups([rows(episode) for episode in episodes]))
        for part in self._each(self.client, broadcast, episodes, groups, sent.stacked_part):
            sent.add(part)
        return sent.gathered(self.device)

    def score(self, broadcast: Tree, clients: Sequence[Scored], every_step: bool) -> list[Tensor]:
        """See `Engine`."""
        found: dict[int, Tensor] = {}
        groups = list(self._groups([rows(own) + rows(query) for own, query in clients]))
        method = "personal" if isinstance(clients[0][0], Episode) else "adapt"
        for scores in self._each(self.scores[method, every_step], broadcast, clients, groups, _by_client):
            found.update(scores)
        return [found[i] for i in range(len(clients))]

    def _client(self, broadcast: Tree, episode: AnyEpisode) -> Tree:
        return respond(self.algorithm, self.task, broadcast, episode)

    def _score(self, every_step: bool, broadcast: Tree, client: Scored) -> Tensor:
        return score(self.task, self.algorithm, broadcast, client, every_step)

    def _each(
        self,
        function: Traced,
        broadcast: Tree,
        clients: Sequence[Tree],
        groups: Sequence[list[int]],
        then: Callable[[list[int], Tree], T],
    ) -> Iterator[T]:
        """What becomes of the function's results for each group; on a CPU, groups run on threads of their own."""

        def prepared(group: list[int]) -> Callable[[], T]:
            run = function.prepared(broadcast, batch([clients[i] for i in group], self.device))
            return lambda: then(group, run())

        # What is too much for the memory at once runs one after the other.
        if self.device.type != "cpu" or len(groups) == 1 or len(clients) > self.chunk or torch.get_num_threads() == 1:
            yield from (prepared(group)() for group in groups)
            return
        helpers = self._helpers
        with alone():
            # The last group has the longest clients, and so the most operators.
            begun = [(one, helpers.submit(one)) for one in map(prepared, reversed(groups))]
            # What they have not begun this thread does itself.
            yield from (one() if future.cancel() else future.result() for one, future in reversed(begun))

    @cached_property
    def _helpers(self) -> ThreadPoolExecutor:
        return side_by_side(torch.get_num_threads() - 1, "group")

    def _groups(self, sizes: Sequence[int]) -> Iterator[list[int]]:
        """Positions in groups of similar size, of at most `chunk`.

        Always cut at the same places, where it pays at all: then cohorts of one number make groups of the same shapes.
        """
        order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
        ends = [0, *(round(cut * len(order)) for cut in CUTS), len(order)]
        groups = [order[a:b] for a, b in pairwise(ends) if a < b]
        cost = [sum((self.overhead + len(group)) * sizes[group[-1]] for group in some) for some in (groups, [order])]
        for group in groups if cost[0] < cost[1] else [order]:
            for start in range(0, len(group), self.chunk):
                yield group[start : start + self.chunk]


def _by_client(group: Sequence[int], scores: Tensor) -> dict[int, Tensor]:
    return dict(zip(group, scores.cpu(), strict=True))


def _side_by_side(f: Callable[[Tree, Tree], Tree]) -> Callable[[Tree, Tree], Tree]:
    """f(broadcast, argument) over the first dimension of the argument's leaves."""

    def run(broadcast: Tree, arguments: Tree) -> Tree:
        with torch.no_grad():
            return over(partial(f, broadcast))(arguments)

    return run
