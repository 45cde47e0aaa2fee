"""The list of algorithms: bytes counted by hand, rows for what cannot be counted, and a README that is not stale."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import coins
import pytest
import torch

from metaleaf import models, registry, trees
from metaleaf.algorithm import Reply, State, Traffic
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.maml import MAML
from metaleaf.catalogue import catalogue, starter
from metaleaf.catalogue.catalogue import Cost, Place
from metaleaf.cli import main
from metaleaf.errors import ConfigError
from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell
from metaleaf.shots import Episode
from metaleaf.task import Params, Task
from metaleaf.trees import Tree

SPEC = {"classes": 3, "x_shape": (4,), "x_dtype": "float32"}
PLACE = Place("nowhere", "logistic", SPEC)
MODEL = (4 * 3 + 3) * 4
"""Bytes of its softmax regression."""


def measured(algorithm: Any) -> Cost:
    task = Task(models.build("logistic", SPEC, seed=0).to("meta"), clients=100, cohort=10)
    return catalogue.cost(algorithm, task, SPEC)


@dataclass(frozen=True)
class Heads(FedAvg):
    """Sends the bias only, and remembers two models and a number."""

    each: ClassVar[bool] = True

    def memory(self, task: Task, params: Params) -> Tree:
        return {"two": [params, params], "visits": torch.zeros((), device=task.device)}

    def client(self, task: Task, params: Params, episode: Episode) -> Reply:
        moved = super().client(task, params, episode)
        return Reply({"out.bias": moved["out.bias"]}, episode.memory)


@dataclass(frozen=True)
class Terse(FedAvg):
    """Two bytes down, nothing up."""

    def traffic(self, broadcast: Tree, update: Tree) -> Traffic:
        assert set(update) == {"out.weight", "out.bias"}
        return Traffic(torch.zeros(2, dtype=torch.int8), ())


@dataclass(frozen=True)
class Picky(FedAvg):
    """Serves no model of this size."""

    def init(self, task: Task, params: Params) -> State:
        raise ConfigError("picky needs an even number of classes.")


@dataclass(frozen=True)
class Broken(FedAvg):
    """Has a bug."""

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        return params["no such layer"]


@dataclass(frozen=True)
class Whole(MAML):
    """Learns from whole environments."""

    unit: ClassVar[str] = "environment"

    def client(self, task: Task, params: Params, episode: Any) -> Tree:
        raise AssertionError("not for a client")


def test_costs_by_hand() -> None:
    assert measured(FedAvg()) == Cost(1, 1, None)
    assert measured(FedAvg()).relative == 1
    assert measured(registry.plugin("algorithms", "meta_sgd")()) == Cost(2, 2, None)
    assert measured(registry.plugin("algorithms", "local")()) == Cost(0, 0, None)
    assert measured(Heads()) == Cost(1, 12 / MODEL, 2 + 4 / MODEL)
    assert measured(Terse()) == Cost(2 / MODEL, 0, None)


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Algorithms of this file under their names."""
    mine = {cls.__name__.lower(): cls for cls in (Heads, Terse, Picky, Broken, Whole)}
    found = registry.plugin

    def plugin(kind: str, name: str) -> Any:
        if name == "absent":
            raise ImportError("No module named 'jax'")
        return mine[name] if name in mine else found(kind, name)

    monkeypatch.setattr(registry, "plugin", plugin)
    return [*mine, "absent", "fedavg"]


def test_a_plugin_that_cannot_serve_a_model_gets_a_row_that_says_so(others: list[str]) -> None:
    found = {entry.name: entry for entry in catalogue.entries(others, [PLACE])}
    assert found["picky"].costs == ("cannot serve logistic on nowhere: picky needs an even number of classes.",)
    assert found["broken"].costs == ("cannot serve logistic on nowhere: KeyError: 'no such layer'",)
    assert found["absent"].costs == ("ImportError: No module named 'jax'",)
    for render in (catalogue.text, catalogue.markdown):
        lines = render(list(found.values()), PLACE).splitlines()
        cells = {name: next(line for line in lines if re.match(rf"(\| )?{name}\b", line)) for name in found}
        assert "– (per environment)" in cells["whole"]
        assert "each" in cells["heads"]
        assert "2.07" in cells["heads"]
        assert "0.60" in cells["heads"]
        assert "1.00" in cells["fedavg"]
        assert "picky: cannot serve logistic on nowhere: picky needs an even number of classes." in lines


