"""FedAvg whose clients fine-tune until a part of their support set, held back for that, says to stop.

The baseline by which fine-tuning should not hurt anybody: FedAvg(Meta) of Chen et al. (2018), arXiv 1802.07876, with
early stopping (Prechelt 1998, "Early stopping - but when?"). A client sets a random part of its support set aside,
takes gradient steps on the rest, and uses the model of lowest loss on the part set aside; the earlier of equal ones.
The model after k steps is the best of the first k + 1, so it is what a budget of k steps would have given, and may be
the global model itself. It never waits for several bad steps in a row: all steps are taken.

The part is `held_back` of the examples, rounded down, but one at least and never all. A client with a single example
has nothing to hold back and nobody to tell it when to stop: it takes all steps, as in FedAvg(Meta). Models are not
trained again on the whole support set. A participant does with its data what a new client does with its support set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor

from metaleaf.algorithm import About, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import descend
from metaleaf.shots import Shots, permutation
from metaleaf.task import Params, Task
from metaleaf.trees import where

_STREAM = -1
"""Of the order in which examples are held back; `minibatches` has those from 0."""


@dataclass(frozen=True)
class FedAvgEarly(FedAvg):
    """FedAvg, then at most `adapt_steps` steps on the support set."""

    title: ClassVar[str] = "FedAvg + early stopping"
    about: ClassVar[About] = About(
        "averaging",
        "FedAvg, then fine-tuning that stops by a part of the support set",
        "Chen et al. 2018, arXiv 1802.07876; Prechelt 1998",
    )
    space: ClassVar[Space] = {
        **FedAvg.space,
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
        "held_back": (0.2, 0.3, 0.5),
    }

    adapt_lr: PositiveFloat = 0.03
    adapt_steps: NonNegativeInt = 20
    held_back: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """The best model so far, by the examples held back, before and after each step on the others."""
        yield params
        training, judging, judged = self._parted(support)
        best, lowest = params, task.loss(params, judging, training=False)
        for own in islice(descend(task, params, training, self.adapt_lr, self.adapt_steps), 1, None):
            loss = task.loss(own, judging, training=False)
            better = (loss < lowest) | ~judged
            best, lowest = where(better, own, best), torch.where(better, loss, lowest)
            yield best

    def _parted(self, support: Shots) -> tuple[Shots, Shots, Tensor]:
        """(examples to train on, those held back, whether there are any): masks, as the counts differ by client."""
        everything = torch.ones(len(support.y), dtype=torch.bool, device=support.y.device)
        real = everything if support.mask is None else support.mask
        count = real.sum()
        held = torch.minimum((count.double() * self.held_back).long().clamp(min=1), count - 1)
        aside = torch.argsort(permutation(support, _STREAM)) < held
        return support._replace(mask=real & ~aside), support._replace(mask=real & aside), held > 0
