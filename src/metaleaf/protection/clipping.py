"""Updates no longer than a bound: what one client can move the server by."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from metaleaf import seeds, trees
from metaleaf.trees import Tree


class Bounded(NamedTuple):
    """Updates [k, ...] no longer than the bound; the share of them that was; the bound of the next round."""

    updates: Tree
    short: Tensor
    bound: Tensor


@dataclass(frozen=True)
class Clip:
    """Scales an update down to `norm` if it is longer, over all that a client sends.

    quantile: the bound follows this quantile of the clients' norms by geometric steps of `rate`, from `norm` on
    (Andrew, Thakkar, McMahan, Ramaswamy 2021, arXiv 1905.03871, algorithm 1). count_noise: the standard deviation of
    the noise on the number of short updates where there is noise; None for a twentieth of the cohort, as there.
    """

    norm: PositiveFloat = 1.0
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    rate: PositiveFloat = 0.2
    count_noise: PositiveFloat | None = None

    def start(self) -> Tensor:
        """The first bound, float64."""
        return torch.tensor(self.norm, dtype=torch.float64)

    def __call__(self, updates: Tree, bound: Tensor, noise: float, seed: Tensor) -> Bounded:
        """noise: the standard deviation of that on the number of short updates, 0 for none."""
        lengths = norms(updates)
        short = (lengths <= bound).to(torch.float64)
        factors = (bound / lengths.clamp(min=1e-300)).clamp(max=1.0)
        clipped = trees.tree_map(lambda leaf: leaf * along(factors, leaf), updates)
        if self.quantile is None:
            return Bounded(clipped, short.mean(), bound)
        seen = short.sum() + noise * seeds.normal(seed, (), dtype=torch.float64)
        step = -self.rate * (seen / len(short) - self.quantile)
        return Bounded(clipped, short.mean(), bound * step.exp())


def norms(updates: Tree) -> Tensor:
    """The Euclidean norms of stacked updates, float64 [k]."""
    squares = [leaf.to(torch.float64).square().flatten(1).sum(1) for leaf in trees.leaves(updates)]
    return torch.stack(squares).sum(0).sqrt()


def along(factors: Tensor, leaf: Tensor) -> Tensor:
    """A number a client, [k], in the shape and type in which it multiplies a stacked leaf [k, ...]."""
    return factors.to(leaf).reshape(-1, *[1] * (leaf.dim() - 1))
