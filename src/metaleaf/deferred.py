"""Tensors that are made when they are needed, which may be never."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metaleaf import trees
from metaleaf.trees import Tree


class Deferred:
    """A leaf of a tree in place of the contiguous tensor of this shape that `make` makes."""

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, make: Callable[[], Tensor]
    ) -> None:
        self.shape, self.dtype, self.device, self._make = torch.Size(shape), dtype, device, make

    def make(self) -> Tensor:
        """The tensor, anew with every call."""
        return self._make().to(self.device)


def made(tree: Tree) -> Tree:
    """The tree with its tensors."""
    return trees.tree_map(lambda leaf: leaf.make() if isinstance(leaf, Deferred) else leaf, tree)
