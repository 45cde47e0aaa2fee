"""Gradients of functions of trees, to any order: ``grad(f)(tree, ...)``.

The meaning is that of `torch.func.grad`. Vectorised over clients it is `torch.func.grad`; for one client at a time it
runs on torch's ordinary autograd, which keeps the fused kernels that functorch takes apart (LEAF's LSTM: 4 times as
fast, its second-order gradients 2.5 times).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from metaleaf.factored import Factored, gradients
from metaleaf.trees import Tree, leaves, tree_map

_vectorising: ContextVar[bool] = ContextVar("vectorising", default=False)
_as_written: ContextVar[bool] = ContextVar("as_written", default=False)
_order: ContextVar[int] = ContextVar("order", default=0)


def grad(f: Callable[..., Tensor]) -> Callable[..., Tree]:
    """The function that returns f's gradient by its first argument, a tree; f returns a scalar."""
    return torch.func.grad(f) if _vectorising.get() else _autograd(f)


@contextmanager
def vectorising() -> Iterator[None]:
    """Within the block gradients are taken in a form that torch.func.vmap can batch."""
    token = _vectorising.set(True)
    try:
        yield
    finally:
        _vectorising.reset(token)


def is_vectorising() -> bool:
    """Whether this is such a block: for models whose fastest form it is not."""
    return _vectorising.get()


@contextmanager
def as_written() -> Iterator[None]:
    """Within the block models are to compute as they are written, not in forms of their own for one order."""
    token = _as_written.set(True)
    try:
        yield
    finally:
        _as_written.reset(token)


def order() -> int:
    """How many derivatives will be taken of what is computed now, client by client; 0 while vectorising.

    For models that have a form of their own for one order. (Vectorised, torch.func wants operators it can take apart.)
    """
    return 0 if _vectorising.get() or _as_written.get() else _order.get()


def _autograd(f: Callable[..., Tensor]) -> Callable[..., Tree]:
    def gradient(tree: Tree, *rest: Any) -> Tree:
        # Only within another gradient it is differentiated further, and there not under no_grad.
        outer = _order.get() > 0 and torch.is_grad_enabled()
        token = _order.set(_order.get() + 1 if outer else 1)
        try:
            with torch.enable_grad():
                inputs = tree_map(_fresh, tree)
                value = f(inputs, *rest)

                def differentiate(by: list[Tensor]) -> Sequence[Tensor | None]:
                    if not value.requires_grad:  # a constant
                        return [None] * len(by)
                    return torch.autograd.grad(value, by, create_graph=outer, allow_unused=True)

                found = iter(gradients(leaves(inputs), differentiate, outer))
        finally:
            _order.reset(token)
        return tree_map(lambda _: next(found), inputs)

    return gradient


def _fresh(leaf: Tensor) -> Tensor:
    """A variable of its own: f may use the same tensor elsewhere, and that use does not count."""
    if isinstance(leaf, Factored):
        return leaf.as_variable()
    return leaf.view_as(leaf) if leaf.requires_grad else leaf.detach().requires_grad_()
