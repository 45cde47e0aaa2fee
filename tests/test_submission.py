"""Submissions: what the harness writes keeps the rules, and every way to damage it is seen and named."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from metaleaf.cli import main
from metaleaf.config.config import digest
from metaleaf.submission import files
from metaleaf.submission.check import Invalid, check
from metaleaf.submission.problem import LONGEST, Problem

RESULTS = Path(__file__).resolve().parents[1] / "results"

CLIENTS = """
name = "small"
title = "Small"
seeds = [1, 2, 3]

[tuning]
trials = 2
rounds = 1

[protocol]
rounds = 4
clients_per_round = 3
evaluate_every = 2
test_supports = [0.2, 0.5]

[datasets.synthetic]
options = { tasks = 40, dimension = 5, classes = 3 }

[algorithms.fedavg]
space = { "client_optimizer.lr" = [0.01, 0.3] }

[algorithms.reptile]
space = { "client_optimizer.lr" = [0.01, 0.3] }
"""

ENVIRONMENTS = """
name = "small"
title = "Small"
seeds = [1, 2, 3]

[protocol]
clients_per_round = 5
support = 0.5
evaluate_every = 5

[protocol.environments]
budget = 60
participants = 2
train_participants = [2, 2]
queries = 2
scored = 2
members = 4
rounds = [0, 1]

[datasets.synthetic_environments]
options = { tasks = 60, clusters = 6, dimension = 5, classes = 3, size_mean = 3.0, size_sd = 0.1 }

[algorithms.fedavg]

[algorithms.few_round]
start = { name = "fedavg", share = 0.5 }
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `clients/` and `environments/`: in each a suite file and the records of running it."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEAF_DATA", str(root / "data"))
        for name, text in (("clients", CLIENTS), ("environments", ENVIRONMENTS)):
            (root / name).mkdir()
            suite = root / name / "small.toml"
            suite.write_text(text)
            words = [str(suite), "--results", str(root / name)]
            assert name == "environments" or main(["tune", *words]) == 0
            assert main(["suite", *words, "--save"]) == 0
        yield root


@pytest.fixture
def clients(whole: Path, tmp_path: Path) -> Path:
    """A copy of the records of new clients that a test may damage."""
    return shutil.copytree(whole / "clients" / "small", tmp_path / "small")


@pytest.fixture
def environments(whole: Path, tmp_path: Path) -> Path:
    """The same of new environments."""
    return shutil.copytree(whole / "environments" / "small", tmp_path / "small")


def found(
    capsys: pytest.CaptureFixture[str], folder: Path, text: str = CLIENTS, beside: Path | None = None
) -> list[str]:
    """The lines of `metaleaf submit check`, by the suite in `text`; none if the submission keeps the rules."""
    suite = folder.parent / "suite.toml"
    suite.write_text(text)
    capsys.readouterr()
    try:
        check(folder, str(suite), beside)
    except Invalid:
        return capsys.readouterr().out.splitlines()
    return []


Damage = Callable[[Path], object]
"""Does it to a submission's folder."""


def record(folder: Path, algorithm: str = "fedavg", seed: int = 2) -> Path:
    [path] = folder.glob(f"*/{algorithm}/*/seed-{seed}.json")
    return path


