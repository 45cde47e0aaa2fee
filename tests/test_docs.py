"""docs/write-an-algorithm.md: its code, commands and suite run, and its links lead somewhere; docs/models.md, too."""

import re
import sys
import tomllib
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_cases
import torch
from brought_models import bring
from documented import both_ways, executed, fenced, mixed
from small_tasks import RAGGED, episode, task
from torch.testing import assert_close

from metaleaf import models, registry, tasks, trees
from metaleaf.catalogue import starter
from metaleaf.catalogue.starter import checkout, render
from metaleaf.cli import main
from metaleaf.learning import descend, last
from metaleaf.runs.evaluate import score_clients
from metaleaf.runs.run import Run
from metaleaf.seeds import normal
from metaleaf.statistics.statistics import summaries
from metaleaf.task import Task

PATH = checkout() / "docs" / "write-an-algorithm.md"
PAGE = PATH.read_text(encoding="utf-8")
CODE, MEMORY, PERSONAL, PARTS, TILTED, CONTEXT, SEND, EACH, PREDICT, REPORT, TRAFFIC = fenced(PAGE, "python")
SUITE, *_ = fenced(PAGE, "toml")
SMALL = (
    "--options",
    "tasks=40",
    "--options",
    "dimension=5",
    "--protocol",
    "rounds=3",
    "--protocol",
    "test_supports=[0.2]",
)


@cache
def tether() -> type[Any]:
    return executed(CODE)


