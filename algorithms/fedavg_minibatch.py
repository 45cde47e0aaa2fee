"""FedAvg whose clients fine-tune the global model as they train: by minibatches of their support set, for epochs.

Wang, Mathews, Kiddon, Eichner, Beaufays, Ramage (2019), arXiv 1910.10252, and "FedAvg(Meta)" of Chen et al. (2018),
arXiv 1802.07876, read so: Chen et al. state neither steps nor batch size of the fine-tuning, and FedAvg(Meta) here is
gradient descent on the whole support set. A client of n examples takes about n / `batch_size` steps an epoch, so that
large clients move further. A participant does with its data what a new client does with its support set.

Deviation: plain SGD of constant rate and a fixed number of epochs for all clients.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeInt, PositiveFloat

from metaleaf.algorithm import About, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import fit_epochs
from metaleaf.optimizers import SGD
from metaleaf.shots import Shots
from metaleaf.task import Params, Task


@dataclass(frozen=True)
class FedAvgMinibatch(FedAvg):
    """FedAvg, then `adapt_epochs` epochs of minibatch SGD on the support set, in batches as in training."""

    title: ClassVar[str] = "FedAvg + minibatches"
    about: ClassVar[About] = About(
        "averaging",
        "FedAvg, then fine-tuning by minibatches of the support set",
        "Wang et al. 2019, arXiv 1910.10252",
    )
    space: ClassVar[Space] = {**FedAvg.space, "adapt_lr": (0.003, 0.01, 0.03, 0.1), "adapt_epochs": (1, 5, 10)}

    adapt_lr: PositiveFloat = 0.03
    adapt_epochs: NonNegativeInt = 5

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """Minibatch SGD on the support set, an epoch a step."""
        optimizer, epochs, size = SGD(self.adapt_lr), self.adapt_epochs, self.batch_size
        return fit_epochs(task, params, support, optimizer, epochs=epochs, batch_size=size)
