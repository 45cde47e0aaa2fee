"""MOON: clients train their features towards the global model's, and away from those of their own last model.

Li, He, Song (2021), arXiv 2103.16257, algorithm 1. A client adds to the loss mu times the mean over its examples of
-log(exp(s_w / T) / (exp(s_w / T) + exp(s_v / T))), where s_w is the cosine between the features z of an example under
the model in training and those under the global model w, and s_v that to the ones under v, the client's own model of
the last round that it took part in. With mu = 0 it is FedAvg; so it is on a model whose features are its inputs.

Deviations: z is what the model's head reads (the paper puts a projection of two layers between). A client that was
never sampled has no v: it takes w for it, with which the term has no gradient. Features under w and v are in
evaluation mode. ``decay`` is FedAvg's. New clients, which the paper does not have, fine-tune the global model on their
support set by their plain loss, as in FedAvg(Meta). So do participants on their data: v only guides the training of w.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from metaleaf.algorithm import About, Reply, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.gradient import grad
from metaleaf.learning import FineTuning, mean_over
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, subtract


@dataclass(frozen=True)
class MOON(FineTuning, FedAvg):
    """FedAvg with a contrastive term; its forward passes are four instead of one."""

    title: ClassVar[str] = "MOON"
    about: ClassVar[About] = About(
        "averaging",
        "FedAvg whose clients' features are drawn to the global model's",
        "Li et al. 2021, arXiv 2103.16257",
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "mu": (0.1, 1.0, 5.0, 10.0),
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
    }

    mu: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 0.5

    def memory(self, task: Task, params: Params) -> Tree:
        """The client's last model."""
        return params

    def client(self, task: Task, params: Params, episode: Episode) -> Reply:
        """FedAvg's update with the contrastive term; the trained model is kept."""

        def loss(y: Params, batch: Shots) -> Tensor:
            return task.loss(y, batch) + self.mu * self._contrast(task, y, params, episode.memory, batch)

        trained = self.trained(task, params, episode.data, episode.round, grad(loss))
        return Reply(subtract(params, trained), trained)

    def _contrast(self, task: Task, params: Params, towards: Params, away: Params, batch: Shots) -> Tensor:
        """The mean over the real examples; 0 if there are none."""
        z = task.features(params, batch.x, batch.mask, batch.seed)
        near, far = (
            F.cosine_similarity(z, task.features(other, batch.x, batch.mask), dim=-1) for other in (towards, away)
        )
        terms = F.softplus((far - near) / self.temperature)
        terms = terms.reshape(len(batch.y), -1).mean(1)  # a sequence may have features at every position
        return mean_over(batch, terms)
