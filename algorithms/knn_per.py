"""kNN-Per: the global model's prediction, mixed with a vote of the nearest examples that the client remembers.

Marfoq, Neglia, Vidal, Kameni (2022), arXiv 2111.09360. Training is FedAvg. A new client stores the features (what the
model's head reads) and labels of its support set; the `k` nearest to a new example vote with weights exp(-d^2 /
(width * scale)), d the Euclidean distance between features and width their number, as the authors' experiments
normalise it. The prediction is share * vote + (1 - share) * softmax of the model; share 0 gives the global model's,
which is what "before adaptation" means here. A participant remembers its data, as the paper's clients do.

Deviation: one `share` for all clients, tuned like any hyper-parameter (the paper's lambda is tuned at each client).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf.algorithm import About, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.optimizers import Fraction
from metaleaf.shots import Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class KNNPer(FedAvg):
    """FedAvg with a memory of the support set. A model is {"params", "features", "labels", "real", "share"}."""

    title: ClassVar[str] = "kNN-Per"
    about: ClassVar[About] = About(
        "personalised",
        "FedAvg's prediction mixed with the nearest remembered examples'",
        "Marfoq et al. 2022, arXiv 2111.09360",
    )
    serves: ClassVar[tuple[str, ...]] = ("multiclass",)
    space: ClassVar[Space] = {"client_optimizer.lr": (0.003, 0.01, 0.03, 0.1), "share": (0.1, 0.3, 0.5, 0.7)}

    k: PositiveInt = 10
    share: Fraction = 0.5
    scale: PositiveFloat = 1.0

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Tree]:
        """The global model, then the same with a memory that counts."""
        features = task.features(params, support.x, support.mask)
        real = torch.ones_like(support.y, dtype=torch.bool) if support.mask is None else support.mask
        for share in (0.0, self.share):
            counts = torch.full_like(features.sum(), share)
            yield {"params": params, "features": features, "labels": support.y, "real": real, "share": counts}

    def predict(self, task: Task, model: Tree, x: Tensor, mask: Tensor | None) -> Tensor:
        """Log-probabilities of the mixture."""
        own = task.logits(model["params"], x, mask).log_softmax(-1)
        votes = self._votes(model, task.features(model["params"], x, mask), own.shape[-1])
        return torch.logaddexp((1 - model["share"]).log() + own, model["share"].log() + votes.log())

    def _votes(self, model: Tree, features: Tensor, classes: int) -> Tensor:
        """[n, classes], rows that sum to 1, or to 0 where nothing is remembered."""
        known, real = model["features"], model["real"]
        squares = (features**2).sum(-1, keepdim=True) + (known**2).sum(-1) - 2 * features @ known.T
        # Padding is further away than anything, and has no vote where there are fewer neighbours than k.
        closeness = torch.where(real, -squares / (known.shape[-1] * self.scale), torch.finfo(known.dtype).min)
        nearest, rows = closeness.topk(min(self.k, len(known)))
        weights = nearest.softmax(-1) * real[rows]
        chosen = model["labels"][rows].unsqueeze(-1) == torch.arange(classes, device=rows.device)
        votes: Tensor = (weights.unsqueeze(-1) * chosen).sum(1)
        return votes
