"""Who trains and who tests, and which of a client's examples are support and query."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaleaf import trees
from metaleaf.config.config import Protocol
from metaleaf.data import deferred
from metaleaf.data.client_store import ClientStore
from metaleaf.data.federation import Federation
from metaleaf.errors import ConfigError

WINDOW = 5
FRACTIONS = st.sampled_from([0.05, 0.2, 0.5, 0.8, 0.9, 0.99])
SEEDS = st.integers(0, 1000)


def store(counts: list[int], *, window: int = 0, data_hash: str = "d", ids: list[str] | None = None) -> ClientStore:
    """Client i's k-th example is x = [i, k], y = k % 3."""
    x = np.array([[i, k] for i, n in enumerate(counts) for k in range(n)], dtype=np.float32).reshape(-1, 2)
    return ClientStore(
        x=x,
        y=(x[:, 1] % 3).astype(np.int16),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        ids=np.array(ids or [f"client{i}" for i in range(len(counts))]),
        environments=np.array(["all"] * len(counts)),
        about={"name": "made_up", "spec": {"window": window}, "data_hash": data_hash},
    )


def rules(**options: Any) -> Protocol:
    return Protocol(**options)


def federation(counts: list[int], seed: int = 1, *, window: int = 0, **protocol: Any) -> Federation:
    """Run and split with the same seed."""
    return Federation(store(counts, window=window), rules(split_seed=seed, **protocol), seed)


def parts(found: Federation) -> list[set[int]]:
    return [set(found.clients[part].tolist()) for part in ("train", "validation", "test")]


def test_a_cohorts_episodes_are_those_of_its_clients() -> None:
    """Read at once, and the row numbers kept from one round to the next."""
    for options in ({}, {"max_examples": 9}, {"window": WINDOW}):
        found = federation([20, 1, 7, 30, 12, 9], **options)
        cohort = [int(i) for i in found.clients["train"]]
        for number in (1, 2):
            together = deferred.made(found.episodes(cohort, number))
            apart = [federation([20, 1, 7, 30, 12, 9], **options).episode(i, number) for i in cohort]
            for one, other, client in zip(together, apart, cohort, strict=True):
                torch.testing.assert_close(trees.leaves(one)[:-1], trees.leaves(other)[:-1])
                assert one.data.x[:, 0].tolist() == [client] * found.size(client)
                assert found.clients["train"][int(one.client)] == client


def test_kept_row_numbers_are_forgotten_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaleaf.data.federation.KEPT", 50)
    found, again = federation([20] * 10), federation([20] * 10)
    for _ in range(2):
        for i in range(10):
            expected = [rows.tolist() for rows in next(again._split_rows([i], 0.2))]
            assert [rows.tolist() for rows in found.split_rows(i, 0.2)] == expected
            assert len(found._known) <= 4


# ----------------------------------------------------------------------------------------------------------- clients


@given(st.integers(3, 200), SEEDS)
@settings(max_examples=50, deadline=None)
def test_clients_are_split_80_10_10(n: int, seed: int) -> None:
    train, validation, test = parts(federation([2] * n, seed))
    assert train | validation | test == set(range(n))
    assert len(train) + len(validation) + len(test) == n
    assert len(validation) == len(test) == max(1, round(n / 10))


def test_clients_are_split_by_the_seed() -> None:
    splits = [parts(federation([2] * 50, seed)) for seed in (1, 1, 2, 3)]
    assert splits[0] == splits[1]
    assert splits[0][2] != splits[2][2] != splits[3][2]


def test_no_seed_of_a_run_ever_trains_or_validates_on_a_test_client() -> None:
    """Tuning uses another seed than the runs it serves: all must keep away from the same test clients."""
    runs = [Federation(store([9] * 50), rules(), seed) for seed in range(5)]
    assert len({tuple(run.clients["test"].tolist()) for run in runs}) == 1
    assert all(not set(run.cohort(1)) & set(run.clients["test"].tolist()) for run in runs)
    rows = [run.split_rows(3, 0.2)[0].tolist() for run in runs]
    assert all(found == rows[0] for found in rows)
    assert runs[0].cohort(1) != runs[1].cohort(1)


