"""Per-FedAvg: clients take several local meta-gradient steps, the server averages their models.

Fallah, Mokhtari, Ozdaglar (2020), arXiv 2002.07948, Algorithm 1. A local step draws three independent batches of the
client's data: from D an inner step w' = w - inner_lr * grad f(w; D), from D' the gradient g at w', and from D'' the
product of the Hessian at w with g, so that w moves by -client_lr * (g - inner_lr * H g). ``hf``, the default and the
better one in the paper, takes that product as a central difference of gradients, [grad f(w + delta g; D'') - grad
f(w - delta g; D'')] / 2 delta; ``fo`` leaves it out. A new client takes one step of the inner kind, and so does a
participant on its data, as the paper evaluates.

Batches always have `batch_size` rows: the first ones of a random order, which starts over where the client has fewer.

Deviations: a new client's step uses its whole support set, not a batch; the cohort's mean is weighted as the protocol
says (the paper's is uniform); all rates are constant, and to be tuned (the paper: 0.01 or 0.001 inside, 0.001 outside).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from metaleaf.algorithm import About, Space, State
from metaleaf.gradient import grad
from metaleaf.learning import descend
from metaleaf.shots import Episode, Shots, permutation
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, add, subtract, tree_map


@dataclass(frozen=True)
class PerFedAvg:
    """Personalised FedAvg; `variant` says what becomes of the second-order term."""

    title: ClassVar[str] = "Per-FedAvg"
    about: ClassVar[About] = About(
        "meta-gradient",
        "several local meta-gradient steps, with Hessian products from differences of gradients",
        "Fallah et al. 2020, arXiv 2002.07948",
    )
    space: ClassVar[Space] = {"inner_lr": (0.003, 0.01, 0.03, 0.1), "client_lr": (0.003, 0.01, 0.03, 0.1)}

    variant: Literal["hf", "fo"] = "hf"
    inner_lr: PositiveFloat = 0.03
    """The paper's alpha."""
    client_lr: PositiveFloat = 0.03
    """The paper's beta."""
    local_steps: PositiveInt = 10
    """The paper's tau."""
    batch_size: PositiveInt = 10
    delta: PositiveFloat = 1e-3
    adapt_steps: NonNegativeInt = 1

    def init(self, task: Task, params: Params) -> State:
        """The initial parameters that are to be learned."""
        return State(params)

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """The difference from the global model to the locally trained one, as a gradient to descend."""
        trained = params
        for step in range(self.local_steps):
            batches = [_batch(episode.data, self.batch_size, 3 * step + i) for i in range(3)]
            trained = add(trained, self._meta_gradient(task, trained, *batches), -self.client_lr)
        return subtract(params, trained)

    def _meta_gradient(self, task: Task, params: Params, inner: Shots, outer: Shots, curvature: Shots) -> Tree:
        gradient = grad(task.loss)
        g = gradient(add(params, gradient(params, inner), -self.inner_lr), outer)
        if self.variant == "fo":
            return g
        ends = [gradient(add(params, g, sign * self.delta), curvature) for sign in (1, -1)]
        product = tree_map(lambda a, b: (a - b) / (2 * self.delta), *ends)
        return add(g, product, -self.inner_lr)

    def server(self, state: State, update: Tree) -> State:
        """The mean of the clients' models."""
        return State(subtract(state.broadcast, update))

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """The inner step, on the whole support set."""
        return descend(task, params, support, self.inner_lr, self.adapt_steps)


def _batch(shots: Shots, size: int, stream: int) -> Shots:
    """`size` real rows of the stream's random order, from its start again where there are fewer."""
    count = len(shots.y) if shots.mask is None else shots.mask.sum().clamp(min=1)
    return shots.take(permutation(shots, stream)[torch.arange(size, device=shots.y.device) % count]).at(stream)
