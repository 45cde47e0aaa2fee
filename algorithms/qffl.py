"""q-FFL: clients with a higher loss count for more, by its q-th power, with a step size that follows the losses.

Li, Sanjabi, Beirami, Smith (2020), arXiv 1905.10497: the objective is the mean of F_k^(q + 1) / (q + 1), and the method
q-FedAvg, algorithm 2. Client k has the loss F_k at the model that it receives, trains locally, and with the difference
D_k = L (before - after) sends F_k^q D_k and h_k = q F_k^(q - 1) ||D_k||^2 + L F_k^q; the server moves the model by
minus the sum of the first over that of the second. L, an estimate of a Lipschitz constant for q = 0, is 1 over the
clients' learning rate, and h_k the estimate that follows from it for other q: steps are the shorter, the larger q is.
With q = 0 it is FedAvg.

Deviations: F_k, which is over all of the client's examples and in evaluation mode, is held above 1e-10; sums over the
cohort are weighted as the protocol says (the paper draws clients by their numbers of examples, and weights all alike).
``decay`` is FedAvg's, and L grows by it. New clients, which the paper does not have, fine-tune the global model on
their support set, as in FedAvg(Meta); participants do so on their data.
"""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeFloat

from metaleaf.algorithm import About, Space, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import FineTuning
from metaleaf.shots import Episode
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, norm, tree_map

_LEAST = 1e-10
"""Loss of a client that has none: its powers below 1 have no finite derivative at 0."""


@dataclass(frozen=True)
class QFFL(FineTuning, FedAvg):
    """q-FedAvg; the server's optimizer follows q-FedAvg's step as it does FedAvg's."""

    title: ClassVar[str] = "q-FFL"
    about: ClassVar[About] = About(
        "averaging", "FedAvg with weights by powers of the clients' losses", "Li et al. 2020, arXiv 1905.10497"
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "q": (0.001, 0.1, 1.0, 5.0),
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
    }

    q: NonNegativeFloat = 1.0

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """The difference times F^q, as a gradient to descend, and h."""
        loss = task.loss(params, episode.data, training=False).clamp(min=_LEAST)
        lipschitz = 1 / (self.client_optimizer.lr * self.decay**episode.round).to(loss.dtype)
        weight = loss**self.q
        gradient = tree_map(lambda moved: moved * lipschitz, super().client(task, params, episode))
        bound = self.q * loss ** (self.q - 1) * norm(gradient) ** 2 + lipschitz * weight
        return {"gradient": tree_map(lambda g: g * weight, gradient), "bound": bound}

    def server(self, state: State, update: Tree) -> State:
        """One step of the server optimizer along the mean weighted difference over the mean h."""
        step: State = super().server(state, tree_map(lambda g: g / update["bound"], update["gradient"]))
        return step
