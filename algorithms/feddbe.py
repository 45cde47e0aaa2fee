"""FedDBE: FedAvg whose clients keep what is special about the mean of their features out of the shared model.

Zhang, Hua, Cao, Wang, Song, Xue, Ma, Guan (2023), arXiv 2311.14975, FedAvg with the domain bias eliminator, both of its
parts. The memory of the representation's bias: a vector of the client's own is added to its features before the head
reads them, is trained with the model, and stays with the client. The regulariser of the mean: `strength` times the mean
squared difference between the mean of a batch's features, without that vector, and a consensus of all clients (half of
that in the authors' code).

Deviations: the consensus, which the paper takes from all clients before training (in the authors' code: by models that
each of them has trained for a round), is the mean over the first round's cohort of the features of their data by the
initial model, and in that round there is no regulariser. The mean is that of the batch alone (the paper's momentum of
means mu = 1). New clients, which the paper does not have, do what a client does in its first round, on their support
set: their vector starts at zero, and is trained with the model.

A participant uses the global model with its own vector (before: without). The vector is told as a change of the head's
bias, which comes to the same as the head is linear; a model with another head than `out` is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from metaleaf.algorithm import About, Reply, Space, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.gradient import grad
from metaleaf.learning import Gradient, fit_epochs, linear_head, mean_over
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, subtract, where


@dataclass(frozen=True)
class FedDBE(FedAvg):
    """FedAvg of {"params", "mean", "known"}, the consensus [width] and whether it is known; `strength` is kappa."""

    title: ClassVar[str] = "FedDBE"
    about: ClassVar[About] = About(
        "personalised",
        "FedAvg whose clients keep the bias of their features to themselves",
        "Zhang et al. 2023, arXiv 2311.14975",
    )
    space: ClassVar[Space] = {**FedAvg.space, "strength": (0.1, 1.0, 10.0, 50.0), "adapt_epochs": (5, 10)}

    strength: NonNegativeFloat = 1.0
    adapt_epochs: NonNegativeInt = 5

    def init(self, task: Task, params: Params) -> State:
        """The global model and a consensus that is not known yet; at home the server optimizer's state."""
        weight, _ = linear_head(task, params)
        mean = torch.zeros_like(weight[0])
        start = {"params": params, "mean": mean, "known": torch.zeros_like(mean.sum())}
        return State(start, self.server_optimizer.init(params))

    def memory(self, task: Task, broadcast: Tree) -> Tree:
        """The client's vector."""
        return torch.zeros_like(broadcast["mean"])

    def client(self, task: Task, broadcast: Tree, episode: Episode) -> Reply:
        """FedAvg's update of the model and the mean of the features before it; the vector is trained and kept."""
        params, data = broadcast["params"], episode.data
        trained = self.trained(
            task, {"params": params, "bias": episode.memory}, data, episode.round, self._gradient(task, broadcast)
        )
        mean = mean_over(data, task.features(params, data.x, data.mask))
        return Reply({"params": subtract(params, trained["params"]), "mean": mean}, trained["bias"])

    def _gradient(self, task: Task, broadcast: Tree) -> Gradient:
        """Of the loss of the model and the vector, {"params", "bias"}, with the regulariser."""
        strength = self.strength * broadcast["known"]

        def loss(learned: Tree, batch: Shots) -> Tensor:
            params = learned["params"]
            z = task.features(params, batch.x, batch.mask, batch.seed)
            outputs = F.linear(z + learned["bias"], params["out.weight"], params["out.bias"])
            losses = task.kind.losses(outputs, batch.y, padded=batch.mask is not None)
            pull = ((mean_over(batch, z) - broadcast["mean"]) ** 2).mean()
            total: Tensor = mean_over(batch, losses) + strength * pull
            return total

        return grad(loss)

    def server(self, state: State, update: Tree) -> State:
        """One step of the server optimizer; the first round's mean becomes the consensus."""
        before = state.broadcast
        params, kept = self.server_optimizer.step(before["params"], update["params"], state.kept)
        mean = where(before["known"] > 0, before["mean"], update["mean"])
        return State({"params": params, "mean": mean, "known": torch.ones_like(before["known"])}, kept)

    def personal(self, task: Task, broadcast: Tree, episode: Episode) -> Iterator[Params]:
        """The global model, then the same with the client's vector."""
        yield broadcast["params"]
        yield _shifted(broadcast["params"], episode.memory)

    def adapt(self, task: Task, broadcast: Tree, support: Shots) -> Iterator[Params]:
        """Training of the model and a vector on the support set, an epoch a step."""
        every: Iterator[Tree] = fit_epochs(
            task,
            {"params": broadcast["params"], "bias": self.memory(task, broadcast)},
            support,
            self.client_optimizer,
            epochs=self.adapt_epochs,
            batch_size=self.batch_size,
            gradient=self._gradient(task, broadcast),
        )
        return (_shifted(learned["params"], learned["bias"]) for learned in every)


def _shifted(params: Params, bias: Tensor) -> Params:
    """The model that reads features with this vector added: a linear head has it in its own bias."""
    return {**params, "out.bias": F.linear(bias[None], params["out.weight"], params["out.bias"])[0]}
