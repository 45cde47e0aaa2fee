"""Fit a set network to what is known already: principal directions of solutions, and their coefficients."""

import torch
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithms.learned_start.writers import SetNetwork
from metaleaf.gradient import grad, over
from metaleaf.optimizers import Adam, annealed
from metaleaf.trees import Tree

LEARNING_RATE = 0.003


def principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Directions [count, P], coefficients [n, count] and unit directions [count, P] of rows [n, P], not centred.

    Directions are as long as the rows usually reach along them, so that coefficients have mean square 1:
    coefficients @ directions is the best approximation of rank `count` (singular value decomposition).
    """
    # Through the small matrix of inner products: P may be millions, n is hundreds.
    values, vectors = torch.linalg.eigh((rows @ rows.T).double())
    values, vectors = values.flip(0)[:count].clamp(min=1e-20), vectors.flip(1)[:, :count]
    singular = values.sqrt()
    unit = ((vectors / singular).to(rows.dtype)).T @ rows
    size = singular.to(rows.dtype) / len(rows) ** 0.5
    return unit * size[:, None], vectors.to(rows.dtype) * len(rows) ** 0.5, unit


def fit_coefficients(
    network: SetNetwork,
    weights: Tree,
    sketches: Tensor,
    shares: Tensor,
    targets: Tensor,
    *,
    importance: Tensor,
    steps: int,
    seed: int,
) -> Tree:
    """Fit network(some members' sketches) = target by least squares, on cohorts drawn anew in every step.

    sketches [n, members, inputs], shares [n, members] (0 for padding), targets [n, outputs], importance [outputs] of
    an output's error. Cohorts have 3 to 10 members.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    optimizer, total = Adam(LEARNING_RATE), torch.tensor(float(steps))
    state = optimizer.init(weights)
    error_weight = (importance / importance.square().mean().sqrt()).to(sketches.dtype)

    def error(trained: Tree, chosen: Tensor, part: Tensor) -> Tensor:
        rows = torch.arange(len(chosen))[:, None]
        found = over(lambda s, w: network.read(trained, s, w))(sketches[rows, chosen], part)
        squares: Tensor = ((found - targets) * error_weight).square()
        return squares.mean()

    for step in range(steps):
        size = int(torch.randint(3, 11, (), generator=generator))
        noise = torch.rand(shares.shape, generator=generator).to(shares.device)
        chosen = torch.where(shares > 0, noise, -1.0).argsort(dim=1, descending=True)[:, :size]
        part = shares.gather(1, chosen)
        part = part / part.sum(1, keepdim=True)
        gradient = grad(error)(weights, chosen, part)
        weights, state = optimizer.step(weights, gradient, state, annealed(torch.tensor(float(step)), total))
    return trees.tree_map(torch.detach, weights)
