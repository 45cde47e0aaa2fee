"""Networks that read the set of a cohort's updates and write a change of all parameters.

All of them read and write in *scaled* coordinates: updates and changes divided by the usual size of an update of the
same layer. Each is a frozen dataclass of sizes with pure functions: ``init(generator) -> weights`` and
``change(weights, params, updates, shares) -> [P]`` for the parameters [P], updates [k, P] and shares [k] that sum to 1.
`layers` are the numbers of parameters of the model's tensors. All end in zeros: untrained they change nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from metaleaf.trees import Tree

Reader = Literal["set", "mean", "linear"]
"""What is read: every update (a permutation-invariant network), only their mean, or their mean by a linear map."""

Layers = list[Tree]

ROWS = 1 << 18
"""Coordinates that a perceptron reads at once: bounds the memory of hidden units, does not change the result."""


def mlp(sizes: list[int], generator: Generator, *, zero_end: bool = False) -> Layers:
    """Weights of a perceptron: He-normal, zero biases; with `zero_end` it starts as the zero function."""
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight = torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5
        if zero_end and i == len(sizes) - 2:
            weight = torch.zeros_like(weight)
        layers.append({"weight": weight, "bias": torch.zeros(outputs)})
    return layers


def perceive(layers: Layers, x: Tensor) -> Tensor:
    """Apply a perceptron with ReLU between its layers to x [..., inputs]."""
    for i, layer in enumerate(layers):
        x = x @ layer["weight"].T + layer["bias"]
        x = x.relu() if i < len(layers) - 1 else x
    return x


@dataclass(frozen=True)
class SetNetwork:
    """From sketches [k, inputs] to [outputs]: a linear map of their mean, plus a perceptron over the set.

    The perceptron sees the sketches one by one (then their plain and weighted mean), as in Deep Sets (Zaheer et al.
    2017, arXiv 1703.06114), and the mean sketch.
    """

    inputs: int
    outputs: int
    width: int
    reader: Reader

    def init(self, generator: Generator) -> Tree:
        """Weights of a network that gives zeros."""
        width = self.width
        found: dict[str, Tree] = {"linear": torch.zeros(self.outputs, self.inputs)}
        if self.reader == "mean":
            found["after"] = mlp([self.inputs, width, width, self.outputs], generator, zero_end=True)
        if self.reader == "set":
            found["each"] = mlp([self.inputs, width, width], generator)
            found["after"] = mlp([2 * width + self.inputs, width, self.outputs], generator, zero_end=True)
        return found

    def read(self, weights: Mapping[str, Any], sketches: Tensor, shares: Tensor) -> Tensor:
        """[outputs]."""
        mean = shares.to(sketches.dtype) @ sketches
        found: Tensor = weights["linear"] @ mean
        if self.reader == "linear":
            return found
        if self.reader == "mean":
            return found + perceive(weights["after"], mean)
        each = perceive(weights["each"], sketches).relu()
        real = (shares > 0).to(each.dtype)
        plain = real @ each / real.sum().clamp(min=1)
        pooled = torch.cat([plain, shares.to(each.dtype) @ each, mean])
        return found + perceive(weights["after"], pooled)


@dataclass(frozen=True)
class Basis:
    """Coefficients over learnt directions: sketch, read, and combine. Scales to any model that fits K times."""

    layers: tuple[int, ...]
    directions: int
    sketches: int
    width: int
    reader: Reader

    @property
    def network(self) -> SetNetwork:
        """From sketches to coefficients."""
        return SetNetwork(self.sketches, self.directions, self.width, self.reader)

    def init(self, generator: Generator) -> Tree:
        """Random directions and a random sketch."""
        total = sum(self.layers)
        return {
            "sketch": torch.randn(self.sketches, total, generator=generator) / total**0.5,
            "centre": torch.zeros(self.sketches),
            "directions": torch.randn(self.directions, total, generator=generator) / self.directions**0.5,
            "network": self.network.init(generator),
        }

    def change(self, weights: Mapping[str, Any], params: Tensor, updates: Tensor, shares: Tensor) -> Tensor:
        """[P]."""
        sketches = updates @ weights["sketch"].T - weights["centre"]
        coefficients = self.network.read(weights["network"], sketches, shares)
        found: Tensor = coefficients @ weights["directions"]
        return found


@dataclass(frozen=True)
class Dense:
    """A perceptron over the updates themselves that writes every parameter; for small models (P * width weights)."""

    layers: tuple[int, ...]
    width: int
    reader: Reader

    @property
    def network(self) -> SetNetwork:
        """From sketches to hidden units."""
        return SetNetwork(self.width, self.width, self.width, self.reader)

    def init(self, generator: Generator) -> Tree:
        """A network that writes zeros."""
        total = sum(self.layers)
        return {
            "sketch": torch.randn(self.width, total, generator=generator) / total**0.5,
            "network": self.network.init(generator),
            "read": mlp([self.width, self.width], generator),
            "write": torch.zeros(total, self.width),
        }

    def change(self, weights: Mapping[str, Any], params: Tensor, updates: Tensor, shares: Tensor) -> Tensor:
        """[P]."""
        sketches = updates @ weights["sketch"].T
        mean = shares.to(sketches.dtype) @ sketches
        # Beside the network, which starts at zero, a random layer: else nothing would reach the zeros of "write".
        read = perceive(weights["read"], mean)
        read = read if self.reader == "linear" else read.relu()
        hidden = read + self.network.read(weights["network"], sketches, shares)
        found: Tensor = weights["write"] @ hidden
        return found


@dataclass(frozen=True)
class Coordinate:
    """One small perceptron for all coordinates, which reads the cohort's statistics there.

    Mean, spread and agreement in sign of the updates, the mean relative to its layer's, the layer's usual mean (so
    that it knows how far the layer moves at all), the parameter relative to its layer's, and an embedding of the layer.
    """

    layers: tuple[int, ...]
    width: int
    embedding: int = 4

    def init(self, generator: Generator) -> Tree:
        """A network that writes zeros."""
        return {
            "layers": torch.randn(len(self.layers), self.embedding, generator=generator),
            "network": mlp([6 + self.embedding, self.width, self.width, 2], generator, zero_end=True),
        }

    def change(self, weights: Mapping[str, Any], params: Tensor, updates: Tensor, shares: Tensor) -> Tensor:
        """[P]: a factor of the mean, plus an offset."""
        shares = shares.to(updates.dtype)[:, None]
        mean = (shares * updates).sum(0)
        spread = (shares * (updates - mean) ** 2).sum(0).clamp(min=1e-12).sqrt()
        agreement = (shares * updates.sign()).sum(0)
        size = self._usual(mean)
        features = [mean, spread, agreement, mean / size, size.log(), params / self._usual(params)]
        owners = torch.cat([weights["layers"][i].expand(n, -1) for i, n in enumerate(self.layers)])
        read = torch.cat([torch.stack(features, dim=1), owners], dim=1)
        found = torch.cat([perceive(weights["network"], rows) for rows in torch.split(read, ROWS)])
        return found[:, 0] * mean + found[:, 1]

    def _usual(self, values: Tensor) -> Tensor:
        """The root mean square within each layer, at every coordinate."""
        squares = [
            part.square().mean().clamp(min=1e-12).sqrt().expand(len(part))
            for part in torch.split(values, list(self.layers))
        ]
        return torch.cat(squares)


Writer = Basis | Dense | Coordinate