def test_every_client_is_tested_under_some_seed() -> None:
    tested: set[int] = set().union(*(parts(federation([2] * 20, seed))[2] for seed in range(60)))
    assert tested == set(range(20))


def test_small_clients_are_left_out() -> None:
    found = federation([1, 9, 10, 11, 2, 30, 10], min_examples=10)
    assert set().union(*parts(found)) == {2, 3, 5, 6}


def test_max_clients_draws_some_by_the_seed() -> None:
    drawn = [set().union(*parts(federation([2] * 50, seed, max_clients=20))) for seed in (1, 1, 2)]
    assert len(drawn[0]) == 20
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([5, 5], {}, "made_up has 2 clients with at least 1 examples, a federation needs 3"),
        ([5, 5, 20, 20, 3], {"min_examples": 10}, "2 clients with at least 10 examples.*lower min_examples"),
        ([], {}, "made_up has 0 clients"),
    ],
)
def test_too_few_clients(counts: list[int], options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        federation(counts, **options)


# ---------------------------------------------------------------------------------------------------------- examples


@given(st.integers(1, 60), FRACTIONS, SEEDS)
@settings(max_examples=80, deadline=None)
def test_support_and_query_are_disjoint_and_everything(n: int, fraction: float, seed: int) -> None:
    support, query = federation([n] * 3, seed).split_rows(1, fraction)
    assert sorted([*support, *query]) == list(range(n))
    if n > 1:
        assert len(support) == min(max(round(fraction * n), 1), n - 1)
    else:
        assert (len(support), len(query)) == (1, 0)


@given(st.integers(1, 60), SEEDS, st.sampled_from([0, WINDOW]))
@settings(max_examples=50, deadline=None)
def test_smaller_supports_are_part_of_larger_ones(n: int, seed: int, window: int) -> None:
    found = federation([n] * 3, seed, window=window)
    supports = [set(found.split_rows(0, fraction)[0].tolist()) for fraction in (0.1, 0.2, 0.5, 0.9)]
    queries = [set(found.split_rows(0, fraction)[1].tolist()) for fraction in (0.1, 0.2, 0.5, 0.9)]
    assert all(a <= b for a, b in pairwise(supports))
    assert all(a >= b for a, b in pairwise(queries))


def test_examples_are_split_by_seed_and_client() -> None:
    support = [
        federation([40] * 3, seed).split_rows(client, 0.5)[0].tolist() for seed, client in ((1, 0), (1, 1), (2, 0))
    ]
    assert support[0] != support[1]
    assert support[0] != support[2]


def test_a_client_keeps_its_split_when_others_come_or_go() -> None:
    """It depends on the client's id, not on its place in the store."""
    here = Federation(store([7, 30, 8], ids=["a", "b", "c"]), rules(), 1)
    there = Federation(store([5, 5, 5, 30], ids=["x", "y", "z", "b"]), rules(), 1)
    for fraction in (0.2, 0.5):
        assert [r.tolist() for r in here.split_rows(1, fraction)] == [r.tolist() for r in there.split_rows(3, fraction)]


def test_split_is_random_not_the_first_rows() -> None:
    """Over many seeds every example is about equally often in the support set."""
    n, draws = 10, 600
    hits = np.zeros(n)
    for seed in range(draws):
        hits[federation([n] * 3, seed).split_rows(0, 0.5)[0]] += 1
    assert np.abs(hits - draws / 2).max() < 4.5 * np.sqrt(draws / 4)


@given(st.integers(1, 60), st.integers(1, 30), SEEDS, FRACTIONS, st.sampled_from([0, WINDOW]))
@settings(max_examples=80, deadline=None)
def test_max_examples_uses_only_that_many(n: int, limit: int, seed: int, fraction: float, window: int) -> None:
    found = federation([n] * 3, seed, max_examples=limit, window=window)
    used = min(n, limit)
    support, query = found.split_rows(0, fraction)
    data = found.episode(0, 1).data.x[:, 1].int().tolist()
    assert found.size(0) == len(data) == used
    assert set(support.tolist()) | set(query.tolist()) <= set(data)
    if not window:
        assert len(support) + len(query) == used


# ------------------------------------------------------------------------------------------------------------ windows


@given(st.integers(1, 60), FRACTIONS)
@settings(max_examples=80, deadline=None)
def test_windows_are_contiguous_with_a_gap_of_one_window(n: int, fraction: float) -> None:
    support, query = federation([n] * 3, window=WINDOW).split_rows(0, fraction)
    assert len(support) >= 1
    assert support.tolist() == list(range(len(support)))
    assert query.tolist() == list(range(len(support) + WINDOW, n))
    if n >= WINDOW + 2:
        usable = n - WINDOW
        assert len(support) == min(max(round(fraction * usable), 1), usable - 1)
        assert len(support) + len(query) == usable
    else:
        assert len(query) == 0


@pytest.mark.parametrize("length", [6, 7, 11, 12, 13, 40])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.9])
def test_no_character_is_in_both_support_and_query(length: int, fraction: float) -> None:
    """On real windows: example k is the characters k..k+4 of a text whose characters all differ, and its label k+5."""
    text = np.arange(length)
    x = np.lib.stride_tricks.sliding_window_view(text[:-1], WINDOW)
    n = len(x)
    made = ClientStore(
        x=np.concatenate([x] * 3).astype(np.uint8),
        y=np.concatenate([text[WINDOW:]] * 3).astype(np.uint8),
        offsets=n * np.arange(4),
        ids=np.array(["a", "b", "c"]),
        environments=np.array(["play"] * 3),
        about={"name": "text", "spec": {"window": WINDOW}, "data_hash": "d"},
    )
    support, query = Federation(made, rules(), 1).support_query(1, fraction)
    seen = set(support.x.flatten().tolist()) | set(support.y.tolist())
    asked = set(query.x.flatten().tolist()) | set(query.y.tolist())
    assert not seen & asked
    assert (len(query.y) > 0) == (n >= WINDOW + 2)
    if len(query.y):  # and no more than that is lost
        assert seen | asked == set(range(length))


