"""FedRep: clients share the body of the model and each keep a head of their own.

Collins, Hassani, Mokhtari, Shakkottai (2021), arXiv 2102.07078, algorithm 1: a sampled client trains its head with the
body it received held still, then the body with that head held still; only the body travels.

All heads start from the same random one, which costs nothing to send as it follows from the seed. A new client trains
that head on its support set and leaves the body as it is, as the paper does with new clients. On a model that is only a
head (logistic regression) nothing is shared, and FedRep is local training. The server averages by FedAvg's optimizer;
the paper's local momentum is ``client_optimizer``'s.

A participant uses the body under the head that its last round left it (before: under the common first one, which one
that was never sampled still has).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeInt, PositiveInt

from metaleaf.algorithm import About, Reply, Space, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import fit, fit_epochs
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class FedRep(FedAvg):
    """FedRep; `epochs` are the body's."""

    title: ClassVar[str] = "FedRep"
    about: ClassVar[About] = About(
        "personalised", "a shared body under heads that clients keep", "Collins et al. 2021, arXiv 2102.07078"
    )
    space: ClassVar[Space] = {**FedAvg.space, "head_epochs": (5, 10)}

    head_epochs: PositiveInt = 10
    adapt_epochs: NonNegativeInt | None = None
    """Epochs when a new client trains its head; None: as many as in training."""

    def init(self, task: Task, params: Params) -> State:
        """The body."""
        return super().init(task, task.split(params, "head")[0])

    def memory(self, task: Task, body: Params) -> Tree:
        """The client's head."""
        return task.split(task.params(), "head")[1]

    def client(self, task: Task, body: Params, episode: Episode) -> Reply:
        """Train the head, keep it, then train the body under it as FedAvg does."""
        head = fit(
            task.holding(body),
            episode.memory,
            episode.data,
            self.client_optimizer,
            epochs=self.head_epochs,
            batch_size=self.batch_size,
            rate=self.decay**episode.round,
        )
        return Reply(super().client(task.holding(head), body, episode), head)

    def personal(self, task: Task, body: Params, episode: Episode) -> Iterator[Params]:
        """The body under the common first head, then under the client's own."""
        yield {**body, **self.memory(task, body)}
        yield {**body, **episode.memory}

    def adapt(self, task: Task, body: Params, support: Shots) -> Iterator[Params]:
        """Training of a head on the support set, an epoch a step."""
        start, held, optimizer = self.memory(task, body), task.holding(body), self.client_optimizer
        epochs = self.head_epochs if self.adapt_epochs is None else self.adapt_epochs
        for head in fit_epochs(held, start, support, optimizer, epochs=epochs, batch_size=self.batch_size):
            yield {**body, **head}