def test_the_page_shows_what_the_command_writes() -> None:
    assert render("tether", "metaleaf.algorithms.tether")[0] == CODE
    body = CODE[CODE.index("class Tether") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 30


def test_the_algorithm() -> None:
    found, work = both_ways(tether()()), task("logistic")
    assert [len(rows) for rows in found.scores] == [6] * 4
    params, moves = work.params(), []
    for i, sizes in enumerate(RAGGED):
        own = params
        one = episode("logistic", *sizes, seed=i)
        for _ in range(5):
            gradient = torch.func.grad(work.loss)(own, one.data)
            own = {key: own[key] - 0.1 * (gradient[key] + 0.1 * (own[key] - params[key])) for key in own}
        moves.append(trees.subtract(own, params))
    mean = trees.weighted_sum(trees.stack(moves), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
    assert_close(found.updates[0], mean, rtol=1e-9, atol=1e-12)
    assert both_ways(tether()(), "small_cnn").bytes_up == both_ways(tether()(), "small_cnn").bytes_down


def test_a_client_keeps_where_it_has_moved() -> None:
    found = both_ways(mixed(tether(), MEMORY)())
    first, second = ([kept["out.bias"] for kept in kept_by_all] for kept_by_all in found.memories)
    assert_close(sum(w * b for w, b in zip([0.1, 0.2, 0.3, 0.4], first, strict=True)), found.updates[0]["out.bias"])
    moved = [b - a for a, b in zip(first, second, strict=True)]
    assert_close(sum(w * b for w, b in zip([0.1, 0.2, 0.3, 0.4], moved, strict=True)), found.updates[1]["out.bias"])


def test_a_participant_uses_its_own() -> None:
    found = both_ways(mixed(tether(), PERSONAL)())
    for i, sizes in enumerate(RAGGED):
        query = episode("logistic", *sizes, seed=i, round_number=2).query
        expected = [task("logistic").score(model, query) for model in (found.state.broadcast, found.memories[1][i])]
        assert_close(found.participants[i], torch.stack(expected), rtol=1e-9, atol=1e-12)
    assert [len(rows) for rows in found.scores] == [6] * 4


def test_only_the_head_adapts() -> None:
    method, work = mixed(tether(), PARTS)(), task("small_cnn")
    both_ways(method, "small_cnn")
    params = work.params()
    own = last(method.adapt(work, params, episode("small_cnn", 3, 2, seed=0).support))
    changed = {name for name in params if not torch.equal(own[name], params[name])}
    assert changed == {"out.weight", "out.bias"} == set(work.split(params, "head")[1])


def test_hard_examples_count_more() -> None:
    found, work = both_ways(mixed(tether(), TILTED)()), task("logistic")
    params, moves = work.params(), []
    for i, sizes in enumerate(RAGGED):
        data = episode("logistic", *sizes, seed=i).data
        weights = work.losses(params, data).softmax(0)

        def loss(p: Any, data: Any = data, weights: Any = weights) -> Any:
            return weights @ work.losses(p, data)

        own = params
        for _ in range(5):
            gradient = torch.func.grad(loss)(own)
            own = {key: own[key] - 0.1 * (gradient[key] + 0.1 * (own[key] - params[key])) for key in own}
        moves.append(trees.subtract(own, params))
    mean = trees.weighted_sum(trees.stack(moves), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
    assert_close(found.updates[0], mean, rtol=1e-9, atol=1e-12)


def test_the_server_draws_in_public() -> None:
    found, plain = (both_ways(one()) for one in (mixed(tether(), CONTEXT), tether()))
    params, work = task("logistic").params(), task("logistic")
    assert_close(found.updates[0], plain.updates[0])
    for number, update in enumerate(found.updates, start=1):
        rounds = float(episode("logistic", *RAGGED[0], seed=0, round_number=number).round)
        for i, (name, p) in enumerate(params.items()):
            noise = normal(torch.tensor(number), p.shape, i, p.dtype)
            params[name] = p + update[name] + noise * 0.01 / (1 + rounds)
    assert_close(found.state.broadcast, params)
    assert params.keys() == work.params().keys()


def test_every_client_receives_its_own() -> None:
    method, work = mixed(tether(), SEND)(), task("logistic")
    found, weights = both_ways(method), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    shared, own = work.params(), [work.params()] * 4
    for number in (1, 2):
        for i, sizes in enumerate(RAGGED):
            half = {name: (p + own[i][name]) / 2 for name, p in shared.items()}
            own[i] = last(tether()().adapt(work, half, episode("logistic", *sizes, seed=i, round_number=number).data))
        shared = trees.weighted_sum(trees.stack(own), weights)
    assert_close(found.state.broadcast, shared, rtol=1e-9, atol=1e-12)
    assert_close(trees.unstack(found.state.kept)[:4], own, rtol=1e-9, atol=1e-12)
    assert found.bytes_down == found.bytes_up == 8 * 15


def test_the_server_reads_each() -> None:
    found = both_ways(mixed(tether(), EACH)())
    updates = found.updates[0].updates
    assert updates["out.bias"].shape == (4, 3)
    second = trees.tree_map(lambda p, u: p + u.sort(0).values[1], task("logistic").params(), updates)
    later = trees.tree_map(lambda p, u: p + u.sort(0).values[1], second, found.updates[1].updates)
    assert_close(found.state.broadcast, later)


def test_two_models_predict() -> None:
    found = both_ways(mixed(tether(), PREDICT)())
    assert [rows.shape for rows in found.scores] == [(6, 3)] * 4


def test_the_server_and_clients_report() -> None:
    method, work = mixed(tether(), REPORT)(), task("logistic")
    state = both_ways(method).state
    assert float(method.report(work, state)["length"]) == pytest.approx(trees.length(state.broadcast))
    support = episode("logistic", 3, 2, seed=0).support
    own = last(method.adapt(work, state.broadcast, support))
    found = method.report_client(work, state.broadcast, support)
    assert float(found["moved"]) == pytest.approx(trees.length(trees.subtract(own, state.broadcast)))


def test_signs_travel_as_bytes() -> None:
    found = both_ways(mixed(tether(), TRAFFIC)())
    assert found.bytes_down == 8 * found.bytes_up == 8 * 15


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where nobody has an algorithm called tether yet, but where one can be imported."""
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "algorithms").mkdir()
    (tmp_path / "tests").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "algorithms")
    ours = {kind: registry.built_in(kind) - {"tether"} for kind in registry.METHOD} | {"datasets": {"synthetic"}}
    monkeypatch.setattr(starter, "checkout", lambda: tmp_path)
    monkeypatch.setattr(registry, "built_in", lambda kind: frozenset(ours[kind]))
    return tmp_path


def test_the_commands(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "".join(fenced(PAGE, "console")).splitlines()
    commands = [line.removeprefix("$ metaleaf ").split() for line in lines if line.startswith("$ metaleaf ")]
    assert [words[0] for words in commands] == ["new", "run", "suite"]

    assert main(commands[0]) == 0
    assert (here / "algorithms" / "tether.py").read_text(encoding="utf-8") == CODE
    assert (here / "tests" / "test_tether.py").is_file()

    point = EntryPoint("tether", "tether:Tether", "metaleaf.algorithms")
    monkeypatch.setattr(registry, "_third_party", lambda kind: {"tether": [point]} if kind == "algorithms" else {})
    try:
        capsys.readouterr()
        assert main([*commands[1], *SMALL]) == 0
        assert Path(capsys.readouterr().out.strip()).is_file()

        small = SUITE
        for long, short in (
            ("rounds = 40", "rounds = 2"),
            ("tasks = 200", "tasks = 40"),
            ("seeds = [1, 2]", "seeds = [1]"),
        ):
            assert long in small
            small = small.replace(long, short)
        (here / "first.toml").write_text(small)
        assert main(commands[2]) == 0
        table = capsys.readouterr().out
        for title in ("Majority class", "FedAvg", "FedAvg(Meta)", "Tether"):
            assert re.search(rf"^\| {re.escape(title)} +\|", table, re.MULTILINE)
            assert f"| {title} |" in PAGE
        assert (here / "results" / "first" / "report").is_dir()
    finally:
        sys.modules.pop("tether", None)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGE)
    assert len(links) > 8
    for link in links:
        assert (PATH.parent / link).is_file(), link


def test_the_model_of_the_page_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (checkout() / "docs" / "models.md").read_text(encoding="utf-8")
    [code] = fenced(page, "python")
    scope: dict[str, Any] = {"__name__": "documented"}
    exec(code, scope)
    bring(monkeypatch, {"net": scope["Net"]})
    toml, points = fenced(page, "toml")
    assert tomllib.loads(toml)["datasets"]["synthetic_shared"]["model"] == {"name": "mlp", "hidden": [64, 32]}
    assert tomllib.loads(points)["project"]["entry-points"]["metaleaf.models"]
    work = Task(models.build({"name": "net", "width": 5}, {"classes": 3, "x_shape": (4,), "x_dtype": "float32"}, 1))
    shots = episode("logistic", 6, 6, seed=0).data
    *_, after = descend(work, work.params(), shots, 0.5, 300)
    assert work.loss(after, shots) < 0.6 * work.loss(work.params(), shots)


def test_the_task_of_the_page_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts that depend on the client and on x: clients adapt, and beat the constant answer."""
    page = (checkout() / "docs" / "tasks.md").read_text(encoding="utf-8")
    [code] = fenced(page, "python")
    scope: dict[str, Any] = {"__name__": "documented"}
    exec(code, scope)
    plugin = registry.plugin
    brought = {("tasks", "counts"): scope["Counts"]}
    monkeypatch.setattr(registry, "plugin", lambda kind, name: brought.get((kind, name)) or plugin(kind, name))
    toml, points = fenced(page, "toml")
    assert tasks.build(tomllib.loads(toml)["datasets"]["synthetic"]["task"]).metrics == ("mae", "rmse")
    assert tomllib.loads(points)["project"]["entry-points"]["metaleaf.tasks"]
    events = task_cases.store("regression")
    y = np.random.default_rng(0).poisson(np.exp(np.clip(events.y, -3, 3))).astype(np.float32)
    store = replace(events, y=y)
    run = Run(task_cases.config("regression", task="counts", rounds=20), store)
    table = score_clients(run.engine, run.federation, run.train().best, range(20), 0.5)
    found = summaries(table, run.metric)
    assert run.metric.name == "Poisson deviance"
    assert found["after"]["pooled"] < found["before"]["pooled"]
    assert found["after"]["pooled"] < found["majority"]["pooled"]