# ----------------------------------------------------------------------------------------------------------- episodes


def test_an_episode_holds_the_clients_own_examples() -> None:
    found = federation([4, 12, 7])
    whole = found.episode(1, 3)
    support, query = found.split_rows(1, 0.2)
    for part, rows in ((whole.support, support), (whole.query, query), (whole.data, np.arange(12))):
        assert part.x.tolist() == [[1, row] for row in rows]
        assert part.y.tolist() == [row % 3 for row in rows]
        assert part.y.dtype == torch.int64
        assert part.mask is None
    assert whole.round.item() == 2


def test_split_is_the_same_in_every_round_but_batches_are_not() -> None:
    found = federation([20] * 3)
    first, second = found.episode(0, 1), found.episode(0, 2)
    assert first.support.x.tolist() == second.support.x.tolist()
    assert first.data.seed != second.data.seed
    assert first.data.seed != found.episode(1, 1).data.seed
    assert first.data.seed == federation([20] * 3).episode(0, 1).data.seed
    assert first.data.seed != federation([20] * 3, seed=2).episode(0, 1).data.seed


def test_scored_and_trained_on_the_same_query() -> None:
    found = federation([20] * 3, support=0.5)
    assert found.support_query(0, 0.5)[1].x.tolist() == found.episode(0, 9).query.x.tolist()


def test_examples_counts_a_part() -> None:
    found = federation([3, 50, 7, 9], max_examples=8)
    assert sum(found.examples(part) for part in ("train", "validation", "test")) == 3 + 8 + 7 + 8


# ------------------------------------------------------------------------------------------------- cohorts and weights


