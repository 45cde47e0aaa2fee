"""Threads that each work for one client at a time, with one computing thread of torch's each.

A client's batch of ten is too small for two threads to share, but two clients are not. Threads, not processes: torch
lets go of Python's lock while it computes, and the shared parameters are there once.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor

from metaleaf.engine.lockstep import Team
from metaleaf.engine.threads import alone, side_by_side
from metaleaf.task import Task

TEAM = 5
"""Clients in lockstep, on average at most. More save little: five batches' products are bound by arithmetic."""
MOST = 2 * TEAM
"""Clients in lockstep, where many small ones balance a few large ones."""

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


class Crew:
    """As many threads as torch computes with on the CPU; on a GPU, where one stream does the work, only this one."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.size = torch.get_num_threads() if task.device.type == "cpu" else 1
        self._own = threading.local()

    def map(self, work: Callable[[Task, T], R], items: Sequence[T]) -> Iterator[R]:
        """work(task, item) of each item, in the order of the items; few results are ahead of what is asked for."""
        if self.size == 1:
            yield from (work(self.task, item) for item in items)
            return
        ahead: deque[Future[R]] = deque()
        rest = iter(items)
        with alone():
            try:
                for item in rest:
                    ahead.append(self._pool.submit(self._do, work, item))
                    if len(ahead) > self.size:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def map_teams(
        self,
        work: Callable[[Task, T], R],
        teams: Sequence[Sequence[T]],
        shared: Collection[Tensor],
        after: Callable[[Sequence[T], list[R]], S],
    ) -> Iterator[S]:
        """after(team, results) of each team, in their order, with results from work(task, item) of its items.

        What they do with the shared matrices a team's members do together (`metaleaf.engine.lockstep`).
        """
        seats = max(1, self.size // max(1, len(teams)))

        def together(_: Task, team: Sequence[T]) -> S:
            return after(team, Team(shared, seats).map(self._lanes, partial(self._do, work), team))

        return self.map(together, teams)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return side_by_side(self.size, "client")

    @cached_property
    def _lanes(self) -> ThreadPoolExecutor:
        return side_by_side(self.size * MOST, "lane")

    def _do(self, work: Callable[[Task, T], R], item: T) -> R:
        if not hasattr(self._own, "model"):
            self._own.model = self.task.copied_model()
        return work(self.task.on(self._own.model), item)


def dealt(items: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Items in teams of about equal size; items are numbers in `sizes`, sorted by them.

    Which ones does not depend on the number of threads, so that it changes no bit. An even number of teams, so that two
    threads end together. Where there are more threads, several clients of a team run at one time.
    """
    count = 2 * -(-len(items) // (2 * TEAM))
    passes = [items[start : start + count] for start in range(0, len(items), count)]
    there_and_back = [cards[:: 1 if i % 2 == 0 else -1] for i, cards in enumerate(passes)]
    teams = [[cards[i] for cards in there_and_back if i < len(cards)] for i in range(count)]
    return _levelled([team for team in teams if team], sizes)


def _levelled(teams: list[list[int]], sizes: Sequence[int]) -> list[list[int]]:
    """While it makes them more equal, the largest team gives the smallest an item, or swaps two; the largest first."""
    while True:
        teams.sort(key=lambda team: -sum(sizes[i] for i in team))
        largest, smallest = teams[0], teams[-1]
        gap = sum(sizes[i] for i in largest) - sum(sizes[i] for i in smallest)
        returns = [[b] for b in smallest] + ([[]] if len(smallest) < MOST else [])
        moves = [(sizes[a] - sum(sizes[b] for b in back), a, back) for a in largest for back in returns]
        after, given, back = min((abs(gap - 2 * moved), a, back) for moved, a, back in moves)
        if after >= gap:
            return teams
        largest[:] = [*(i for i in largest if i != given), *back]
        smallest[:] = [given, *(i for i in smallest if i not in back)]
