"""Arithmetic on trees, and their leaves by name."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.func import vmap
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.algorithm import State
from metaleaf.gradient import grad


class Point(NamedTuple):
    x: Tensor
    rest: Any = ()


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def tree(scale: float = 1.0) -> dict[str, Any]:
    return {"w": scale * tensor(1, 2), "deep": (scale * tensor(3), [scale * tensor(4), Point(scale * tensor(5))])}


def values(tree: Any) -> list[float]:
    return [value for leaf in trees.leaves(tree) for value in leaf.tolist()]


def test_arithmetic() -> None:
    assert sorted(values(tree())) == [1, 2, 3, 4, 5]
    assert sorted(values(trees.add(tree(), tree(10)))) == [11, 22, 33, 44, 55]
    assert sorted(values(trees.add(tree(), tree(8), -0.125))) == [0, 0, 0, 0, 0]
    assert sorted(values(trees.add(tree(), tree(10), tensor(2)[0]))) == [21, 42, 63, 84, 105]
    assert sorted(values(trees.subtract(tree(3), tree()))) == [2, 4, 6, 8, 10]
    assert values(trees.zeros_like(tree())) == [0] * 5


def test_add_keeps_the_first_ones_dtype() -> None:
    a = {"p": torch.ones(2)}
    for scale in (0.5, torch.tensor(0.5, dtype=torch.float64)):
        assert trees.add(a, a, scale)["p"].dtype == torch.float32


def test_shape_is_kept() -> None:
    found = trees.tree_map(torch.neg, tree())
    assert list(found) == ["w", "deep"]
    assert isinstance(found["deep"], tuple)
    assert isinstance(found["deep"][1], list)
    assert isinstance(found["deep"][1][1], Point)
    assert found["deep"][1][1].rest == ()


def test_trees_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="key"):
        trees.add({"a": tensor(1)}, {"b": tensor(1)})


def test_where() -> None:
    assert values(trees.where(torch.tensor(True), tree(), tree(2))) == values(tree())
    assert values(trees.where(torch.tensor(False), tree(), tree(2))) == values(tree(2))
    assert trees.where(torch.tensor(True), (), ()) == ()


def test_where_is_chosen_by_each_client_under_vmap() -> None:
    a, b = {"p": tensor(1, 2)}, {"p": tensor(3, 4)}
    found = torch.func.vmap(lambda condition: trees.where(condition, a, b))(torch.tensor([True, False]))
    assert found["p"].tolist() == [[1, 2], [3, 4]]


def test_stack_and_weighted_sum() -> None:
    stacked = trees.stack([tree(), tree(10), tree(100)])
    assert stacked["w"].tolist() == [[1, 2], [10, 20], [100, 200]]
    total = trees.weighted_sum(stacked, tensor(0.5, 2, -1))
    assert_close(total, trees.tree_map(lambda leaf: -79.5 * leaf, tree()))
    assert trees.weighted_sum((), tensor(1)) == ()
    floats = trees.weighted_sum({"p": torch.ones(2, 3)}, tensor(0.25, 0.5))
    assert floats["p"].dtype == torch.float32
    assert floats["p"].tolist() == [0.75] * 3


@pytest.mark.parametrize(
    ("whole", "names"),
    [
        (tree(), {"w", "deep.0", "deep.1.0", "deep.1.1.x"}),
        (Point(tensor(1), (tensor(2),)), {"x", "rest.0"}),
        (State({"a.weight": tensor(1)}, ()), {"broadcast.a.weight"}),
        (State({"p": tensor(1)}, {"m": {"p": tensor(2)}}), {"broadcast.p", "kept.m.p"}),
        ((), set()),
        ({}, set()),
        ({"empty": (), "p": tensor(1)}, {"p"}),
    ],
)
def test_names_there_and_back(whole: Any, names: set[str]) -> None:
    named = trees.named_leaves(whole)
    assert set(named) == names
    doubled = trees.with_named_leaves(whole, load(save({name: 2 * leaf for name, leaf in named.items()})))
    assert type(doubled) is type(whole)
    assert_close(doubled, trees.tree_map(lambda leaf: 2 * leaf, whole), rtol=0, atol=0)


def test_a_bare_tensor_has_a_name_too() -> None:
    named = trees.named_leaves(tensor(1, 2))
    assert len(named) == 1
    assert_close(trees.with_named_leaves(tensor(0, 0), named), tensor(1, 2))


def test_a_missing_leaf_is_named() -> None:
    with pytest.raises(KeyError, match=r"deep\.1\.1\.x"):
        trees.with_named_leaves(tree(), {"w": tensor(1), "deep.0": tensor(1), "deep.1.0": tensor(1)})


def test_nbytes() -> None:
    assert trees.nbytes({"a": torch.zeros(3, 2), "b": (torch.zeros(5, dtype=torch.float64), torch.tensor(True))}) == 65
    assert trees.nbytes(()) == 0
    # What is sent, not what lies behind it in memory.
    assert trees.nbytes(torch.zeros(100, 100)[0]) == 400
    assert trees.nbytes(torch.zeros(1).expand(10)) == 40


def test_dot_and_norm() -> None:
    a, b = {"w": tensor(1, 2), "deep": (tensor(3),)}, {"w": tensor(4, 5), "deep": (tensor(6),)}
    assert_close(trees.dot(a, b), torch.tensor(32).double())
    assert_close(trees.norm(a), torch.tensor(14).double().sqrt())
    assert trees.dot((), ()) == trees.norm(()) == 0


def test_dot_and_norm_have_derivatives_and_are_vectorised() -> None:
    a, b = {"w": torch.randn(5, 2, 3).double()}, {"w": torch.randn(5, 2, 3).double()}
    assert_close(grad(trees.dot)(a, b), b)
    assert_close(grad(trees.norm)(a)["w"], a["w"] / trees.norm(a))
    assert_close(grad(trees.norm)(trees.zeros_like(a))["w"], torch.zeros(5, 2, 3).double())
    assert_close(vmap(trees.dot)(a, b), (a["w"] * b["w"]).sum((1, 2)))
    assert_close(vmap(trees.norm)(a), a["w"].square().sum((1, 2)).sqrt())


def test_length() -> None:
    assert trees.length({"a": tensor(3), "b": (tensor(4), tensor(12))}) == 13
    assert trees.length(()) == 0
    assert trees.length({"a": torch.full((2,), 3e30)}) == pytest.approx(math.sqrt(18) * 1e30)  # no float32 overflow
    assert trees.length({"a": torch.full((10**6,), 0.1)}) == pytest.approx(100, rel=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_length_is_not_finite_when_a_leaf_is_not(bad: float) -> None:
    assert not math.isfinite(trees.length({"a": tensor(1), "b": torch.tensor([1.0, bad])}))


def test_to() -> None:
    assert trees.to(tree(), torch.device("meta"))["w"].device.type == "meta"