@given(st.integers(3, 60), st.integers(1, 20), SEEDS)
@settings(max_examples=50, deadline=None)
def test_cohorts_are_drawn_without_replacement_from_training_clients(n: int, size: int, seed: int) -> None:
    found = federation([2] * n, seed, clients_per_round=size)
    cohort = found.cohort(1)
    train = set(found.clients["train"].tolist())
    assert len(cohort) == len(set(cohort)) == min(size, len(train))
    assert set(cohort) <= train


def test_cohorts_are_reproducible_and_differ_by_round_and_seed() -> None:
    found, again, other = (federation([2] * 200, seed) for seed in (1, 1, 2))
    cohorts = [found.cohort(number) for number in range(1, 20)]
    assert cohorts == [again.cohort(number) for number in range(1, 20)]
    assert len({tuple(sorted(cohort)) for cohort in cohorts}) == len(cohorts)
    assert set(cohorts[0]) != set(other.cohort(1))


def test_cohorts_are_uniform() -> None:
    found = federation([2, 2000, *[2] * 28], clients_per_round=6)
    hits = np.bincount([client for number in range(1, 801) for client in found.cohort(number)], minlength=30)
    train = found.clients["train"]
    expected = 800 * 6 / len(train)
    assert np.abs(hits[train] - expected).max() < 4.5 * np.sqrt(expected * (1 - 6 / len(train)))


def test_weights() -> None:
    counts = [3, 5, 100, 2]
    assert federation(counts).weights([0, 1, 3]) == [0.3, 0.5, 0.2]
    assert federation(counts, weighting="uniform").weights([0, 1, 2, 3]) == [0.25] * 4
    assert federation(counts, max_examples=12).weights([2, 0, 1]) == [0.6, 0.15, 0.25]


@given(st.lists(st.integers(1, 10**6), min_size=3, max_size=12), st.sampled_from(["samples", "uniform"]))
@settings(max_examples=20, deadline=None)
def test_weights_sum_to_one(counts: list[int], weighting: str) -> None:
    # Only offsets are read: no need for that many examples.
    offsets = np.concatenate([[0], np.cumsum(counts)])
    made = ClientStore(
        x=np.zeros((0, 2)),
        y=np.zeros(0),
        offsets=offsets,
        ids=np.array([str(i) for i in range(len(counts))]),
        environments=np.array([""] * len(counts)),
        about={"name": "made_up", "spec": {"window": 0}, "data_hash": "d"},
    )
    weights = Federation(made, rules(weighting=weighting), 1).weights(list(range(len(counts))))
    assert sum(weights) == pytest.approx(1, rel=1e-12)
    assert min(weights) > 0


# --------------------------------------------------------------------------------------------------------- split hash


def test_split_hash_changes_with_what_decides_the_split() -> None:
    counts = [5] * 12
    base = Federation(store(counts), rules(), 1).split_hash()
    renamed = [f"client{i}" for i in range(11)] + ["somebody"]
    others = {
        "split_seed": Federation(store(counts), rules(split_seed=2), 1),
        "ids": Federation(store(counts, ids=renamed), rules(), 1),
        "data": Federation(store(counts, data_hash="e"), rules(), 1),
        "window": Federation(store(counts, window=2), rules(), 1),
        "support": Federation(store(counts), rules(support=0.5), 1),
        "test_supports": Federation(store(counts), rules(test_supports=(0.2,)), 1),
        "max_examples": Federation(store(counts), rules(max_examples=4), 1),
        "max_clients": Federation(store(counts), rules(max_clients=11), 1),
        "min_examples": Federation(store([4, *counts[1:]]), rules(min_examples=5), 1),
    }
    hashes = {name: found.split_hash() for name, found in others.items()}
    assert len({base, *hashes.values()}) == len(hashes) + 1


def test_split_hash_does_not_change_otherwise() -> None:
    counts = [5] * 12
    base = Federation(store(counts), rules(), 1).split_hash()
    assert len(base) == 64
    same: list[dict[str, Any]] = [
        {},
        {"rounds": 7},
        {"clients_per_round": 3},
        {"weighting": "uniform"},
        {"evaluate_every": 2},
        {"min_examples": 5},
        {"max_clients": 12},
    ]
    assert {Federation(store(counts), rules(**options), 1).split_hash() for options in same} == {base}
    assert Federation(store(counts), rules(), 2).split_hash() == base, "runs with other seeds share the split"


