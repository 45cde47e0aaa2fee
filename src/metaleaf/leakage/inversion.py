"""Gradient inversion: inputs from which clients would make the updates that were seen.

Zhu, Liu, Han 2019 (arXiv 1906.08935) minimise the squared distance between updates; Geiping, Bauermeister, Dröge,
Moeller 2020 (arXiv 2003.14053) one minus their cosine, plus the total variation of images, by Adam on the signs of the
gradient with a rate that falls to a tenth after three, five and seven eighths of the steps. Both are here, with that
descent; inputs are kept within their range by projection.

Deviation: the squared distance is divided by the squared length of what was seen, so that the weight of the total
variation means the same for every algorithm.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf import seeds, trees
from metaleaf.errors import ConfigError
from metaleaf.gradient import grad
from metaleaf.optimizers import Adam
from metaleaf.trees import Tree

Inputs = list[Tensor]
"""Of each of some clients, all its examples, [n, *x_shape], every number between 0 and 1."""

FALLS = (3 / 8, 5 / 8, 7 / 8)
"""Shares of the steps after which the rate falls to a tenth."""
TINY = 1e-30


@dataclass(frozen=True)
class Inversion:
    """How inputs are sought.

    restarts: random starts, of which the best by the objective is kept. rate: of Adam, for inputs between 0 and 1.
    variation: the weight of the total variation of images.
    """

    distance: Literal["cosine", "squared"] = "cosine"
    steps: PositiveInt = 1000
    restarts: PositiveInt = 1
    rate: PositiveFloat = 0.1
    variation: NonNegativeFloat = 0.1

    def __call__(
        self,
        update: Callable[[Inputs], Tree],
        seen: Tree,
        shapes: Sequence[Sequence[int]],
        seed: Tensor,
        *,
        images: bool = False,
    ) -> "Found":
        """The inputs whose update is nearest to the one that was seen.

        update: differentiable, of inputs of these shapes. seed: int64 scalar, of the starts. images: whether inputs are
        images, which are smooth. ConfigError if the update does not depend on the inputs.
        """

        def objective(inputs: Inputs) -> Tensor:
            value = self._distance(update(inputs), seen)
            if not value.requires_grad:
                raise ConfigError(
                    "the update has no derivative by the inputs, which inversion follows: attack another model."
                )
            return value + self.variation * variation(inputs) if images else value

        tries = (self._descended(objective, shapes, seeds.step_seed(seed, i), seen) for i in range(self.restarts))
        return min(tries, key=lambda one: one.objective)

    def _distance(self, made: Tree, seen: Tree) -> Tensor:
        length = trees.norm(seen)
        if self.distance == "squared":
            return trees.norm(trees.subtract(made, seen)) ** 2 / (length**2).clamp(min=TINY)
        return 1 - trees.dot(made, seen) / (trees.norm(made) * length).clamp(min=TINY)

    def _descended(
        self, objective: Callable[[Inputs], Tensor], shapes: Sequence[Sequence[int]], seed: Tensor, like: Tree
    ) -> "Found":
        """The best inputs on the way down from a random start."""
        dtype = trees.leaves(like)[0].dtype
        inputs = [seeds.uniform(seed, shape, stream, dtype) for stream, shape in enumerate(shapes)]
        optimizer = Adam(lr=self.rate)
        state, best = optimizer.init(inputs), Found(inputs, math.inf)
        for step in range(self.steps):
            slope, value = _slope(objective, inputs)
            if value < best.objective:
                best = Found(inputs, value)
            rate = 0.1 ** sum(step >= share * self.steps for share in FALLS)
            moved, state = optimizer.step(inputs, trees.tree_map(torch.sign, slope), state, rate)
            inputs = [one.clamp(0, 1) for one in moved]
        return best


class Found(NamedTuple):
    """The inputs that were found, and how well they explain what was seen; 0 is all of it."""

    inputs: Inputs
    objective: float


def variation(images: Sequence[Tensor]) -> Tensor:
    """The mean difference of neighbouring pixels, down and across, over all images [n, height, width, ...]."""
    down = torch.cat([x.diff(dim=1).abs().flatten() for x in images])
    across = torch.cat([x.diff(dim=2).abs().flatten() for x in images])
    return down.mean() + across.mean()


def _slope(objective: Callable[[Inputs], Tensor], inputs: Inputs) -> tuple[Inputs, float]:
    """The gradient of the objective, and its value."""
    values: list[float] = []

    def noted(tree: Inputs) -> Tensor:
        value = objective(tree)
        values.append(float(value.detach()))
        return value

    found: Inputs = grad(noted)(inputs)
    return found, values[0]
