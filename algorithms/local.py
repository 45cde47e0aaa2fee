"""Local only: every client trains on its own support set from the common random start; nothing is ever sent.

The floor that a federation has to beat (Motley, arXiv 2206.09262, and pFL-Bench, arXiv 2206.03655, report it too).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveInt

from metaleaf.algorithm import About, Space, State
from metaleaf.learning import fit_epochs
from metaleaf.optimizers import SGD, Optimizer
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class Local:
    """Training on the support set only."""

    title: ClassVar[str] = "Local"
    about: ClassVar[About] = About("floor", "every client alone on its support set", "Motley, arXiv 2206.09262")
    space: ClassVar[Space] = {"client_optimizer.lr": (0.003, 0.01, 0.03, 0.1, 0.3), "epochs": (5, 10, 20)}
    federated: ClassVar[bool] = False

    client_optimizer: Optimizer = SGD(lr=0.03)
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 10

    def init(self, task: Task, params: Params) -> State:
        """The common random start."""
        return State(params)

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """Nothing."""
        return ()

    def server(self, state: State, update: Tree) -> State:
        """Nothing changes."""
        return state

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """Local training, an epoch a step."""
        optimizer, epochs, size = self.client_optimizer, self.epochs, self.batch_size
        return fit_epochs(task, params, support, optimizer, epochs=epochs, batch_size=size)
