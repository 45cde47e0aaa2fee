"""Paired comparisons against scipy where it has the same test, and against simulated truth where it has not."""

import math

import numpy as np
import pytest
from scipy import stats

from metaleaf.errors import DataError
from metaleaf.records.client_scores import ClientScores
from metaleaf.statistics.paired import against_best, all_pairs, compare, holm, mean_of_two_samples


def scores(name: str, correct: np.ndarray, seeds: tuple[int, ...] = (1, 2, 3)) -> ClientScores:
    clients = tuple(f"c{i}" for i in range(correct.shape[1]))
    return ClientScores(name, seeds, clients, np.full_like(correct, 100), correct, correct, correct)


def test_one_seed_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(40, 90, (1, 25)), rng.integers(35, 90, (1, 25))
    found = compare(scores("a", one, (1,)), scores("b", other, (1,)))
    wanted = stats.ttest_rel(one[0] / 100, other[0] / 100)
    assert found.p == pytest.approx(wanted.pvalue)
    low, high = wanted.confidence_interval(0.95)
    assert found.difference == pytest.approx((float((one - other).mean()) / 100, low, high))


def test_two_by_two_by_hand() -> None:
    # means by seed 1 and 4, by client 1 and 4; nothing is left: MS 9, 9 and 0
    mean, half, p = mean_of_two_samples(np.array([[-0.5, 2.5], [2.5, 5.5]]))
    assert mean == 2.5
    # var = 18 / 4, freedom = 18^2 / (81 + 81) = 2
    assert half == pytest.approx(stats.t.ppf(0.975, 2) * math.sqrt(4.5))
    assert p == pytest.approx(2 * stats.t.sf(2.5 / math.sqrt(4.5), 2))


@pytest.mark.parametrize(("by_seed", "by_client"), [(0.0, 1.0), (1.0, 0.0), (0.3, 1.0), (0.0, 0.0)])
def test_false_alarms_are_as_many_as_declared(by_seed: float, by_client: float) -> None:
    """Five seeds, 40 clients, no true difference: the test at 5 % must not reject much more often than that."""
    rng = np.random.default_rng(3)
    rejected = 0
    for _ in range(2000):
        values = by_seed * rng.normal(size=(5, 1)) + by_client * rng.normal(size=(1, 40)) + rng.normal(size=(5, 40))
        rejected += mean_of_two_samples(values)[2] < 0.05
    assert 0.02 < rejected / 2000 < 0.075


def test_equal_algorithms_differ_by_nothing() -> None:
    same = np.full((3, 10), 70)
    found = compare(scores("a", same), scores("b", same))
    assert (found.difference, found.improvement, found.p) == ((0.0, 0.0, 0.0), 0.5, 1.0)


def test_improvement_counts_clients_and_half_of_the_ties() -> None:
    one, other = np.array([[5, 6, 7, 8]]), np.array([[4, 6, 8, 7]])
    assert compare(scores("a", one, (1,)), scores("b", other, (1,))).improvement == (2 + 0.5) / 4


def test_only_common_seeds_are_compared() -> None:
    one = scores("a", np.array([[50, 60], [90, 90]]), (1, 2))
    found = compare(one, scores("b", np.array([[40, 50]]), (1,)))
    assert found.seeds == 1
    assert found.difference.value == pytest.approx(0.1)
    with pytest.raises(DataError, match="a and b have no seed in common"):
        compare(one, scores("b", np.array([[40, 50]]), (3,)))


def test_other_clients_are_refused() -> None:
    one, other = scores("a", np.full((1, 3), 5), (1,)), scores("b", np.full((1, 4), 5), (1,))
    with pytest.raises(DataError, match="different clients"):
        compare(one, other)


def test_holm_by_hand() -> None:
    # times 4, 3, 2, 1 in the order of size, never smaller than the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, math.nan, 0.8])[0] == 1.0
    assert math.isnan(holm([0.9, math.nan])[1])


def test_ties_with_the_best() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(50, 70, (3, 60))
    best, close, far = base + 5, base + 5 + rng.integers(-4, 4, base.shape), base - 5 + rng.integers(-2, 3, base.shape)
    assert against_best([scores("best", best), scores("close", close), scores("far", far)]) == {"best", "close"}


def test_only_those_who_compete_are_the_best() -> None:
    base = np.random.default_rng(1).integers(50, 70, (3, 60))
    made = [scores("best", base + 9), scores("second", base + 5), scores("far", base - 5)]
    assert against_best(made, competes={"second", "far"}) == {"second"}
    assert against_best(made, competes=set()) == set()


def test_pairs_without_a_common_seed_are_left_out() -> None:
    base = np.random.default_rng(1).integers(50, 70, (1, 20))
    made = [scores("a", base, (1,)), scores("b", base + 1, (2,)), scores("c", base + base % 7, (1,))]
    ((pair, p),) = all_pairs(made)
    assert (pair.name, pair.other, p) == ("a", "c", pair.p)
    assert against_best(made) == {"c"}


def test_equal_algorithms_are_seldom_told_from_the_best() -> None:
    """Seven algorithms without a difference: any is told from the best of them in hardly more than 5 % of the cases.

    (With a correction for the six pairs with the best alone it would be one in ten.)
    """
    rng, told = np.random.default_rng(5), 0
    for _ in range(150):
        correct = rng.normal(size=(40,)) + 0.7 * rng.normal(size=(7, 1, 40)) + rng.normal(size=(7, 3, 40))
        made = [
            scores(name, (50 + 8 * each).round().astype(int)) for name, each in zip("abcdefg", correct, strict=True)
        ]
        told += len(against_best(made)) < 7
    assert told / 150 < 0.07
