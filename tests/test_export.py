"""Exported models: a loader that gives the very logits that were scored, from a file and torch alone."""

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small_tasks import ON_LOGISTIC, others_slow

from metaleaf import models
from metaleaf.algorithm import State
from metaleaf.cli import main
from metaleaf.config.config import resolve
from metaleaf.data.federation import Federation
from metaleaf.data.prepare import load
from metaleaf.errors import ConfigError, DataError
from metaleaf.reuse.export import export, state_dict
from metaleaf.runs.saved import save_state
from metaleaf.seeds import derive
from metaleaf.submission.entry import read_one
from metaleaf.task import Task

EACH_ITS_OWN = {"ifca", "pefll"}
"""Algorithms that choose or write a model for each client."""

SEVERAL = {"bmaml", "fedem", "protonet", "fedproto"}
"""Algorithms that predict from more than one model's parameters."""

SUITE = f"""
name = "small"
title = "Small"
seeds = [1]

[protocol]
rounds = 2
clients_per_round = 3
evaluate_every = 1
test_supports = [0.2]

[datasets.synthetic]
options = {{ tasks = 40, dimension = 5, classes = 3 }}

{"".join(f"[algorithms.{name}]{chr(10)}" for name in ON_LOGISTIC)}
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
rounds = [0]

[datasets.synthetic_environments]
options = { tasks = 60, clusters = 6, dimension = 5, classes = 3, size_mean = 3.0, size_sd = 0.1 }

[algorithms.few_round]
start = { name = "fedavg", share = 0.5 }
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The results of both suites; their data stays prepared for the tests."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEAF_DATA", str(root / "data"))
        for text in (SUITE, ENVIRONMENTS):
            (root / "suite.toml").write_text(text)
            words = ["--engine", "sequential", "--threads", "1", "--save", "--no-report", "--results", str(root)]
            assert main(["suite", str(root / "suite.toml"), *words]) == 0
        yield root


def record(root: Path, algorithm: str, suite: str = "small") -> Path:
    [path] = root.glob(f"{suite}/*/{algorithm}/*/seed-*.json")
    return path


def loaded(loader: Path) -> torch.nn.Module:
    """What the loader makes when it is run."""
    model = runpy.run_path(str(loader))["model"]
    assert isinstance(model, torch.nn.Module)
    return model


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("algorithm", others_slow(sorted({*ON_LOGISTIC} - EACH_ITS_OWN - SEVERAL)))
def test_the_exported_model_answers_as_the_record_says(made: Path, tmp_path: Path, algorithm: str, suffix: str) -> None:
    """Right answers and loss of every test client before adaptation, of both models."""
    path = record(made, algorithm)
    config = read_one(path).config
    federation = Federation(load(config.dataset, config.build_dataset()), config.protocol, config.seed)
    recorded = pd.read_csv(path.with_suffix(".clients.csv"), dtype={"client": "string"})
    for kind in ("final", "selected"):
        _, loader = export(path, tmp_path / f"{kind}{suffix}", kind)
        model = loaded(loader)
        rows = recorded[(recorded["model"] == kind) & (recorded["step"] == 0)].set_index("client")
        assert len(rows)
        for client in federation.clients["test"]:
            _, query = federation.support_query(int(client), 0.2)
            row = rows.loc[str(federation.store.ids[client])]
            with torch.no_grad():
                logits = model(query.x)
            assert int((logits.argmax(-1) == query.y).sum()) == row["correct"]
            loss = torch.nn.functional.cross_entropy(logits, query.y)
            assert float(loss) == pytest.approx(row["loss"], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("algorithm", sorted(EACH_ITS_OWN | SEVERAL))
def test_what_is_not_one_model_is_not_exported(made: Path, tmp_path: Path, algorithm: str) -> None:
    """Stacked models, too, though their tensors have a model's names."""
    why = "predicts from more" if algorithm in SEVERAL else "chooses or writes a model for each client, so there is no"
    with pytest.raises(ConfigError, match=why):
        export(record(made, algorithm), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_the_loader_needs_neither_data_nor_record(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Export and loader, each where nothing is prepared; the loader in a process of its own, in another folder."""
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    path = shutil.copytree(record(made, "meta_sgd").parent, tmp_path / "given") / "seed-1.json"
    assert main(["export", str(path)]) == 0
    file, loader = capsys.readouterr().out.split()
    assert (file, loader) == (
        "synthetic_meta_sgd_seed_1_selected.safetensors",
        "load_synthetic_meta_sgd_seed_1_selected.py",
    )
    shutil.rmtree(path.parent)
    assert not (tmp_path / "empty").exists()
    found = subprocess.run([sys.executable, tmp_path / loader], cwd="/", capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert "model.eval()" in (tmp_path / loader).read_text()


def test_parameters_are_the_states_to_the_bit(made: Path, tmp_path: Path) -> None:
    path = record(made, "fedavg")
    file, _ = export(path, tmp_path / "model.safetensors", "final")
    from safetensors.torch import load_file

    state, found = load_file(path.with_suffix(".safetensors")), load_file(file)
    assert all(torch.equal(found[name], state[f"final.broadcast.{name}"]) for name in found)
    export(path, tmp_path / "model.pt", "final")
    same = torch.load(tmp_path / "model.pt", weights_only=True)
    assert same.keys() == found.keys()
    assert all(torch.equal(same[name], leaf) for name, leaf in found.items())


def test_a_model_for_new_environments_is_the_one_they_start_from(made: Path, tmp_path: Path) -> None:
    path = record(made, "few_round", "drawn")
    _, loader = export(path, tmp_path / "model.pt", "final")
    model = loaded(loader)
    assert model(torch.zeros(2, 5)).shape == (2, 3)


def test_parameters_that_are_never_trained_are_exported_too(made: Path, tmp_path: Path) -> None:
    """LEAF's LSTM has constant biases, which no algorithm sends."""
    given = read_one(record(made, "fedavg"))
    config = given.config.model_copy(
        update={
            "dataset": "shakespeare",
            "dataset_options": resolve("datasets", "shakespeare", {}),
            "model": "lstm",
        }
    )
    spec = {"classes": 80, "x_shape": (80,), "x_dtype": "uint8"}
    module = models.build("lstm", spec, derive(config.seed, "model"))
    trained = {name: leaf + 1 for name, leaf in Task(module).params().items()}
    about = save_state(tmp_path / "seed-1.safetensors", State(trained), None)
    content = type(given.content).model_validate(
        {**json.loads(given.record.path.read_text()), "saved": about, "selected_round": 2}
    )
    other = given._replace(config=config, record=replace(given.record, path=tmp_path / "seed-1.json", content=content))
    found, _ = state_dict(other, "final")
    assert found.keys() == module.state_dict().keys() > trained.keys()
    for name, leaf in module.state_dict().items():
        assert torch.equal(found[name], leaf + 1 if name in trained else leaf)


def test_no_file_of_the_users_is_overwritten(made: Path, tmp_path: Path) -> None:
    mine = tmp_path / "load_model.py"
    mine.write_text("print('mine')\n")
    with pytest.raises(ConfigError, match=r"load_model.py is there and no loader of ours"):
        export(record(made, "fedavg"), tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == [mine]
    mine.unlink()
    for _ in range(2):
        export(record(made, "fedavg"), tmp_path / "model.pt")  # its own it may
    with pytest.raises(ConfigError, match=r"choose a name that ends in .safetensors or .pt"):
        export(record(made, "fedavg"), tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"status": "diverged", "scores": {}}, "diverged: it has no model"),
        ({"saved": None}, "did not keep its model"),
    ],
)
def test_a_record_without_a_model_is_one_sentence(
    made: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    path = shutil.copytree(record(made, "fedavg").parent, tmp_path / "given") / "seed-1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=sentence):
        export(path, tmp_path / "model.pt")
