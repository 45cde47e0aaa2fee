"""The learning-rate schedule and the bound on gradients, by formula."""

import math

import pytest
import torch
from torch.testing import assert_close

from metaleaf.optimizers import annealed, clipped


def factors(rounds: int) -> list[float]:
    return [float(annealed(torch.tensor(float(i)), torch.tensor(float(rounds)))) for i in range(rounds)]


def test_a_linear_rise_then_half_a_cosine() -> None:
    found = factors(200)
    assert found[:10] == pytest.approx([(i + 1) / 10 for i in range(10)], abs=1e-6)
    for i in range(10, 200):
        assert found[i] == pytest.approx((1 + math.cos(math.pi * (i / 200 - 0.05) / 0.95)) / 2, abs=1e-6)
    assert max(found) == 1
    assert found[10:] == sorted(found[10:], reverse=True)
    assert 0 < found[-1] < 0.001


@pytest.mark.parametrize("rounds", [1, 2, 3, 7, 20])
def test_short_schedules_move_in_every_round(rounds: int) -> None:
    found = factors(rounds)
    assert found[0] == 1
    assert all(0 < factor <= 1 for factor in found)


def test_after_the_last_round_there_is_nothing_left() -> None:
    for number in (200.0, 500.0):
        assert annealed(torch.tensor(number), torch.tensor(200.0)) == pytest.approx(0, abs=1e-12)


def test_clipping_by_the_norm_over_all_leaves() -> None:
    tree = {"a": torch.tensor([3.0, 0.0]), "b": (torch.tensor([[4.0]], dtype=torch.float64),)}
    assert_close(clipped(tree, 10.0), tree)
    shorter = clipped(tree, 2.5)
    assert_close(shorter["a"], torch.tensor([1.5, 0.0]))
    assert_close(shorter["b"][0], torch.tensor([[2.0]], dtype=torch.float64))


def test_clipping_leaves_zeros_alone() -> None:
    zeros = {"a": torch.zeros(3)}
    assert_close(clipped(zeros, 1.0), zeros, rtol=0, atol=0)


def test_clipping_survives_squares_beyond_float32() -> None:
    assert_close(clipped({"a": torch.tensor([3e30, 4e30])}, 5.0)["a"], torch.tensor([3.0, 4.0]))
