"""FedBN: FedAvg but for the normalisation layers, whose parameters every client keeps to itself.

Li, Jiang, Zhang, Kamp, Dou (2021), arXiv 2102.07623. Here batch normalisation takes the batch at hand
(`metaleaf.models.BatchNorm`), so what stays with a client are scale and bias; the paper's clients also keep running
statistics, which these layers do not have: what they would undo is undone for FedAvg, too. Layers that normalise in
another way (layers, groups) stay with the clients likewise. A model without normalisation layers is refused.

A client keeps the parameters it ended its last round with, and as a participant uses the global model with them
(before: with the common initial ones, which follow from the seed). A new client starts from the common initial ones,
and learns them by gradient descent on its support set with everything else held still.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from metaleaf.algorithm import About, Reply, Space, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import FineTuning, descend, shared_and_own
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class FedBN(FineTuning, FedAvg):
    """FedAvg with private normalisation; new clients fine-tune that alone."""

    title: ClassVar[str] = "FedBN"
    about: ClassVar[About] = About(
        "personalised", "FedAvg with private normalisation layers", "Li et al. 2021, arXiv 2102.07623"
    )
    space: ClassVar[Space] = {**FedAvg.space, "adapt_lr": (0.003, 0.01, 0.03, 0.1)}

    def init(self, task: Task, params: Params) -> State:
        """The parameters outside the normalisation layers."""
        return super().init(task, task.split(params, "norm")[0])

    def memory(self, task: Task, shared: Params) -> Tree:
        """The client's normalisation parameters."""
        return task.split(task.params(), "norm")[1]

    def client(self, task: Task, shared: Params, episode: Episode) -> Reply:
        """Train everything as FedAvg does; send the shared part of the difference, apply the other here."""
        update = super().client(task, {**shared, **episode.memory}, episode)
        return Reply(*shared_and_own(update, episode.memory))

    def personal(self, task: Task, shared: Params, episode: Episode) -> Iterator[Params]:
        """The shared parameters with the common initial normalisation, then with the client's own."""
        yield {**shared, **self.memory(task, shared)}
        yield {**shared, **episode.memory}

    def adapt(self, task: Task, shared: Params, support: Shots) -> Iterator[Params]:
        """Gradient descent on the support set by the normalisation parameters."""
        norm = self.memory(task, shared)
        for own in descend(task.holding(shared), norm, support, self.adapt_lr, self.adapt_steps):
            yield {**shared, **own}
