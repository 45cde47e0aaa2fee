"""FedAvg whose clients fine-tune the model's head only before they use it.

Yu, Bagdasaryan, Shmatikov (2020), arXiv 2002.04758, local adaptation by "freeze base": the global model is trained by
FedAvg, and a client goes on training its last layer, on the features as they are. On a model that is only a head
(logistic regression) it is FedAvg(Meta). A participant does with its data what a new client does with its support set.

Deviation: gradient descent on the whole support set, as in FedAvg(Meta), so that the two differ in what they fine-tune
and in nothing else; Yu et al. train by minibatches for epochs, with a rate for each data set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeInt, PositiveFloat

from metaleaf.algorithm import About, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import descend
from metaleaf.shots import Shots
from metaleaf.task import Params, Task


@dataclass(frozen=True)
class FedAvgHead(FedAvg):
    """FedAvg, then `adapt_steps` steps of the head on the support set."""

    title: ClassVar[str] = "FedAvg + head"
    about: ClassVar[About] = About(
        "averaging", "FedAvg, then fine-tuning of the head on the support set", "Yu et al. 2020, arXiv 2002.04758"
    )
    space: ClassVar[Space] = {**FedAvg.space, "adapt_lr": (0.003, 0.01, 0.03, 0.1)}

    adapt_lr: PositiveFloat = 0.03
    adapt_steps: NonNegativeInt = 5

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """Gradient descent on the support set by the head."""
        body, head = task.split(params, "head")
        for own in descend(task.holding(body), head, support, self.adapt_lr, self.adapt_steps):
            yield {**body, **own}
