"""Numbers that an algorithm reports, from its methods to the tables of a record and to their readers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coins
import numpy as np
import pandas as pd
import pytest
import small_environments
import torch
from test_run import without_times
from torch import Tensor

from metaleaf import registry, trees
from metaleaf.algorithm import Reply, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.ifca import IFCA
from metaleaf.config.config import RunConfig
from metaleaf.engine.engine import Mode
from metaleaf.environments.run import EnvironmentRun
from metaleaf.errors import ConfigError, DataError
from metaleaf.records.client_scores import client_scores
from metaleaf.records.environments import EnvironmentRecord
from metaleaf.records.records import Record, read_record, read_records, reported
from metaleaf.runs.reported import of_clients, of_server
from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell
from metaleaf.shots import Episode, Shots, examples
from metaleaf.submission.entry import Entry
from metaleaf.submission.side_by_side import compare
from metaleaf.task import Params, Task

STORE = coins.store()


@dataclass(frozen=True)
class Speaking(FedAvg):
    """FedAvg whose clients count their rounds, and which speaks of that and of its model."""

    def memory(self, task: Task, params: Params) -> Any:
        return {"visits": torch.zeros((), dtype=torch.int64, device=task.device)}

    def client(self, task: Task, params: Params, episode: Episode) -> Reply:
        return Reply(super().client(task, params, episode), {"visits": episode.memory["visits"] + 1})

    def report(self, task: Task, state: State) -> Mapping[str, Tensor]:
        return {"length": trees.norm(state.broadcast), "nothing": torch.tensor(math.inf)}

    def report_client(self, task: Task, params: Params, client: Shots | Episode) -> Mapping[str, Tensor]:
        visits = client.memory["visits"] if isinstance(client, Episode) else torch.tensor(math.nan)
        return {"visits": visits, "loss": task.loss(params, examples(client), training=False)}


@pytest.fixture(autouse=True)
def spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = registry.plugin
    monkeypatch.setattr(registry, "plugin", lambda kind, name: Speaking if name == "fedavg" else plugin(kind, name))


def config(**protocol: Any) -> RunConfig:
    return coins.config("fedavg", **{"held_out": 0.2, **protocol})


def tables(cell: Cell) -> dict[str, pd.DataFrame]:
    return {
        name: pd.read_csv(cell.folder / f"{cell.stem}.{name}.csv") for name in ("clients", "participants", "rounds")
    }


@pytest.mark.parametrize("mode", ["sequential", "vectorised"])
def test_a_record_has_them(tmp_path: Path, mode: Mode) -> None:
    cell, run = Cell(tmp_path, config()), Run(config(), STORE, mode=mode)
    progress = run.train()
    run.execute(cell)
    found, params = tables(cell), progress.state.broadcast
    rounds = found["rounds"].set_index("round")
    assert rounds["reported_length"].notna().tolist() == rounds["validation_after"].notna().tolist()
    assert rounds["reported_length"].iloc[-1] == pytest.approx(trees.length(params), rel=1e-6)
    assert rounds["reported_nothing"].isna().all()
    final = found["participants"].query("model == 'final'").drop_duplicates("client").set_index("client")
    visits = {STORE.ids[client]: 0 for client in run.federation.clients["train"]}
    for number in range(1, 7):
        for client in run.federation.cohort(number):
            visits[STORE.ids[client]] += 1
    assert final["reported_visits"].to_dict() == visits
    clients = found["clients"]
    assert clients["reported_visits"].isna().all()
    some = clients.query("model == 'final' and support == 0.5").drop_duplicates("client")
    tested = [int(i) for i in run.federation.clients["test"]]
    losses = [float(run.task.loss(params, run.federation.support_query(i, 0.5)[0])) for i in tested]
    np.testing.assert_allclose(some["reported_loss"], losses, rtol=1e-5)
    for table in (clients, found["participants"]):
        assert (table.groupby(["model", "support", "client"])["reported_loss"].agg(np.ptp) == 0).all()


def test_a_resumed_run_has_the_same(tmp_path: Path) -> None:
    def interrupt(number: int, rounds: int, row: dict[str, float]) -> None:
        if number == 5:
            raise KeyboardInterrupt

    whole, cell = Cell(tmp_path / "whole", config()), Cell(tmp_path / "cut", config())
    Run(config(), STORE).execute(whole)
    with pytest.raises(KeyboardInterrupt):
        Run(config(), STORE).execute(cell, interrupt)
    Run(config(), STORE).execute(cell)
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "cut")


def entry(path: Path) -> Entry:
    made: Any = None
    record = read_record(Record, path)
    return Entry(path.name, record, config(), made, record.clients, record.participants, record.rounds)


def test_readers_take_a_record_with_and_without(tmp_path: Path) -> None:
    cell = Cell(tmp_path, config())
    Run(config(), STORE).execute(cell)
    [record] = read_records(tmp_path)
    with_them = client_scores([record])
    before = entry(cell.record_path)
    for name in ("clients", "participants", "rounds"):
        path = cell.folder / f"{cell.stem}.{name}.csv"
        table = pd.read_csv(path)
        table[[name for name in table if name not in reported(table)]].to_csv(path, index=False)
    after = entry(cell.record_path)
    assert len(before.clients.columns) == len(after.clients.columns) + 2
    for one, other in ((before, after), (after, before), (before, before)):
        assert {line.outcome for line in compare(one, other, 0.0)} == {"same"}
    without = client_scores(read_records(tmp_path))
    assert with_them.keys() == without.keys()
    moved = before._replace(clients=before.clients.assign(reported_loss=before.clients["reported_loss"] + 1e-7))
    assert [line.what for line in compare(before, moved, 0.0) if line.outcome == "close"] == ["clients' reported_loss"]


def test_what_is_no_number_is_refused(tmp_path: Path) -> None:
    cell = Cell(tmp_path, config())
    Run(config(), STORE).execute(cell)
    path = cell.folder / f"{cell.stem}.rounds.csv"
    pd.read_csv(path).assign(reported_length="=1+1").to_csv(path, index=False)
    with pytest.raises(DataError, match="numbers in the column 'reported_length'"):
        assert len(read_record(Record, cell.record_path).rounds)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"a b": torch.tensor(1.0)}, "a number called 'a b'"),
        ({"ü": torch.tensor(1.0)}, "a number called 'ü'"),
        ({"x" * 41: torch.tensor(1.0)}, "40 at most"),
        ({"all": torch.ones(3)}, r"all must be a scalar, not of shape \[3\]"),
        ({f"n{i}": torch.tensor(1.0) for i in range(51)}, "51 numbers: 50 is the most"),
    ],
)
def test_what_is_no_number_with_a_name(numbers: dict[str, Tensor], sentence: str) -> None:
    class Wrong(Speaking):
        def report(self, task: Task, state: State) -> Mapping[str, Tensor]:
            return numbers

    run = Run(config(), STORE)
    with pytest.raises(ConfigError, match=sentence):
        of_server(run.task, Wrong(), State(()))


def test_all_clients_report_the_same() -> None:
    class Moody(FedAvg):
        def report_client(self, task: Task, params: Params, client: Shots | Episode) -> Mapping[str, Tensor]:
            return {f"n{len(examples(client).y)}": torch.tensor(1.0)}

    run = Run(config(), STORE)
    supports = [run.federation.support_query(0, part)[0] for part in (0.2, 0.8)]
    assert of_clients(run.task, Moody(), (), []) == {}
    with pytest.raises(ConfigError, match="the same names for every client"):
        of_clients(run.task, Moody(), (), supports)


def test_ifca_names_the_cluster(tmp_path: Path) -> None:
    given = coins.config("ifca", hyperparameters={"clusters": 3}, rounds=4, held_out=0.2)
    cell, run = Cell(tmp_path, given), Run(given, STORE)
    run.execute(cell)
    found, algorithm = tables(cell), run.algorithm
    assert isinstance(algorithm, IFCA)
    models = Run(given, STORE).train().state.broadcast
    final = found["participants"].query("model == 'final' and step == 0")
    clients = [int(i) for i in run.federation.clients["train"]]
    replies = [algorithm.client(run.task, models, e) for e in run.federation.episodes(clients, 5)]
    assert final["reported_cluster"].tolist() == [int(reply["chosen"]) for reply in replies]
    assert len(set(final["reported_cluster"])) > 1
    assert (cell.folder / f"{cell.stem}.clients.csv").read_text().splitlines()[1].split(",")[-1] in "012"
    assert set(found["clients"]["reported_cluster"]) <= {0, 1, 2}


def test_in_new_environments_the_server_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    given = small_environments.config("fedavg", 1)
    cell = Cell(tmp_path, given)
    EnvironmentRun(given, small_environments.store()).execute(cell)
    rounds = pd.read_csv(cell.folder / f"{cell.stem}.rounds.csv")
    assert rounds["reported_length"].notna().tolist() == rounds["validation_after"].notna().tolist()
    start = EnvironmentRun(given, small_environments.store()).task.params()
    assert rounds["reported_length"].iloc[0] == pytest.approx(trees.length(start), rel=1e-6)
    read = read_record(EnvironmentRecord, cell.record_path)
    assert reported(read.rounds) == ["reported_length", "reported_nothing"]
    assert not reported(read.clients)
