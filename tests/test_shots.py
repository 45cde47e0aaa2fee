"""Random orders: the documented function of (seed, stream, row), uniform, and the same however clients are run."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tasks import reference_order
from torch import Tensor
from torch.func import vmap

from metaleaf.shots import Shots, minibatches, permutation

SEEDS = st.integers(0, 2**62 - 1)


def shots(n: int, seed: int, padding: int = 0) -> Shots:
    rows = torch.arange(n + padding)
    mask = rows < n if padding else None
    return Shots(rows.clone(), rows.clone(), torch.tensor(seed), mask)


def order(n: int, seed: int, stream: int = 0) -> list[int]:
    found: list[int] = permutation(shots(n, seed), stream).tolist()
    return found


def test_golden_orders() -> None:
    """An accidental change of the random streams would silently change every number of the benchmark."""
    assert order(10, seed=12345) == [0, 8, 4, 2, 9, 5, 1, 6, 3, 7]
    assert order(10, seed=12345, stream=1_000_003) == [9, 0, 7, 4, 8, 1, 6, 3, 5, 2]
    assert order(10, seed=2**62 - 1, stream=2_000_006) == [2, 5, 8, 7, 0, 9, 4, 1, 3, 6]


@given(SEEDS, st.integers(0, 10**8), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_is_split_mix_on_python_integers(seed: int, stream: int, n: int) -> None:
    assert order(n, seed, stream) == reference_order(seed, stream, n)


@given(SEEDS, st.integers(1, 40), st.integers(1, 15))
@settings(max_examples=40, deadline=None)
def test_padding_comes_last_and_changes_nothing(seed: int, n: int, padding: int) -> None:
    padded = permutation(shots(n, seed, padding), 3).tolist()
    assert padded[:n] == order(n, seed, 3)
    assert sorted(padded[n:]) == list(range(n, n + padding))


def test_a_mask_with_real_rows_behind_padding() -> None:
    rows = torch.arange(6)
    mask = torch.tensor([True, False, True, False, True, True])
    found = permutation(Shots(rows, rows, torch.tensor(5), mask), 0).tolist()
    assert found[:4] == [row for row in order(6, 5) if mask[row]]
    assert sorted(found[4:]) == [1, 3]


def test_seeds_and_streams_differ() -> None:
    orders = [order(30, seed, stream) for seed in (0, 1, 2, 2**40) for stream in (0, 1, 1_000_003)]
    # seed + stream is what counts: (0, 1) and (1, 0) coincide, (1, 1) and (2, 0) too, and no others.
    assert len({tuple(o) for o in orders}) == len(orders) - 2


def test_the_same_under_vmap() -> None:
    seeds = torch.tensor([1, 2, 2**61])
    mask = torch.arange(12) < torch.tensor([[12], [5], [1]])
    x = torch.zeros(3, 12)

    def run(seed: Tensor, mask: Tensor, x: Tensor) -> Tensor:
        return permutation(Shots(x, x, seed, mask), 7)

    for row, seed, n in zip(vmap(run)(seeds, mask, x).tolist(), seeds.tolist(), (12, 5, 1), strict=True):
        assert row[:n] == order(n, seed, 7)


@pytest.mark.parametrize(("n", "size", "epochs"), [(10, 10, 2), (23, 5, 3), (3, 10, 1), (1, 1, 4), (7, 7, 1)])
def test_minibatches_cover_every_example_once_per_epoch(n: int, size: int, epochs: int) -> None:
    batches = [batch.y.tolist() for batch in minibatches(shots(n, 42), size, epochs)]
    per_epoch = math.ceil(n / size)
    assert len(batches) == epochs * per_epoch
    for epoch in range(epochs):
        chosen = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert [len(batch) for batch in chosen[:-1]] == [size] * (per_epoch - 1)
        assert sorted(row for batch in chosen for row in batch) == list(range(n))


def test_epochs_and_streams_are_in_fresh_orders() -> None:
    passes = [tuple(batch.y.tolist()) for stream in (0, 1) for batch in minibatches(shots(20, 8), 20, 3, stream)]
    assert len(set(passes)) == 6


def test_padded_batches_are_the_unpadded_ones_then_empty_ones() -> None:
    plain = [batch.y.tolist() for batch in minibatches(shots(7, 3), 3)]
    padded = list(minibatches(shots(7, 3, padding=8), 3))
    real = [batch.y[batch.mask].tolist() for batch in padded if batch.mask is not None]
    assert real == [*plain, [], []]


def test_no_examples_no_batches() -> None:
    assert list(minibatches(shots(0, 3), 5, epochs=2)) == []


def test_take_keeps_rows_together() -> None:
    taken = Shots(torch.arange(5) * 10, torch.arange(5), torch.tensor(1), torch.arange(5) < 3).take(
        torch.tensor([4, 0])
    )
    assert (taken.x.tolist(), taken.y.tolist(), taken.seed.item()) == ([40, 0], [4, 0], 1)
    assert taken.mask is not None
    assert taken.mask.tolist() == [False, True]


@pytest.mark.parametrize("varied", ["seed", "stream", "derived"])
def test_positions_are_uniform(varied: str) -> None:
    """Chi-squared over (row, position) of many orders: consecutive seeds, consecutive streams, far-apart seeds.

    For truly random orders the statistic has (n-1)^2 degrees of freedom; the bounds are 4.5 of its deviations.
    """
    n, draws = 8, 4000
    far = np.random.default_rng(1).integers(0, 2**62, draws)
    cases = {
        "seed": [(i, 0) for i in range(draws)],
        "stream": [(99, i) for i in range(draws)],
        "derived": [(int(seed), 0) for seed in far],
    }
    table = np.zeros((n, n))
    adjacent = np.zeros((n, n))
    for seed, stream in cases[varied]:
        found = permutation(shots(n, seed), stream).numpy()
        table[found, np.arange(n)] += 1
        adjacent[found[:-1], found[1:]] += 1
    freedom, expected = (n - 1) ** 2, draws / n
    statistic = ((table - expected) ** 2 / expected).sum()
    assert abs(statistic - freedom) < 4.5 * math.sqrt(2 * freedom)
    # Which row follows which: each of the n (n-1) pairs equally often.
    pairs = adjacent[~np.eye(n, dtype=bool)]
    z = (pairs - draws / n) / math.sqrt(draws / n * (1 - 1 / n))
    assert np.abs(z).max() < 4.5
    assert np.std(z) == pytest.approx(1, abs=0.3)


def test_neighbouring_epochs_are_uncorrelated() -> None:
    """Spearman's correlation between the orders of two epochs, over many clients."""
    n, clients = 20, 500
    ranks = [np.argsort([order(n, 10**15 + 7 * c, 1_000_003 * e) for e in (0, 1)], axis=1) for c in range(clients)]
    correlations = [np.corrcoef(*r)[0, 1] for r in ranks]
    assert abs(np.mean(correlations)) < 4.5 / math.sqrt(clients * (n - 1))
    assert np.std(correlations) == pytest.approx(1 / math.sqrt(n - 1), rel=0.2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.int64])
def test_rows_are_taken_as_by_an_index(dtype: torch.dtype) -> None:
    """Alone, side by side, and side by side twice; or no row at all."""
    x, rows = torch.randint(0, 9, (2, 3, 5, 4, 2)).to(dtype), torch.tensor([[[3, 0, 3], [1, 2, 4], [0, 0, 0]]] * 2)
    y, mask, seed = x[..., 0, 0].long(), x[..., 0, 0] > 4, torch.tensor(1)

    def take(x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        taken = Shots(x, y, seed, mask).take(rows)
        return taken.x, taken.y, taken.mask if taken.mask is not None else mask

    found = torch.func.vmap(torch.func.vmap(take))(x, y, mask, rows)
    for i in range(2):
        for j in range(3):
            expected = [leaf[i, j][rows[i, j]] for leaf in (x, y, mask)]
            assert all(torch.equal(a[i, j], b) for a, b in zip(found, expected, strict=True))
            assert all(
                torch.equal(a, b) for a, b in zip(take(x[i, j], y[i, j], mask[i, j], rows[i, j]), expected, strict=True)
            )
    assert take(x[0, 0], y[0, 0], mask[0, 0], rows[0, 0, :0])[0].shape == (0, 4, 2)
