"""LG-FedAvg: clients share the head of the model and each keep a body, their representation of the data.

Liang, Liu, Ziyin, Allen, Auerbach, Brent, Salakhutdinov, Morency (2020), arXiv 2001.01523, algorithm 1, with supervised
local training: a sampled client trains its body and the head that it received jointly; only the head travels, and the
server averages it by the clients' examples. The mirror image of FedPer, with fewer bytes wherever heads are small.

Deviations: there is no auxiliary loss for the representations (the paper's options are self-supervised or fair ones).
All bodies start from the same random one (the paper's largest experiments start from rounds of FedAvg). A new client
trains the common first body under the received head, jointly, on its support set, as a client does in its first round:
the paper does not train on new devices, but lets the bodies of all clients vote, each of which would have to be sent.

A participant uses the head on the body that its last round left it (before: on the common first one, which one that was
never sampled still has). On a model that is only a head (logistic regression) everything is shared: FedAvg.
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
class LGFedAvg(FedAvg):
    """FedAvg of the head, on private bodies."""

    title: ClassVar[str] = "LG-FedAvg"
    about: ClassVar[About] = About(
        "personalised", "a shared head on bodies that clients keep", "Liang et al. 2020, arXiv 2001.01523"
    )
    space: ClassVar[Space] = {**FedAvg.space, "adapt_epochs": (5, 10, 20)}

    adapt_epochs: NonNegativeInt = 5

    def init(self, task: Task, params: Params) -> State:
        """The head."""
        return super().init(task, task.split(params, "head")[1])

    def memory(self, task: Task, head: Params) -> Tree:
        """The client's body."""
        return task.split(task.params(), "head")[0]

    def client(self, task: Task, head: Params, episode: Episode) -> Reply:
        """Train everything as FedAvg does; send the head's part, keep the body."""
        update = super().client(task, {**head, **episode.memory}, episode)
        return Reply(*shared_and_own(update, episode.memory))

    def personal(self, task: Task, head: Params, episode: Episode) -> Iterator[Params]:
        """The head on the common first body, then on the client's own."""
        yield {**head, **self.memory(task, head)}
        yield {**head, **episode.memory}

    def adapt(self, task: Task, head: Params, support: Shots) -> Iterator[Params]:
        """Training of the head and the common first body on the support set, an epoch a step."""
        start, optimizer = {**head, **self.memory(task, head)}, self.client_optimizer
        return fit_epochs(task, start, support, optimizer, epochs=self.adapt_epochs, batch_size=self.batch_size)
