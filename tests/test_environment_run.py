"""Whole runs on the track of new environments: the budget, what is scored, costs, starts, resume to the bit."""

import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import small_environments
import torch
from interrupted import interrupted
from safetensors.torch import load_file

from metaleaf import registry, trees
from metaleaf.algorithm import State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.config.config import RunConfig
from metaleaf.data.client_store import ClientStore
from metaleaf.environments import run as environment_run
from metaleaf.environments.newcomers import Newcomer, advance, enter
from metaleaf.environments.run import EnvironmentRun, client_columns
from metaleaf.errors import ConfigError
from metaleaf.metrics import Metric
from metaleaf.records.environments import EnvironmentRecord
from metaleaf.records.records import read_all
from metaleaf.report.tables.clients import printed
from metaleaf.report.tables.environments import comparison as environment_comparison
from metaleaf.report.tables.environments import tables as environment_tables
from metaleaf.report.tables.tables import Field, lay_out, score_cell
from metaleaf.rounds import averaged, differences
from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell
from metaleaf.task import Params

STORE = small_environments.store()
PARAMETERS = 2 * 3 + 3
FEDAVG = {"client_optimizer": {"name": "sgd", "lr": 0.5}, "epochs": 2, "batch_size": 1000}
START = {"name": "fedavg", "share": 0.25, "hyperparameters": FEDAVG}
METHODS: dict[str, dict[str, Any]] = {
    "local": {},
    "fedavg": {"hyperparameters": FEDAVG},
    "few_round": {"start": START},
    "learned_start": {"start": START, "hyperparameters": {"directions": 3, "width": 4}},
    "moving": {"hyperparameters": {"directions": 3, "width": 4, "frozen": False, "start_directions": "random"}},
    "solving": {
        "hyperparameters": {
            "directions": 3,
            "width": 4,
            "start_directions": "solutions",
            "solution_rounds": 1,
            "solution_participants": 2,
            "distil_steps": 20,
            "onward": "learn",
        }
    },
}
every = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def config(method: str, seed: int = 1, **options: Any) -> RunConfig:
    name = method if method in registry.names("algorithms") else "learned_start"
    return small_environments.config(name, seed, **{**METHODS[method], **options})


def run(method: str, seed: int = 1, **options: Any) -> EnvironmentRun:
    return EnvironmentRun(config(method, seed, **options), STORE)


def execute(root: Path, method: str, **options: Any) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    given = config(method, **options)
    cell = Cell(root, given)
    record = EnvironmentRun(given, STORE).execute(cell)
    clients, rounds = (pd.read_csv(cell.folder / f"{cell.stem}.{name}.csv") for name in ("clients", "rounds"))
    return record, clients, rounds


def without_times(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("seed-*")):
        if path.suffix == ".json":
            found[path.name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "timing"}
        elif path.name.endswith(".rounds.csv"):
            found[path.name] = pd.read_csv(path).drop(columns="seconds").to_csv()
        elif path.suffix == ".csv":
            found[path.name] = path.read_text()
    assert found
    return found


# ------------------------------------------------------------------------------------------------------------- budget


def updates_in(method: str, participants: int) -> int:
    """Client updates of a round, by hand: 2 environments with 2 judges each."""
    return {
        "fedavg": 5,
        "few_round": 2 * (3 * participants + 2),
        "learned_start": 2 * 2,
        "solving": 2 * 2,
        "moving": 2 * (participants + 2),
    }[method]


def spent_before(method: str, budget: int) -> int:
    """8 training environments of which 6 clients each are ever asked."""
    start = math.floor(0.25 * budget) if "start" in METHODS[method] else 0
    return start + {"learned_start": 48, "moving": 48, "solving": 8 * (6 + 1 * 2)}.get(method, 0)


@pytest.mark.parametrize("budget", [150, 173, 200])
@pytest.mark.parametrize("method", ["fedavg", "few_round", "learned_start", "solving", "moving"])
def test_the_budget_to_the_last_client_update(method: str, budget: int) -> None:
    found = run(method, budget=budget)
    spent, rounds = spent_before(method, budget), 0
    while spent + (more := updates_in(method, found.federation.participants(rounds + 1))) <= budget:
        spent, rounds = spent + more, rounds + 1
    assert found.rounds == rounds > 0
    assert found.task.rounds == rounds, "the schedule knows its length"
    rows = found.train().rows
    assert rows[-1]["client_updates"] == spent <= budget
    assert rows[0]["client_updates"] == spent_before(method, budget)
    for row, before in zip(rows[1:], rows, strict=False):
        participants = found.federation.participants(int(row["round"]))
        assert row["client_updates"] - before["client_updates"] == updates_in(method, participants)


