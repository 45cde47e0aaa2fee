"""FedYogi: FedAvg whose server follows the mean difference with Yogi.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan (2021), arXiv 2003.00295, Algorithm 2.

Yogi moves the second moment by a bounded step towards the squared difference, so it forgets large ones slowly. The
default rate is the best on EMNIST in the paper's appendix; beta2 = 0.99 and tau = 0.001 are its defaults.

Deviation: new clients fine-tune on their support set as in FedAvg(Meta), so that only the server's step tells the two
apart; `adapt_steps` = 0 gives the paper's single global model. The cohort's mean is weighted as the protocol says.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from metaleaf.algorithm import About, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import FineTuning
from metaleaf.optimizers import Adaptive, Optimizer


@dataclass(frozen=True)
class FedYogi(FineTuning, FedAvg):
    """FedAvg(Meta) with Yogi on the server."""

    title: ClassVar[str] = "FedYogi"
    about: ClassVar[About] = About(
        "server optimizer",
        "FedAvg with Yogi on the server",
        "Reddi et al. 2021, arXiv 2003.00295",
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "server_optimizer.lr": (0.001, 0.003, 0.01, 0.03),
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
    }

    server_optimizer: Optimizer = field(default=Adaptive(lr=0.003, rule="yogi"))
