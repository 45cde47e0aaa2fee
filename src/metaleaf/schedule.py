"""What meta-training with Adam usually needs beside it: a learning-rate schedule and a bound on the gradient."""

import math

import torch
from torch import Tensor

from metaleaf.trees import Tree, leaves, tree_map

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
