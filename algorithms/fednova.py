"""FedNova: clients send their mean step, so that who takes more local steps does not count for more.

Wang, Liu, Liang, Joshi, Poor (2020), arXiv 2007.07481, section 5: client i takes tau_i local steps to y_i and sends
d_i = (x - y_i) / |a_i|, where |a_i| is how many gradients its steps come to: tau_i for SGD, with momentum rho
(tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho). The server moves x by minus the mean of the |a_i| times the mean of
the d_i, both weighted alike. Clients with equal numbers of steps make it FedAvg. Epochs being the same for all, a
client's steps follow its number of examples.

Deviations: of the paper's local solvers there are SGD and momentum, neither the proximal one nor variance reduction;
there is no momentum on the server; the epochs are not drawn for each client; weights are as the protocol says (the
paper's are by examples). ``decay`` is FedAvg's. New clients, which the paper does not have, fine-tune the global model
on their support set, as in FedAvg(Meta); participants do so on their data.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf.algorithm import About, Space, State
from metaleaf.learning import FineTuning, count_steps, fit
from metaleaf.optimizers import SGD, Fraction
from metaleaf.shots import Episode
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, add, subtract, tree_map


@dataclass(frozen=True)
class FedNova(FineTuning):
    """FedNova; what |a| is depends on the optimizer, so that clients train by SGD, with `momentum`."""

    title: ClassVar[str] = "FedNova"
    about: ClassVar[About] = About(
        "averaging", "FedAvg of the clients' mean steps, however many they took", "Wang et al. 2020, arXiv 2007.07481"
    )
    space: ClassVar[Space] = {
        "lr": (0.003, 0.01, 0.03, 0.1),
        "momentum": (0.0, 0.9),
        "decay": (1.0, 0.99),
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
    }

    lr: PositiveFloat = 0.03
    momentum: Fraction = 0.0
    server_lr: PositiveFloat = 1.0
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    decay: PositiveFloat = 1.0

    def init(self, task: Task, params: Params) -> State:
        """The global model."""
        return State(params)

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """The mean local step d_i, as a gradient to descend, and how many gradients there were, |a_i|."""
        data, size = episode.data, self.batch_size
        trained = fit(
            task,
            params,
            data,
            SGD(self.lr, self.momentum),
            epochs=self.epochs,
            batch_size=size,
            rate=self.decay**episode.round,
        )
        one = next(iter(params.values()))
        steps = torch.zeros((), dtype=one.dtype, device=one.device) + count_steps(data, size, self.epochs)
        gradients = self._gradients(steps)
        return {"step": tree_map(lambda moved: moved / gradients, subtract(params, trained)), "gradients": gradients}

    def _gradients(self, steps: Tensor) -> Tensor:
        """|a|: the sum of the weights that so many steps give to their gradients."""
        rho = self.momentum
        return (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)

    def server(self, state: State, update: Tree) -> State:
        """As many mean steps as the clients took on average."""
        return State(add(state.broadcast, update["step"], -self.server_lr * update["gradients"]))
