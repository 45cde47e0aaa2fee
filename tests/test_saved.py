"""Saved models: the state that training ended with, to the bit, and no file but the one that its record names."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coins
import pytest
import small_environments
import torch
from safetensors.torch import load_file
from small_tasks import ON_LOGISTIC, others_slow

from metaleaf import trees
from metaleaf.cli import main
from metaleaf.config.config import RunConfig
from metaleaf.environments.run import EnvironmentRun
from metaleaf.errors import DataError
from metaleaf.files import tensor_files
from metaleaf.records.environments import EnvironmentRecord
from metaleaf.records.records import Record, read_record
from metaleaf.runs import store
from metaleaf.runs.run import Progress, Run
from metaleaf.runs.saved import Saved, load_state
from metaleaf.runs.store import Cell

STORE = coins.store()


class Watched(Run):
    """A run that remembers what it ended with."""

    ended: Progress

    def train(self, *where: Any) -> Progress:
        self.ended = super().train(*where)
        return self.ended


class WatchedInEnvironments(Watched, EnvironmentRun):
    pass


def saved(root: Path, config: RunConfig) -> tuple[Cell, dict[str, Any]]:
    cell = Cell(root, config)
    return cell, Run(config, STORE).execute(cell, save=True)


def loaded(cell: Cell, run: Run) -> Saved:
    kind = EnvironmentRecord if isinstance(run, EnvironmentRun) else Record
    like = run.algorithm.init(run.task, run.task.params())
    return load_state(cell.record_path, read_record(kind, cell.record_path).content, like)


def assert_same(found: Saved, progress: Progress) -> None:
    expected = trees.named_leaves([progress.state, progress.best])
    same = trees.named_leaves([found.final, found.selected])
    assert same.keys() == expected.keys()
    assert all(torch.equal(same[name], leaf) and same[name].dtype == leaf.dtype for name, leaf in expected.items())


@pytest.mark.parametrize("algorithm", others_slow(ON_LOGISTIC))
def test_what_is_loaded_is_what_training_ended_with(tmp_path: Path, algorithm: str) -> None:
    config = coins.config(algorithm)
    cell, run = Cell(tmp_path, config), Watched(config, STORE, mode="sequential")
    record = run.execute(cell, save=True)
    assert_same(loaded(cell, run), run.ended)
    content = cell.state_path.read_bytes()
    about = record["saved"]
    assert (about["sha256"], about["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert about["tensors"] == sorted(load_file(cell.state_path))
    assert cell.state_path.stat().st_mode == cell.record_path.stat().st_mode, "whoever may read one may read both"


def test_a_selected_model_of_another_round_is_beside_the_final_one(tmp_path: Path) -> None:
    """With a rate that destroys what the first rounds found, the best round is not the last."""
    config = coins.config("fedavg", hyperparameters={"client_optimizer": {"name": "sgd", "lr": 30.0}}, rounds=8)
    cell, run = Cell(tmp_path, config), Watched(config, STORE)
    record = run.execute(cell, save=True)
    assert record["selected_round"] < record["rounds"]
    assert_same(loaded(cell, run), run.ended)
    assert {name.split(".")[0] for name in record["saved"]["tensors"]} == {"final", "selected"}


def test_a_run_in_new_environments_is_kept_too(tmp_path: Path) -> None:
    config, data = small_environments.config("few_round"), small_environments.store()
    cell, run = Cell(tmp_path, config), WatchedInEnvironments(config, data)
    run.execute(cell, save=True)
    assert_same(loaded(cell, run), run.ended)


def test_nothing_is_kept_unless_asked_for(tmp_path: Path) -> None:
    config = coins.config("fedavg")
    cell, _ = saved(tmp_path, config)
    record = Run(config, STORE).execute(cell)
    assert "saved" not in record
    assert not cell.state_path.exists(), "of the earlier run"
    with pytest.raises(DataError, match="did not keep its model: run its cell with --save"):
        loaded(cell, Run(config, STORE))


def test_a_diverged_run_has_no_model_to_keep(tmp_path: Path) -> None:
    config = coins.config("fedavg", hyperparameters={"client_optimizer": {"name": "sgd", "lr": 1e40}, "epochs": 3})
    cell, record = saved(tmp_path, config)
    assert record["status"] == "diverged"
    assert "saved" not in record
    assert cell.has_model(record), "as far as it can"


def test_a_record_is_written_after_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_json", full)
    config = coins.config("fedavg")
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, config)
    cell = Cell(tmp_path, config)
    assert cell.state_path.exists()
    assert not cell.done()


def rewritten(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """The file with other tensors, as its record names it then."""

    def damage(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        tensor_files.write(path, tensors)
        named(path)

    return damage


def named(path: Path) -> None:
    record = path.with_suffix(".json")
    content, now = json.loads(record.read_text()), path.read_bytes()
    content["saved"] |= {"sha256": hashlib.sha256(now).hexdigest(), "bytes": len(now)}
    record.write_text(json.dumps(content))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def replaced(content: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(content)
        named(path)

    return damage


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a file was unpickled",)


WEIGHT = "final.broadcast.out.weight"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (Path.unlink, "there is no seed-1.safetensors in .*belongs beside its record"),
        (flipped, "is not the file that its record names"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "is not the file that its record names"),
        (replaced(b""), "is damaged"),
        (replaced(b"\xff" * 64), "is damaged"),
        (replaced(pickle.dumps(Bomb())), "is damaged"),
        (rewritten(lambda t: t.pop(WEIGHT)), "lacks a tensor 'final.broadcast.out.weight'"),
        (rewritten(lambda t: t.update({"a\x1b[2J": t[WEIGHT].clone()})), r"has a tensor 'a\\x1b\[2J'"),
        (rewritten(lambda t: t.update({WEIGHT: t[WEIGHT].double()})), r"is not torch.float32 of shape \(3, 4\)"),
        (rewritten(lambda t: t.update({WEIGHT: t[WEIGHT].T.contiguous()})), r"is not torch.float32 of shape \(3, 4\)"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, damage: Callable[[Path], Any], sentence: str) -> None:
    config = coins.config("fedavg")
    cell, _ = saved(tmp_path, config)
    damage(cell.state_path)
    with pytest.raises(DataError, match=sentence):
        loaded(cell, Run(config, STORE))


def test_a_finished_cell_without_its_model_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    small = ["--options", "tasks=40", "--options", "dimension=5", "--protocol", "rounds=2", "--algorithm", "fedavg"]
    command = ["run", *small, "--results", str(tmp_path)]
    assert main(command) == 0
    assert main([*command, "--save"]) == 2
    sentence = "was made without its model beside it: add --again to make it again, or --keep to take it as it is"
    assert sentence in capsys.readouterr().err
    assert main([*command, "--save", "--keep"]) == 0
    assert "kept, though made without its model beside it" in capsys.readouterr().err
    [record] = tmp_path.glob("runs/*/*/*/seed-1.json")
    assert not record.with_suffix(".safetensors").exists()
    assert main([*command, "--save", "--again"]) == 0
    before = record.stat().st_mtime_ns
    assert record.with_suffix(".safetensors").exists()
    assert main([*command, "--save"]) == 0, "already finished, with its model"
    assert record.stat().st_mtime_ns == before
    record.with_suffix(".safetensors").unlink()
    assert main([*command, "--save"]) == 2, "its model is gone"
