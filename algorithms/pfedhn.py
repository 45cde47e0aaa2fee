"""pFedHN: a hypernetwork on the server writes every client's model from an embedding of the client.

Shamsian, Navon, Fetaya, Chechik (2021), arXiv 2103.04628. Client i trains theta_i = h(v_i; phi) locally and sends the
difference; the server multiplies it with the Jacobian of theta_i by phi and by v_i and follows that, clipped, with SGD
with momentum and weight decay. Only theta_i travels down and the difference up; h is the server's work, which the
clients' FLOPs do not contain.

A new client fits an embedding to its support set, phi held fixed, from the mean embedding of the training clients
(which is "before adaptation"). Either it was sent h once, many times the size of a model, or every step sends it a
model and takes a gradient: no algorithm's traffic of adaptation is counted, but this one has some.

A participant uses the model that is written from its own embedding (before: from the mean embedding).

Deviations: a round has a cohort: phi follows the weighted mean of the clients' products, each embedding its own
client's. Local training is by epochs instead of 50 batches; a new embedding follows the support loss itself instead of
local training's difference. h starts as `metaleaf.hypernetwork` says, with a code of 8 numbers (`code`) in front of its
last layer for models of more than 100,000 parameters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf import hypernetwork
from metaleaf.algorithm import About, Context, Replies, Space, State
from metaleaf.gradient import grad
from metaleaf.learning import fit
from metaleaf.optimizers import SGD, Optimizer
from metaleaf.seeds import derive
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, leaves, subtract, take


@dataclass(frozen=True)
class PFedHN:
    """The server learns {"network", "table"}, the table holding the clients' embeddings [task.clients, width]."""

    title: ClassVar[str] = "pFedHN"
    about: ClassVar[About] = About(
        "hypernetwork",
        "a network on the server writes every client's model from its embedding",
        "Shamsian et al. 2021, arXiv 2103.04628",
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "server_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "adapt_lr": (0.1, 0.3, 1.0),
    }
    each: ClassVar[bool] = True

    client_optimizer: Optimizer = SGD(lr=0.03)
    server_optimizer: Optimizer = SGD(lr=0.01, momentum=0.9, weight_decay=1e-3)
    clip: PositiveFloat = 50.0
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    embedding: PositiveInt | None = None
    """The embedding's width; None: 1 + clients / 4, as the authors choose it."""
    hidden: PositiveInt = 100
    layers: PositiveInt = 3
    code: PositiveInt | None = None
    adapt_lr: PositiveFloat = 0.3
    adapt_steps: NonNegativeInt = 10

    def init(self, task: Task, params: Params) -> State:
        """The hypernetwork, and normally distributed embeddings."""
        width = self.embedding or 1 + task.clients // 4
        rng = torch.Generator().manual_seed(derive(task.seed, "embeddings"))
        table = torch.randn(task.clients, width, generator=rng).to(leaves(params)[0])
        network = hypernetwork.init(task, params, width, hidden=self.hidden, layers=self.layers, code=self.code)
        learned = {"network": network, "table": table}
        return State(learned, self.server_optimizer.init(learned))

    def send(self, task: Task, state: State, client: Tensor) -> Params:
        """The model that is written from the client's embedding."""
        return hypernetwork.write(state.broadcast["network"], take(state.broadcast["table"], client))

    def client(self, task: Task, model: Params, episode: Episode) -> Tree:
        """The difference from the client's written model to the trained one."""
        size, optimizer = self.batch_size, self.client_optimizer
        return subtract(model, fit(task, model, episode.data, optimizer, epochs=self.epochs, batch_size=size))

    def server(self, state: State, replies: Replies, context: Context) -> State:
        """One step of the server optimizer along the products of the differences with the Jacobians."""
        learned, clients, weights = state.broadcast, context.cohort, replies.weights
        table = learned["table"]
        rows = table[clients]

        def by_client(network: Tree, rows: Tensor) -> Tensor:
            return hypernetwork.products(hypernetwork.write(network, rows), replies.updates)

        network = grad(lambda network: weights.to(table.dtype) @ by_client(network, rows))(learned["network"])
        embeddings = grad(lambda rows: by_client(learned["network"], rows).sum())(rows)
        gradient = {"network": network, "table": torch.zeros_like(table).index_add(0, clients, embeddings)}
        gradient = hypernetwork.clip(gradient, self.clip)
        return State(*self.server_optimizer.step(learned, gradient, state.kept))

    def personal(self, task: Task, learned: Tree, episode: Episode) -> Iterator[Params]:
        """The mean embedding's model, then that of the client's own."""
        for v in (learned["table"].mean(0), take(learned["table"], episode.client)):
            yield hypernetwork.write(learned["network"], v)

    def adapt(self, task: Task, learned: Tree, support: Shots) -> Iterator[Params]:
        """The mean embedding's model, then gradient descent on the embedding."""
        network, v = learned["network"], learned["table"].mean(0)
        yield hypernetwork.write(network, v)
        gradient = grad(lambda v, shots: task.loss(hypernetwork.write(network, v), shots))
        for step in range(self.adapt_steps):
            v = v - self.adapt_lr * gradient(v, support.at(step))
            yield hypernetwork.write(network, v)
