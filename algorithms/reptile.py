"""Reptile: the server moves a fraction of the way towards the mean of the clients' models.

Nichol, Achiam, Schulman (2018), arXiv 1803.02999; in federation Jiang et al. (2019), arXiv 1909.12488. It is FedAvg
with a server rate below 1, `inner_steps` of local training and the same training as adaptation.

Deviation: clients train for epochs over all their examples instead of a fixed number of minibatches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeInt

from metaleaf.algorithm import About, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import fit_epochs
from metaleaf.optimizers import SGD, Optimizer
from metaleaf.shots import Shots
from metaleaf.task import Params, Task


@dataclass(frozen=True)
class Reptile(FedAvg):
    """FedAvg with a partial server step; clients adapt by the same local training, on their support set."""

    title: ClassVar[str] = "Reptile"
    about: ClassVar[About] = About(
        "averaging",
        "the server moves part of the way to the mean of the clients",
        "Nichol et al. 2018, arXiv 1803.02999",
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "server_optimizer.lr": (0.3, 0.5, 0.7),
    }

    server_optimizer: Optimizer = SGD(lr=0.5)
    adapt_epochs: NonNegativeInt = 3

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """The clients' local training, on the support set."""
        optimizer, epochs, size = self.client_optimizer, self.adapt_epochs, self.batch_size
        return fit_epochs(task, params, support, optimizer, epochs=epochs, batch_size=size)
