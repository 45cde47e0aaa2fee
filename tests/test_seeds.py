"""Draws that are functions of a seed: what they are, on Python's integers, and how they are spread."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from small_tasks import WORD, split_mix
from torch import Tensor

from metaleaf.seeds import choice, derive, integers, normal, uniform
from metaleaf.shots import Shots, permutation

MANY = 20_000
SEEDS = [0, 1, -1, derive(3, "clients"), -(2**63), 2**63 - 1]


def seed(number: int) -> Tensor:
    return torch.tensor(number, dtype=torch.int64)


def hashes(number: int, n: int, stream: int) -> list[int]:
    key = split_mix((split_mix(number & WORD ^ 0x9FB21C651E98DF25) + stream) & WORD)
    return [split_mix((key + place) & WORD) for place in range(n)]


@pytest.mark.parametrize("number", SEEDS)
@pytest.mark.parametrize("stream", [0, 7])
def test_are_split_mix_on_python_integers(number: int, stream: int) -> None:
    expected = hashes(number, 6, stream)
    assert uniform(seed(number), (6,), stream).tolist() == [key / 2**64 // 2**-24 * 2**-24 for key in expected]
    doubles = uniform(seed(number), (6,), stream, torch.float64)
    assert doubles.tolist() == [(key >> 11) * 2.0**-53 for key in expected]
    assert integers(seed(number), (2, 3), -2, 9, stream).flatten().tolist() == [(k >> 1) % 11 - 2 for k in expected]
    order = sorted(range(6), key=lambda place: expected[place] >> 1)
    assert choice(seed(number), 6, 4, stream).tolist() == order[:4]
    others = [split_mix(key ^ 0x5851F42D4C957F2D) for key in expected]
    pairs = [((key >> 11) / 2**53, (other >> 11) / 2**53) for key, other in zip(expected, others, strict=True)]
    drawn = normal(seed(number), (6,), stream, torch.float64).tolist()
    assert drawn == pytest.approx([math.sqrt(-2 * math.log1p(-u)) * math.cos(2 * math.pi * v) for u, v in pairs])


DRAWS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "uniform": lambda of, stream: uniform(of, (2, 3), stream),
    "normal": lambda of, stream: normal(of, (2, 3), stream),
    "integers": lambda of, stream: integers(of, (2, 3), 0, 1000, stream),
    "choice": lambda of, stream: choice(of, 100, 6, stream),
}


@pytest.mark.parametrize("name", DRAWS)
def test_side_by_side_and_alone_are_the_same(name: str) -> None:
    seeds = torch.tensor(SEEDS)
    together = torch.func.vmap(lambda one: DRAWS[name](one, 1))(seeds)
    for i, number in enumerate(SEEDS):
        assert torch.equal(together[i], DRAWS[name](seed(number), 1))


@pytest.mark.parametrize("name", DRAWS)
def test_seeds_and_streams_differ(name: str) -> None:
    found = [DRAWS[name](seed(number), stream) for number in range(20) for stream in range(20)]
    assert len({tuple(one.flatten().tolist()) for one in found}) == 400


def test_numbers_are_spread_as_they_should_be() -> None:
    for dtype in (torch.float32, torch.float64):
        assert stats.kstest(uniform(seed(5), (MANY,), dtype=dtype).numpy(), "uniform").pvalue > 0.01
        assert stats.kstest(normal(seed(5), (MANY,), dtype=dtype).numpy(), "norm").pvalue > 0.01
    counts = torch.bincount(integers(seed(5), (MANY,), 3, 10))
    assert counts[:3].sum() == 0
    assert stats.chisquare(counts[3:].numpy()).pvalue > 0.01
    taken = torch.stack([choice(seed(number), 10, 3) for number in range(3000)])
    assert all(len(set(row)) == 3 for row in taken.tolist())
    for place in range(3):
        assert stats.chisquare(torch.bincount(taken[:, place], minlength=10).numpy()).pvalue > 0.001


def test_numbers_are_below_one_and_finite() -> None:
    for dtype in (torch.float32, torch.float64):
        drawn = uniform(seed(1), (10**6,), dtype=dtype)
        assert 0 <= float(drawn.min()) < float(drawn.max()) < 1
        assert torch.isfinite(normal(seed(1), (10**6,), dtype=dtype)).all()


def test_draws_know_nothing_of_the_order_of_batches() -> None:
    rows = 2000
    order = permutation(Shots(torch.zeros(rows, 1), torch.zeros(rows).long(), seed(9)), 0)
    same = choice(seed(9), rows, rows)
    assert abs(stats.spearmanr(order.argsort().numpy(), same.argsort().numpy()).statistic) < 0.08


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="no whole number from 3 to below 3"):
        integers(seed(1), (2,), 3, 3)
    with pytest.raises(ValueError, match="no 5 different numbers from 0 to below 4"):
        choice(seed(1), 4, 5)