def test_numbers_of_participants_differ_between_rounds() -> None:
    """Otherwise the budget above would be too easy."""
    found = run("few_round")
    assert len({found.federation.participants(i) for i in range(1, 5)}) > 1


def test_nothing_is_left_for_rounds() -> None:
    """All is spent before the first round: what was spent is said all the same."""
    record = run("learned_start", budget=65)
    assert spent_before("learned_start", 65) == 64
    assert record.rounds == 0
    progress = record.train()
    assert progress.rows[-1]["client_updates"] == 64
    assert progress.rows[-1]["bytes_up"] == 64 * PARAMETERS * 4


def test_a_budget_that_does_not_suffice_is_refused() -> None:
    with pytest.raises(ConfigError, match="learned_start: the budget of 62 client updates is less than the 63 that"):
        run("learned_start", budget=62)
    assert run("fedavg", budget=4).rounds == 0


def test_clients_work_as_often_as_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local trainings and judgements of real clients in a round are counted where they happen."""
    found = run("few_round", budget=200)
    seen: list[int] = []
    original = found.engine.gather

    def gather(broadcast: Any, episodes: Any, weights: Any) -> Any:
        rounds = max(found.algorithm.horizon) + 1  # type: ignore[attr-defined]
        seen.append(sum(int((e.weights > 0).sum()) * rounds + int((e.query_weights > 0).sum()) for e in episodes))
        assert sum(weights) == pytest.approx(1)
        return original(broadcast, episodes, weights)

    monkeypatch.setattr(found.engine, "gather", gather)
    rows = found.train().rows
    assert np.cumsum([rows[0]["client_updates"], *seen]).tolist() == [row["client_updates"] for row in rows]


@every
def test_bytes_are_those_of_a_model_each_way(method: str, tmp_path: Path) -> None:
    record, _, rounds = execute(tmp_path, method)
    cost = record["cost"]
    assert cost["bytes_down"] == cost["bytes_up"] == cost["client_updates"] * PARAMETERS * 4
    assert (rounds["bytes_up"] == rounds["client_updates"] * PARAMETERS * 4).all()
    assert record["scores"]["entry"] == {"first": 2 * 3 * PARAMETERS * 4, "round": 2 * 3 * PARAMETERS * 4}


def test_flops_by_hand(tmp_path: Path) -> None:
    """Few-Round with horizon 0 and one local step: that step is two products, and two on the way back through it.

    Judging is two, as is each local step of FedAvg; padding counts, but not for FedAvg.
    """
    options: dict[str, Any] = {"hyperparameters": {"horizon": [0]}, "start": None, "budget": 120, "local_steps": 1}
    _, _, rounds = execute(tmp_path, "few_round", **options)
    found = run("few_round", **options)
    rows, whole = found.federation._whole.y.shape[1], rounds["flops"].diff().dropna().tolist()
    sizes = [found.federation.participants(i + 1) for i in range(len(whole))]
    assert len(set(sizes)) > 1
    product = 2 * rows * 2 * 3
    per_participant = {(flops / 2 - 2 * 2 * product) / size for flops, size in zip(whole, sizes, strict=True)}
    assert len(per_participant) == 1, "the same for every participant, in rounds of any size"
    [each] = per_participant
    assert each == 4 * product + 2 * 2 * PARAMETERS, "the local step, there and back, and the mean, there and back"
    _, _, rounds = execute(tmp_path, "fedavg")
    plain = run("fedavg")
    examples = [sum(plain.federation.size(i) for i in plain.federation.cohort(r + 1)) for r in range(plain.rounds)]
    assert rounds["flops"].diff().dropna().tolist() == [2 * 2 * product // rows * n for n in examples], "two epochs"


# ------------------------------------------------------------------------------------------------------------- scores


@every
def test_a_record_agrees_with_its_tables(method: str, tmp_path: Path) -> None:
    record, clients, rounds = execute(tmp_path, method)
    found = run(method).federation
    assert record["status"] == "finished"
    assert list(clients.columns) == list(client_columns(["correct"]))
    assert set(record["scores"]["selected"]) == {"0", "1", "3"}
    assert record["data"]["environments"] == {"train": 8, "validation": 2, "test": 2}
    for number in (0, 1, 3):
        rows = clients[clients["rounds"] == number]
        score = record["scores"]["selected"][str(number)]
        assert len(rows) == 2 * 2 * 3, "environments, draws, clients"
        for side, suffix in (("before", ""), ("after", "_after")):
            assert score[side]["pooled"] == rows[f"correct{suffix}"].sum() / rows["n"].sum()
            assert math.isclose(score[side]["loss"], (rows[f"loss{suffix}"] * rows["n"]).sum() / rows["n"].sum())
        for name in found.environments["test"]:
            scored = {str(found.store.ids[i]) for i in found.roles(name, 0)[1]}
            for draw in (0, 1):
                of = rows[(rows["environment"] == name) & (rows["draw"] == draw)]
                assert set(of["client"]) == scored
    evaluated = rounds.dropna(subset="validation_after")
    assert evaluated["round"].iloc[0] == 0, "the start is a candidate"
    best = evaluated["validation_after"].to_numpy().argmax()
    assert record["selected_round"] == evaluated["round"].to_numpy()[best]
    means = evaluated[["validation_0", "validation_1"]].mean(axis=1)
    np.testing.assert_allclose(evaluated["validation_after"], means)


def entered_by_hand(found: EnvironmentRun, broadcast: Any, name: str, draw: int, number: int) -> Any:
    """The parameters in a new environment, from its clients one by one."""
    newcomer = Newcomer(found.task, found.algorithm, broadcast)

    def cohort(number: int) -> Any:
        clients = found.federation.new_cohort(name, draw, number)
        return found.federation.stacked(clients, len(clients))

    session = enter(newcomer, *cohort(0))
    for later in range(1, number + 1):
        session = advance(newcomer, session, *cohort(later))
    return session["params"]


@every
def test_scores_are_those_of_the_selected_model_on_clients_one_by_one(method: str, tmp_path: Path) -> None:
    _, clients, _ = execute(tmp_path, method)
    found = run(method)
    progress = found.train()
    federation = found.federation
    name = federation.environments["test"][-1]
    for draw, number in ((0, 0), (1, 3)):
        params = entered_by_hand(found, progress.best, name, draw, number)
        for client in federation.roles(name, draw)[1]:
            support, query = federation.support_query(int(client), 0.5)
            [row] = clients[
                (clients["client"] == str(STORE.ids[client]))
                & (clients["draw"] == draw)
                & (clients["rounds"] == number)
                & (clients["environment"] == name)
            ].itertuples()
            n, correct, loss = found.task.score(params, query).tolist()
            assert (row.n, row.correct) == (n, correct)
            assert row.loss == pytest.approx(loss / n, rel=1e-4)
            own = params
            for _ in range(2):
                slope = torch.func.grad(found.task.loss)(own, support)
                own = {key: p - 0.5 * slope[key] for key, p in own.items()}
            _, correct, loss = found.task.score(own, query).tolist()
            assert row.correct_after == correct
            assert row.loss_after == pytest.approx(loss / n, rel=1e-4)


def test_fedavg_enters_by_federated_averaging() -> None:
    found = run("fedavg")
    best = found.train().best
    name = found.federation.environments["test"][0]
    params = best
    for number in range(3):
        cohort = found.federation.new_cohort(name, 1, number)
        params = averaged(found.task, params, *found.federation.stacked(cohort, 3))
        torch.testing.assert_close(params, entered_by_hand(found, best, name, 1, number), rtol=1e-5, atol=1e-6)


def test_round_0_is_selected_if_nothing_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("fedavg")
    falling: Iterator[float] = iter(np.linspace(0.9, 0.1, 50).tolist())
    monkeypatch.setattr(found, "_validate", lambda broadcast: {"validation_after": next(falling)})
    progress = found.train()
    assert progress.best_round == 0
    torch.testing.assert_close(progress.best, found.task.params(), rtol=0, atol=0)
    assert progress.round == found.rounds > 2


def test_diverging_is_recorded(tmp_path: Path) -> None:
    options = {"hyperparameters": {**FEDAVG, "client_optimizer": {"name": "sgd", "lr": 1e40}}}
    record, clients, rounds = execute(tmp_path, "fedavg", **options)
    assert record["status"] == "diverged"
    assert record["scores"] == {}
    assert clients.empty
    assert record["cost"]["client_updates"] == 5
    assert rounds["client_updates"].tolist() == [0, 5]


@pytest.mark.parametrize("method", ["fedavg", "few_round", "learned_start"])
def test_no_test_or_validation_client_is_trained_on(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their examples could be anything: training, and with it the start, would be the same to the bit."""
    found = run(method)
    train = {int(i) for i in found.federation.clients["train"]}
    other = small_environments.store()
    x = other.x.copy()
    for i in range(len(other)):
        if i not in train:
            x[other.offsets[i] : other.offsets[i + 1]] = 77.0
    spoilt = EnvironmentRun(config(method), ClientStore(
        x, other.y, other.offsets, other.ids, other.environments, {**other.about, "data_hash": "spoilt"}
    ))  # fmt: skip
    states = [tuple(one.train().state) for one in (found, spoilt)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_the_same_run_twice_and_another_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        execute(tmp_path / name, "learned_start")
    assert without_times(tmp_path / "a") == without_times(tmp_path / "b")
    execute(tmp_path / "c", "learned_start", seed=2)
    assert without_times(tmp_path / "c").keys() != without_times(tmp_path / "a").keys()


@pytest.mark.parametrize("method", ["fedavg", "few_round", "learned_start", "moving"])
def test_both_engines_agree(method: str) -> None:
    found = [EnvironmentRun(config(method), STORE, mode=mode).train() for mode in ("sequential", "vectorised")]
    a, b = (tuple(progress.state) for progress in found)
    for name, leaf in trees.named_leaves(a).items():
        other = trees.named_leaves(b)[name]
        assert trees.length(leaf.double() - other.double()) <= 1e-3 * (trees.length(leaf) + 1e-3), name


def test_two_methods_see_the_same() -> None:
    a, b = run("few_round"), run("learned_start")
    assert a.federation.split_hash() == b.federation.split_hash()
    torch.testing.assert_close(a.start_params(), b.start_params(), rtol=0, atol=0)
    for number in (1, 2, 3):
        names = a.federation.environment_cohort(number)
        assert names == b.federation.environment_cohort(number)
        episodes = [one.federation.environment_episode(names[0], number) for one in (a, b)]
        torch.testing.assert_close(tuple(episodes[0]), tuple(episodes[1]), rtol=0, atol=0)


def test_first_updates_that_are_kept_are_those_of_the_participants() -> None:
    found = run("learned_start")
    progress = found._evaluated(found._start(), found._first_row(), 0.0)
    broadcast: Any = progress.state.broadcast
    for name in found.federation.environment_cohort(1):
        episode = found._environment_episode(name, progress)
        expected = differences(found.task, broadcast["params"], episode.participants)
        torch.testing.assert_close(episode.first, expected, rtol=1e-4, atol=1e-6)
    assert found._environment_episode(name, progress).first
    moving = run("moving")
    progress = moving._evaluated(moving._start(), moving._first_row(), 0.0)
    assert moving._environment_episode(name, progress).first == ()


# ------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("method", ["fedavg", "few_round", "learned_start", "moving"])
def test_an_interrupted_run_resumes_to_the_bit(method: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"budget": 260}
    _, _, rounds = execute(tmp_path / "whole", method, **options)
    last = int(rounds["round"].max())
    assert last >= 4
    given = config(method, **options)
    cell = Cell(tmp_path / "broken", given)
    seen = interrupted(lambda: EnvironmentRun(given, STORE), cell, [1, 3])
    assert seen == list(range(4, last + 1))
    assert without_times(tmp_path / "broken") == without_times(tmp_path / "whole")


# ------------------------------------------------------------------------------------------------------------- starts


def cached(home: Path) -> list[Path]:
    return sorted((home / "starts").glob("*.safetensors"))


def test_a_start_is_the_run_of_its_algorithm_with_its_share(home: Path) -> None:
    found = run("few_round", budget=200)
    params = found.start_params()
    alone = EnvironmentRun(
        small_environments.config("fedavg", 1_000_001, hyperparameters=FEDAVG, budget=50), STORE, mode="auto"
    )
    assert alone.rounds == 10
    torch.testing.assert_close(params, alone.train().state.broadcast, rtol=0, atol=0)
    state = found._initial_state()
    torch.testing.assert_close(state.broadcast, params, rtol=0, atol=0)
    assert params.keys() == found.task.params().keys()
    assert [path.name for path in cached(home)]


def test_a_start_is_computed_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[RunConfig] = []
    original = EnvironmentRun._reached

    def reached(self: EnvironmentRun, start: RunConfig) -> Params:
        computed.append(start)
        return original(self, start)

    monkeypatch.setattr(EnvironmentRun, "_reached", reached)
    for method in ("few_round", "learned_start", "few_round"):
        run(method).start_params()
    assert len(computed) == len(cached(home)) == 1
    cached(home)[0].unlink()
    before = run("few_round").start_params()
    assert len(computed) == 2
    torch.testing.assert_close(before, load_file(cached(home)[0]), rtol=0, atol=0)


CHANGES: dict[str, Callable[[], EnvironmentRun]] = {
    "seed": lambda: run("few_round", seed=2),
    "share": lambda: run("few_round", start={**START, "share": 0.3}),
    "budget": lambda: run("few_round", budget=201 + 3),
    "rate": lambda: run(
        "few_round",
        start={**START, "hyperparameters": {**FEDAVG, "client_optimizer": {"name": "sgd", "lr": 0.4}}},
    ),
    "algorithm": lambda: run("few_round", start={"name": "reptile", "share": 0.25}),
    "cohort": lambda: run("few_round", protocol={"clients_per_round": 4}),
    "split": lambda: run("few_round", protocol={"split_seed": 1}),
    "scored": lambda: run("few_round", scored=4),
    "local_lr": lambda: run("few_round", local_lr=0.4),
    "data": lambda: EnvironmentRun(config("few_round"), small_environments.store(data_hash="other")),
    "options": lambda: EnvironmentRun(config("few_round").model_copy(update={"dataset_options": {"a": 1}}), STORE),
    "model": lambda: EnvironmentRun(config("few_round").model_copy(update={"model": "logistic"}), STORE),
}


def test_whatever_decides_a_start_is_in_its_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EnvironmentRun, "_reached", lambda self, start: self.task.params())
    run("few_round").start_params()
    for name, change in CHANGES.items():
        before = len(cached(home))
        change().start_params()
        assert len(cached(home)) == before + (name != "model"), name
    run("learned_start").start_params()
    run("few_round", hyperparameters={"clip": 3.0}, protocol={"evaluate_every": 7}).start_params()
    assert len(cached(home)) == len(CHANGES), "what follows a start does not decide it"
    monkeypatch.setattr(environment_run, "versions", lambda config: {"torch": "another"})
    run("few_round").start_params()
    monkeypatch.setattr(environment_run, "device_facts", lambda device: {"type": "another"})
    run("few_round").start_params()
    assert len(cached(home)) == len(CHANGES) + 2


