"""Systems: devices, availability and deadlines by hand, and runs whose clients come late or not at all."""

import itertools
import json
import math
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import coins
import numpy as np
import pytest
import torch
from documented import fenced
from interrupted import interrupted

from metaleaf import trees
from metaleaf.catalogue.starter import checkout
from metaleaf.config.config import RunConfig
from metaleaf.config.protection import resolve_protection
from metaleaf.config.sources import of_run
from metaleaf.config.suite import suite_of
from metaleaf.config.systems import resolve_systems, systems_of
from metaleaf.data.client_store import ClientStore
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.jobs.execute import runner
from metaleaf.jobs.from_record import config_of
from metaleaf.records.records import Record, read_records
from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell
from metaleaf.submission import single
from metaleaf.submission.entry import Entry
from metaleaf.submission.side_by_side import compare
from metaleaf.systems.availability import Clients
from metaleaf.systems.devices import Work, counts, dealt, factors
from metaleaf.systems.fleet import Fleet

FAST = {"name": "fast", "share": 0.5, "flops": 10.0, "down": 100.0, "up": 50.0, "watts": 2.0, "radio_watts": 1.0}
SLOW = {"name": "slow", "share": 0.5, "flops": 5.0, "down": 50.0, "up": 10.0, "watts": 0.5, "radio_watts": 0.25}
ONE = {**FAST, "share": 1.0}

STORE = coins.store()
COIN = {"name": "coin", "share": 1.0, "flops": 1000.0, "down": 60.0, "up": 30.0, "watts": 3.0, "radio_watts": 0.5}
"""A model of 60 bytes takes a second down and two up; a coin of FedAvg's takes 48 FLOPs, or 0.048 s."""


def fleet(clients: int = 4, wanted: int = 2, groups: Sequence[int] = (), seed: int = 1, **options: Any) -> Fleet:
    names = [f"client-{i:03d}" for i in range(clients)]
    place = np.array(groups or np.arange(clients))
    given = Clients(names, place, ["somebody else"], rounds=10, seed=seed)
    return Fleet(systems_of({"devices": [ONE], **options}), given, wanted)


def chances_of(found: Fleet, number: int) -> np.ndarray:
    assert found.availability is not None
    return found.availability.chances(number, found.clients)


def config(algorithm: str = "fedavg", systems: dict[str, Any] | None = None, **protocol: Any) -> RunConfig:
    plain = coins.config(algorithm, **protocol)
    if systems is None:
        return plain
    return plain.model_copy(update={"systems": resolve_systems({"devices": [COIN], **systems}, {})})


# ------------------------------------------------------------------------------------------------ a round by hand

WORK = Work(200, 40, 100)
"""Takes a fast device 2 + 4 + 2 seconds, a slow one 4 + 8 + 10."""


def mixed(wanted: int = 3, **options: Any) -> tuple[Fleet, list[int]]:
    """Six devices, and their numbers, fast ones first."""
    found = fleet(6, wanted, devices=[FAST, SLOW], **options)
    return found, np.argsort(found.devices, kind="stable").tolist()


def test_a_round_that_waits_for_all_lasts_as_long_as_the_slowest() -> None:
    found, (a, b, _, d, *_) = mixed()
    turn = found.turn([d, a, b], [WORK] * 3)
    assert turn.arrived == [d, a, b]
    assert turn.row == {
        "bytes_down": 600,
        "bytes_up": 300,
        "flops": 120,
        "simulated_seconds": 22.0,
        "joules": 2 * (4 * 2.0 + 4 * 1.0) + (8 * 0.5 + 14 * 0.25),
        "asked": 3,
        "arrived": 3,
    }


def test_who_is_late_has_spent_what_fits_before_the_deadline() -> None:
    """After 9 seconds a slow device has received, and computed for 5 of 8 seconds; after 13 it has sent for one."""
    found, (a, b, _, d, *_) = mixed(deadline=9.0)
    turn = found.turn([d, a, b], [WORK] * 3)
    assert turn.arrived == [a, b]
    assert turn.row == {
        "bytes_down": 600,
        "bytes_up": 200,
        "flops": 40 + 40 + 25,
        "simulated_seconds": 9.0,
        "joules": 2 * 12.0 + (5 * 0.5 + 4 * 0.25),
        "asked": 3,
        "arrived": 2,
    }
    found, (*_, d) = mixed(deadline=13.0)
    row = found.turn([d], [WORK]).row
    assert (row["bytes_down"], row["flops"], row["bytes_up"], row["arrived"]) == (200, 40, 10, 0)
    found, (*_, d) = mixed(deadline=22.0)
    assert found.turn([d], [WORK]).arrived == [d], "the deadline itself is in time"


