"""Prototypical networks: a client's classes are the means of its support set's features, the nearest of which wins.

Snell, Swersky, Zemel (2017), arXiv 1703.05175, algorithm 1, federated: every client is an episode. It sends the
gradient of its query loss, the cross-entropy of the softmax over minus the squared Euclidean distances to its
prototypes, by the body of the model, which is all that travels; the gradient passes through the prototypes, too. The
server follows the mean with Adam, as `metaleaf.algorithms.maml` does. (FedProto, arXiv 2105.00243, is another method:
there the prototypes travel.) A new client makes prototypes of its support set, a participant of its data.

The model's own head is not used. On a model that is only a head (logistic regression) there is nothing to learn, and
this is the nearest class mean of the inputs.

Deviations: in the paper's episodes every class is in the support set, and as often as any other; here a client has the
classes and examples that it has. Query examples of classes without a prototype do not count in training. Predictions
share a probability of `smoothing` evenly among all classes, so that such a class is not impossible, only unlikely; the
most likely class stays the nearest. "Before adaptation" there is no prototype, and all classes are equally likely.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from metaleaf.algorithm import About, Space, State
from metaleaf.gradient import grad
from metaleaf.optimizers import Adam, Optimizer
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class ProtoNet:
    """Nearest class mean on learned features. A model is {"body", "prototypes" [classes, width], "known" [classes]}."""

    title: ClassVar[str] = "ProtoNet"
    about: ClassVar[About] = About(
        "meta-gradient",
        "features on which the nearest mean of a class of the support set is right",
        "Snell et al. 2017, arXiv 1703.05175",
    )
    serves: ClassVar[tuple[str, ...]] = ("multiclass",)
    space: ClassVar[Space] = {"server_optimizer.lr": (0.0003, 0.001, 0.003, 0.01), "smoothing": (0.01, 0.1)}

    server_optimizer: Optimizer = Adam(lr=0.001)
    smoothing: Annotated[float, Field(gt=0, lt=1)] = 0.01

    def init(self, task: Task, params: Params) -> State:
        """The body, and the server optimizer's state."""
        body, _ = task.split(params, "head")
        return State(body, self.server_optimizer.init(body))

    def client(self, task: Task, body: Params, episode: Episode) -> Tree:
        """The gradient of the query loss by the body."""

        def objective(body: Params) -> Tensor:
            prototypes, known = _prototypes(task, body, episode.support, training=True)
            query = episode.query
            found = _log_softmax(prototypes, known, task.features(body, query.x, query.mask, query.seed))
            losses = -found.gather(1, query.y[:, None]).squeeze(1)
            counts = known[query.y] if query.mask is None else known[query.y] & query.mask
            return torch.where(counts, losses, 0.0).sum() / counts.sum().clamp(min=1)

        return grad(objective)(body)

    def server(self, state: State, update: Tree) -> State:
        """One step of the server optimizer."""
        return State(*self.server_optimizer.step(state.broadcast, update, state.kept))

    def adapt(self, task: Task, body: Params, support: Shots) -> Iterator[Tree]:
        """The body without prototypes, then with those of the support set."""
        prototypes, known = _prototypes(task, body, support)
        for seen in (torch.zeros_like(known), known):
            yield {"body": body, "prototypes": prototypes, "known": seen}

    def predict(self, task: Task, model: Tree, x: Tensor, mask: Tensor | None) -> Tensor:
        """Log-probabilities [n, classes]."""
        found = _log_softmax(model["prototypes"], model["known"], task.features(model["body"], x, mask))
        shared = torch.full_like(found, self.smoothing / found.shape[1]).log()
        return torch.logaddexp(found + torch.full_like(found, 1 - self.smoothing).log(), shared)


def _prototypes(task: Task, body: Params, support: Shots, training: bool = False) -> tuple[Tensor, Tensor]:
    """The mean features of each class [classes, width], and which classes there are, bool [classes]."""
    features = task.features(body, support.x, support.mask, support.seed if training else None)
    member = support.y == torch.arange(task.model.out.out_features, device=support.y.device)[:, None]
    member = member if support.mask is None else member & support.mask
    counts = member.sum(1, keepdim=True)
    return member.to(features.dtype) @ features / counts.clamp(min=1), counts.squeeze(1) > 0


def _log_softmax(prototypes: Tensor, known: Tensor, features: Tensor) -> Tensor:
    """Over minus the squared distances to the known prototypes, [n, classes]; without any, all are equal."""
    # The features' own squares are the same for all classes.
    closeness = 2 * features @ prototypes.T - prototypes.square().sum(1)
    return torch.where(known, closeness, torch.finfo(closeness.dtype).min).log_softmax(1)
