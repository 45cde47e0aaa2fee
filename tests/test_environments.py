"""Who trains, takes part and is scored on the track of new environments; padding that changes nothing."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from small_environments import rules, store

from metaleaf import trees
from metaleaf.config.config import Protocol
from metaleaf.data.client_store import ClientStore
from metaleaf.environments.environments import EnvironmentFederation
from metaleaf.errors import ConfigError

PARTS = ("train", "validation", "test")
TWELVE = store(12)


def federation(
    data: ClientStore = TWELVE, seed: int = 1, protocol: dict[str, Any] | None = None, **changes: Any
) -> EnvironmentFederation:
    return EnvironmentFederation(data, Protocol(**(protocol or {})), rules(**changes), seed)


def declared(counts: Mapping[str, int]) -> ClientStore:
    return store({f"{part}/{i}": [6] * 8 for part, n in counts.items() for i in range(n)})


def ids(found: EnvironmentFederation, clients: Sequence[int] | np.ndarray) -> set[str]:
    return {str(found.store.ids[i]) for i in clients}


# -------------------------------------------------------------------------------------------------------------- split


@pytest.mark.parametrize(("environments", "held_out"), [(5, 1), (7, 1), (8, 2), (12, 2), (13, 3), (20, 4)])
def test_environments_are_split_60_20_20(environments: int, held_out: int) -> None:
    found = federation(store(environments))
    sizes = [len(found.environments[part]) for part in PARTS]
    assert sizes == [environments - 2 * held_out, held_out, held_out]
    everything = [name for part in PARTS for name in found.environments[part]]
    assert sorted(everything) == sorted({*found.store.environments.tolist()})


def test_clients_are_where_their_environment_is() -> None:
    found = federation()
    for part in PARTS:
        of = {str(found.store.environments[i]) for i in found.clients[part]}
        assert of == set(found.environments[part])
        assert len(set(found.clients[part].tolist())) == len(found.clients[part]) == 8 * len(of)
    for one, other in combinations(PARTS, 2):
        assert not set(found.clients[one].tolist()) & set(found.clients[other].tolist())


def test_the_split_is_the_split_seeds_not_the_runs() -> None:
    assert federation(seed=1).environments == federation(seed=2).environments
    assert federation(seed=1).split_hash() == federation(seed=2).split_hash()
    others = {tuple(federation(protocol={"split_seed": s}).environments["test"]) for s in range(20)}
    assert len(others) > 5
    tested = {name for names in others for name in names}
    assert len(tested) == 12, "every environment is tested under some seed"


def test_a_declared_split_is_kept() -> None:
    found = federation(declared({"train": 3, "validation": 1, "test": 2}))
    for part, count in zip(PARTS, (3, 1, 2), strict=True):
        assert found.environments[part] == [f"{part}/{i}" for i in range(count)]
    assert federation(declared({"train": 3, "validation": 1, "test": 2}), protocol={"split_seed": 9}).environments == (
        found.environments
    )


def test_a_declared_split_must_be_whole() -> None:
    with pytest.raises(ConfigError, match="turned declares parts of which one has no environment left"):
        federation(declared({"train": 4, "test": 2}))
    with pytest.raises(ConfigError, match="turned declares the part of some environments but not of all"):
        federation(declared({"train": 4, "validation": 1, "test": 2, "training": 1}))


def test_small_clients_and_then_small_environments_are_left_out() -> None:
    sizes = {f"env-{i}": [6] * 8 for i in range(6)} | {"few": [6] * 5, "short": [6] * 5 + [2] * 9}
    found = federation(store(sizes), protocol={"min_examples": 3})
    assert set(found.members) == {f"env-{i}" for i in range(6)}, "6 take part or are scored in an environment"
    assert set(federation(store(sizes)).members) == {*(f"env-{i}" for i in range(6)), "short"}
    assert {len(m) for m in federation(store(sizes), scored=2).members.values()} == {8, 5, 14}


def test_somebody_can_always_judge_a_training_environment() -> None:
    sizes = {f"env-{i}": [6] * 8 for i in range(6)} | {"few": [6] * 4}
    found = federation(store(sizes), scored=1, participants=1, train_participants=(4, 4))
    assert "few" not in found.members, "its 4 clients would all be participants"
    for name in found.environments["train"]:
        assert found.environment_episode(name, 1).query_weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("environments", "options", "message"),
    [
        (4, {}, "turned has 4 environments with at least 6 clients .* of 1 examples; new environments need 5"),
        (12, {"scored": 6}, "turned has 0 environments with at least 9 clients"),
        (
            12,
            {"train_participants": (1, 8), "members": 9},
            "turned has 0 environments with at least 9 clients .*train_participants",
        ),
    ],
)
def test_too_few_environments(environments: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        federation(store(environments), **options)


def test_split_hash_changes_with_what_decides_the_split() -> None:
    found = [
        federation(),
        federation(protocol={"split_seed": 1}),
        federation(protocol={"support": 0.4}),
        federation(store(12, data_hash="f")),
        federation(store(12, seed=1)),
        federation(declared({"train": 8, "validation": 2, "test": 2})),
    ]
    assert len({one.split_hash() for one in found}) == len(found)
    assert federation(rounds=(0,), local_lr=0.1, budget=1).split_hash() == found[0].split_hash()


# --------------------------------------------------------------------------------------------- training environments


def test_cohorts_of_environments() -> None:
    found = federation()
    cohorts = [found.environment_cohort(number) for number in range(1, 30)]
    assert all(len(set(cohort)) == len(cohort) == 2 for cohort in cohorts)
    assert {name for cohort in cohorts for name in cohort} == set(found.environments["train"])
    assert [federation().environment_cohort(n) for n in range(1, 30)] == cohorts
    assert [federation(seed=2).environment_cohort(n) for n in range(1, 30)] != cohorts
    assert len(federation(environments_per_round=99).environment_cohort(1)) == 8, "there are no more"


def test_numbers_of_participants() -> None:
    counts = [federation().participants(number) for number in range(1, 100)]
    assert set(counts) == {2, 3, 4}
    assert {federation(train_participants=(3, 3)).participants(n) for n in range(1, 20)} == {3}


def used(found: EnvironmentFederation, shots: Any, weights: torch.Tensor) -> list[set[tuple[float, ...]]]:
    """The examples of each client whose weight is not 0."""
    examples = []
    for x, mask, weight in zip(shots.x, shots.mask, weights, strict=True):
        assert bool(mask.any()) == bool(weight > 0)
        if weight > 0:
            examples.append({tuple(row) for row in x[mask].tolist()})
    return examples


def examples_of(found: EnvironmentFederation, client: int) -> set[tuple[float, ...]]:
    return {tuple(row) for row in found.store.client(client)[0].tolist()}


def test_participants_and_judges_of_a_training_environment() -> None:
    found = federation()
    for number in range(1, 12):
        for name in found.environment_cohort(number):
            episode = found.environment_episode(name, number)
            size = found.participants(number)
            assert episode.weights.shape == (size,)
            assert episode.query_weights.shape == (2,)
            members = [examples_of(found, int(i)) for i in found.members[name]]
            taking, judging = (
                [members.index(one) for one in used(found, shots, weights)]
                for shots, weights in (
                    (episode.participants, episode.weights),
                    (episode.queries, episode.query_weights),
                )
            )
            assert len(set(taking)) == size
            assert len(set(judging)) == 2
            assert not set(taking) & set(judging)
            assert episode.round == number - 1
    both = [found.environment_episode(found.environments["train"][0], number).weights for number in (1, 2, 3)]
    assert len({tuple(w.tolist()) for w in both}) > 1, "others every round"


def test_weights_are_by_examples_or_uniform() -> None:
    found = federation()
    clients = found.members["env-03"][:3]
    _, weights = found.stacked(clients, 5)
    sizes = [int(found.store.counts[i]) for i in clients]
    assert weights.tolist() == pytest.approx([*(n / sum(sizes) for n in sizes), 0, 0])
    _, uniform = federation(protocol={"weighting": "uniform"}).stacked(clients, 5)
    assert uniform.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])
    _, limited = federation(protocol={"max_examples": 4}).stacked(clients, 3)
    assert limited.tolist() == pytest.approx([1 / 3] * 3)


def test_fewer_judges_than_wanted_are_padded() -> None:
    for members, judges in ((6, 2), (99, 4)):
        found = federation(queries=7, train_participants=(4, 4), members=members)
        episode = found.environment_episode(found.environments["train"][0], 1)
        assert len(used(found, episode.queries, episode.query_weights)) == judges
        assert episode.query_weights.shape == (7,)
        assert episode.query_weights.sum() == pytest.approx(1)


def test_only_some_members_are_ever_asked() -> None:
    found = federation()
    name = found.environments["train"][0]
    chosen = found.chosen(name)
    assert len(chosen) == len(set(chosen.tolist())) == 6
    assert set(chosen.tolist()) < set(found.members[name].tolist())
    whole = found.whole_environment(name)
    asked: set[int] = set()
    for number in range(1, 20):
        turn, episode = found.turn(name, number), found.environment_episode(name, number)
        size = found.participants(number)
        asked |= set(turn.tolist())
        assert len(set(turn.tolist())) == len(turn) == size + 2
        # A place among the chosen is the same client's place in the whole environment.
        assert torch.equal(whole.participants.x[torch.from_numpy(turn[:size])], episode.participants.x)
        assert torch.equal(whole.participants.x[torch.from_numpy(turn[size:])], episode.queries.x)
    assert asked == set(range(6))
    assert found.chosen(name).tolist() != federation(seed=2).chosen(name).tolist()


def test_whole_environments() -> None:
    found = federation()
    name = found.environments["train"][0]
    episode = found.whole_environment(name)
    assert episode.weights.shape == (6,)
    assert len(used(found, episode.participants, episode.weights)) == 6
    more = federation(members=11).whole_environment(name)
    assert sorted((more.weights > 0).tolist()) == [False] * 3 + [True] * 8
    assert not episode.query_weights.any()
    again = federation().whole_environment(name)
    assert all(map(torch.equal, trees.leaves(episode), trees.leaves(again)))


# ----------------------------------------------------------------------------------------------------- new environments


def test_nobody_who_is_scored_ever_takes_part() -> None:
    found = federation()
    for name in [*found.environments["validation"], *found.environments["test"]]:
        members = set(found.members[name].tolist())
        scored = {tuple(sorted(found.roles(name, draw)[1].tolist())) for draw in range(5)}
        assert len(scored) == 1, "the same clients are scored in every draw"
        [whoever] = [set(one) for one in scored]
        assert len(whoever) == 3
        taking: set[int] = set()
        for draw in range(5):
            for number in range(12):
                cohort = found.new_cohort(name, draw, number).tolist()
                assert len(set(cohort)) == len(cohort) == 3
                taking |= set(cohort)
        assert taking == members - whoever, "everybody else does, sooner or later"


def test_every_method_and_run_enters_new_environments_alike() -> None:
    runs = [federation(seed=s) for s in (1, 2)]
    name = runs[0].environments["test"][0]
    assert runs[0].roles(name, 1)[1].tolist() == runs[1].roles(name, 1)[1].tolist()
    cohorts = [[run.new_cohort(name, d, r).tolist() for d in range(3) for r in range(4)] for run in runs]
    assert cohorts[0] == cohorts[1]
    assert len({tuple(cohort) for cohort in cohorts[0]}) > 6, "other cohorts in every draw and round"
    other = federation(protocol={"split_seed": 3})
    found = [tuple(one.roles(name, 0)[1].tolist()) for one in (runs[0], other)]
    assert found[0] != found[1]


def test_who_is_scored_does_not_depend_on_who_takes_part() -> None:
    found = [federation(participants=k).roles("env-05", 0)[1].tolist() for k in (1, 3, 5)]
    assert found[0] == found[1] == found[2]


def test_halves_of_a_scored_client() -> None:
    found = federation(protocol={"support": 0.4})
    clients = found.roles(found.environments["test"][0], 0)[1]
    support, query = found.stacked_halves(clients)
    for i, client in enumerate(clients):
        rows = found.split_rows(int(client), 0.4)
        x, y = found.store.client(int(client))
        for half, own in zip((support, query), rows, strict=True):
            assert half.mask is not None
            np.testing.assert_array_equal(half.x[i][half.mask[i]].numpy(), x[own])
            np.testing.assert_array_equal(half.y[i][half.mask[i]].numpy(), y[own])


def test_stacked_examples_are_the_clients_own() -> None:
    found = federation(protocol={"max_examples": 7})
    clients = found.members["env-04"][[3, 0]]
    shots, _ = found.stacked(clients, 4)
    assert shots.x.shape == (4, 7, 2)
    assert shots.mask is not None
    assert not shots.mask[2:].any()
    for i, client in enumerate(clients):
        data = found.episode(int(client), 0).data
        assert int(shots.mask[i].sum()) == len(data.y) == min(7, found.store.counts[client])
        assert torch.equal(shots.x[i][shots.mask[i]], data.x)
        assert torch.equal(shots.y[i][shots.mask[i]], data.y)
    assert not shots.x[~shots.mask].any()