def test_the_round_ends_when_as_many_as_were_wanted_are_back() -> None:
    """Two fast devices and a slow one are asked for two: at 8 seconds all is over, and the slow one is at 4 of 8."""
    found, (a, b, _, d, *_) = mixed(2, over_select=1.5)
    assert found.asked == 3
    turn = found.turn([d, b, a], [WORK] * 3)
    assert turn.arrived == [b, a]
    assert turn.row["simulated_seconds"] == 8.0
    assert (turn.row["bytes_down"], turn.row["flops"], turn.row["bytes_up"]) == (600, 40 + 40 + 20, 200)


def test_of_two_who_come_back_at_once_the_first_asked_counts() -> None:
    found = fleet(4, 2, over_select=2.0)
    turn = found.turn([3, 1, 0, 2], [WORK] * 4)
    assert turn.arrived == [3, 1]
    assert turn.row["bytes_up"] == 2 * 100 + 2 * 100, "the others were done as well, a moment too late"


def test_too_few_or_nobody() -> None:
    found, (a, *_, d) = mixed(deadline=9.0, least=2)
    turn = found.turn([a, d], [WORK] * 2)
    assert turn.arrived == [], "one is in time, two are needed"
    assert (turn.row["asked"], turn.row["arrived"], turn.row["simulated_seconds"]) == (2, 1, 9.0)
    nobody = {"bytes_down": 0, "bytes_up": 0, "flops": 0, "joules": 0.0, "asked": 0, "arrived": 0}
    assert found.turn([], []) == ([], {**nobody, "simulated_seconds": 9.0})
    assert fleet().turn([], []) == ([], {**nobody, "simulated_seconds": 0.0})


@pytest.mark.parametrize(
    ("over_select", "wanted", "asked"), [(1.0, 10, 10), (1.1, 10, 11), (1.3, 10, 13), (1.01, 10, 11), (1.3, 3, 4)]
)
def test_over_selection_rounds_up(over_select: float, wanted: int, asked: int) -> None:
    assert fleet(40, wanted, over_select=over_select).asked == asked


# ----------------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize(
    ("shares", "clients", "expected"),
    [
        ([0.7, 0.3], 10, [7, 3]),
        ([0.07, 0.93], 100, [7, 93]),
        ([0.5, 0.25, 0.25], 10, [5, 3, 2]),
        ([1 / 3, 1 / 3, 1 / 3], 9, [3, 3, 3]),
        ([0.1, 0.9], 4, [0, 4]),
    ],
)
def test_shares_are_exact_to_the_whole_client(shares: list[float], clients: int, expected: list[int]) -> None:
    assert counts(shares, clients) == expected
    found = dealt(shares, np.arange(clients), seed=3)
    assert np.bincount(found, minlength=len(shares)).tolist() == expected


def test_devices_are_dealt_out_at_random_by_the_seed() -> None:
    draws = np.array([dealt([0.25, 0.75], np.arange(8), seed) for seed in range(400)])
    assert (dealt([0.25, 0.75], np.arange(8), 5) == draws[5]).all()
    share = (draws == 0).mean(0)
    assert np.abs(share - 0.25).max() < 4 * math.sqrt(0.25 * 0.75 / 400)


def test_by_environment_a_class_takes_whole_ones() -> None:
    groups = np.repeat([0, 1, 2, 3], 5)
    for seed in range(20):
        slow = dealt([0.5, 0.5], groups, seed).reshape(4, 5).mean(1)
        assert sorted(slow) == [0, 0, 1, 1]
    cut = dealt([0.6, 0.4], groups, 1).reshape(4, 5).mean(1)
    assert sorted(cut) == [0, 0, 0.6, 1], "the third environment is cut in two"


