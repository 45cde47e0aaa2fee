"""FedAvgM: FedAvg whose server follows the mean difference with momentum.

Hsu, Qi, Brown (2019), arXiv 1909.06335; also in Reddi et al. (2021), arXiv 2003.00295.

v = 0.9 v + difference; the model moves by -rate * v. The default rate is the best on EMNIST in Reddi et al.

Deviation: new clients fine-tune on their support set as in FedAvg(Meta), so that only the server's step tells the two
apart; `adapt_steps` = 0 gives the papers' single global model. The cohort's mean is weighted as the protocol says.
"""

from dataclasses import dataclass
from typing import ClassVar

from metaleaf.algorithm import About, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import FineTuning
from metaleaf.optimizers import SGD, Optimizer


@dataclass(frozen=True)
class FedAvgM(FineTuning, FedAvg):
    """FedAvg(Meta) with momentum on the server."""

    title: ClassVar[str] = "FedAvgM"
    about: ClassVar[About] = About(
        "server optimizer",
        "FedAvg with momentum on the server",
        "Hsu et al. 2019, arXiv 1909.06335",
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "server_optimizer.lr": (0.1, 0.3, 1.0),
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
    }

    server_optimizer: Optimizer = SGD(lr=0.3, momentum=0.9)
