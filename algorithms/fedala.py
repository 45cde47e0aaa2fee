"""FedALA: before a client trains the global model, it mixes its own into it, number by number.

Zhang, Hua, Wang, Song, Xue, Ma, Guan (2023), arXiv 2212.01197, algorithm 1. A client starts its local training at own +
(global - own) * W in the upper layers and at the global model in all others. It learns W, whose entries start at 1 and
are clipped to 0..1 after each step, by gradient descent on the loss of that mixture, on a random part of its data, and
keeps W and its trained model. The server averages the trained models as in FedAvg.

Deviations: W is trained for `weight_epochs` in every round (the paper: until the loss settles the first time, and one
epoch a round from then on). The upper layers are the model's head, which is the paper's p = 1, or all of them (``layers
= "all"``); models here name no others. In its first round a client has no own model and starts at the global one, as in
the paper.

A participant uses the mixture of its own model with the global one, after training W once more on its data, as the
paper evaluates (before: the global model). New clients, which the paper does not have, have no own model and do what a
client does in its first round: they train the global model on their support set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from metaleaf.algorithm import About, Reply, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.gradient import grad
from metaleaf.learning import fit_epochs, passes, some, where_real
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, subtract, tree_map

_PART = 7_000_000_033
"""The stream that draws on what W is trained."""


@dataclass(frozen=True)
class FedALA(FedAvg):
    """FedAvg from adaptive local aggregation; `weight_lr` is the paper's eta, `part` its s."""

    title: ClassVar[str] = "FedALA"
    about: ClassVar[About] = About(
        "personalised",
        "FedAvg whose clients first mix their own model into the global one, number by number",
        "Zhang et al. 2023, arXiv 2212.01197",
    )
    space: ClassVar[Space] = {**FedAvg.space, "weight_lr": (0.1, 1.0, 10.0), "weight_epochs": (1, 5)}

    weight_lr: PositiveFloat = 1.0
    weight_epochs: PositiveInt = 1
    part: Annotated[float, Field(gt=0, le=1)] = 0.8
    layers: Literal["head", "all"] = "head"
    adapt_epochs: NonNegativeInt = 5

    def memory(self, task: Task, params: Params) -> Tree:
        """The client's own model, and the weights of the mixture."""
        return {"own": params, "weights": tree_map(torch.ones_like, self._upper(task, params))}

    def _upper(self, task: Task, params: Params) -> Params:
        return params if self.layers == "all" else task.split(params, "head")[1]

    def client(self, task: Task, params: Params, episode: Episode) -> Reply:
        """Learn the weights, train the mixture, and keep both."""
        weights = self._weights(task, params, episode)
        trained = self.trained(task, _mixture(params, episode.memory["own"], weights), episode.data, episode.round)
        return Reply(subtract(params, trained), {"own": trained, "weights": weights})

    def _weights(self, task: Task, params: Params, episode: Episode) -> Params:
        """Trained from where the last round left them."""
        own: Params = episode.memory["own"]
        weights: Params = episode.memory["weights"]
        gradient = grad(lambda weights, batch: task.loss(_mixture(params, own, weights), batch))
        for batch in passes(some(episode.data, self.part, _PART), self.batch_size, self.weight_epochs):
            moved = tree_map(lambda w, g: (w - self.weight_lr * g).clamp(0, 1), weights, gradient(weights, batch))
            weights = where_real(batch, moved, weights)
        return weights

    def personal(self, task: Task, params: Params, episode: Episode) -> Iterator[Params]:
        """The global model, then its mixture with the client's own."""
        yield params
        yield _mixture(params, episode.memory["own"], self._weights(task, params, episode))

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """Training of the global model on the support set, an epoch a step."""
        optimizer, epochs, size = self.client_optimizer, self.adapt_epochs, self.batch_size
        return fit_epochs(task, params, support, optimizer, epochs=epochs, batch_size=size)


def _mixture(params: Params, own: Params, weights: Params) -> Params:
    """The global model, but mixed with the own one where there are weights."""
    upper = {name: own[name] + (params[name] - own[name]) * w for name, w in weights.items()}
    return {**params, **upper}
