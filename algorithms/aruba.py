"""ARUBA: FedAvg whose clients learn at a rate of each parameter's own, from how far earlier clients had to move it.

Khodak, Balcan, Talwalkar (2019), arXiv 1906.02717, algorithm 2, over Reptile / FedAvg. Clients train by SGD with the
rates sqrt(b / g), element by element. With phi the model of round t (from 1), the server adds 1/2 (y - phi)^2 and
epsilon^2 / (t + 1)^p to b, and the sum of the squared gradients of the training and zeta^2 / (t + 1)^p to g; they start
at epsilon^2 and zeta^2, so that the first rate is epsilon / zeta, here `lr`. (The authors' code has zeta = p = 1.)
A new client fine-tunes the model on its support set at the learned rates; so does a participant on its data.

Deviations: b and g follow the cohort's means, weighted as the protocol says (the paper's clients come one by one). The
variant ARUBA++, where a client's rates go on falling as it adapts, is not here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from metaleaf.algorithm import About, Context, Space, State, Traffic
from metaleaf.gradient import grad
from metaleaf.learning import descend, where_real
from metaleaf.shots import Episode, Shots, minibatches
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, add, subtract, tree_map, zeros_like


@dataclass(frozen=True)
class ARUBA:
    """The server sends {"params", "rates"}, twice FedAvg's bytes, and keeps {"b", "g"}."""

    title: ClassVar[str] = "ARUBA"
    about: ClassVar[About] = About(
        "averaging",
        "FedAvg with a learned rate for each parameter, for new clients, too",
        "Khodak et al. 2019, arXiv 1906.02717",
    )
    space: ClassVar[Space] = {
        "lr": (0.003, 0.01, 0.03, 0.1),
        "zeta": (0.1, 1.0, 10.0),
        "server_lr": (0.5, 1.0),
    }

    lr: PositiveFloat = 0.03
    """The first rate, epsilon / zeta."""
    zeta: PositiveFloat = 1.0
    power: PositiveFloat = 1.0
    """The paper's p."""
    server_lr: PositiveFloat = 1.0
    """The part of the way to the clients' mean model."""
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    adapt_steps: NonNegativeInt = 5

    def init(self, task: Task, params: Params) -> State:
        """The model with rates that are all alike."""
        b, g = self._least(params)
        return State({"params": params, "rates": _rates(b, g)}, {"b": b, "g": g})

    def _least(self, params: Params) -> tuple[Tree, Tree]:
        """epsilon^2 and zeta^2, for each parameter."""
        squares = (self.lr * self.zeta) ** 2, self.zeta**2
        b, g = (tree_map(lambda p, s=square: torch.full_like(p, s), params) for square in squares)
        return b, g

    def client(self, task: Task, broadcast: Tree, episode: Episode) -> Tree:
        """How the model moved, the square of it, and the sum of the squared gradients on the way."""
        params, rates = broadcast["params"], broadcast["rates"]
        trained, squares, slope = params, zeros_like(params), grad(task.loss)
        for epoch in range(self.epochs):
            for batch in minibatches(episode.data, self.batch_size, stream=epoch):
                gradient = slope(trained, batch)
                stepped = tree_map(lambda p, r, g: p - r * g, trained, rates, gradient)
                summed = tree_map(lambda s, g: s + g * g, squares, gradient)
                trained, squares = where_real(batch, (stepped, summed), (trained, squares))
        moved = subtract(trained, params)
        return {"moved": moved, "distances": tree_map(lambda m: m * m, moved), "squares": squares}

    def traffic(self, broadcast: Tree, update: Tree) -> Traffic:
        """The server knows the square of what it is sent."""
        return Traffic(broadcast, {"moved": update["moved"], "squares": update["squares"]})

    def server(self, state: State, update: Tree, context: Context) -> State:
        """Towards the clients' mean model, with rates from all that is known by now."""
        params = add(state.broadcast["params"], update["moved"], self.server_lr)
        part = (context.round + 2) ** -self.power  # rounds count from 0 there, and from 1 in the paper
        more_b, more_g = self._least(params)
        b = add(add(state.kept["b"], more_b, part), update["distances"], 0.5)
        g = add(add(state.kept["g"], more_g, part), update["squares"])
        return State({"params": params, "rates": _rates(b, g)}, {"b": b, "g": g})

    def params(self, broadcast: Tree) -> Params:
        """The model: what a new environment starts from (`metaleaf.environments.newcomers`)."""
        model: Params = broadcast["params"]
        return model

    def local(self, task: Task, broadcast: Tree, params: Params, shots: Shots) -> Iterator[Params]:
        """Local training in a new environment: at the learned rates."""
        return descend(task, params, shots, broadcast["rates"], task.local_steps)

    def adapt(self, task: Task, broadcast: Tree, support: Shots) -> Iterator[Params]:
        """Gradient descent on the support set, at the learned rates."""
        return descend(task, broadcast["params"], support, broadcast["rates"], self.adapt_steps)


def _rates(b: Tree, g: Tree) -> Tree:
    return tree_map(lambda b, g: (b / g).sqrt(), b, g)
