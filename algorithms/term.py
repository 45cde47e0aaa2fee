"""TERM: a mean of the clients' losses that is tilted towards high ones, or towards high losses of examples as well.

Li, Beirami, Sanjabi, Smith (2021), arXiv 2007.01162, hierarchical tilting (equation 4) with the clients as groups: the
objective is 1 / t log of the mean of exp(t R_k) over the clients, where R_k is 1 / tau log of the mean of exp(tau loss)
over the examples of client k. t is `tilt`, tau is `example_tilt`, and a tilt of 0 is the plain mean; a negative one
counts high losses less, for robustness. The gradient is the mean of the clients' by weights in proportion to
exp(t R_k); here these weight the clients' models. With both tilts 0 it is FedAvg.

Deviations: a client does FedAvg's local training by R_k, tilted within each batch, in place of a gradient; weights are
relative to the cohort at hand (the paper's stochastic method keeps a running estimate of the objective), in addition to
those of the protocol. The R_k that weight the clients are those at the model that was sent, over all examples and in
evaluation mode. ``decay`` is FedAvg's. New clients, which the paper does not have, fine-tune the global model on their
support set by their plain loss, as in FedAvg(Meta); participants do so on their data.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import FiniteFloat
from torch import Tensor

from metaleaf.algorithm import About, Replies, Space, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.gradient import grad
from metaleaf.learning import FineTuning
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, subtract, weighted_sum


@dataclass(frozen=True)
class TERM(FineTuning, FedAvg):
    """FedAvg of a tilted objective."""

    title: ClassVar[str] = "TERM"
    about: ClassVar[About] = About(
        "averaging", "FedAvg with weights by exponentials of the clients' losses", "Li et al. 2021, arXiv 2007.01162"
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "tilt": (0.1, 1.0, 5.0),
        "example_tilt": (0.0, 1.0),
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
    }
    each: ClassVar[bool] = True

    tilt: FiniteFloat = 0.1
    """The paper's t."""
    example_tilt: FiniteFloat = 0.0
    """The paper's tau."""

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """FedAvg's update on the tilted loss, and that loss before it."""
        trained = self.trained(
            task, params, episode.data, episode.round, lambda p, batch: grad(task.loss)(p, self._tilted(task, p, batch))
        )
        return {"model": subtract(params, trained), "loss": self._loss(task, params, episode.data)}

    def _tilted(self, task: Task, params: Params, batch: Shots) -> Shots:
        """The batch with weights in proportion to exp(tau loss): its loss has the gradient of the tilted one."""
        if not self.example_tilt:
            return batch
        return batch._replace(weights=self._exponents(task.losses(params, batch), batch).softmax(0))

    def _loss(self, task: Task, params: Params, data: Shots) -> Tensor:
        """R_k."""
        if not self.example_tilt:
            return task.loss(params, data, training=False)
        exponents = self._exponents(task.losses(params, data, training=False), data)
        count = math.log(len(data.y)) if data.mask is None else data.mask.sum().to(exponents.dtype).log()
        return (exponents.logsumexp(0) - count) / self.example_tilt

    def _exponents(self, losses: Tensor, shots: Shots) -> Tensor:
        """tau times the losses, and minus infinity for padding."""
        exponents = self.example_tilt * losses
        return exponents if shots.mask is None else torch.where(shots.mask, exponents, -math.inf)

    def server(self, state: State, replies: Replies) -> State:
        """One step of the server optimizer along the mean by tilted weights."""
        weights = (replies.weights.log() + self.tilt * replies.updates["loss"]).softmax(0)
        stepped: State = super().server(state, weighted_sum(replies.updates["model"], weights))
        return stepped
