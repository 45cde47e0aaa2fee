"""Scoring a saved model again: the record's own scores to the bit, and others as a run with them would have given."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_tasks import ON_LOGISTIC, others_slow

from metaleaf.cli import main
from metaleaf.errors import ConfigError, DataError
from metaleaf.jobs.execute import Settings
from metaleaf.records.records import read_records
from metaleaf.reuse.rescore import Question, Rescored, rescore
from metaleaf.runs import run
from metaleaf.runs.run import Run

CLIENTS = f"""
name = "small"
title = "Small"
seeds = [1]

[protocol]
rounds = 3
clients_per_round = 3
evaluate_every = 2
test_supports = [0.2, 0.5]

[datasets.synthetic]
options = {{ tasks = 40, dimension = 5, classes = 3 }}

{"".join(f"[algorithms.{name}]{chr(10)}" for name in ON_LOGISTIC)}
[algorithms.longer]
name = "fedavg_meta"
adapt_steps = 8
"""

ENVIRONMENTS = """
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

TRAIN = Run.train


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The results of both suites; their data stays prepared for the tests."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEAF_DATA", str(root / "data"))
        for text in (CLIENTS, ENVIRONMENTS):
            (root / "suite.toml").write_text(text)
            words = ["--engine", "sequential", "--threads", "1", "--save", "--no-report", "--results", str(root)]
            assert main(["suite", str(root / "suite.toml"), *words]) == 0
        patch.setattr(Run, "train", lambda *_: pytest.fail("something is trained"))
        yield root


def record(root: Path, algorithm: str, suite: str = "small") -> Path:
    [path] = root.glob(f"{suite}/*/{algorithm}/*/seed-*.json")
    return path


def ask(path: Path, **question: Any) -> Rescored:
    return rescore(path, Question(**question), Settings(Path(), threads=1))


def as_read(found: Rescored, path: Path) -> pd.DataFrame:
    """The table as it is once it was written and read."""
    found.clients.to_csv(path, index=False)
    return pd.read_csv(path, dtype={"client": "string", "environment": "string"})


@pytest.mark.parametrize("algorithm", others_slow(ON_LOGISTIC))
def test_the_records_own_scores_come_out_again(made: Path, tmp_path: Path, algorithm: str) -> None:
    path = record(made, algorithm)
    content = json.loads(path.read_text())
    for model in ("final", "selected"):
        found = ask(path, model=model)
        recorded = pd.read_csv(path.with_suffix(".clients.csv"), dtype={"client": "string", "environment": "string"})
        recorded = recorded[recorded["model"] == model].reset_index(drop=True)
        pd.testing.assert_frame_equal(as_read(found, tmp_path / "found.csv"), recorded, check_exact=True)
        assert found.scores == content["scores"][model]
        assert [line.split()[-1] for line in found.text.splitlines()[-2:]] == ["same", "same"]