def test_rows_are_by_family_then_name(others: list[str]) -> None:
    names = [entry.name for entry in catalogue.entries(others, [PLACE])]
    assert names == ["broken", "fedavg", "heads", "picky", "terse", "whole", "absent"]


@pytest.mark.parametrize(("dataset", "model"), catalogue.README_PLACES)
def test_no_built_in_algorithm_has_a_bug_here(dataset: str, model: str) -> None:
    found = catalogue.entries(sorted(registry.built_in("algorithms")), [catalogue.place(dataset, model)])
    assert {entry.name for entry in found} <= set(registry.names("algorithms"))
    for entry in found:
        assert entry.about
        for cost in entry.costs:
            assert not (isinstance(cost, str) and re.search(r"\w+(Error|Exception): ", cost)), (entry.name, cost)


@pytest.mark.parametrize("name", ["fedavg", "meta_sgd"])
def test_bytes_are_those_that_a_run_counts(tmp_path: Path, name: str) -> None:
    store, config = coins.store(), coins.config(name)
    record = Run(config, store).execute(Cell(tmp_path, config))
    task = Task(models.build(config.model, store.about["spec"], seed=0).to("meta"))
    cost = catalogue.cost(config.build_algorithm(), task, store.about["spec"])
    sent = record["rounds"] * config.protocol.clients_per_round * trees.nbytes(task.params())
    assert record["cost"]["bytes_down"] == sent * cost.down
    assert record["cost"]["bytes_up"] == sent * cost.up


def test_the_readme_of_algorithms_is_not_stale() -> None:
    path = starter.checkout() / "algorithms" / "README.md"
    assert path.read_text(encoding="utf-8") == catalogue.readme(), f"{path} is stale: run `{catalogue.RENEW}`"
    links = re.findall(r"\]\((\w+(?:\.py|/))\)", catalogue.readme())
    assert len(links) == len(registry.built_in("algorithms"))
    assert all((path.parent / link).exists() for link in links)


def test_the_readme_leaves_out_algorithms_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "names", lambda kind: ["elsewhere"])
    monkeypatch.setattr(catalogue, "README_PLACES", [("synthetic", "logistic")])
    text = catalogue.readme()
    assert "elsewhere" not in text
    assert "[fedavg](fedavg.py)" in text


def test_the_command_that_renews_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "algorithms").mkdir()
    monkeypatch.setattr(catalogue, "checkout", lambda: tmp_path)
    assert main(catalogue.RENEW.split()[1:]) == 0
    path = tmp_path / "algorithms" / "README.md"
    assert capsys.readouterr().out.strip() == str(path)
    assert path.read_text(encoding="utf-8") == catalogue.readme()


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms"]) == 0
    out = capsys.readouterr().out
    assert "logistic on synthetic" in out
    for name in registry.names("algorithms"):
        assert re.search(rf"^{name} ", out, re.MULTILINE)
    assert re.search(r"^fedavg +FedAvg +averaging +1 +no +mean +1\.00 +McMahan", out, re.MULTILINE)
    assert main(["algorithms", "--markdown", "--model", "cnn"]) == 0
    out = capsys.readouterr().out
    assert "cnn on femnist" in out
    assert "| fedavg | FedAvg | averaging | McMahan et al. 2017, arXiv 1602.05629 | 1 | no | mean | 1.00 |" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "cn"], "unknown model 'cn': did you mean"),
        (["--dataset", "synthtic"], "unknown dataset 'synthtic': did you mean 'synthetic'"),
        (["--dataset", "synthetic", "--model", "cnn"], "model 'cnn' cannot read float32 examples of shape (60,)"),
    ],
)
def test_errors_are_one_sentence(capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert main(["algorithms", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_model_that_is_no_datasets_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "names", lambda kind: ["synthetic"])
    with pytest.raises(ConfigError, match="no dataset has 'cnn' as its own model: name one with --dataset"):
        catalogue.place(None, "cnn")
    assert json.dumps(catalogue.place(None, "logistic").spec)
