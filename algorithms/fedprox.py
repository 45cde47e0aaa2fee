"""FedProx: FedAvg whose clients are held near the global model by a proximal term while they train.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith (2020), arXiv 1812.06127, algorithm 2: a client minimises its loss plus
mu / 2 ||y - w||^2 inexactly, here by FedAvg's local training, w being the model that it received. With mu = 0 it is
FedAvg.

Deviations: all clients do all their epochs (the paper's stragglers send what they have when the time is up); mu stays
as it is (the paper can also adapt it to the loss); the mean is weighted as the protocol says (the paper draws clients
by their numbers of examples, and weights all alike). ``decay`` is FedAvg's. New clients, which the paper does not have,
fine-tune the global model on their support set, without the proximal term, as in FedAvg(Meta); participants do so on
their data.
"""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeFloat

from metaleaf.algorithm import About, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import FineTuning, proximal
from metaleaf.shots import Episode
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, subtract


@dataclass(frozen=True)
class FedProx(FineTuning, FedAvg):
    """FedAvg with a proximal term of weight `mu`."""

    title: ClassVar[str] = "FedProx"
    about: ClassVar[About] = About(
        "averaging", "FedAvg whose clients are held near the global model", "Li et al. 2020, arXiv 1812.06127"
    )
    space: ClassVar[Space] = {
        **FedAvg.space,
        "mu": (0.001, 0.01, 0.1, 1.0),
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
    }

    mu: NonNegativeFloat = 0.01

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """The difference from the global model to the locally trained one, as a gradient to descend."""
        trained = self.trained(task, params, episode.data, episode.round, proximal(task, params, self.mu))
        return subtract(params, trained)