@pytest.mark.parametrize("algorithm", ["maml", "ditto"])
def test_the_vectorised_engine_gives_its_own_scores_again(made: Path, tmp_path: Path, algorithm: str) -> None:
    words = ["--algorithm", algorithm, "--engine", "vectorised", "--threads", "1", "--save", "--results", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train", TRAIN)
        options = ["--options", "tasks=40", "--options", "dimension=5", "--options", "classes=3"]
        assert main(["run", *words, *options, "--protocol", "rounds=3"]) == 0
    path = record(tmp_path, algorithm, "runs")
    assert ask(path).scores == json.loads(path.read_text())["scores"]["selected"]


def test_new_environments_come_out_again(made: Path, tmp_path: Path) -> None:
    path = record(made, "few_round", "drawn")
    found = ask(path)
    recorded = pd.read_csv(path.with_suffix(".clients.csv"), dtype={"client": "string", "environment": "string"})
    pd.testing.assert_frame_equal(as_read(found, tmp_path / "found.csv"), recorded, check_exact=True)
    assert found.scores == json.loads(path.read_text())["scores"]["selected"]
    assert [line.split()[-1] for line in found.text.splitlines()[-2:]] == ["same", "same"]
    later = ask(path, rounds=(1, 3), model="final", clients=("validation",))
    assert set(later.clients["rounds"]) == {1, 3}
    assert not set(later.clients["environment"]) & set(found.clients["environment"])


def test_another_support_is_scored_as_a_run_would(made: Path, tmp_path: Path) -> None:
    """Supports decide nothing in training: a run that has them from the start gives the same."""
    suite = CLIENTS.replace("[0.2, 0.5]", "[0.35]").split("[algorithms.")[0] + "[algorithms.maml]\n"
    (tmp_path / "suite.toml").write_text(suite)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train", TRAIN)
        words = ["--engine", "sequential", "--threads", "1", "--no-report", "--results", str(tmp_path)]
        assert main(["suite", str(tmp_path / "suite.toml"), *words]) == 0
    expected = json.loads(record(tmp_path, "maml").read_text())["scores"]["selected"]
    found = ask(record(made, "maml"), supports=(0.35,))
    assert found.scores == expected
    assert found.text.splitlines()[-1].split()[-1] != "same", "the record was never asked this"


def test_other_steps_are_scored_as_a_run_with_them_would(made: Path) -> None:
    """Steps of adaptation decide nothing in training either, but for the selected round."""
    expected = json.loads(record(made, "longer").read_text())["scores"]["final"]
    found = ask(record(made, "fedavg_meta"), model="final", changes={"adapt_steps": 8})
    assert found.scores == expected
    assert "changed: adapt_steps = 8 (the record's: 5)" in found.text
    assert "same" not in found.text


def test_validation_clients_have_the_accuracy_that_selected_the_model(made: Path) -> None:
    path = record(made, "reptile")
    [one] = [each for each in read_records(made / "small") if each.path == path]
    rounds, number = one.rounds.set_index("round"), one.content.selected_round
    assert number is not None
    found = ask(path, clients=("validation",), supports=(0.2,)).scores["0.2"]
    assert found["after"]["pooled"] == rounds["validation_after"][number]
    assert found["before"]["pooled"] == rounds["validation_before"][number]


def test_clients_are_chosen_by_part_or_by_id(made: Path) -> None:
    path = record(made, "fedavg")
    parts = {part: ask(path, clients=(part,)) for part in ("train", "validation", "test")}
    sizes = json.loads(path.read_text())["data"]["clients"]
    assert {part: found.clients["client"].nunique() for part, found in parts.items()} == sizes
    assert "clients: train, whose examples were trained on" in parts["train"].text
    chosen = [parts[part].clients["client"].iloc[0] for part in ("train", "test")]
    found = ask(path, clients=(*chosen, chosen[0]))
    assert "clients: 1 of train, 1 of test" in found.text
    both = pd.concat([parts["train"].clients, parts["test"].clients])
    expected = both[both["client"].isin(chosen)]
    order = ["support", "client", "step"]
    pd.testing.assert_frame_equal(
        found.clients.sort_values(order, ignore_index=True), expected.sort_values(order, ignore_index=True)
    )


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ({"clients": ("nobody",)}, "unknown client of synthetic 'nobody'"),
        ({"clients": ()}, "choose at least one client"),
        ({"supports": (1.0,)}, "supports between 0 and 1"),
        ({"rounds": (1,)}, "clients are scored at --supports"),
        ({"changes": {"adapt_stps": 1}}, "unknown option of fedavg_meta 'adapt_stps'"),
        ({"changes": {"adapt_steps": -1}}, "adapt_steps = -1"),
    ],
)
def test_a_question_that_cannot_be_is_one_sentence(made: Path, question: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ask(record(made, "fedavg_meta"), **question)


def test_what_new_environments_cannot_be_asked(made: Path) -> None:
    path = record(made, "few_round", "drawn")
    for question, sentence in (
        ({"supports": (0.5,)}, "use --rounds"),
        ({"clients": ("train",)}, "--clients validation or test"),
        ({"rounds": (-1,)}, "rounds from 0"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            ask(path, **question)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"status": "diverged", "scores": {}}, "diverged: it has no model to score"),
        ({"saved": None}, "did not keep its model: run its cell with --save"),
        ({"data": {"data_hash": "0" * 64}}, "made from other data than what is prepared here"),
        ({"data": {"split_hash": "0" * 64}}, "splits clients otherwise"),
        ({"selected_round": 0}, "lacks a tensor 'selected.broadcast"),
    ],
)
def test_another_record_is_one_sentence(made: Path, tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    path = record(made, "fedavg")
    other = tmp_path / path.name
    for suffix in (".clients.csv", ".rounds.csv", ".safetensors"):
        other.with_suffix(suffix).write_bytes(path.with_suffix(suffix).read_bytes())
    content = json.loads(path.read_text())
    data = {**content["data"], **change.get("data", {})}
    other.write_text(json.dumps({**content, **change, "data": data}))
    with pytest.raises(DataError, match=sentence):
        ask(other)


def test_a_change_that_makes_another_state_is_one_sentence(made: Path) -> None:
    with pytest.raises(DataError, match=r"has a tensor 'final\.kept"):
        ask(record(made, "maml"), changes={"server_optimizer": {"name": "sgd", "lr": 0.1}})


def test_code_that_has_changed_since_is_said(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record(made, "fedavg")
    assert "changed" not in ask(path).text
    monkeypatch.setattr(run, "of_run", lambda *_: {"algorithm": "0" * 64})
    assert "changed: the code since the run (algorithm)" in ask(path).text


def test_the_command_prints_a_table_and_writes_the_rows(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = record(made, "fedavg_meta"), tmp_path / "found.csv"
    words = ["--supports", "0.2", "--set", "adapt_steps=1", "--output", str(output), "--threads", "1"]
    assert main(["evaluate", str(path), *words]) == 0
    out = capsys.readouterr().out
    assert "synthetic/fedavg_meta seed 1, selected model" in out
    assert "changed: adapt_steps = 1 (the record's: 5)" in out
    heading, row = out.splitlines()[-3:-1]
    found = ask(path, supports=(0.2,), changes={"adapt_steps": 1}).scores["0.2"]["after"]
    place = heading.split("  after")[0]
    assert row[len(place) : len(place) + 7].strip() == f"{100 * found['pooled']:.1f}"
    table = pd.read_csv(output)
    assert list(table) == list(pd.read_csv(path.with_suffix(".clients.csv")))
    assert set(table["step"]) == {0, 1}
