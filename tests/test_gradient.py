"""Gradients on ordinary autograd mean what torch.func.grad means, to any order."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metaleaf.gradient import grad, over
from metaleaf.trees import Tree, leaves, tree_map

Grad = Callable[[Callable[..., Tensor]], Callable[..., Tree]]


def tree(seed: int = 0) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(3, 2, generator=rng, dtype=torch.float64),
        "b": (torch.randn(2, generator=rng, dtype=torch.float64), torch.randn((), generator=rng, dtype=torch.float64)),
    }


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def f(p: dict[str, Any], x: Tensor) -> Tensor:
    bias, scale = p["b"]
    value: Tensor = (torch.tanh(x @ p["a"] + bias) * torch.exp(scale)).pow(3).mean() + scale.sin() * bias.prod()
    return value


def inner_steps(grad: Grad, p: Tree, steps: int = 2, rate: float = 0.3) -> Tree:
    for _ in range(steps):
        p = tree_map(lambda leaf, g: leaf - rate * g, p, grad(f)(p, X))
    return p


Value = Callable[[Tree], Tensor]


def first(grad: Grad) -> Value:
    return lambda p: f(p, X)


def maml(grad: Grad) -> Value:
    return lambda p: f(inner_steps(grad, p), 2 * X)


def third_order(grad: Grad) -> Value:
    def through_maml(p: Tree) -> Tensor:
        outer = grad(lambda q: f(inner_steps(grad, q, 1), X))(p)
        return torch.stack([leaf.square().sum() for leaf in leaves(outer)]).sum()

    return through_maml


def by_another_argument(grad: Grad) -> Value:
    """The inner gradient is by one tree, the outer by what that gradient is multiplied with (as in Meta-SGD)."""
    start = tree(3)

    def outer(rates: Tree) -> Tensor:
        moved = tree_map(lambda p, r, g: p - r * g, start, rates, grad(f)(start, X))
        return f(tree_map(lambda p, r, g: p - r * g, moved, rates, grad(f)(moved, X)), X)

    return outer


def aliased(grad: Grad) -> Value:
    """The inner function uses the outer variable twice: as its argument, and as a constant from outside."""

    def outer(p: Tree) -> Tensor:
        inner = grad(lambda q: f(q, X) + (q["a"] * p["a"].square()).sum() + (q["a"] * q["a"] * p["a"]).sum())(p)
        value: Tensor = (inner["a"] * p["a"]).sum() + inner["b"][0].exp().sum()
        return value

    return outer


def partly_unused(grad: Grad) -> Value:
    def outer(p: Tree) -> Tensor:
        inner = grad(lambda q: q["a"].pow(3).sum())(p)  # b is unused: its gradient is zero, not missing
        value: Tensor = inner["a"].square().sum() + inner["b"][0].sum()
        return value

    return outer


def constant_inside(grad: Grad) -> Value:
    return lambda p: p["a"].square().sum() + grad(lambda q: torch.tensor(1.0))(p)["a"].sum()


VALUES = [first, maml, third_order, by_another_argument, aliased, partly_unused, constant_inside]


@pytest.mark.parametrize("value", VALUES)
def test_equals_functorch(value: Callable[[Grad], Value]) -> None:
    ours, theirs = grad(value(grad))(tree()), torch.func.grad(value(torch.func.grad))(tree())
    assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert not any(leaf.requires_grad for leaf in leaves(ours))


@pytest.mark.parametrize("value", VALUES)
def test_finite_differences(value: Callable[[Grad], Value]) -> None:
    point, direction, eps = tree(), tree(1), 1e-5
    forward = value(grad)(tree_map(lambda p, v: p + eps * v, point, direction))
    backward = value(grad)(tree_map(lambda p, v: p - eps * v, point, direction))
    found = leaves(grad(value(grad))(point))
    slope = sum(float((g * v).sum()) for g, v in zip(found, leaves(direction), strict=True))
    assert float(forward - backward) / (2 * eps) == pytest.approx(slope, rel=1e-7)


def test_order_of_a_polynomial() -> None:
    """d^k/dx^k of x^5 at 2 is 80, 160, 240, 240, 120, 0."""
    g: Callable[..., Any] = lambda x: x**5  # noqa: E731
    for expected in (80.0, 160.0, 240.0, 240.0, 120.0, 0.0):
        g = grad(g)
        assert g(torch.tensor(2.0, dtype=torch.float64)).item() == pytest.approx(expected)


def test_unused_leaves_give_zeros() -> None:
    found = grad(lambda p: p["a"].square().sum())(tree())
    assert_close(found["a"], 2 * tree()["a"])
    assert found["b"][0].tolist() == [0.0, 0.0]
    assert found["b"][1].item() == 0.0


def test_constant_gives_zeros() -> None:
    found = grad(lambda p: torch.tensor(1.0))(tree())
    assert all(
        not leaf.any() and leaf.shape == like.shape for leaf, like in zip(leaves(found), leaves(tree()), strict=True)
    )


@pytest.mark.parametrize("tracked", [False, True])
def test_the_same_tensor_elsewhere_does_not_count(tracked: bool) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=tracked)
    assert grad(lambda y: (x * y).sum())(x).tolist() == [1.0, 2.0]
    assert x.grad is None


def test_the_same_tensor_twice_in_a_tree_is_two_variables() -> None:
    x = torch.tensor(3.0)
    found = grad(lambda p: p[0] ** 2 * p[1])((x, x))
    assert [leaf.item() for leaf in found] == [18.0, 9.0]


def meta_gradient(p: Tree) -> Tree:
    return grad(maml(grad))(p)


def test_under_no_grad() -> None:
    with torch.no_grad():
        found = meta_gradient(tree())
        assert not torch.is_grad_enabled()
    assert_close(found, torch.func.grad(maml(torch.func.grad))(tree()), rtol=1e-12, atol=1e-14)


def test_detached_though_the_argument_is_tracked() -> None:
    p = tree_map(lambda leaf: leaf.requires_grad_(), tree())
    assert not any(leaf.requires_grad for leaf in leaves(meta_gradient(p)))
    assert all(leaf.grad is None for leaf in leaves(p))


def test_argument_is_left_alone() -> None:
    p = tree()
    meta_gradient(p)
    assert_close(p, tree(), rtol=0, atol=0)
    assert not any(leaf.requires_grad for leaf in leaves(p))


def test_depth_survives_an_error() -> None:
    """After an exception inside, gradients are detached again."""

    def fails(p: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        grad(lambda p: grad(fails)(p))(torch.ones(()))
    assert not grad(lambda p: p**3)(torch.ones(())).requires_grad


def test_side_by_side_and_after_it() -> None:
    points = [tree(seed) for seed in range(3)]
    stacked = tree_map(lambda *xs: torch.stack(xs), *points)
    together = over(meta_gradient)(stacked)
    apart = tree_map(lambda *xs: torch.stack(xs), *(meta_gradient(p) for p in points))
    assert_close(together, apart, rtol=1e-11, atol=1e-13)
    assert not meta_gradient(tree())["a"].requires_grad