def test_spread_makes_clients_faster_and_slower_than_their_class() -> None:
    own = factors(0.4, 20_000, seed=1)
    assert np.median(own) == pytest.approx(1.0, rel=0.02)
    assert np.log(own).std() == pytest.approx(0.4, rel=0.02)
    assert (factors(0.0, 5, seed=1) == 1).all()
    found = fleet(3, 3, spread=0.4)
    times = [found.turn([i], [WORK]).row["simulated_seconds"] for i in range(3)]
    np.testing.assert_allclose(times, 8 / factors(0.4, 3, seed=1))


# ------------------------------------------------------------------------------------------------ availability


def test_bernoulli_clients_are_there_as_often_as_they_should() -> None:
    found = fleet(50, availability={"name": "bernoulli", "probability": 0.3})
    there = np.array([np.isin(np.arange(50), found.there(number)) for number in range(1, 401)])
    assert there.mean() == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / there.size))
    assert np.abs(there.mean(0) - 0.3).max() < 4 * math.sqrt(0.3 * 0.7 / 400)
    assert (found.there(7) == found.there(7)).all()
    other = fleet(50, seed=2, availability={"name": "bernoulli", "probability": 0.3})
    assert found.there(7).tolist() != other.there(7).tolist()


DAYS = {"name": "diurnal", "rounds_per_day": 10, "low": 0.1, "high": 0.7}


def test_a_day_goes_from_high_to_low_and_back() -> None:
    found = fleet(60, availability=DAYS)
    chances = np.array([chances_of(found, number) for number in range(1, 21)])
    np.testing.assert_allclose(chances[:10], chances[10:])
    np.testing.assert_allclose(chances[:10].mean(0), 0.4, err_msg="a cosine's mean is in the middle")
    assert chances.min() == pytest.approx(0.1, abs=0.01)
    assert chances.max() == pytest.approx(0.7, abs=0.01)
    start = np.arccos(np.clip((chances[0] - 0.4) / 0.3, -1, 1))
    either = 0.4 + 0.3 * np.cos(np.stack([start + 2 * np.pi * 0.3, start - 2 * np.pi * 0.3]))
    assert np.isclose(either, chances[3]).any(0).all(), "three of ten rounds later it is three tenths of a day later"
    there = np.array([np.isin(np.arange(60), found.there(number)) for number in range(1, 2001)])
    by_hour = there.reshape(200, 10, 60).mean(0)
    assert np.abs(by_hour - chances[:10]).max() < 5 * math.sqrt(0.25 / 200)


def test_clients_of_one_environment_have_one_day() -> None:
    groups = [0, 1, 0, 1, 2]
    together = fleet(5, groups=groups, by="environment", availability=DAYS)
    chances = chances_of(together, 1)
    assert chances[0] == chances[2]
    assert chances[1] == chances[3]
    assert len(set(chances.tolist())) == 3
    alone = fleet(5, groups=groups, availability=DAYS)
    assert len(set(chances_of(alone, 1).tolist())) == 5


def trace(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return {"name": "trace", "path": str(path)}


def test_a_trace_says_who_is_there(tmp_path: Path) -> None:
    text = "client,first,last\nclient-000,1,3\nclient-000,6,6\nclient-002,2,20\nsomebody else,1,9\n"
    found = fleet(availability=trace(tmp_path, text))
    assert [found.there(number).tolist() for number in (1, 2, 4, 6)] == [[0], [0, 2], [2], [0, 2]]
    chances = chances_of(found, 1)
    assert chances.tolist() == [0.4, 0.0, 0.9, 0.0], "of the run's ten rounds"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("client,first\nclient-000,1\n", "must have the columns client, first, last"),
        ("", "must have the columns client, first, last"),
        ("client,first,last\nclient-000,one,3\n", "line 2: first and last must be whole numbers"),
        ("client,first,last\nclient-000,3,1\n", "line 2: first and last"),
        ("client,first,last\nclient-000,0,1\n", "line 2: first and last"),
        ("client,first,last\nclient-000,1\n", "line 2: first and last"),
        ("client,first,last\nclient-000,1,2,3\n", "line 2: first and last"),
        ("client,first,last\nclient-000,1,3\nclient-000,3,4\n", "has 'client-000' twice in one round"),
        ('client,first,last\n"client-000,1,3\n', "is no CSV file"),
        ("client,first,last\nclient-999,1,3\n", "names the client 'client-999', which the data does not have"),
        ("client,first,last\nclient-000,11,12\n", "has none of the 4 clients that train in rounds 1 to 10"),
        ("client,first,last\nsomebody else,1,2\n", "has none of the 4 clients"),
    ],
)
def test_a_trace_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"systems: the trace .*trace\.csv.* {said}"):
        fleet(availability=trace(tmp_path, text)).there(1)