def edited(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """A change of one record's JSON."""

    def damage(folder: Path) -> None:
        path = record(folder)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def table(suffix: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
    """A change of one record's table."""

    def damage(folder: Path) -> None:
        path = record(folder).with_suffix(suffix)
        change(pd.read_csv(path)).to_csv(path, index=False)

    return damage


def cut_short(folder: Path) -> None:
    """A table whose last line ends after two cells."""
    path = record(folder).with_suffix(".clients.csv")
    *lines, last = path.read_text().splitlines()
    path.write_text("\n".join([*lines, ",".join(last.split(",")[:2])]))


def put(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A change of one cell of a table."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        values = frame[column].tolist()
        values[row] = value
        return frame.assign(**{column: values})

    return change


def renamed(old: str, new: str) -> Damage:
    def damage(folder: Path) -> None:
        [path] = folder.glob(old)
        path.rename(path.with_name(new))

    return damage


def linked(folder: Path) -> None:
    path = record(folder).with_suffix(".rounds.csv")
    outside = folder.parent / "outside.csv"
    path.rename(outside)
    path.symlink_to(outside)


def without_seed(folder: Path) -> None:
    for path in record(folder).parent.glob("seed-2.*"):
        path.unlink()


def linked_folder(folder: Path) -> None:
    [path] = folder.glob("*/reptile")
    shutil.move(path, folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def copied(folder: Path) -> None:
    """The cell once more, with another hyper-parameter and the hash of that."""
    path = record(folder)
    content = json.loads(path.read_text())
    content["config"]["algorithm"]["hyperparameters"]["epochs"] += 1
    content["config_hash"] = digest(content["config"])[:12]
    other = path.parents[1] / content["config_hash"]
    shutil.copytree(path.parent, other)
    for extra in other.glob("seed-[13]*"):
        extra.unlink()
    (other / path.name).write_text(json.dumps(content))


def one_right_more(content: dict[str, Any]) -> None:
    content["scores"]["selected"]["0.5"]["after"]["pooled"] += 1e-6


def no_history(content: dict[str, Any]) -> None:
    content["tuning"]["history"].pop()


def worse_choice(content: dict[str, Any]) -> None:
    tuning = content["tuning"]
    tuning["history"][0]["score"], tuning["history"][1]["score"] = 1.0, 0.0
    tuning["chosen"] = tuning["history"][1]["changes"]


def forged_trial(folder: Path) -> None:
    path = sorted(folder.glob("tuning/*/fedavg/*.json"))[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"score": 0.123}))


def forged_trial_name(folder: Path) -> None:
    path = sorted(folder.glob("tuning/*/fedavg/*.json"))[0]
    path.rename(path.with_name("0123456789ab-seed-0.json"))


def drop_client(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.query("client != @frame.client.iloc[0]")


def drop_step(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["step"] != 0]


def double_client(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame.iloc[:1]])


def shift_n(frame: pd.DataFrame) -> pd.DataFrame:
    """One query example more for a client, wherever it is scored: nothing within the record contradicts it."""
    chosen = frame["client"] == frame["client"].iloc[0]
    return frame.assign(n=frame["n"].where(~chosen, frame["n"] + 1))


DAMAGES: list[tuple[str, Damage, str]] = [
    # files
    ("files", linked, "is a link; give the file itself"),
    ("files", linked_folder, "reptile: is a link"),
    ("files", lambda f: (f / "synthetic" / "run.py").write_text("x"), "run.py: is no file of the store"),
    ("files", lambda f: record(f).with_suffix(".clients.csv").unlink(), r"is not whole without seed-2\.clients\.csv"),
    ("files", lambda f: record(f).unlink(), r"seed-2\.json: is not whole without seed-2\.json"),
    ("files", lambda f: os.truncate(record(f), (4 << 20) + 1), "has 4,194,305 bytes, more than 4,194,304"),
    ("files", lambda f: os.mkfifo(f / "pipe"), "pipe: is not a plain file"),
    # schema
    ("schema", lambda f: record(f).write_text("{"), "seed-2.json"),
    ("schema", edited(lambda c: c.pop("cost")), "cost: Field required"),
    ("schema", edited(lambda c: c["config"].pop("model")), "'model' is missing"),
    ("schema", edited(lambda c: c.pop("versions")), "'versions' is missing"),
    ("schema", edited(lambda c: c["engine"].update(mode="magic")), r"engine\.mode = 'magic'"),
    ("schema", table(".clients.csv", put("n_support", 3, "True")), "other than whole numbers from 0 in the column"),
    (
        "sums",
        edited(lambda c: c["scores"]["final"]["0.2"]["after"].update(points=10**400)),
        "final.0.2.after.points is 10",
    ),
    ("schema", edited(lambda c: c["config"]["protocol"].update(rouns=3)), "rouns"),
    ("schema", edited(lambda c: c["config"]["algorithm"].update(name="../x")), r"unknown algorithm '\.\./x'"),
    ("schema", edited(lambda c: c["config"]["dataset"].update(name="os")), "unknown dataset 'os'"),
    ("schema", edited(lambda c: c["config"].update(model="pickle")), "unknown model 'pickle'"),
    ("schema", edited(lambda c: c.update(suite="../small")), "names a folder"),
    ("schema", edited(lambda c: c["config"]["algorithm"]["hyperparameters"].pop("epochs")), "resolve it to another"),
    ("schema", edited(lambda c: c["config"]["algorithm"]["hyperparameters"].update(decay=float("inf"))), "not finite"),
    ("schema", table(".clients.csv", lambda f: f.drop(columns="n_support")), "lacks the column 'n_support'"),
    ("schema", table(".clients.csv", put("correct", 3, "=1+1")), "other than numbers in the column 'correct'"),
    (
        "schema",
        table(".clients.csv", put("correct", 3, 1.5)),
        "other than whole numbers from 0 in the column 'correct'",
    ),
    ("split", table(".clients.csv", put("client", 3, None)), "lacks the client"),
    ("schema", cut_short, "other than whole numbers from 0 in the column"),
    ("schema", table(".rounds.csv", lambda f: f.drop(columns="flops")), "lacks the column 'flops'"),
    # place and hash
    ("place", edited(lambda c: c.update(seed=3)), r"the record says that it is synthetic/fedavg/\w+/seed-3\.json"),
    ("place", renamed("*/fedavg", "fedsgd"), r"the record says that it is synthetic/fedavg/"),
    ("place", edited(lambda c: c["data"].update(name="femnist")), "data.name is femnist"),
    ("place", edited(lambda c: c.update(suite="large")), "is of the suite large"),
    ("hash", edited(lambda c: c.update(config_hash="0" * 12)), "config_hash is 000000000000, but"),
    ("hash", forged_trial_name, "is not called by the hash of its configuration"),
    # rounds
    ("rounds", edited(lambda c: c.update(rounds=10**15)), "does not have the rounds 0 to 1000000000000000"),
    ("rounds", table(".rounds.csv", lambda f: f.iloc[[0, 1, 3]]), "does not have the rounds 0 to 4"),
    ("rounds", table(".rounds.csv", put("bytes_up", 2, 0)), "bytes_up falls"),
    ("rounds", edited(lambda c: c["cost"].update(flops=1)), r"cost\.flops is 1, but rounds\.csv ends at \d+"),
    ("selected", edited(lambda c: c.update(selected_round=3)), r"selected_round is 3, but round \d"),
    ("rounds", table(".rounds.csv", put("round", 4, None)), "does not have the rounds 0 to 4"),
    ("selected", table(".rounds.csv", put("validation_after", 1, 1.0)), "round 1 was evaluated, though only every 2"),
    ("saved", lambda f: os.truncate(record(f).with_suffix(".safetensors"), 9), "is not the file that the record names"),
    ("saved", edited(lambda c: c.pop("saved")), r"seed-2\.safetensors lies beside it, but the record keeps no model"),
    # scores
    ("counts", table(".clients.csv", put("correct", 0, 10**6)), "correct is 1000000 of"),
    (
        "clients",
        table(".clients.csv", drop_client),
        r"3 clients are scored \(model final, support 0.2, step 0\), 4 must be",
    ),
    ("clients", table(".clients.csv", drop_step), "lacks its scores before adaptation"),
    ("clients", table(".clients.csv", double_client), "is scored twice"),
    ("clients", table(".clients.csv", put("support", 0, 0.3)), "has scores of the final model at support 0.3"),
    ("sums", edited(one_right_more), r"scores\.selected\.0\.5\.after\.pooled is"),
    ("sums", edited(lambda c: c["scores"]["final"].pop("0.2")), "has totals of scores.final.0.5, scores.selected.0.2"),
    ("sums", edited(lambda c: c.update(status="diverged", reason="so")), "diverged, and so must have no scores"),
    # between records
    ("data", edited(lambda c: c["data"].update(split_hash="other")), "data.split_hash is another than in synthetic/"),
    ("data", edited(lambda c: c["data"].update(data_hash="other")), "data.data_hash is another than in synthetic/"),
    ("protocol", edited(lambda c: c["config"]["protocol"].update(clients_per_round=9)), r"config\.protocol is another"),
    ("protocol", edited(lambda c: c["tuning"].update(trials=9)), "the search had 9 trials, 1 rounds, that of"),
    ("split", table(".clients.csv", shift_n), "has other examples than in synthetic/fedavg"),
    ("split", table(".clients.csv", put("n_support", 0, 99)), "has not always the same examples"),
    ("split", table(".clients.csv", lambda f: f.assign(client="x" + f["client"].astype(str))), "lacks the client"),
    # the suite's cells and search
    ("cells", edited(lambda c: c.update(title="Best")), "the title is 'Best', the suite's 'FedAvg'"),
    ("cells", copied, "is the same cell as synthetic/fedavg/"),
    ("cells", edited(lambda c: c["config"]["protocol"].update(clients_per_round=9)), r"config\.protocol is not what"),
    ("cells", edited(lambda c: c["tuning"].update(chosen={"a.b": 1})), "cannot have chosen these hyper-parameters"),
    ("tuning", edited(lambda c: c.update(tuning=None)), "tuning: value"),
    ("tuning", edited(no_history), r"tuning\.history does not have the 2 trials"),
    ("tuning", edited(worse_choice), r"tuning\.chosen is not the first trial of the best score"),
    ("tuning", edited(lambda c: c["tuning"].update(seed=7)), r"tuning\.seed is 7, the suite's 0"),
    ("tuning", forged_trial, "is not in the history of the records"),
    (
        "complete",
        without_seed,
        "lacks seed 2 of the suite",
    ),
]


def test_what_the_harness_writes_keeps_the_rules(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for track, algorithms in (("clients", "fedavg, reptile"), ("environments", "fedavg, few_round")):
        folder = whole / track
        assert main(["submit", "check", str(folder / "small"), "--suite", str(folder / "small.toml")]) == 0
        line = capsys.readouterr().out.strip()
        assert f"keeps the rules: 6 records of {len(algorithms.split(', '))} algorithms on synthetic" in line


@pytest.mark.parametrize(("rule", "damage", "what"), DAMAGES)
def test_a_damage_is_seen_and_named(
    clients: Path, capsys: pytest.CaptureFixture[str], rule: str, damage: Damage, what: str
) -> None:
    damage(clients)
    lines = found(capsys, clients)
    assert any(line.startswith(f"[{rule}] ") and re.search(what, line) for line in lines), "\n".join(lines)


def everything(content: dict[str, Any]) -> None:
    content["cost"]["flops"], content["selected_round"], content["title"] = 1, 3, "Best"


def test_all_problems_are_named_not_only_the_first(clients: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(everything)(clients)
    linked_folder(clients)
    rules = {line.split("]")[0].strip("[") for line in found(capsys, clients)}
    assert rules == {"files", "rounds", "selected", "cells", "complete"}


ENVIRONMENT_DAMAGES: list[tuple[str, Damage, str]] = [
    ("rounds", edited(lambda c: c["cost"].update(client_updates=5)), r"cost\.client_updates is 5, but"),
    ("rounds", table(".rounds.csv", lambda f: f.drop(columns="client_updates")), "lacks the column 'client_updates'"),
    ("counts", table(".clients.csv", put("correct_after", 0, 10**6)), "correct_after is 1000000 of"),
    ("clients", table(".clients.csv", lambda f: f[f["draw"] == 0]), "must have 2 draws"),
    ("clients", table(".clients.csv", put("draw", 0, 7)), "must have 2 draws"),
    ("clients", table(".clients.csv", lambda f: f.assign(model="final")), "selected model only"),
    ("clients", table(".clients.csv", lambda f: f.iloc[1:]), "1 clients are scored .*, 2 must be"),
    ("clients", edited(lambda c: c["data"]["environments"].update(test=9)), "has not all of the 9 test environments"),
    ("sums", edited(lambda c: c["scores"]["selected"]["1"]["before"].update(points=3)), r"selected\.1\.before\.points"),
    ("split", table(".clients.csv", shift_n), "has other examples than in"),
    ("data", edited(lambda c: c["data"].update(split_hash="other")), "data.split_hash is another than in"),
    ("tuning", edited(lambda c: c.update(tuning={"trials": 1})), "has a search, but the suite small has none"),
]


@pytest.mark.parametrize(("rule", "damage", "what"), ENVIRONMENT_DAMAGES)
def test_a_damage_is_seen_in_new_environments(
    environments: Path, capsys: pytest.CaptureFixture[str], rule: str, damage: Damage, what: str
) -> None:
    damage(environments)
    lines = found(capsys, environments, ENVIRONMENTS)
    assert any(line.startswith(f"[{rule}] ") and re.search(what, line) for line in lines), "\n".join(lines)


def test_a_budget_cannot_be_overspent(environments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(lambda c: c["cost"].update(client_updates=61))(environments)
    table(".rounds.csv", lambda f: put("client_updates", len(f) - 1, 61)(f))(environments)
    assert any(
        "spent 61 client updates of a budget of 60" in line for line in found(capsys, environments, ENVIRONMENTS)
    )


def test_records_beside_must_be_comparable(
    clients: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The leaderboard's records are not blamed, and what is submitted alone may still not fit them."""
    leaderboard = whole / "clients" / "small"
    assert not found(capsys, clients, beside=leaderboard)
    for path in clients.rglob("seed-*.json"):
        path.write_text(path.read_text().replace('"split_hash": "', '"split_hash": "0'))
    assert not found(capsys, clients)
    lines = found(capsys, clients, beside=leaderboard)
    assert len(lines) == 6
    assert all("data.split_hash is another than in " in line for line in lines)
    assert all(line.startswith("[data] synthetic/") for line in lines)


def test_few_seeds_are_incomplete_and_may_be_shown_as_partial(
    clients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in clients.glob("*/*/*/seed-[23].*"):
        path.unlink()
    suite = tmp_path / "one.toml"
    suite.write_text(CLIENTS.replace("seeds = [1, 2, 3]", "seeds = [1]"))
    words = ["submit", "check", str(clients), "--suite", str(suite)]
    assert main(words) == 1
    out = capsys.readouterr()
    assert "[complete] synthetic/fedavg: has 1 of at least 3 seeds" in out.out
    assert "breaks the rules in 2 places (complete)" in out.err
    assert main([*words, "--partial"]) == 0
    assert "partial: 2 rows of its table lack seeds" in capsys.readouterr().out


def test_user_errors_exit_with_2(clients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for words, sentence in (
        ([str(tmp_path / "none")], "there is no folder"),
        ([str(tmp_path / "empty")], "no records below"),
        ([str(clients)], "no suite small comes with metaleaf: give the suite's file with --suite"),
        ([str(clients), "--suite", "nonesuch"], "unknown suite 'nonesuch'"),
        ([str(clients), "--suite", "synthetic", "--beside", str(tmp_path / "empty")], "has no records of synthetic"),
    ):
        assert main(["submit", "check", *words]) == 2
        assert sentence in capsys.readouterr().err


def test_a_flood_of_files_is_cut_off(
    clients: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST", 3)
    assert any("has more than 3 files" in line for line in found(capsys, clients))


def test_names_and_values_are_printed_safely() -> None:
    line = str(Problem("schema", "seed-\x1b[2J.json", "\u202e" + "x" * 10_000))
    assert "\x1b" not in line
    assert "\u202e" not in line
    assert r"\x1b[2J" in line
    assert len(line) < LONGEST + 50


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("*/report")))
def test_committed_records_keep_the_rules(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """But for seeds that were not run, which a partial check allows and says."""
    assert main(["submit", "check", str(RESULTS / name), "--partial"]) == 0, capsys.readouterr().out
