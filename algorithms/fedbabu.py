"""FedBABU: the federation learns the body only, under a random head that nobody trains; clients then fine-tune.

Oh, Kim, Yun (2022), arXiv 2106.06042, algorithm 1: in training the head stays as it was first drawn, the same for all
clients, so that it pulls every body towards the same features; only the body is trained and travels. Whoever uses the
model first fine-tunes all of it, body and head (the paper's main variant), by minibatches of its own data.

The head costs nothing to send, as it follows from the seed. The server averages by FedAvg's optimizer; the paper's
local momentum is ``client_optimizer``'s. New clients fine-tune on their support set and participants on their data, as
the paper evaluates. Nobody keeps anything between rounds.

Deviation: the rate of fine-tuning is one to be tuned (the paper's is that of local training). On a model that is only a
head (logistic regression) nothing is learned before fine-tuning, and FedBABU is local training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeInt, PositiveFloat

from metaleaf.algorithm import About, Space, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import fit_epochs
from metaleaf.optimizers import SGD
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class FedBABU(FedAvg):
    """FedAvg of the body under a fixed random head, then fine-tuning of both."""

    title: ClassVar[str] = "FedBABU"
    about: ClassVar[About] = About(
        "personalised",
        "a body learned under a fixed random head, then fine-tuning of both",
        "Oh et al. 2022, arXiv 2106.06042",
    )
    space: ClassVar[Space] = {**FedAvg.space, "adapt_lr": (0.003, 0.01, 0.03, 0.1), "adapt_epochs": (5, 10, 20)}

    adapt_lr: PositiveFloat = 0.03
    adapt_epochs: NonNegativeInt = 5

    def init(self, task: Task, params: Params) -> State:
        """The body."""
        return super().init(task, task.split(params, "head")[0])

    def client(self, task: Task, body: Params, episode: Episode) -> Tree:
        """FedAvg's update of the body under the head that stays."""
        return super().client(task.holding(_head(task)), body, episode)

    def adapt(self, task: Task, body: Params, support: Shots) -> Iterator[Params]:
        """Fine-tuning of body and head on the support set, an epoch a step."""
        start, optimizer = {**body, **_head(task)}, SGD(self.adapt_lr)
        return fit_epochs(task, start, support, optimizer, epochs=self.adapt_epochs, batch_size=self.batch_size)


def _head(task: Task) -> Params:
    """The random head that all have in common."""
    return task.split(task.params(), "head")[1]
