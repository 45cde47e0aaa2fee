"""Optimizers as pure functions on trees, used alike on a client and on the server."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from metaleaf.trees import Tree, add, leaves, tree_map, zeros_like

_STRICT = ConfigDict(extra="forbid")
Fraction = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class SGD:
    """Gradient descent, with momentum as in torch.optim.SGD: v = momentum * v + g, p = p - lr * v."""

    lr: PositiveFloat
    momentum: NonNegativeFloat = 0.0
    weight_decay: NonNegativeFloat = 0.0
    name: Literal["sgd"] = "sgd"
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def init(self, params: Tree) -> Tree:
        """The state before the first step."""
        return zeros_like(params) if self.momentum else ()

    def step(self, params: Tree, gradient: Tree, state: Tree, rate: float | Tensor = 1.0) -> tuple[Tree, Tree]:
        """(new parameters, new state); `rate` multiplies the learning rate (a schedule), and 0 moves no parameter."""
        if self.weight_decay:
            gradient = add(gradient, params, self.weight_decay)
        if self.momentum:
            state = gradient = tree_map(lambda v, g: self.momentum * v + g, state, gradient)
        return add(params, gradient, -self.lr * rate), state


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980), with bias correction; eps outside the root."""

    lr: PositiveFloat
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: PositiveFloat = 1e-8
    name: Literal["adam"] = "adam"
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def init(self, params: Tree) -> Tree:
        """First and second moments, and the number of steps taken; nothing if there is nothing to move."""
        if not leaves(params):  # a part of a model may be empty
            return ()
        steps = torch.zeros((), dtype=torch.int64, device=leaves(params)[0].device)
        return {"m": zeros_like(params), "v": zeros_like(params), "steps": steps}

    def step(self, params: Tree, gradient: Tree, state: Tree, rate: float | Tensor = 1.0) -> tuple[Tree, Tree]:
        """(new parameters, new state); `rate` multiplies the learning rate (a schedule)."""
        if not leaves(params):
            return params, state
        steps = state["steps"] + 1
        m = tree_map(lambda a, g: self.beta1 * a + (1 - self.beta1) * g, state["m"], gradient)
        v = tree_map(lambda a, g: self.beta2 * a + (1 - self.beta2) * g * g, state["v"], gradient)
        t = steps.double()
        scale, correction = self.lr * rate / (1 - self.beta1**t), 1 - self.beta2**t

        def move(p: Tensor, a: Tensor, b: Tensor) -> Tensor:
            stepped: Tensor = p - (scale * a / ((b / correction).sqrt() + self.eps)).to(p.dtype)
            return stepped

        return tree_map(move, params, m, v), {"m": m, "v": v, "steps": steps}


@dataclass(frozen=True)
class Adaptive:
    """The server optimizers of Reddi et al. (2021, arXiv 2003.00295), Algorithm 2: Adam, Yogi and Adagrad.

    No bias correction; the second moment v starts at tau^2 and never forgets in Adagrad; tau stands outside the root.
    The paper's pseudo-gradient Delta is minus what is descended here, which only its square and its sign see.
    """

    lr: PositiveFloat
    rule: Literal["adam", "yogi", "adagrad"] = "adam"
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    tau: PositiveFloat = 1e-3
    name: Literal["adaptive"] = "adaptive"
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def init(self, params: Tree) -> Tree:
        """First and second moments."""
        return {"m": zeros_like(params), "v": tree_map(lambda p: torch.full_like(p, self.tau**2), params)}

    def step(self, params: Tree, gradient: Tree, state: Tree, rate: float | Tensor = 1.0) -> tuple[Tree, Tree]:
        """(new parameters, new state); `rate` multiplies the learning rate (a schedule)."""
        m = tree_map(lambda a, g: self.beta1 * a + (1 - self.beta1) * g, state["m"], gradient)
        v = tree_map(lambda b, g: self._second(b, g * g), state["v"], gradient)
        return add(params, tree_map(lambda a, b: a / (b.sqrt() + self.tau), m, v), -self.lr * rate), {"m": m, "v": v}

    def _second(self, v: Tensor, square: Tensor) -> Tensor:
        if self.rule == "adam":
            return self.beta2 * v + (1 - self.beta2) * square
        if self.rule == "yogi":
            return v - (1 - self.beta2) * square * (v - square).sign()
        return v + square


Optimizer = Annotated[SGD | Adam | Adaptive, Field(discriminator="name")]
"""Any of the optimizers; in a suite ``{name = "adam", lr = 0.001}``, where the name has to be given."""


WARM_UP = 0.05
"""Part of all rounds in which the rate rises from 0."""


def annealed(number: Tensor, rounds: Tensor) -> Tensor:
    """The learning rate's factor in round `number` (from 0) of `rounds`: a linear rise, then half a cosine to 0."""
    done = number / rounds
    rise = (number + 1) / (WARM_UP * rounds).clamp(min=1)
    fall = (1 + torch.cos((math.pi * (done - WARM_UP) / (1 - WARM_UP)).clamp(0, math.pi))) / 2
    return torch.minimum(rise, torch.ones_like(rise)) * fall


def clipped(gradient: Tree, norm: float) -> Tree:
    """The gradient, made shorter if its Euclidean norm over all leaves is above `norm`."""
    squares = torch.stack([leaf.double().square().sum() for leaf in leaves(gradient)])
    factor = (norm / squares.sum().sqrt().clamp(min=1e-30)).clamp(max=1.0)
    return tree_map(lambda leaf: leaf * factor.to(leaf.dtype), gradient)
