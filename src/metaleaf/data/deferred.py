"""Tensors that are made when they are needed, which may be never."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metaleaf import trees
from metaleaf.trees import Tree


class Deferred:
    """A leaf of a tree in place of the contiguous tensor of this shape that `make` makes."""

    # No more than that: cohorts of small clients have hundreds.
    __slots__ = ("_make", "device", "dtype", "shape")

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, make: Callable[[], Tensor]
    ) -> None:
        self.shape, self.dtype, self.device, self._make = shape, dtype, device, make

    def make(self) -> Tensor:
        """The tensor, anew with every call."""
        return self._make().to(self.device)


def tensor(leaf: Any) -> Any:
    """The leaf, made if it is deferred."""
    return leaf.make() if isinstance(leaf, Deferred) else leaf


def made(tree: Tree) -> Tree:
    """The tree with its tensors."""
    return trees.tree_map(tensor, tree)