def test_a_trace_is_known_by_its_content(tmp_path: Path) -> None:
    """Its hash is in the configuration; a record is read without the file, and run with that file only."""
    given = {"devices": [ONE], "availability": trace(tmp_path, "client,first,last\nclient-000,1,3\n")}
    before = resolve_systems(given, {})
    trace(tmp_path, "client,first,last\nclient-000,1,4\n")
    after = resolve_systems(given, {})
    assert before["availability"]["sha256"] != after["availability"]["sha256"]
    assert resolve_systems(before, {}) == before
    with pytest.raises(ConfigError, match="is not the file whose SHA-256 is"):
        fleet(availability=before["availability"]).there(1)
    (tmp_path / "trace.csv").unlink()
    assert resolve_systems(before, {}) == before
    for there in (given, {**given, "availability": {"name": "trace", "path": str(tmp_path)}}):
        with pytest.raises(ConfigError, match="is not there, or no plain file"):
            resolve_systems(there, {})
    (tmp_path / "trace.csv").write_bytes(b"client,first,last\nclient-\xff,1,3\n")
    with pytest.raises(ConfigError, match="is no CSV file"):
        fleet(availability=given["availability"]).there(1)


# ------------------------------------------------------------------------------------ weights, by exact enumeration


def expected(found: Fleet, chances: np.ndarray, x: np.ndarray) -> float:
    """The mean of x over those who are there, as weighed, over all ways that somebody is there."""
    total = missed = 0.0
    for there in itertools.product((False, True), repeat=len(x)):
        probability = math.prod(p if here else 1 - p for p, here in zip(chances, there, strict=True))
        clients = np.flatnonzero(there).tolist()
        if not clients:
            missed = probability
            continue
        weights = found.weighed([1 / len(clients)] * len(clients), clients, 1)
        assert sum(weights) == pytest.approx(1)
        total += probability * float(np.dot(weights, x[clients]))
    return total / (1 - missed)


def test_weights_by_inverse_chance_follow_the_mean_over_all() -> None:
    """Content that goes with availability: who is there more often has a larger x."""
    spans: dict[str, Any] = {"availability": {**DAYS, "low": 0.3, "high": 0.9}}
    plain, weighed = (fleet(12, 12, weigh=weigh, **spans) for weigh in ("arrived", "inverse_probability"))
    chances = chances_of(plain, 1)
    x = (chances - chances.mean()) / chances.std()
    biased, right = expected(plain, chances, x), expected(weighed, chances, x)
    assert biased > 0.25, "in standard deviations of x"
    assert 0 < abs(right) < 0.2 * biased, "consistent, not unbiased"


def test_over_many_rounds_a_mean_of_some_who_are_there_follows_all() -> None:
    """200 clients, of whom 40 are asked a round."""
    options: dict[str, Any] = {"availability": {**DAYS, "low": 0.1, "high": 0.9}}
    plain, weighed = (fleet(200, 40, weigh=weigh, **options) for weigh in ("arrived", "inverse_probability"))
    x = chances_of(plain, 1)
    rng, means = np.random.default_rng(0), []
    for number in range(1, 1001, 10):  # at the same hour of a hundred days
        asked = rng.choice(plain.there(number), 40, replace=False).tolist()
        weights = [one.weighed([1 / 40] * 40, asked, number) for one in (plain, weighed)]
        means.append([float(np.dot(w, x[asked])) for w in weights])
    (biased, right), error = np.mean(means, 0) - x.mean(), np.std(means, 0) / math.sqrt(len(means))
    assert biased > 0.1
    assert abs(right) < 4 * error[1] + 0.01


