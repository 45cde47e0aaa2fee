"""One client after the other on each thread: the reference, and the faster engine for large models on a CPU."""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithm import Algorithm
from metaleaf.crew import Crew
from metaleaf.factored import lift
from metaleaf.replies import Gathered, Sent
from metaleaf.scoring import score
from metaleaf.shots import AnyEpisode, Episode, Shots, rows
from metaleaf.task import Task
from metaleaf.trees import Tree


class Sequential:
    """shapes: of dense layers whose weights are kept as `metaleaf.factored` explains."""

    def __init__(
        self, task: Task, algorithm: Algorithm, device: torch.device, shapes: Collection[tuple[int, int]] = ()
    ) -> None:
        self.task, self.algorithm, self.device, self.shapes = task, algorithm, device, shapes
        self.mode = "lowrank" if shapes else "sequential"
        self.crew = Crew(task)

    def gather(self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float]) -> Gathered:
        """See `Engine`."""
        sent = Sent(self.algorithm, weights)
        # Longest first, so that the threads end together.
        order = sorted(range(len(episodes)), key=lambda i: (-rows(episodes[i]), i))
        work = partial(self._client, self._lifted(broadcast, episodes[0]), episodes)
        for i, reply in zip(order, self.crew.map(work, order), strict=True):
            with torch.no_grad():
                sent.one(i, reply)
        return sent.gathered(self.device)

    def _client(self, broadcast: Tree, episodes: Sequence[AnyEpisode], task: Task, i: int) -> Any:
        episode = trees.to(episodes[i], self.device)
        if isinstance(episode, Episode):
            episode = episode._replace(memory=self._lifted(episode.memory, episode))
        with torch.no_grad():
            return self.algorithm.client(task, broadcast, episode)

    def _lifted(self, tree: Tree, episode: AnyEpisode) -> Tree:
        # Environments are vectorised over their clients inside the algorithm.
        return lift(tree, self.shapes if isinstance(episode, Episode) else ())

    def score(self, broadcast: Tree, clients: Sequence[tuple[Shots, Shots]], every_step: bool) -> list[Tensor]:
        """See `Engine`."""
        lifted = lift(broadcast, self.shapes)

        def work(task: Task, client: tuple[Shots, Shots]) -> Tensor:
            with torch.no_grad():
                return score(task, self.algorithm, lifted, trees.to(client, self.device), every_step).cpu()

        return list(self.crew.map(work, clients))
