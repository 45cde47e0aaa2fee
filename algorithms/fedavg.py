"""FedAvg: clients train locally on all their examples, the server averages their models.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas (2017), arXiv 1602.05629.

Written as a server step along the mean difference (Reddi et al. 2021, arXiv 2003.00295), which with the default
server SGD of rate 1 is exactly the average of the clients' models. ``decay`` multiplies the clients' learning rate
every round, as McMahan et al. do on CIFAR-10.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf.algorithm import About, Space, State
from metaleaf.learning import Gradient, fit
from metaleaf.optimizers import SGD, Optimizer
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, subtract


@dataclass(frozen=True)
class FedAvg:
    """FedAvg without personalisation: every client uses the global model."""

    title: ClassVar[str] = "FedAvg"
    about: ClassVar[About] = About(
        "averaging", "clients train locally, the server averages", "McMahan et al. 2017, arXiv 1602.05629"
    )
    space: ClassVar[Space] = {"client_optimizer.lr": (0.003, 0.01, 0.03, 0.1), "decay": (1.0, 0.99)}

    client_optimizer: Optimizer = SGD(lr=0.03)
    server_optimizer: Optimizer = SGD(lr=1.0)
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    decay: PositiveFloat = 1.0

    def init(self, task: Task, params: Params) -> State:
        """The global model, and the server optimizer's state, which outlives the round."""
        return State(params, self.server_optimizer.init(params))

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """The difference from the global model to the locally trained one, as a gradient to descend."""
        return subtract(params, self.trained(task, params, episode.data, episode.round))

    def trained(
        self, task: Task, start: Params, data: Shots, number: Tensor, gradient: Gradient | None = None
    ) -> Params:
        """The local training of round `number`, from `start` on; gradient as in `metaleaf.learning.fit`."""
        return fit(
            task,
            start,
            data,
            self.client_optimizer,
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=self.decay**number,
            gradient=gradient,
        )

    def server(self, state: State, update: Tree) -> State:
        """One step of the server optimizer."""
        return State(*self.server_optimizer.step(state.broadcast, update, state.kept))

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """The global model."""
        yield params
