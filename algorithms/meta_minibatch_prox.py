"""Meta-MinibatchProx: Reptile whose clients are held near the global model, which makes its step a gradient.

Zhou, Yuan, Xu, Yan, Feng, "Efficient Meta Learning via Minibatch Proximal Update", NeurIPS 2019, algorithm 1. A client
minimises its loss plus strength / 2 ||w_i - w||^2 from the global model w. At the minimum, strength * (w - w_i) is by w
the gradient of what it reached (of the Moreau envelope of its loss), and the server follows the mean of these: w moves
by a part of the way to the mean of the w_i. That part is the server's rate here, the paper's eta times lambda. A new
client does the same with its support set, and a participant with its data. Without strength it is Reptile.

Deviations: a client trains on all its examples by minibatches for epochs (the paper's inner solver is open: any descent
for a given precision), and all clients of a cohort count as the protocol says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeFloat, NonNegativeInt

from metaleaf.algorithm import About, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import fit_epochs, proximal
from metaleaf.optimizers import SGD, Optimizer
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, subtract


@dataclass(frozen=True)
class MetaMinibatchProx(FedAvg):
    """Reptile with a proximal term in training and in adaptation; `strength` is the paper's lambda."""

    title: ClassVar[str] = "Meta-MinibatchProx"
    about: ClassVar[About] = About(
        "averaging",
        "Reptile whose clients are held near the global model, in adaptation, too",
        "Zhou et al. 2019, NeurIPS",
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "server_optimizer.lr": (0.3, 0.5, 0.7),
        "strength": (0.01, 0.1, 1.0),
    }

    server_optimizer: Optimizer = SGD(lr=0.5)
    strength: NonNegativeFloat = 0.1
    adapt_epochs: NonNegativeInt = 3

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """The difference from the global model to the one trained near it."""
        trained = self.trained(task, params, episode.data, episode.round, proximal(task, params, self.strength))
        return subtract(params, trained)

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """The clients' local training, on the support set, an epoch a step."""
        return fit_epochs(
            task,
            params,
            support,
            self.client_optimizer,
            epochs=self.adapt_epochs,
            batch_size=self.batch_size,
            gradient=proximal(task, params, self.strength),
        )