def test_clients_count_by_their_examples_too() -> None:
    found = fleet(4, weigh="inverse_probability", availability=DAYS)
    p = chances_of(found, 3)
    raised = np.array([0.2 / p[3], 0.8 / p[1]])
    np.testing.assert_allclose(found.weighed([0.2, 0.8], [3, 1], 3), raised / raised.sum())
    alike = fleet(4, weigh="inverse_probability", availability={"name": "bernoulli", "probability": 0.3})
    np.testing.assert_allclose(alike.weighed([0.2, 0.8], [3, 1], 3), [0.2, 0.8])


# ------------------------------------------------------------------------------------------------------- runs


def run_of(one: RunConfig, store: ClientStore = STORE, mode: Mode = "sequential") -> Run:
    """Client by client: most of so short a run would be recording what vectorised clients do."""
    return runner(one)(one, store, mode=mode)


def executed(folder: Path, one: RunConfig, mode: Mode = "sequential") -> dict[str, Any]:
    return run_of(one, mode=mode).execute(Cell(folder, one))


TIMES = ("simulated_seconds", "joules", "asked", "arrived")


@pytest.mark.parametrize(
    ("algorithm", "layers"),
    [
        *((name, {}) for name in ("fedavg_meta", "ditto", "scaffold", "ifca", "pfedhn", "aruba")),
        ("fedavg", {"clip": {"norm": 0.05}, "compress": {"name": "top_k", "share": 0.5}}),
    ],
)
def test_with_everybody_there_and_no_deadline_nothing_is_different(algorithm: str, layers: dict[str, Any]) -> None:
    """To the bit, and bytes and FLOPs that are known beforehand are those that are counted afterwards."""
    protected = {"protection": resolve_protection(layers)} if layers else {}
    plain, timed = (one.model_copy(update=protected) for one in (config(algorithm), config(algorithm, {})))
    before, after = (run_of(one).train() for one in (plain, timed))
    for one, other in zip(trees.leaves(tuple(before.state)), trees.leaves(tuple(after.state)), strict=True):
        assert torch.equal(one, other)
    own = {"seconds", *TIMES}
    for row, other in zip(before.rows, after.rows, strict=True):
        assert {key: other[key] for key in row if key not in own} == {k: v for k, v in row.items() if k not in own}
        assert other["asked"] == other["arrived"] == (5 if row["round"] else 0)


def test_a_run_by_hand() -> None:
    """Seconds, joules and bytes of every round, from the sizes of its cohort; a coin too many is too late."""
    deadline = 4.1  # 3 seconds of radio, and 22 coins
    run = run_of(config(systems={"deadline": deadline}))
    progress, late = run.train(), 0
    seconds = joules = bytes_up = flops = 0.0
    for number, row in enumerate(progress.rows[1:], 1):
        sizes = [run.federation.size(client) for client in run.federation.cohort(number)]
        takes = [3 + 0.048 * size for size in sizes]
        in_time = [time <= deadline for time in takes]
        late += in_time.count(False)
        seconds += max(takes) if all(in_time) else deadline
        for size, ok in zip(sizes, in_time, strict=True):
            computes = min(0.048 * size, deadline - 1)
            sends = 2.0 if ok else max(deadline - 1 - computes, 0)
            joules += 3 * computes + 0.5 * (1 + sends)
            bytes_up += 60 if ok else math.floor(30 * sends)
            flops += 48 * size
        assert row["arrived"] == in_time.count(True)
        assert row["simulated_seconds"] == pytest.approx(seconds)
        assert row["joules"] == pytest.approx(joules)
        assert row["bytes_down"] == 5 * 60 * number
        assert row["bytes_up"] == bytes_up
        assert row["flops"] == flops, "everybody has computed, but not everybody has sent"
    assert 3 < late < 27