def test_a_start_that_diverges_is_refused(home: Path) -> None:
    broken = {**FEDAVG, "client_optimizer": {"name": "sgd", "lr": 1e40}}
    with pytest.raises(ConfigError, match=r"few_round: its start fedavg diverged \(round 1: "):
        run("few_round", start={**START, "hyperparameters": broken}).train()
    assert not cached(home)


def _wanting(data: str, queue: Any) -> None:
    os.environ["METALEAF_DATA"] = data
    torch.set_num_threads(1)
    original, computed = EnvironmentRun._reached, []

    def reached(self: EnvironmentRun, start: RunConfig) -> Params:
        computed.append(start)
        return original(self, start)

    EnvironmentRun._reached = reached  # type: ignore[method-assign]
    params = run("few_round", budget=2000).start_params()
    queue.put((len(computed), float(sum(leaf.double().sum() for leaf in params.values()))))


def test_two_processes_that_want_the_same_start(home: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    both = [context.Process(target=_wanting, args=(str(home), queue)) for _ in range(2)]
    for process in both:
        process.start()
    found = [queue.get(timeout=120) for _ in both]
    for process in both:
        process.join(timeout=30)
    assert sorted(computed for computed, _ in found) == [0, 1]
    assert found[0][1] == found[1][1]


# ----------------------------------------------------------------------------------------------------------- refusals


def test_methods_for_environments_need_their_track() -> None:
    plain = config("few_round", start=None)
    other = plain.model_copy(update={"protocol": plain.protocol.model_copy(update={"environments": None})})
    with pytest.raises(ConfigError, match="few_round learns from whole environments: it needs the track of new"):
        Run(other, STORE)


def test_methods_with_other_broadcasts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Wrapped(FedAvg):
        def init(self, task: Any, params: Any) -> State:
            return State({"model": params})

    monkeypatch.setattr(RunConfig, "build_algorithm", lambda self: Wrapped())
    with pytest.raises(ConfigError, match="Wrapped sends other things than the model's parameters"):
        run("fedavg").train()


@dataclass(frozen=True)
class Marked(FedAvg):
    """Knows what it was prepared with."""

    unit: ClassVar[str] = "client"

    def prepare_updates(self, members: list[int]) -> int:
        return 3 * sum(members)

    def prepare(self, task: Any, state: State, ask: Any) -> State:
        found = ask(lambda episode: {"weights": episode.weights, "real": episode.participants.mask.sum()})
        assert found["weights"].shape == (8, 7)
        torch.testing.assert_close(found["weights"].sum(1), torch.ones(8))
        return State(trees.tree_map(lambda p: p * 0 + found["real"].sum(), state.broadcast), state.kept)


def test_anyone_may_ask_all_training_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    given = config("fedavg", members=7, budget=8 * 7 * 3 + 12)
    monkeypatch.setattr(RunConfig, "build_algorithm", lambda self: Marked())
    found = EnvironmentRun(given, STORE)
    assert found.rounds == 2
    names = found.federation.environments["train"]
    examples = sum(found.federation.size(int(i)) for name in names for i in found.federation.chosen(name))
    progress = found._start()
    assert all(bool((leaf == examples).all()) for leaf in progress.best.values())
    assert found._first_row()["client_updates"] == 168


@pytest.mark.parametrize("method", ["local", "fedavg", "few_round", "learned_start"])
def test_numbers_can_be_predicted_in_new_environments(tmp_path: Path, method: str) -> None:
    """Scores, the selected round and the marks of the table follow the metric's direction."""
    spec = {**small_environments.SPEC, "classes": 0, "task": {"name": "regression", "unit": "kW"}, "y_dtype": "float32"}
    y = (STORE.x @ np.array([1.0, 2.0]) + (STORE.y == 1)).astype(np.float32)
    store = replace(STORE, y=y, about={**STORE.about, "spec": spec})
    rules = {**METHODS[method], "local_lr": 0.1}
    config = small_environments.config(method, **rules)
    record = EnvironmentRun(config, store).execute(Cell(tmp_path, config))
    [found] = read_all(EnvironmentRecord, tmp_path)
    assert found.content.metric.name == "RMSE"
    for rounds, sides in record["scores"]["selected"].items():
        clients = found.clients[found.clients["rounds"] == int(rounds)]
        by_hand = math.sqrt(clients["squared_error"].sum() / clients["n"].sum())
        assert sides["before"]["pooled"] == pytest.approx(by_hand)
    evaluated = found.rounds.dropna(subset="validation_after").set_index("round")["validation_after"]
    assert record["selected_round"] == evaluated.idxmin()
    first = environment_tables([found], environment_comparison([found]))[0]
    assert "RMSE after R rounds (kW)" in {group for group, _ in first.columns}


def test_the_best_of_errors_is_the_smallest_as_it_is_printed() -> None:
    metric = Metric("RMSE", "squared_error", form="root", higher_is_better=False, high=None, unit="")
    rows = pd.DataFrame(
        {"algorithm": ["a", "b", "c"], "rounds": 0, "seeds": 1, "diverged": 0, "before_mean": [0.2049, 0.1765, 0.1730]}
    )
    field = Field(
        "", "", lambda row: score_cell(row["before_mean"], metric=metric), metric.best, prints=printed(metric)
    )
    _, cells = lay_out(rows, [field], [True] * 3)
    assert [cell.mark for (cell,) in cells] == ["", "second", "best"]
