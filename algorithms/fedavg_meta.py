"""FedAvg(Meta): FedAvg whose clients fine-tune the global model on their support set before they use it.

Chen, Luo, Dong, Li, He (2018), arXiv 1802.07876, baseline "FedAvg(Meta)"; the same idea as Wang et al. (2019),
arXiv 1910.10252. Chen et al. do not state the fine-tuning's steps; here it is gradient descent on the whole support
set, whose rate and number of steps are tuned.
"""

from dataclasses import dataclass
from typing import ClassVar

from metaleaf.algorithm import About, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import FineTuning


@dataclass(frozen=True)
class FedAvgMeta(FineTuning, FedAvg):
    """FedAvg, then `adapt_steps` steps on the support set."""

    title: ClassVar[str] = "FedAvg(Meta)"
    about: ClassVar[About] = About(
        "averaging", "FedAvg, then fine-tuning on the support set", "Chen et al. 2018, arXiv 1802.07876"
    )
    space: ClassVar[Space] = {**FedAvg.space, "adapt_lr": (0.003, 0.01, 0.03, 0.1)}
