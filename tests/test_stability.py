"""How far rounding moves a run: measured, written into its record, and told from what is no rounding."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from metaleaf import models
from metaleaf.cli import main
from metaleaf.records.records import read_records
from metaleaf.runs.rounding import Rounding
from metaleaf.submission import stability
from metaleaf.submission.entry import entry
from metaleaf.submission.stability import variants

SUITE = """
name = "tiny"
title = "Tiny"
seeds = [1]

[protocol]
rounds = 4
clients_per_round = 3
evaluate_every = 2
test_supports = [0.5]

[datasets.synthetic_shared]
options = { tasks = 40, dimension = 5, classes = 3 }
model = "logistic"

[algorithms.local]

[algorithms.fedavg]
client_optimizer = { name = "sgd", lr = 0.1 }
"""
SPEC = {"classes": 3, "x_shape": (4,), "x_dtype": "float32"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the suite and its records; its data stays prepared for the tests."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEAF_DATA", str(root / "data"))
        (root / "tiny.toml").write_text(SUITE)
        assert main(["suite", str(root / "tiny.toml"), "--results", str(root), "--threads", "1", "--no-report"]) == 0
        yield root


@pytest.fixture
def suite(made: Path, tmp_path: Path) -> list[str]:
    """The words of a command on a suite whose records, which a test may change, are in its own folder."""
    shutil.copytree(made / "tiny", tmp_path / "tiny")
    return [str(made / "tiny.toml"), "--results", str(tmp_path), "--threads", "1", "--no-report"]


def paths(root: Path) -> dict[str, Path]:
    return {path.parts[-3]: path for path in root.glob("tiny/*/*/*/seed-1.json")}


def test_what_rounding_moves_is_written_into_the_record_and_nothing_else_changes(
    suite: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: path.read_text() for name, path in paths(tmp_path).items()}
    assert main(["stability", *suite, "--algorithms", "fedavg"]) == 0
    assert "moves no score" in capsys.readouterr().err
    after = {name: path.read_text() for name, path in paths(tmp_path).items()}
    assert before["local"] == after["local"]
    record = json.loads(after["fedavg"])
    found = record.pop("rounding")
    assert json.dumps(record, indent=1) + "\n" == before["fedavg"]
    assert list(found["variants"]) == ["start 1", "sequential", "start 2", "start 3", "float64", "2 threads"]
    assert found["moved"] == max(found["variants"].values()) <= 0.01
    [with_figure, without] = read_records(tmp_path / "tiny")
    assert with_figure.content.rounding is not None
    assert without.content.rounding is None
    assert main(["submit", "check", str(tmp_path / "tiny"), "--suite", suite[0]]) in (0, 1)
    assert "rounding" not in capsys.readouterr().out
    assert main(["verify", str(paths(tmp_path)["fedavg"])]) == 0


def test_it_goes_on_where_it_was_stopped_and_measures_nothing_twice(
    suite: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def stopped(settings: Any, config: Any, variant: Any, on_round: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(variant.name)
        path = paths(tmp_path)["fedavg"]
        return entry(path, path.name)

    monkeypatch.setattr(stability, "_computed", stopped)
    assert main(["stability", *suite, "--algorithms", "fedavg"]) == 130
    kept = json.loads(paths(tmp_path)["fedavg"].read_text())["rounding"]["variants"]
    assert list(kept) == done == ["start 1", "sequential"]
    monkeypatch.undo()
    computed = stability._computed
    again: list[str] = []

    def counted(settings: Any, config: Any, variant: Any, on_round: Any) -> Any:
        again.append(variant.name)
        return computed(settings, config, variant, on_round)

    monkeypatch.setattr(stability, "_computed", counted)
    assert main(["stability", *suite, "--algorithms", "fedavg"]) == 0
    assert again == ["start 2", "start 3", "float64", "2 threads"]
    assert main(["stability", *suite, "--algorithms", "fedavg"]) == 0
    assert len(again) == 4


def test_a_figure_that_is_not_the_farthest_breaks_a_rule(
    suite: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = paths(tmp_path)["local"]
    content = json.loads(path.read_text())
    content["rounding"] = {"moved": 0.0, "by": "start 1", "variants": {"start 1": 0.0, "float64": 0.05}}
    path.write_text(json.dumps(content))
    assert main(["verify", str(path)]) == 1
    assert "[rounding]" in capsys.readouterr().out


def test_unknown_names_are_refused(suite: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stability", *suite, "--datasets", "synthetic"]) == 2
    assert "did you mean 'synthetic_shared'" in capsys.readouterr().err
    assert main(["stability", *suite, "--seeds", "9"]) == 2


def test_every_way_is_another_way_than_the_records(suite: list[str], tmp_path: Path) -> None:
    path = paths(tmp_path)["fedavg"]
    given = entry(path, path.name)
    made = given.made.engine
    ways = variants(given)
    assert all((v.mode, v.threads, v.rounding) != (made.mode, made.threads, Rounding()) for v in ways)
    assert len({v[1:] for v in ways}) == len({v.name for v in ways}) == len(ways)


def test_every_parameter_moves_by_one_bit_and_the_model_given_stays() -> None:
    model = models.build("mlp", SPEC, 1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    nudged = dict(Rounding(nudge=1).applied(model).named_parameters())
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
        ups, downs = (torch.nextafter(p, torch.full_like(p, end)) for end in (float("inf"), float("-inf")))
        assert ((nudged[name] == ups) | (nudged[name] == downs)).all()
    weights = nudged["hidden.weight"] > before["hidden.weight"]
    assert 0.3 < float(weights.double().mean()) < 0.7
    other = dict(Rounding(nudge=2).applied(model).named_parameters())
    assert not torch.equal(nudged["hidden.weight"], other["hidden.weight"])


def test_double_precision_is_that_all_the_way() -> None:
    model = Rounding("float64").applied(models.build("mlp", SPEC, 1))
    assert {p.dtype for p in model.parameters()} == {torch.float64}
