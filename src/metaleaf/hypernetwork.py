"""Networks that write the parameters of a model, as functions on trees: what pFedHN and PeFLL have in common.

A hypernetwork is {"trunk": layers, "weight": tree, "bias": tree}: a multilayer perceptron from a vector v to a code z,
and for every tensor p of the model one linear map from the code to it, p = weight @ z + bias, where the bias has p's
shape and the weight one dimension more. The biases start at the model's initial parameters and the weights so small
that the models of different v differ by about a tenth of those: training starts from where any other algorithm does.

The weights are as many as the model's parameters times the code's length, so a large model needs a short code.
"""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metaleaf.seeds import derive
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, leaves, tree_map

LARGE_MODEL = 100_000
"""Parameters beyond which the code is short unless its length is given."""
SHORT_CODE = 8
"""Its length then: for LEAF's 6.6 million parameters 53 million weights, where a code of 100 would need 660 million."""
SPREAD = 0.1
"""How far apart the models of different vectors start, as a part of each tensor's own size."""


def perceptron(task: Task, purpose: str, sizes: list[int]) -> Tree:
    """Layers of these widths, weights normal with variance 2 / inputs (He et al. 2015), zero biases."""
    rng, like = _generator(task, purpose), leaves(task.params())[0]
    layers = []
    for inputs, outputs in pairwise(sizes):
        weight = torch.randn(outputs, inputs, generator=rng) * math.sqrt(2 / inputs)
        layers.append({"weight": weight.to(like), "bias": torch.zeros(outputs).to(like)})
    return tuple(layers)


def run(layers: Tree, x: Tensor) -> Tensor:
    """The perceptron's outputs [..., last width]; ReLU between its layers, none after the last."""
    *hidden, final = layers
    for layer in hidden:
        x = F.relu(F.linear(x, layer["weight"], layer["bias"]))
    return F.linear(x, final["weight"], final["bias"])


def init(
    task: Task, params: Params, inputs: int, *, hidden: int, layers: int, code: int | None = None
) -> dict[str, Any]:
    """A hypernetwork for vectors of `inputs` numbers, with `layers` hidden layers of `hidden` units.

    code: the code's length; None: `hidden`, or `SHORT_CODE` for models of more than `LARGE_MODEL` parameters.
    """
    small = sum(p.numel() for p in params.values()) <= LARGE_MODEL
    length = code or (hidden if small else min(hidden, SHORT_CODE))
    rng = _generator(task, "writers")

    def writer(p: Tensor) -> Tensor:
        drawn = torch.randn(*p.shape, length, generator=rng) * (SPREAD / math.sqrt(length))
        return drawn.to(p) * p.square().mean().sqrt()

    trunk = perceptron(task, "trunk", [inputs, *[hidden] * layers, length])
    return {"trunk": trunk, "weight": tree_map(writer, params), "bias": tree_map(torch.clone, params)}


def write(network: Tree, v: Tensor) -> Params:
    """The model for v [inputs], or the models for v [k, inputs], leaves [k, ...]."""
    z = run(network["trunk"], v)
    found: Params = tree_map(
        lambda w, b: torch.tensordot(z, w, dims=([-1], [-1])) + b, network["weight"], network["bias"]
    )
    return found


def products(a: Tree, b: Tree) -> Tensor:
    """The inner products [k] of trees stacked along the first dimension."""
    parts = [(x * y).flatten(1).sum(1) for x, y in zip(leaves(a), leaves(b), strict=True)]
    return torch.stack(parts).sum(0)


def clip(gradient: Tree, limit: float) -> Tree:
    """The gradient, scaled down to Euclidean norm `limit` if it is longer."""
    norms = [torch.linalg.vector_norm(leaf, dtype=torch.float64) for leaf in leaves(gradient)]
    length = torch.linalg.vector_norm(torch.stack(norms))
    scale = (limit / length).clamp(max=1.0)  # no gradient at all: limit / 0 is infinite, and the scale 1
    return tree_map(lambda leaf: leaf * scale.to(leaf.dtype), gradient)


def _generator(task: Task, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive(task.seed, "hypernetwork", purpose))
