"""Arithmetic on trees: nested dicts, tuples and NamedTuples whose leaves are tensors.

Parameters, server states and client updates are all trees, so averaging, counting bytes, checkpoints and
vectorising are written once, here and in the engine, and never in an algorithm.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree  # the same trees that torch.func.vmap and grad see

Tree = Any
"""A tensor, or a dict / list / tuple / NamedTuple of trees. ``()`` is the empty tree."""


ALIGNMENT = 64
"""Bytes to which torch aligns the memory that it allocates: kernels round by how their operands lie."""


def tree_map(f: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply f leaf by leaf to trees of the same shape."""
    return _pytree.tree_map(f, tree, *others)


def leaves(tree: Tree) -> list[Any]:
    """The leaves in a fixed order."""
    return _pytree.tree_leaves(tree)


def named_leaves(tree: Tree) -> dict[str, Tensor]:
    """Leaves by their path, e.g. ``broadcast.params.conv1.weight``: what a checkpoint stores."""
    found, _ = _pytree.tree_flatten_with_path(tree)
    return {".".join(_step(key) for key in path): leaf for path, leaf in found}


def with_named_leaves(tree: Tree, named: dict[str, Tensor]) -> Tree:
    """A tree of the same shape with its leaves taken from `named`; KeyError if one is missing."""
    _, shape = _pytree.tree_flatten(tree)
    return _pytree.tree_unflatten([named[name] for name in named_leaves(tree)], shape)


def _step(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))


def add(a: Tree, b: Tree, scale: float | Tensor = 1.0) -> Tree:
    """A + scale * b, in one pass over the memory."""
    if isinstance(scale, Tensor):
        return tree_map(lambda x, y: torch.addcmul(x, y, scale.to(x.dtype)), a, b)
    return tree_map(lambda x, y: torch.add(x, y, alpha=scale), a, b)


def subtract(a: Tree, b: Tree) -> Tree:
    """A - b."""
    return tree_map(torch.sub, a, b)


def zeros_like(tree: Tree) -> Tree:
    """Zeros in the tree's shape."""
    return tree_map(torch.zeros_like, tree)


def where(condition: Tensor, a: Tree, b: Tree) -> Tree:
    """A where the scalar condition holds, else b (a branch that torch.func.vmap can take per client)."""
    return tree_map(lambda x, y: torch.where(condition, x, y), a, b)


def stack(trees: Sequence[Tree]) -> Tree:
    """Trees of equal shapes stacked along a new first dimension."""
    return tree_map(lambda *xs: torch.stack(xs), *trees)


def unstack(stacked: Tree) -> list[Tree]:
    """The trees along the first dimension; the opposite of `stack`."""
    count = len(leaves(stacked)[0])
    return [tree_map(lambda x, i=i: x[i], stacked) for i in range(count)]


def take(stacked: Tree, index: Tensor) -> Tree:
    """The tree at an int64 scalar position of the first dimension (an index that torch.func.vmap can take)."""
    return tree_map(lambda x: x.index_select(0, index.reshape(1)).squeeze(0), stacked)


def weighted_sum(stacked: Tree, weights: Tensor) -> Tree:
    """Sum over the first dimension, row i counted weights[i] times."""
    return tree_map(lambda x: torch.tensordot(weights.to(x), x, dims=1), stacked)


def dot(a: Tree, b: Tree) -> Tensor:
    """The inner product of two trees of equal shapes, a scalar; 0 for empty ones. Differentiable, as is `norm`."""
    products = [(x * y).sum() for x, y in zip(leaves(a), leaves(b), strict=True)]
    return torch.stack(products).sum() if products else torch.zeros(())


def norm(tree: Tree) -> Tensor:
    """Euclidean norm over all leaves, a scalar; where it is 0, so is its gradient."""
    norms = [torch.linalg.vector_norm(leaf) for leaf in leaves(tree)]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def nbytes(tree: Tree) -> int:
    """Bytes of all leaves: what sending the tree costs."""
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves(tree))


def length(tree: Tree) -> float:
    """Euclidean norm over all leaves, in float64, as Python's number; NaN or infinite if a leaf is not finite.

    For what looks at a run from outside. An algorithm takes `norm`.
    """
    return float(sum((leaf.double().square().sum() for leaf in leaves(tree)), start=torch.zeros(()).double()).sqrt())


def to(tree: Tree, device: torch.device) -> Tree:
    """The tree on a device; it may have None for leaves."""
    return tree_map(lambda leaf: leaf if leaf is None else leaf.to(device), tree)


def owned(tree: Tree) -> Tree:
    """The tree with every leaf in contiguous, aligned memory, as it comes out of a file; leaves that are so stay."""
    return tree_map(_owned, tree)


def _owned(leaf: Tensor) -> Tensor:
    aligned = leaf.is_contiguous() and leaf.data_ptr() % ALIGNMENT == 0
    return leaf if aligned else leaf.clone(memory_format=torch.contiguous_format)


def flatten(tree: Tree) -> Tensor:
    """All leaves in one vector, [total]."""
    return torch.cat([leaf.reshape(-1) for leaf in leaves(tree)])


def unflatten(vector: Tensor, like: Tree) -> Tree:
    """The tree in the shape of `like` whose leaves are the vector's pieces, in order."""
    pieces = iter(torch.split(vector, [leaf.numel() for leaf in leaves(like)]))
    return tree_map(lambda leaf: next(pieces).reshape(leaf.shape), like)
