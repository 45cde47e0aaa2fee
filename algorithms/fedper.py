"""FedPer: clients share the body of the model and each keep a head of their own, and train both at once.

Arivazhagan, Aggarwal, Singh, Choudhary (2019), arXiv 1912.00818, algorithms 1 and 2: a sampled client trains the body
it received and its own head jointly, by the same steps; only the body travels, and the server averages it by the
clients' examples. The personalisation layers are the model's head (the paper also lets some of the last blocks stay).

Deviations: all heads start from the same random one, which costs nothing to send as it follows from the seed (the
paper's clients start theirs apart). New clients, which the paper does not have, do what a client does in its first
round: they train the body and the common first head jointly, on their support set. The server averages by FedAvg's
optimizer.

A participant uses the body under the head that its last round left it (before: under the common first one, which one
that was never sampled still has). On a model that is only a head (logistic regression) nothing is shared, and FedPer is
local training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeInt

from metaleaf.algorithm import About, Reply, Space, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import fit_epochs, shared_and_own
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class FedPer(FedAvg):
    """FedAvg of the body, with private heads."""

    title: ClassVar[str] = "FedPer"
    about: ClassVar[About] = About(
        "personalised",
        "a shared body under private heads, trained jointly",
        "Arivazhagan et al. 2019, arXiv 1912.00818",
    )
    space: ClassVar[Space] = {**FedAvg.space, "adapt_epochs": (5, 10, 20)}

    adapt_epochs: NonNegativeInt = 5

    def init(self, task: Task, params: Params) -> State:
        """The body."""
        return super().init(task, task.split(params, "head")[0])

    def memory(self, task: Task, body: Params) -> Tree:
        """The client's head."""
        return task.split(task.params(), "head")[1]

    def client(self, task: Task, body: Params, episode: Episode) -> Reply:
        """Train everything as FedAvg does; send the body's part, keep the head."""
        update = super().client(task, {**body, **episode.memory}, episode)
        return Reply(*shared_and_own(update, episode.memory))

    def personal(self, task: Task, body: Params, episode: Episode) -> Iterator[Params]:
        """The body under the common first head, then under the client's own."""
        yield {**body, **self.memory(task, body)}
        yield {**body, **episode.memory}

    def adapt(self, task: Task, body: Params, support: Shots) -> Iterator[Params]:
        """Training of the body and the common first head on the support set, an epoch a step."""
        start, optimizer = {**body, **self.memory(task, body)}, self.client_optimizer
        return fit_epochs(task, start, support, optimizer, epochs=self.adapt_epochs, batch_size=self.batch_size)
