"""One client after the other on each thread: the reference, and the faster engine for large models on a CPU."""

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithm import Algorithm, respond
from metaleaf.data.deferred import made
from metaleaf.engine.crew import Crew, dealt
from metaleaf.engine.factored import Unsupported, lift, shared_matrices
from metaleaf.engine.gathered import Gathered, Sent
from metaleaf.engine.scoring import score
from metaleaf.shots import AnyEpisode, Episode, Scored, rows
from metaleaf.task import Task
from metaleaf.trees import Tree

R = TypeVar("R")
S = TypeVar("S")
Shapes = Collection[tuple[int, int]]


class Sequential:
    """shapes: of dense layers whose weights are kept as `metaleaf.engine.factored` explains."""

    def __init__(
        self, task: Task, algorithm: Algorithm, device: torch.device, shapes: Collection[tuple[int, int]] = ()
    ) -> None:
        self.task, self.algorithm, self.device, self.shapes = task, algorithm, device, shapes
        self.crew = Crew(task)

    @property
    def mode(self) -> str:
        """What clients run with, in a word for the record."""
        return "lowrank" if self.shapes else "sequential"

    def gather(self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float]) -> Gathered:
        """See `Engine`."""
        # Environments are vectorised over their clients inside the algorithm.
        return self._thin_or_not(
            lambda shapes: self._gather(broadcast, episodes, weights, shapes), isinstance(episodes[0], Episode)
        )

    def score(self, broadcast: Tree, clients: Sequence[Scored], every_step: bool) -> list[Tensor]:
        """See `Engine`."""
        return self._thin_or_not(lambda shapes: self._score(broadcast, clients, every_step, shapes))

    def _thin_or_not(self, work: Callable[[Shapes], R], allowed: bool = True) -> R:
        """The work with factored weights, or with ordinary ones where the algorithm does not get on with factored."""
        if not self.shapes or not allowed:
            return work(())
        try:
            return work(self.shapes)
        except Unsupported as error:
            self.shapes = ()
            name = type(self.algorithm).__name__
            warnings.warn(f"{name} runs with ordinary weights from now on: {error}", stacklevel=4)
            return work(())

    def _gather(
        self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float], shapes: Shapes
    ) -> Gathered:
        sent, lifted = Sent(self.algorithm, weights), lift(broadcast, shapes)

        def work(task: Task, i: int) -> Any:
            episode = _lifted(trees.to(made(episodes[i]), self.device), shapes)
            with torch.no_grad():
                return respond(self.algorithm, task, lifted, episode)

        with torch.no_grad():
            for part in self._mapped(work, [rows(episode) for episode in episodes], lifted, sent.part):
                sent.add(part)
            return sent.gathered(self.device)

    def _score(self, broadcast: Tree, clients: Sequence[Scored], every_step: bool, shapes: Shapes) -> list[Tensor]:
        lifted = lift(broadcast, shapes)

        def work(task: Task, i: int) -> Tensor:
            with torch.no_grad():
                own, query = trees.to(made(clients[i]), self.device)
                return score(task, self.algorithm, lifted, (_lifted(own, shapes), query), every_step).cpu()

        def by_client(team: Sequence[int], scores: list[Tensor]) -> dict[int, Tensor]:
            return dict(zip(team, scores, strict=True))

        found: dict[int, Tensor] = {}
        sizes = [rows(own) + rows(query) for own, query in clients]
        for scores in self._mapped(work, sizes, lifted, by_client):
            found |= scores
        return [found[i] for i in range(len(clients))]

    def _mapped(
        self,
        work: Callable[[Task, int], R],
        sizes: Sequence[int],
        lifted: Tree,
        after: Callable[[Sequence[int], list[R]], S],
    ) -> Iterator[S]:
        """after(team, [work(task, i) of its clients i]) of teams of the clients of these sizes.

        Alone, where there is nothing to share. Longest first, so that the threads end together.
        """
        clients = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
        shared = shared_matrices(lifted)
        if not shared:
            return self.crew.map(lambda task, i: after([i], [work(task, i)]), clients)
        return self.crew.map_teams(work, dealt(clients, sizes), shared, after)


def _lifted(client: Any, shapes: Shapes) -> Any:
    """The client; an episode's memory, and what the client alone received, with factored weights."""
    if not shapes or not isinstance(client, Episode):
        return client
    return client._replace(memory=lift(client.memory, shapes), received=lift(client.received, shapes))
