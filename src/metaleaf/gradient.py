"""Gradients of functions of trees, to any order: ``grad(f)(tree, ...)``.

The meaning is that of `torch.func.grad`, on torch's ordinary autograd. One client at a time, that keeps the fused
kernels that torch.func takes apart (LEAF's LSTM: 4 times as fast, its second-order gradients 2.5 times). Side by side
(`over`), all derivatives are taken within one level of torch.func's; its own gradients would nest a level each, and
import the whole of torch.compile, which takes a second.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metaleaf.trees import Tree, leaves, tree_map

_anchor: ContextVar[Tensor | None] = ContextVar("anchor", default=None)
_as_written: ContextVar[bool] = ContextVar("as_written", default=False)
_order: ContextVar[int] = ContextVar("order", default=0)


class Form(Tensor):
    """A kind of tensor whose gradients have a form of their own, made from what was computed with it."""

    def as_variable(self) -> "Form":
        """The same as a variable of its own, which notes what is computed with it from now on."""
        raise NotImplementedError

    def close(self) -> tuple[list[Tensor], "Combine"]:
        """Of a variable, which notes nothing after: what was computed with it, and how that makes its gradient."""
        raise NotImplementedError


Combine = Callable[[Sequence[Tensor | None], bool], Tensor]
"""Makes a gradient of those by outputs (None: without influence), on request a differentiable one."""


def over(f: Callable[..., Tree]) -> Callable[..., Tree]:
    """The function that applies f along the first dimension of its arguments' leaves, side by side."""

    def one(*arguments: Tree) -> Tree:
        # A level of torch.func's for all derivatives. Within it torch also takes operators apart that have no batching
        # rule (a whole LSTM).
        return torch.func.vjp(partial(_anchored, f, arguments), torch.tensor(-0.0), has_aux=True)[-1]

    return torch.func.vmap(one)


def _anchored(f: Callable[..., Tree], arguments: Sequence[Tree], anchor: Tensor) -> tuple[Tensor, Tree]:
    """f's result; what is added to the anchor, -0.0, is tracked, and changes by it not even in a zero's sign."""
    token = _anchor.set(anchor)
    try:
        return anchor, f(*arguments)
    finally:
        _anchor.reset(token)


def is_vectorising() -> bool:
    """Whether this runs within `over`: for models whose fastest form it is not."""
    return _anchor.get() is not None


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
    return 0 if is_vectorising() or _as_written.get() else _order.get()


def grad(f: Callable[..., Tensor]) -> Callable[..., Tree]:
    """The function that returns f's gradient by its first argument, a tree; f returns a scalar."""

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

                found = iter(_gradients(leaves(inputs), differentiate, outer))
        finally:
            _order.reset(token)
        return tree_map(lambda _: next(found), inputs)

    return gradient


def _fresh(leaf: Tensor) -> Tensor:
    """A variable of its own: f may use the same tensor elsewhere, and that use does not count."""
    if isinstance(leaf, Form):
        return leaf.as_variable()
    anchor = _anchor.get()
    if anchor is not None:  # `requires_grad_` is not allowed there
        return leaf + anchor.to(leaf.dtype)
    return leaf.view_as(leaf) if leaf.requires_grad else leaf.detach().requires_grad_()


def _gradients(
    inputs: Sequence[Tensor], differentiate: Callable[[list[Tensor]], Sequence[Tensor | None]], differentiable: bool
) -> list[Tensor]:
    """The gradients by the inputs, each in its input's form."""
    closed = [leaf.close() if isinstance(leaf, Form) else ([leaf], partial(_ordinary, leaf)) for leaf in inputs]
    every = [output for outputs, _ in closed for output in outputs]
    found = iter(differentiate(every) if every else [])
    return [combine([next(found) for _ in outputs], differentiable) for outputs, combine in closed]


def _ordinary(leaf: Tensor, found: Sequence[Tensor | None], _: bool) -> Tensor:
    return torch.zeros_like(leaf) if found[0] is None else found[0]
