"""AFL, agnostic federated learning: the model is to be good for the worst mixture of the clients.

Mohri, Sivek, Suresh (2019), arXiv 1902.00146, algorithm Stochastic-AFL: while the model descends the mean of the
clients' losses by weights on the simplex, the weights ascend it. The weights' gradient is the clients' losses at the
model of the round; of a cohort of k among N clients its estimate is N / k times their losses, and 0 for all others.
After the ascent the weights are projected back onto the simplex (or, ``ascent = "exponentiated"``, are multiplied by
the exponential of the step, and divided by their sum: mirror descent). ``ascent_lr`` is N times the paper's rate, so
that it means the same in federations of any size. The weights start uniform, and count whatever the protocol says.

Deviations: a client does FedAvg's local training in place of one stochastic gradient, as in Deng et al. (2020), arXiv
2102.12660, and the server takes the mean of the models by the cohort's weights divided by their sum, which may be 0:
then the model stays. The model is the last one, not the mean over all rounds; there is no regulariser, and the simplex
is the whole one. Losses are over all of a client's examples and in evaluation mode. ``decay`` is FedAvg's. New clients,
which the paper does not have, fine-tune the global model on their support set, as in FedAvg(Meta); participants do so
on their data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from metaleaf.algorithm import About, Context, Replies, Space, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import FineTuning
from metaleaf.shots import Episode
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, leaves, weighted_sum


@dataclass(frozen=True)
class AFL(FineTuning, FedAvg):
    """FedAvg by weights that the server keeps, {"weights": [task.clients], "optimizer": the server optimizer's}."""

    title: ClassVar[str] = "AFL"
    about: ClassVar[About] = About(
        "averaging",
        "FedAvg with weights that ascend the clients' losses",
        "Mohri et al. 2019, arXiv 1902.00146",
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "ascent_lr": (0.001, 0.01, 0.1, 1.0),
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
    }
    each: ClassVar[bool] = True
    weighting: ClassVar[str] = "uniform"

    ascent_lr: NonNegativeFloat = 0.01
    ascent: Literal["projected", "exponentiated"] = "projected"

    def init(self, task: Task, params: Params) -> State:
        """The global model and, at home, uniform weights."""
        model = super().init(task, params)
        one = leaves(params)[0]
        uniform = torch.full((task.clients,), 1 / task.clients, dtype=one.dtype, device=one.device)
        return State(model.broadcast, {"weights": uniform, "optimizer": model.kept})

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """FedAvg's update, and the loss before it."""
        loss = task.loss(params, episode.data, training=False)
        return {"model": super().client(task, params, episode), "loss": loss}

    def server(self, state: State, replies: Replies, context: Context) -> State:  # type: ignore[override]
        """A step of the model by the weights as they were, and one of the weights."""
        weights, cohort = state.kept["weights"], context.cohort
        shares = weights[cohort]
        shares = shares / shares.sum().clamp(min=torch.finfo(shares.dtype).tiny)
        mean = weighted_sum(replies.updates["model"], shares)
        stepped = super().server(State(state.broadcast, state.kept["optimizer"]), mean)
        # ascent_lr / N of the paper's rate, times N / k for the cohort.
        step = torch.zeros_like(weights).index_add(0, cohort, replies.updates["loss"] * (self.ascent_lr / len(cohort)))
        return State(stepped.broadcast, {"weights": self._ascended(weights, step), "optimizer": stepped.kept})

    def _ascended(self, weights: Tensor, step: Tensor) -> Tensor:
        if self.ascent == "projected":
            return _projected(weights + step)
        return (weights.log() + len(weights) * step).softmax(0)

    def report(self, task: Task, state: State) -> Mapping[str, Tensor]:
        """The largest weight, and how many clients as many equal weights would be: 1 over the sum of squares."""
        weights = state.kept["weights"]
        return {"largest_weight": weights.max(), "counted": 1 / (weights**2).sum()}


def _projected(v: Tensor) -> Tensor:
    """The nearest point of the simplex, [n]: v less a number, and what is below 0 then is 0 (Held et al. 1974)."""
    ordered = v.sort(descending=True).values
    counts = torch.arange(1, len(v) + 1, dtype=v.dtype, device=v.device)
    excess = (ordered.cumsum(0) - 1) / counts
    positive = (ordered > excess).sum()  # so many of the largest stay above 0
    return (v - excess.gather(0, (positive - 1).reshape(1))).clamp(min=0)