def test_only_those_in_time_train_and_keep() -> None:
    """Ditto's own models of late clients stay as they were."""
    run = run_of(config("ditto", {"deadline": 3.5, "devices": [{**COIN, "flops": 5000.0}]}))
    trained = Counter[int]()
    gather = run.engine.gather

    def watched(broadcast: Any, episodes: Any, weights: Any) -> Any:
        trained.update(int(run.federation.clients["train"][int(episode.client)]) for episode in episodes)
        assert sum(weights) == pytest.approx(1)
        return gather(broadcast, episodes, weights)

    run.engine.gather = watched  # type: ignore[method-assign]
    progress = run.train()
    asked = Counter(client for number in range(1, 7) for client in run.federation.cohort(number))
    assert set(progress.memories) == set(trained)
    assert trained.total() == sum(row["arrived"] for row in progress.rows)
    assert 0 < trained.total() < asked.total()


def test_a_run_without_anybody_is_no_result(tmp_path: Path) -> None:
    one = config("fedavg", {"deadline": 1.4})
    with pytest.raises(ConfigError, match="in 6 rounds no update came back in time: raise deadline"):
        run_of(one).execute(Cell(tmp_path, one))


def test_a_round_without_anybody_changes_nothing_but_costs() -> None:
    run = run_of(config("fedavg", {"deadline": 1.4}))
    progress = run.train()
    start = run._initial_state()
    for one, other in zip(trees.leaves(tuple(start)), trees.leaves(tuple(progress.state)), strict=True):
        assert torch.equal(one, other)
    last = progress.rows[-1]
    assert (last["round"], last["asked"], last["arrived"], last["update_norm"]) == (6, 5, 0, 0.0)
    assert last["simulated_seconds"] == pytest.approx(6 * 1.4)
    assert (last["bytes_down"], last["bytes_up"]) == (6 * 5 * 60, 0)
    assert last["flops"] > 0


def test_nobody_is_there_and_the_run_goes_on(tmp_path: Path) -> None:
    names = STORE.ids[run_of(config()).federation.clients["train"]].tolist()
    text = "client,first,last\n" + "".join(f"{name},{1},{2}\n" for name in names[:3])
    one = config(systems={"deadline": 10.0, "availability": trace(tmp_path, text)})
    rows = run_of(one).train().rows
    assert [(row["asked"], row["arrived"]) for row in rows] == [(0, 0), (3, 3), (3, 3), *[(0, 0)] * 4]
    assert rows[-1]["simulated_seconds"] == pytest.approx(rows[2]["simulated_seconds"] + 4 * 10.0)


def test_scaffolds_control_variate_is_the_clients_mean_whoever_is_late() -> None:
    run = run_of(config("scaffold", {"deadline": 7.1}, weighting="uniform"))
    progress = run.train()
    assert 0 < sum(row["arrived"] for row in progress.rows) < 30
    total = trees.zeros_like(progress.state.broadcast["control"])
    for client, number in progress.memories.items():
        total = trees.add(total, run.memories.get(client, number, total))
    mean = trees.tree_map(lambda leaf: leaf / run.task.clients, total)
    assert trees.length(mean) > 0.01
    torch.testing.assert_close(progress.state.broadcast["control"], mean, rtol=1e-5, atol=1e-6)


EVERYTHING: dict[str, Any] = {
    "devices": [{**COIN, "share": 0.7}, {**COIN, "name": "slow", "share": 0.3, "flops": 300.0}],
    "spread": 0.2,
    "availability": {"name": "diurnal", "rounds_per_day": 4, "low": 0.3, "high": 0.9},
    "deadline": 5.5,
    "over_select": 1.4,
    "weigh": "inverse_probability",
}


@pytest.mark.parametrize(
    ("algorithm", "layers"), [("ditto", {}), ("fedavg_meta", {"compress": {"name": "top_k", "share": 0.4}})]
)
def test_an_interrupted_run_resumes_to_the_bit(tmp_path: Path, algorithm: str, layers: dict[str, Any]) -> None:
    protected = {"protection": resolve_protection(layers)} if layers else {}
    one = config(algorithm, EVERYTHING).model_copy(update=protected)
    executed(tmp_path / "whole", one)
    assert interrupted(lambda: run_of(one), Cell(tmp_path / "broken", one), [1, 4]) == [5, 6]
    clients = (next((tmp_path / name).rglob("*.clients.csv")).read_bytes() for name in ("whole", "broken"))
    assert len(set(clients)) == 1
    whole, broken = ([row.split(",") for row in rounds_of(tmp_path / name)] for name in ("whole", "broken"))
    wall = whole[0].index("seconds")
    assert [row[:wall] + row[wall + 1 :] for row in whole] == [row[:wall] + row[wall + 1 :] for row in broken]


