"""IFCA: the server keeps several models; every client picks the one that fits it best, and trains that.

Ghosh, Chung, Yin, Ramchandran (2020), arXiv 2006.04088, with model averaging (option II); the same method is
HypCluster of Mansour, Mohri, Ro, Suresh (2020), arXiv 2002.10619. All models travel down, and one model and its number
up; the server averages what was made of each model, and a model that nobody picked stays as it is.

A new client picks by the loss on its support set. The model "before adaptation" is already the picked one, for none
of the models is anybody's before; `adapt_steps` steps of fine-tuning may follow (none in the papers). A participant
picks by the loss on its data, as it does in every round.

Deviations: the models start from independent random initialisations, once (Ghosh et al. restart several times);
weights within a cluster are in proportion to the protocol's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf.algorithm import About, Replies, Space, State
from metaleaf.learning import descend, fit
from metaleaf.optimizers import SGD, Optimizer
from metaleaf.shots import Episode, Shots, examples
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, stack, subtract, take, unstack, weighted_sum


@dataclass(frozen=True)
class IFCA:
    """Clustered FedAvg. The server sends all models stacked, leaves [clusters, ...]."""

    title: ClassVar[str] = "IFCA"
    about: ClassVar[About] = About(
        "clustered",
        "several models, of which every client trains the one that fits it best",
        "Ghosh et al. 2020, arXiv 2006.04088; Mansour et al. 2020, arXiv 2002.10619",
    )
    space: ClassVar[Space] = {"client_optimizer.lr": (0.003, 0.01, 0.03, 0.1), "clusters": (2, 4)}
    each: ClassVar[bool] = True

    clusters: PositiveInt = 2
    client_optimizer: Optimizer = SGD(lr=0.03)
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    adapt_lr: PositiveFloat = 0.03
    adapt_steps: NonNegativeInt = 0

    def init(self, task: Task, params: Params) -> State:
        """Models from independent draws of the initial parameters."""
        return State(stack([params, *(task.params(draw) for draw in range(1, self.clusters))]))

    def client(self, task: Task, models: Tree, episode: Episode) -> Tree:
        """The picked model's difference to the trained one, and the model's number."""
        chosen = _best(task, models, episode.data)
        model = take(models, chosen)
        size, optimizer = self.batch_size, self.client_optimizer
        trained = fit(task, model, episode.data, optimizer, epochs=self.epochs, batch_size=size)
        return {"model": subtract(model, trained), "chosen": chosen}

    def server(self, state: State, replies: Replies) -> State:
        """Every model moves by the mean difference of the clients who picked it."""
        picked = replies.updates["chosen"] == torch.arange(self.clusters, device=replies.weights.device)[:, None]
        weights = picked * replies.weights
        shares = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        return State(subtract(state.broadcast, weighted_sum(replies.updates["model"], shares)))

    def adapt(self, task: Task, models: Tree, support: Shots) -> Iterator[Params]:
        """The model with the lowest loss on the support set, then fine-tuning."""
        model = take(models, _best(task, models, support))
        return descend(task, model, support, self.adapt_lr, self.adapt_steps)

    def report_client(self, task: Task, models: Tree, client: Shots | Episode) -> Mapping[str, Tensor]:
        """The number of the model that it picks."""
        return {"cluster": _best(task, models, examples(client))}


def _best(task: Task, models: Tree, shots: Shots) -> Tensor:
    """The number of the model with the lowest loss."""
    return torch.stack([task.loss(model, shots, training=False) for model in unstack(models)]).argmin()
