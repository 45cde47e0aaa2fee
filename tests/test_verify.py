"""Verifying a record: the same run gives the same, and whatever was changed in a record is found."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from metaleaf.cli import main
from metaleaf.cli.options import assignments
from metaleaf.config.config import digest
from metaleaf.config.suite import AlgorithmEntry, DatasetEntry, Suite
from metaleaf.jobs.execute import Settings, compute
from metaleaf.metrics import ACCURACY
from metaleaf.runs.rounding import Rounding
from metaleaf.runs.store import Cell
from metaleaf.statistics.statistics import summaries

SMALL = ["tasks=40", "dimension=5", "classes=3"]
PROTOCOL = ["rounds=4", "clients_per_round=3", "evaluate_every=2"]


def words(flag: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The record of a small run; its data stays prepared for the tests."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEAF_DATA", str(root / "data"))
        what = ["--dataset", "synthetic", "--algorithm", "maml", "--results", str(root)]
        assert main(["run", *what, "--threads", "1", *words("--options", SMALL), *words("--protocol", PROTOCOL)]) == 0
        [path] = root.glob("runs/*/*/*/seed-1.json")
        yield path


@pytest.fixture
def record(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change, anywhere."""
    return Path(shutil.copytree(made.parent, tmp_path / "given")) / made.name


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_same_run_is_verified_bit_for_bit(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(record.parent.iterdir())
    assert main(["verify", str(record)]) == 0
    out = capsys.readouterr().out
    assert "is verified, bit for bit." in out
    assert {line.split()[-1] for line in out.splitlines()[1:-1]} == {"same"}
    assert sorted(record.parent.iterdir()) == before, "nothing is written beside the record"


def test_other_code_is_named_and_is_a_hint_where_scores_differ(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(record, lambda content: content["sources"].update(algorithm="0" * 64))
    assert main(["verify", str(record)]) == 0
    assert "the record was made by other code than what is here: algorithm" in capsys.readouterr().out
    all_right(record)
    assert main(["verify", str(record)]) == 1
    assert capsys.readouterr().err.strip().endswith("other code than what is here: algorithm.")
    edit(record, lambda content: content.pop("sources"))
    assert main(["verify", str(record)]) == 1
    assert capsys.readouterr().err.strip().endswith("the record does not say what code made it.")


def test_a_run_that_diverged_at_once_is_a_whole_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    suite = """
name = "far"
title = "Far too large steps"
seeds = [1]
protocol = { rounds = 4, clients_per_round = 3, evaluate_every = 2 }
datasets.synthetic.options = { tasks = 40, dimension = 5, classes = 3 }
algorithms.maml.inner_lr = 1e38
"""
    Path("far.toml").write_text(suite, encoding="utf-8")
    assert main(["suite", "far.toml"]) == 0
    [path] = Path("results").rglob("seed-1.json")
    assert json.loads(path.read_text(encoding="utf-8"))["reason"].startswith("round 1: ")
    assert main(["submit", "check", "results/far", "--suite", "far.toml", "--partial"]) == 0, capsys.readouterr()
    assert main(["verify", str(path)]) == 0, capsys.readouterr()
    assert "bit for bit" in capsys.readouterr().out, "what is no number is the same as itself"


def test_another_engine_differs_by_rounding_only(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The engine is none of the configuration; it decides roundings, which the losses show."""
    assert main(["verify", str(record), "--engine", "sequential"]) == 0
    assert "is verified" in capsys.readouterr().out


def test_a_record_that_contradicts_itself_is_different_without_a_run(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(record, lambda c: c["scores"]["selected"]["0.2"]["after"].update(pooled=0.99))
    assert main(["verify", str(record)]) == 1
    out = capsys.readouterr()
    assert "[sums]" in out.out
    assert "contradicts itself, in 1 places" in out.err


def test_better_scores_are_found_even_if_they_add_up(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    all_right(record)
    assert main(["verify", str(record)]) == 1
    out = capsys.readouterr()
    lines = {line[:22].strip(): line.split()[-1] for line in out.out.splitlines()}
    assert (lines["selected model"], lines["final model"], lines["clients' correct"]) == ("different",) * 2 + ("close",)
    assert lines["clients' loss"] == lines["updates"] == "same"
    assert "is not what this run gives (selected model, final model; tolerance 0.01)" in out.err
    assert main(["verify", str(record), "--tolerance", "0.999"]) == 0


def all_right(record: Path) -> None:
    """All answers after adaptation right, in the table and in its sums: only running the cell again tells."""
    table = record.with_suffix(".clients.csv")
    clients = pd.read_csv(table, dtype={"client": "string"})
    clients["correct"] = clients["correct"].where(clients["step"] == 0, clients["n"])
    clients.to_csv(table, index=False)
    groups = {key: summaries(rows, ACCURACY) for key, rows in clients.groupby(["model", "support"])}
    edit(record, lambda c: [c["scores"][model].update({str(p): found}) for (model, p), found in groups.items()])


CHAOTIC = ["tasks=40", "dimension=20", "classes=5"]
"""LEAF's own generator: at a rate of 3, rounding errors grow from 1e-8 to all there is in 20 rounds."""


@pytest.fixture(scope="module")
def chaotic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Makes the record of a run which says that its rate is 3 and nothing was perturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEAF_DATA", str(tmp_path_factory.mktemp("data")))

        def make(root: Path, rate: float, rounding: Rounding) -> Path:
            entries = DatasetEntry(options=assignments(CHAOTIC)), AlgorithmEntry()
            protocol = {"rounds": 20, "clients_per_round": 3, "evaluate_every": 10}
            made = Suite(
                name="runs",
                title="Chaotic",
                protocol=protocol,
                datasets={"synthetic": entries[0]},
                algorithms={"fedavg": entries[1]},
            )
            said, run = (
                made.config("synthetic", "fedavg", 1, changes={"client_optimizer.lr": lr}) for lr in (3.0, rate)
            )
            torch.set_num_threads(1)
            compute(Settings(root, rounding=rounding), run, lambda *_: None)
            path = Path(shutil.move(Cell(root, run).folder, root / said.config_hash())) / "seed-1.json"
            edit(path, lambda c: c.update(config=said.resolved(), config_hash=said.config_hash()))
            return path

        yield make


@pytest.mark.parametrize(
    ("rate", "rounding", "code", "sentence"),
    [
        (3.0, Rounding(), 0, "bit for bit"),
        (3.0, Rounding(nudge=99), 3, "but rounding decides so much of this run"),
        (3.0, Rounding(nudge=98), 3, "but rounding decides so much of this run"),
        (3.01, Rounding(), 1, "apart at round 1, by rounding"),
    ],
)
def test_rounding_is_told_from_another_rate_even_where_it_decides_the_scores(
    chaotic: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rate: float,
    rounding: Rounding,
    code: int,
    sentence: str,
) -> None:
    path = chaotic(tmp_path, rate, rounding)
    assert main(["verify", str(path), "--tolerance", "0.001"]) == code
    found = capsys.readouterr()
    assert sentence in found.out + found.err


def test_cheaper_rounds_are_found(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cost of a single round counts, since the cost to a target is read there."""
    table = record.with_suffix(".rounds.csv")
    rounds = pd.read_csv(table)
    cheaper = rounds["bytes_up"] - (rounds["round"] == 2)
    rounds.assign(bytes_up=cheaper).to_csv(table, index=False)
    assert main(["verify", str(record)]) == 1
    assert "is not what this run gives (bytes up; tolerance 0.01)." in capsys.readouterr().err


def test_an_earlier_target_is_found(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = record.with_suffix(".rounds.csv")
    rounds = pd.read_csv(table)
    rounds.assign(validation_after=rounds["round"].map({2: 1.0, 4: 0.9})).to_csv(table, index=False)
    edit(record, lambda c: c.update(selected_round=2))
    assert main(["verify", str(record)]) == 1
    assert "validation" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["data_hash", "split_hash"])
def test_other_data_is_different(record: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    edit(record, lambda c: c["data"].update({name: "0" * 64}))
    assert main(["verify", str(record)]) == 1
    lines = {line[:22].strip(): line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert lines[name.replace("_", " ")] == "different"


def fails(content: dict[str, Any]) -> None:
    """A configuration that is whole and cannot be run: more clients are needed than there are."""
    content["config"]["protocol"]["min_examples"] = 10**6
    content["config_hash"] = digest(content["config"])[:12]


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        (lambda c: c["config"]["algorithm"].update(name="os.system"), 3, "unknown algorithm 'os.system'"),
        (lambda c: c["config"]["dataset"]["options"].update(raw="/etc"), 3, "unknown option of synthetic 'raw'"),
        (lambda c: c.update(suite="../../outside"), 3, "names a folder"),
        (lambda c: c.update(dataset=".."), 3, "names a folder"),
        (lambda c: c["config"]["dataset"].update(name="femnist", options={}), 3, "resolve it to another"),
        (fails, 3, "a federation needs 3"),
        (lambda c: c.pop("scores"), 2, "is not a record of schema 1: scores"),
        (lambda c: c.update(config_hash="0" * 12), 1, "contradicts itself"),
    ],
)
def test_exit_codes(
    record: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], Any], code: int, sentence: str
) -> None:
    """1: it is not so; 2: no record; 3: could not be measured."""
    edit(record, change)
    assert main(["verify", str(record)]) == code
    assert sentence in capsys.readouterr().err


def test_a_record_without_its_tables_is_refused(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record.with_suffix(".rounds.csv").unlink()
    assert main(["verify", str(record)]) == 2
    assert "there is no seed-1.rounds.csv in" in capsys.readouterr().err
    assert main(["verify", str(record.parent)]) == 2
    assert main(["verify", str(record), "--tolerance", "2"]) == 2


def test_a_run_in_new_environments_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a dataset that is drawn anew for the seed, and a start."""
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    (tmp_path / "drawn.toml").write_text(DRAWN)
    assert main(["suite", str(tmp_path / "drawn.toml"), "--results", str(tmp_path), "--no-report"]) == 0
    [path] = tmp_path.glob("drawn/*/few_round/*/seed-7.json")
    assert main(["verify", str(path)]) == 0
    out = capsys.readouterr().out
    assert "bytes in environments" in out
    assert "is verified, bit for bit." in out


DRAWN = """
name = "drawn"
title = "Drawn"
seeds = [7]

[protocol]
clients_per_round = 5
support = 0.5

[protocol.environments]
budget = 60
participants = 2
train_participants = [2, 2]
queries = 2
scored = 2
members = 4
rounds = [0, 1]

[datasets.synthetic_environments]
redraw = true
options = { tasks = 60, clusters = 6, dimension = 5, classes = 3, size_mean = 3.0, size_sd = 0.1 }

[algorithms.few_round]
start = { name = "fedavg", share = 0.5 }
"""
