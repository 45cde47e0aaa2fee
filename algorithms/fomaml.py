"""FedMeta with first-order MAML: the query loss's gradient at the adapted parameters is sent as it is.

Finn, Abbeel, Levine (2017), arXiv 1703.03400, section 5.2; federated by Chen et al. (2018), arXiv 1802.07876.
"""

from dataclasses import dataclass
from typing import ClassVar

from metaleaf.algorithm import About
from metaleaf.algorithms.maml import MAML


@dataclass(frozen=True)
class FOMAML(MAML):
    """MAML without the second-order terms."""

    title: ClassVar[str] = "FOMAML"
    about: ClassVar[About] = About(
        "meta-gradient", "MAML without the second-order terms", "Finn et al. 2017, arXiv 1703.03400"
    )

    first_order: bool = True
