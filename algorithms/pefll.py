"""PeFLL: one network embeds a client's examples, a second one writes the client's model from the embedding.

Scott, Zakerinia, Lampert (2024), arXiv 2306.05515. The embedding v is the mean of a network over the client's (x, y);
theta = h(v); the client trains theta locally and sends the difference, which the server takes back through h into phi
and into v, and the client from v into the embedding network. As in the paper, the embedding network, theta and v's
gradient travel down, and v, the difference and the embedding network's gradient up. `traffic` counts just that, though
here the client computes theta and v's gradient itself, so its FLOPs contain h.

A new client gets h of its support set's embedding, without training. So there is no model "before adaptation": the
first one is the written one. `adapt_steps` steps of fine-tuning may follow (none in the paper). A participant's is
written for its data, as in every round.

The embedding network is the model's own body (another random draw; it is trained), then a perceptron over the features
and the label, one-hot: so it reads whatever the model reads. The paper's has the client model's architecture, too, with
the label in additional input channels.

Deviations: all of a client's examples are embedded, not a batch; local training is by epochs instead of 50 batches;
there are no regularisers but the optimizers' weight decay. h starts as `metaleaf.hypernetwork` says, with a code of 8
numbers (`code`) in front of its last layer for models of more than 100,000 parameters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf import hypernetwork
from metaleaf.algorithm import About, Replies, Space, State, Traffic
from metaleaf.gradient import grad
from metaleaf.learning import descend, fit
from metaleaf.optimizers import SGD, Adam, Optimizer
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, dot, subtract, weighted_sum


@dataclass(frozen=True)
class PeFLL:
    """The server learns {"embedding", "network"}, the embedding network being {"body", "perceptron"}."""

    title: ClassVar[str] = "PeFLL"
    about: ClassVar[About] = About(
        "hypernetwork",
        "networks that embed a client's examples and write its model",
        "Scott et al. 2024, arXiv 2306.05515",
    )
    serves: ClassVar[tuple[str, ...]] = ("multiclass",)
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "server_optimizer.lr": (0.0002, 0.001, 0.005),
    }
    each: ClassVar[bool] = True

    client_optimizer: Optimizer = SGD(lr=0.03)
    server_optimizer: Optimizer = Adam(lr=0.001)
    clip: PositiveFloat = 50.0
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    embedding: PositiveInt = 32
    hidden: PositiveInt = 100
    layers: PositiveInt = 3
    code: PositiveInt | None = None
    adapt_lr: PositiveFloat = 0.03
    adapt_steps: NonNegativeInt = 0

    def init(self, task: Task, params: Params) -> State:
        """Both networks at random, and the server optimizer's state over both."""
        classes, width = params["out.weight"].shape
        body, _ = task.split(task.params(draw=1), "head")
        perceptron = hypernetwork.perceptron(task, "embedding", [width + classes, self.hidden, self.embedding])
        size = self.embedding
        network = hypernetwork.init(task, params, size, hidden=self.hidden, layers=self.layers, code=self.code)
        learned = {"embedding": {"body": body, "perceptron": perceptron}, "network": network}
        return State(learned, self.server_optimizer.init(learned))

    def client(self, task: Task, learned: Tree, episode: Episode) -> Tree:
        """The embedding, the difference from the written model to the trained one, the embedding network's gradient."""
        v = _embed(task, learned["embedding"], episode.data, training=True)
        model = hypernetwork.write(learned["network"], v)
        size, optimizer = self.batch_size, self.client_optimizer
        trained = fit(task, model, episode.data, optimizer, epochs=self.epochs, batch_size=size)
        difference = subtract(model, trained)
        by_v = grad(lambda v: dot(hypernetwork.write(learned["network"], v), difference))(v)
        gradient = grad(lambda network: by_v @ _embed(task, network, episode.data, training=True))(learned["embedding"])
        return {"v": v, "difference": difference, "embedding": gradient}

    def server(self, state: State, replies: Replies) -> State:
        """One step of the server optimizer along the mean product of the differences with the Jacobians."""
        v, difference, weights = replies.updates["v"], replies.updates["difference"], replies.weights

        def outer(network: Tree) -> Tensor:
            return weights.to(v.dtype) @ hypernetwork.products(hypernetwork.write(network, v), difference)

        embedding = weighted_sum(replies.updates["embedding"], weights)
        gradient = {"embedding": embedding, "network": grad(outer)(state.broadcast["network"])}
        gradient = hypernetwork.clip(gradient, self.clip)
        return State(*self.server_optimizer.step(state.broadcast, gradient, state.kept))

    def traffic(self, learned: Tree, update: Tree) -> Traffic:
        """The paper's exchange: h stays on the server."""
        return Traffic((learned["embedding"], update["difference"], update["v"]), update)

    # ---- in a new environment: participants send embeddings, the server writes the model of their mean

    def params(self, learned: Tree) -> Params:
        """The model of the embedding 0."""
        network = learned["network"]
        inputs = network["trunk"][0]["weight"].shape[1]
        return hypernetwork.write(network, network["trunk"][0]["weight"].new_zeros(inputs))

    def greeting(self, learned: Tree) -> Tree:
        """The embedding network."""
        return learned["embedding"]

    def first(self, task: Task, learned: Tree, shots: Shots) -> Tree:
        """A participant's embedding."""
        return {"v": _embed(task, learned["embedding"], shots)}

    def start(self, task: Task, learned: Tree, replies: Replies) -> dict[str, Tree]:
        """The model of the mean embedding; federated averaging goes on from it."""
        return {"params": hypernetwork.write(learned["network"], replies.mean()["v"])}

    # ---- for a new client

    def adapt(self, task: Task, learned: Tree, support: Shots) -> Iterator[Params]:
        """The model written for the support set, then fine-tuning."""
        model = hypernetwork.write(learned["network"], _embed(task, learned["embedding"], support))
        return descend(task, model, support, self.adapt_lr, self.adapt_steps)


def _embed(task: Task, network: Tree, shots: Shots, training: bool = False) -> Tensor:
    """The mean of the embedding network over the real examples; 0 if there are none."""
    features = task.features(network["body"], shots.x, shots.mask, shots.seed if training else None)
    first = network["perceptron"][0]["weight"]
    labels = shots.y[:, None] == torch.arange(first.shape[1] - features.shape[1], device=shots.y.device)
    found = hypernetwork.run(network["perceptron"], torch.cat([features, labels.to(features.dtype)], 1))
    if shots.mask is None:
        return found.sum(0) / max(len(found), 1)
    return torch.where(shots.mask[:, None], found, 0.0).sum(0) / shots.mask.sum().clamp(min=1)