def rounds_of(folder: Path) -> list[str]:
    return next(folder.rglob("*.rounds.csv")).read_text(encoding="utf-8").splitlines()


def test_engines_agree(tmp_path: Path) -> None:
    one = config("maml", EVERYTHING)
    first, second = (executed(tmp_path / mode, one, mode) for mode in ("sequential", "vectorised"))
    assert first["cost"] == second["cost"]
    losses = [found["scores"]["final"]["0.5"]["after"]["loss"] for found in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# ------------------------------------------------------------------------------------------ records, and what is read


def test_a_record_has_the_costs_and_its_rounds_add_up_to_them(tmp_path: Path) -> None:
    one = config("fedavg", EVERYTHING)
    written = executed(tmp_path, one)
    assert written["cost"]["simulated_seconds"] > 6
    [record] = read_records(tmp_path / "coins")
    assert record.content.cost.joules == written["cost"]["joules"]
    assert {*TIMES} <= {*record.rounds}
    entry = Entry("x", record, one, None, record.clients, record.participants, record.rounds)  # type: ignore[arg-type]
    assert list(single.rounds(entry)) == []
    assert {line.what: line.outcome for line in compare(entry, entry, 0)}["joules"] == "same"
    cheaper = record.content.model_copy(update={"cost": record.content.cost.model_copy(update={"joules": 1.0})})
    forged = entry._replace(record=Record(record.path, cheaper))
    assert [line for line in single.rounds(forged) if line.startswith("cost.joules is 1, but rounds.csv ends at")]
    silent = entry._replace(rounds=record.rounds.drop(columns="joules"))
    assert list(single.rounds(silent)) == ["rounds.csv lacks the column 'joules'"]
    assert {line.what: line.outcome for line in compare(silent, entry, 0)}["joules"] == "different"


def test_without_systems_a_run_is_what_it_was(tmp_path: Path) -> None:
    plain = config()
    assert plain.config_hash() == plain.model_copy(update={"systems": {}}).config_hash()
    assert "systems" not in plain.resolved()
    record = executed(tmp_path, plain)
    assert not {*TIMES} & {*record["cost"], *rounds_of(tmp_path)[0].split(",")}
    timed, about = config(systems={}), {"source_hash": "d"}
    assert timed.config_hash() != plain.config_hash()
    sources = [of_run(one, "metaleaf.runs.run", about)["harness"] for one in (plain, timed)]
    assert sources[0] != sources[1], "the code of systems counts where there are some"


# --------------------------------------------------------------------------------------------------- what is refused

SUITE: dict[str, Any] = {
    "name": "small",
    "title": "Small",
    "seeds": [1],
    "protocol": {"weighting": "uniform"},
    "datasets": {"synthetic": {}},
    "algorithms": {"fedavg": {}},
}


def resolved(systems: dict[str, Any], **changes: Any) -> RunConfig:
    suite = suite_of({**SUITE, "systems": systems, **changes}, "the suite")
    return suite.config("synthetic", "fedavg", 1)


@pytest.mark.parametrize(
    ("systems", "said"),
    [
        ({"deadline": 1.0}, "systems: 'devices' is missing"),
        ({"devices": []}, "systems: devices"),
        ({"devices": [FAST]}, "shares of devices must add up to 1, not to 0.5"),
        ({"devices": [FAST, FAST]}, "must have names of their own, got fast, fast"),
        ({"devices": [{**ONE, "flops": 0}]}, "systems: devices.0.flops = 0: Input should be greater than 0"),
        ({"devices": [{**ONE, "wats": 0}]}, "systems: unknown key 'devices.0.wats'"),
        ({"devices": [ONE], "dedline": 1.0}, "unknown option of systems 'dedline': did you mean 'deadline'"),
        ({"devices": [ONE], "deadline": 0}, "systems: deadline = 0"),
        ({"devices": [ONE], "over_select": 0.9}, "systems: over_select = 0.9"),
        (
            {"devices": [ONE], "availability": {"name": "lunar"}},
            "availability: unknown name 'lunar'; known: 'bernoulli'",
        ),
        ({"devices": [ONE], "availability": {"low": 0.5}}, "availability: give its name and options, as"),
        ({"devices": [ONE], "availability": "bernoulli"}, "availability: give its name and options, as"),
        ({"devices": [ONE], "spread": 1000.0}, "systems: spread = 1000.0"),
        ({"devices": [ONE], "availability": {"name": "bernoulli"}}, "probability' is missing"),
        ({"devices": [ONE], "availability": {**DAYS, "low": 0.8}}, "low = 0.8 must not be above high = 0.7"),
        ({"devices": [ONE], "weigh": "inverse_probability"}, "weigh = 'inverse_probability' needs chances"),
    ],
)
def test_a_suite_says_what_is_wrong_with_its_systems(systems: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolved(systems)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"protection": {"clip": {"norm": 1.0}, "noise": {}}},
            "epsilon of protection.noise counts cohorts of one size",
        ),
        ({"protection": {"clip": {"norm": 1.0}, "secure": {}}}, "masks are agreed on before anybody is late"),
        ({"protocol": {"environments": {}}}, "systems are for the tracks of clients, not for new environments"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolved({"devices": [ONE]}, **changes)


def test_a_rule_has_to_bear_the_smallest_cohorts() -> None:
    """Of 5 clients a fifth at either end can be left out; of 1 and 2 nobody would be left."""
    layers = {"protection": resolve_protection({"aggregate": {"name": "trimmed_mean", "share": 0.2}})}
    one = config(systems={"deadline": 4.1}).model_copy(update=layers)
    with pytest.raises(ConfigError, match=r"leaves nobody of 1 clients: .*, or systems\.least, the fewest of a round"):
        run_of(one)
    one = config(systems={"deadline": 4.1, "least": 3}).model_copy(update=layers)
    rows = run_of(one).train().rows[1:]
    assert all((row["update_norm"] > 0) == (row["arrived"] >= 3) for row in rows)
    assert len({row["arrived"] >= 3 for row in rows}) == 2


def test_what_does_not_fit_the_clients_is_refused() -> None:
    with pytest.raises(ConfigError, match="least = 6, but a round waits for 5 clients"):
        run_of(config(systems={"least": 6}))
    with pytest.raises(ConfigError, match="by = 'environment', but all clients are of one"):
        run_of(config(systems={"by": "environment"}))
    places = replace(STORE, environments=np.array([f"mint {i % 3}" for i in range(30)]))
    halves = [{**COIN, "share": 0.5}, {**COIN, "name": "other", "share": 0.5}]
    run = run_of(config(systems={"by": "environment", "devices": halves}), places)
    assert run.fleet is not None
    where = places.environments[run.federation.clients["train"]]
    classes = [set(run.fleet.devices[where == name].tolist()) for name in np.unique(where)]
    assert sorted(map(len, classes)) == [1, 1, 2]


def test_a_dataset_of_a_suite_has_systems_of_its_own() -> None:
    datasets = {"synthetic": {}, "bare": {"name": "synthetic", "systems": {}}}
    suite = suite_of({**SUITE, "datasets": datasets, "systems": {"devices": [ONE]}}, "the suite")
    assert suite.config("synthetic", "fedavg", 1).systems["devices"] == [ONE]
    assert suite.config("bare", "fedavg", 1).systems == {}


def test_a_records_configuration_is_that_of_its_run() -> None:
    one = resolved(EVERYTHING)

    class Head:
        suite, dataset, algorithm, title, seed, tuning = "small", "synthetic", "fedavg", one.title, 1, None
        config = json.loads(json.dumps(one.resolved()))

    assert config_of(Head()).config_hash() == one.config_hash()  # type: ignore[arg-type]


def test_the_example_of_the_page_is_a_suite() -> None:
    [text] = fenced((checkout() / "docs" / "systems.md").read_text(encoding="utf-8"), "toml")
    found = suite_of(tomllib.loads(text), "the page").config("synthetic_shared", "fedavg", 1).systems
    assert [device["name"] for device in found["devices"]] == ["phone", "watch"]
    assert found["weigh"] == "inverse_probability"
