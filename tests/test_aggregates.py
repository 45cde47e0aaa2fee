"""Aggregates over datasets against scipy and published tables."""

import numpy as np
import pytest
from scipy import stats

from metaleaf.errors import DataError
from metaleaf.records.client_scores import ClientScores
from metaleaf.statistics.aggregates import interquartile_mean, overall, performance_profile, profile_interval, ranking
from metaleaf.statistics.intervals import estimate


def test_interquartile_mean() -> None:
    values = np.random.default_rng(0).normal(size=(3, 24))
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=1))
    # of five the middle half are 2.5: three quarters of the second, the third, three quarters of the fourth
    assert interquartile_mean(np.array([9.0, 1, 4, 2, 3])) == pytest.approx((0.75 * 2 + 3 + 0.75 * 4) / 2.5)
    assert interquartile_mean(np.array([7.0])) == 7


def test_weights_of_the_interquartile_mean() -> None:
    values, weights = np.array([4.0, 1, 3, 2]), np.array([2, 1, 2, 1])
    assert interquartile_mean(values, weights) == pytest.approx(interquartile_mean(np.array([4.0, 4, 1, 3, 3, 2])))


def test_overall_draws_seeds_and_clients_within_datasets() -> None:
    same = np.ones((2, 50))
    assert overall({"a": 0.5 * same, "b": 0.9 * same}) == pytest.approx((0.7, 0.7, 0.7))
    shift = np.array([[-0.1], [0.1]])
    by_seed = overall({"a": 0.5 * same + shift, "b": 0.9 * same + shift})
    # of two seeds the same one is drawn twice in half of the draws, and so in both datasets in one of sixteen, each way
    assert by_seed == pytest.approx((0.7, 0.6, 0.8))
    clients = np.random.default_rng(3).normal(0.7, 0.1, (1, 400))
    by_client = overall({"a": clients, "b": clients[:, ::-1] + 0.1}, draws=20_000)
    # the interquartile mean of two values is their mean, so the error is that of a mean over 800
    assert by_client.high - by_client.low == pytest.approx(2 * 1.96 * clients.std() / np.sqrt(800), rel=0.05)


def test_a_dataset_with_more_seeds_does_not_count_more() -> None:
    one, three = np.full((1, 20), 0.2), np.full((3, 20), 0.8)
    assert overall({"a": one, "b": three}).value == pytest.approx(0.5)


def test_performance_profile() -> None:
    found = performance_profile(np.array([0.1, 0.5, 0.5, 0.9]), np.array([0.0, 0.5, 0.89, 0.9]))
    assert found.tolist() == [1.0, 0.25, 0.25, 0.0]


def test_profile_interval_is_that_of_a_share_of_clients() -> None:
    values = np.random.default_rng(0).random((3, 40))
    low, high = profile_interval(values, np.array([0.0, 0.6, 1.0]))
    assert (low[0], high[0], low[2], high[2]) == (1, 1, 0, 0)
    above = (values > 0.6).astype(np.int64)
    clients = tuple(map(str, range(40)))
    as_scores = ClientScores("a", (1, 2, 3), clients, np.ones_like(above), above, above, above)
    found = estimate(as_scores, "after_client_mean")
    assert (low[1], high[1]) == pytest.approx((found.low, found.high), abs=0.02)


def test_friedman_is_scipys() -> None:
    scores = np.random.default_rng(1).integers(0, 9, (12, 4)).astype(float)
    found = ranking("abcd", scores)
    assert found.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert list(found.ranks) == sorted(found.ranks, key=lambda name: found.ranks[name])
    assert sum(found.ranks.values()) == pytest.approx(4 * 5 / 2)


@pytest.mark.parametrize(("algorithms", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_demsars(algorithms: int, q: float) -> None:
    """q of Nemenyi's test at 5 %: Demsar (2006), table 5a."""
    scores = np.random.default_rng(2).normal(size=(14, algorithms))
    wanted = q * np.sqrt(algorithms * (algorithms + 1) / (6 * 14))
    assert ranking([str(i) for i in range(algorithms)], scores).critical == pytest.approx(wanted, rel=1e-3)


def test_groups_are_those_that_do_not_differ() -> None:
    order = np.tile(np.array([3.0, 2.0, 1.0]), (8, 1))
    found = ranking(["a", "b", "c"], order)
    # mean ranks 1, 2, 3; critical difference 2.343 * sqrt(12 / 48) = 1.17
    assert found.ranks == {"a": 1, "b": 2, "c": 3}
    assert found.groups == [("a", "b"), ("b", "c")]
    assert ranking(["a", "b"], np.ones((3, 2))).p == 1.0


def test_a_mean_in_another_order_is_a_tie() -> None:
    scores = np.array([[0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1], [0.5, 0.5]])
    assert scores[0, 0] != scores[0, 1]
    assert ranking("ab", scores).ranks == {"a": 1.5, "b": 1.5}


def test_one_block_has_no_ranking() -> None:
    with pytest.raises(DataError, match="two algorithms and two datasets or clients, got 3 and 1"):
        ranking("abc", np.ones((1, 3)))
