"""FedProto: clients share the mean features of each class, its prototype, and no model.

Tan, Long, Liu, Zhou, Lu, Jiang, Zhang (2022), arXiv 2105.00243, algorithm 1. A client trains a model of its own on its
loss and, `strength` times, on how far its features lie from the global prototypes of their classes, and sends the
prototypes of its data by the trained model. The server takes each class's mean over the clients that have it, by their
numbers of examples. A prediction is the prototype that is nearest to an example's features.

Details: the distance is the mean square of the difference between an example's features and its class's prototype, as
in the authors' code (the paper's equation takes the batch's prototypes). The prototypes travel as sums of features and
numbers of examples, so that their mean over the cohort is exact. All models start alike, at random numbers that follow
from the seed. The scores of a class are minus the squared distance to its prototype, those of a class without one are
below all others.

Deviations: a class that nobody in a round has keeps its prototype (the paper's rounds have all clients). A new client,
which the paper does not have, trains the common first model on its support set under the global prototypes: nothing
else of the federation reaches it, so that little is to be expected of it.

A participant uses the model that its last round left it (before: the common first one), with the global prototypes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf.algorithm import About, Reply, Space, State
from metaleaf.gradient import grad
from metaleaf.learning import Gradient, fit, fit_epochs, linear_head, mean_over
from metaleaf.optimizers import SGD, Optimizer
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class FedProto:
    """The server knows {"prototypes", "known"}, [classes, width] and 0 or 1 [classes]; `strength` is lambda."""

    title: ClassVar[str] = "FedProto"
    about: ClassVar[About] = About(
        "personalised",
        "own models that meet in the mean features of each class, which alone are shared",
        "Tan et al. 2022, arXiv 2105.00243",
    )
    serves: ClassVar[tuple[str, ...]] = ("multiclass",)
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "strength": (0.1, 1.0, 10.0),
        "adapt_epochs": (5, 10, 20),
    }
    weighting: ClassVar[str] = "uniform"

    client_optimizer: Optimizer = SGD(lr=0.03)
    strength: NonNegativeFloat = 1.0
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    decay: PositiveFloat = 1.0
    adapt_epochs: NonNegativeInt = 5

    def init(self, task: Task, params: Params) -> State:
        """No prototypes."""
        weight, bias = linear_head(task, params)
        return State({"prototypes": torch.zeros_like(weight), "known": torch.zeros_like(bias)})

    def memory(self, task: Task, shared: Tree) -> Tree:
        """The client's model."""
        return task.params()

    def client(self, task: Task, shared: Tree, episode: Episode) -> Reply:
        """The sums of its features and the numbers of its examples, class by class; the trained model is kept."""
        data = episode.data
        own = fit(
            task,
            episode.memory,
            data,
            self.client_optimizer,
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=self.decay**episode.round,
            gradient=self._gradient(task, shared),
        )
        z = task.features(own, data.x, data.mask)
        is_class = (data.y[:, None] == torch.arange(len(shared["known"]), device=data.y.device)).to(z.dtype)
        if data.mask is not None:
            is_class = is_class * data.mask[:, None].to(z.dtype)
        return Reply({"sums": is_class.T @ z, "counts": is_class.sum(0)}, own)

    def _gradient(self, task: Task, shared: Tree) -> Gradient:
        """Of the loss and the distances from the prototypes."""

        def loss(params: Params, batch: Shots) -> Tensor:
            z = task.features(params, batch.x, batch.mask, batch.seed)
            losses = task.kind.losses(F.linear(z, *linear_head(task, params)), batch.y, padded=batch.mask is not None)
            squares = ((z - shared["prototypes"][batch.y]) ** 2).mean(-1)
            return mean_over(batch, losses + self.strength * shared["known"][batch.y] * squares)

        return grad(loss)

    def server(self, state: State, update: Tree) -> State:
        """The mean features of every class that somebody had."""
        sums, counts, before = update["sums"], update["counts"], state.broadcast
        present = counts > 0
        means = sums / torch.where(present, counts, 1.0)[:, None]
        known = torch.where(present, 1.0, before["known"])
        return State({"prototypes": torch.where(present[:, None], means, before["prototypes"]), "known": known})

    def personal(self, task: Task, shared: Tree, episode: Episode) -> Iterator[Tree]:
        """The common first model, then the client's own."""
        for params in (task.params(), episode.memory):
            yield {"params": params, **shared}

    def adapt(self, task: Task, shared: Tree, support: Shots) -> Iterator[Tree]:
        """Training of the common first model on the support set, an epoch a step."""
        every = fit_epochs(
            task,
            task.params(),
            support,
            self.client_optimizer,
            epochs=self.adapt_epochs,
            batch_size=self.batch_size,
            gradient=self._gradient(task, shared),
        )
        return ({"params": params, **shared} for params in every)

    def predict(self, task: Task, model: Tree, x: Tensor, mask: Tensor | None) -> Tensor:
        """Minus the squared distances to the prototypes."""
        z = task.features(model["params"], x, mask)
        squares = ((z[:, None] - model["prototypes"]) ** 2).sum(-1)
        furthest = squares.amax(-1, keepdim=True) + 1
        return -torch.where(model["known"] > 0, squares, furthest)