def test_clients_are_split_only_if_their_support_or_query_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = federation([20] * 30)
    split: list[int] = []
    original = found._split_rows

    def noted(clients: Sequence[int], support: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        split.extend(clients)
        return original(clients, support)

    monkeypatch.setattr(found, "_split_rows", noted)
    cohort = found.cohort(1)
    episodes = found.episodes(cohort, 1)
    assert [episode.data.y.shape[0] for episode in episodes] == [20] * len(cohort)
    assert [episode.support.y.shape[0] + episode.query.y.shape[0] for episode in episodes] == [20] * len(cohort)
    assert not split
    deferred.made(episodes[1].query)
    assert split == cohort, "all at once"
    deferred.made(episodes)
    assert split == cohort, "and once only"


# ---------------------------------------------------------------------------------------------------------- held out


def numbers_of(shots: Any) -> list[int]:
    """Which of its client's examples these are."""
    return [int(k) for k in shots.x[:, 1]]


@given(st.lists(st.integers(1, 40), min_size=5, max_size=12), SEEDS, st.sampled_from([0.05, 0.2, 0.5]))
@settings(max_examples=40, deadline=None)
def test_what_is_held_out_is_in_no_episode(counts: list[int], seed: int, share: float) -> None:
    found, whole = federation(counts, seed, held_out=share), federation(counts, seed)
    for client in (int(i) for i in found.clients["train"]):
        [held] = found.held_out([client])
        episode = found.episode(client, 1)
        seen = numbers_of(episode.data)
        n = counts[client]
        assert len(numbers_of(held)) == (min(max(round(share * n), 1), n - 1) if n > 1 else 0)
        assert sorted(seen + numbers_of(held)) == list(range(n))
        assert sorted(numbers_of(episode.support) + numbers_of(episode.query)) == sorted(seen)
        assert found.size(client) == len(seen)
    for client in (int(i) for part in ("validation", "test") for i in found.clients[part]):
        assert found.size(client) == counts[client]
        for rows, same in zip(found.split_rows(client, 0.2), whole.split_rows(client, 0.2), strict=True):
            assert rows.tolist() == same.tolist()


def test_of_text_the_end_is_held_out_behind_a_gap_of_one_window() -> None:
    found = federation([40] * 5, window=WINDOW, held_out=0.2)
    client = int(found.clients["train"][0])
    [held] = found.held_out([client])
    assert numbers_of(found.episode(client, 1).data) == list(range(28))  # 35 that overlap no other part, 7 of them out
    assert numbers_of(held) == list(range(33, 40))
    query = numbers_of(found.episode(client, 1).query)
    assert max(query) == 27


def test_of_a_capped_client_only_what_is_used_is_held_out() -> None:
    found, whole = federation([40] * 5, max_examples=10, held_out=0.2), federation([40] * 5, max_examples=10)
    client = int(found.clients["train"][0])
    [held] = found.held_out([client])
    kept = numbers_of(found.episode(client, 1).data)
    assert len(kept) == 8
    assert sorted(kept + numbers_of(held)) == numbers_of(whole.episode(client, 1).data)


def test_a_client_with_one_example_trains_on_it_and_has_nothing_held_out() -> None:
    found = federation([1] * 5, held_out=0.5)
    client = int(found.clients["train"][0])
    assert numbers_of(found.episode(client, 1).data) == [0]
    assert numbers_of(found.held_out([client])[0]) == []


def test_holding_out_changes_the_splits_hash_and_nothing_else_changes_without_it() -> None:
    assert federation([20] * 5, held_out=0.2).split_hash() != federation([20] * 5).split_hash()
    assert federation([20] * 5, held_out=0.0).split_hash() == federation([20] * 5).split_hash()


def test_new_environments_hold_nothing_out() -> None:
    with pytest.raises(ValueError, match="held_out is for participants"):
        rules(held_out=0.2, environments={})
