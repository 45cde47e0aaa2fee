"""Trials by Optuna's sampler: from the grid, each once, resumed from their outcomes alone."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from metaleaf.cli import main
from metaleaf.config.suite import load_suite
from metaleaf.errors import ConfigError
from metaleaf.jobs import tpe, tune
from metaleaf.jobs.execute import Outcome

needs_optuna = pytest.mark.skipif(
    find_spec("optuna") is None, reason="Optuna is not installed: pip install metaleaf[optuna]"
)

SPACE = {
    "lr": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "optimizer.lr": (0.1, 0.3, 1.0, 3.0),
    "reader": ("set", "mean"),
    "horizon": ([0], [0, 1]),
}
BEST = {"lr": 0.1, "optimizer.lr": 1.0, "reader": "mean", "horizon": [0]}


def score(changes: dict[str, Any]) -> dict[str, Any]:
    """The better the more is as in BEST, and the nearer the rates are."""
    distance = sum(abs(SPACE[name].index(changes[name]) - SPACE[name].index(BEST[name])) for name in SPACE)
    return {"score": 1 - distance / 20}


@needs_optuna
def test_a_search_goes_on_where_it_stopped() -> None:
    whole = tpe.proposed(SPACE, 12, 7, score)
    assert len(whole) == 12
    assert all(trial not in whole[:i] for i, trial in enumerate(whole)), "no trial twice"
    assert all(trial[name] in SPACE[name] for trial in whole for name in SPACE)
    for done in range(12):
        seen = whole[:done]
        part = tpe.proposed(SPACE, 12, 7, lambda changes, seen=seen: score(changes) if changes in seen else None)  # type: ignore[misc]
        assert part == whole[: done + 1], "what is done, and the next"
    assert tpe.proposed(SPACE, 12, 8, score) != whole


@needs_optuna
def test_scores_decide_what_comes_next() -> None:
    """After its first random trials: it goes where scores are high, and diverged trials count as the worst."""
    up = tpe.proposed(SPACE, 24, 0, lambda changes: {"score": SPACE["lr"].index(changes["lr"]) / 10})
    down = tpe.proposed(SPACE, 24, 0, lambda changes: {"score": 0.9 if changes["lr"] < 0.01 else None})
    assert up[:8] == down[:8], "a third is random"
    assert sum(trial["lr"] >= 0.1 for trial in up[8:]) > 10 > sum(trial["lr"] >= 0.1 for trial in down[8:])


@needs_optuna
def test_a_small_grid_is_tried_whole() -> None:
    space = {"lr": (0.1, 0.2), "decay": (1.0, 0.9)}
    assert len({json.dumps(trial) for trial in tpe.proposed(space, 4, 0, lambda _: {"score": 0.5})}) == 4


SUITE = """
name = "tuned"
title = "Tuned"
seeds = [1, 2, 3]

[tuning]
trials = 5
rounds = 2
sampler = "tpe"

[protocol]
rounds = 3
clients_per_round = 5
evaluate_every = 3
test_supports = [0.2]

[datasets.synthetic]
options = { tasks = 40, dimension = 5, classes = 3 }

[algorithms.fedavg]
space = { "client_optimizer.lr" = [0.0001, 0.003, 0.3], epochs = [1, 2, 3], decay = [0.9, 1.0] }

[algorithms.maml]
space = { inner_lr = [0.1, 0.5], "server_optimizer.lr" = [0.001, 0.003, 0.03] }
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned.toml").write_text(SUITE)
    return tmp_path


def outcomes(root: Path) -> dict[str, Any]:
    """Of every trial, by its file: all but the time it took."""
    found = {}
    for path in sorted(root.glob("tuned/tuning/*/*/*.json")):
        found[f"{path.parent.name}/{path.name}"] = {**json.loads(path.read_text()), "seconds": 0}
    return found


@needs_optuna
def test_an_interrupted_tuning_is_resumed_to_the_same_trials(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "tuned.toml", "--results", "whole"]) == 0
    whole = outcomes(here / "whole")
    assert sorted(name.split("/")[0] for name in whole) == ["fedavg"] * 5 + ["maml"] * 5
    done, attempt = [0], tune.attempt

    def killed(*words: Any) -> Outcome:
        if done[0] == 5:
            raise KeyboardInterrupt
        done[0] += 1
        return attempt(*words)

    with monkeypatch.context() as patch:
        patch.setattr(tune, "attempt", killed)
        assert main(["tune", "tuned.toml", "--results", "parts"]) == 130
    assert len(outcomes(here / "parts")) == 5
    assert main(["suite", "tuned.toml", "--results", "parts"]) == 2
    assert "lacks a trial" in capsys.readouterr().err
    assert main(["tune", "tuned.toml", "--results", "parts"]) == 0
    assert outcomes(here / "parts") == whole


@needs_optuna
def test_records_have_the_history_and_keep_the_rules(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "tuned.toml"]) == 0
    assert main(["suite", "tuned.toml"]) == 0
    for algorithm in ("fedavg", "maml"):
        [path] = (here / "results" / "tuned" / "synthetic" / algorithm).rglob("seed-1.json")
        tuning = json.loads(path.read_text())["tuning"]
        assert (tuning["sampler"], tuning["trials"], len(tuning["history"])) == ("tpe", 5, 5)
        tried = [trial["changes"] for trial in tuning["history"]]
        assert tried == tune.drawn(here / "results", load_suite("tuned.toml"), "synthetic", algorithm), "in order"
        assert max(tuning["history"], key=lambda trial: trial["score"])["changes"] == tuning["chosen"]
    check = ["submit", "check", "results/tuned", "--suite", "tuned.toml"]
    assert main(check) == 0
    for path in (here / "results" / "tuned" / "synthetic" / "maml").rglob("seed-*.json"):
        content = json.loads(path.read_text())
        content["tuning"]["history"][0]["changes"] = content["tuning"]["history"][1]["changes"]
        path.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(check) == 1
    assert "tuning.history does not have the 5 trials" in capsys.readouterr().out


def test_without_optuna_one_sentence_says_what_to_install(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", "tuned.toml"]) == 2
    assert "the sampler \"tpe\" needs Optuna: pip install 'metaleaf[optuna]'" in capsys.readouterr().err


def test_a_grid_that_is_too_small_is_refused(here: Path) -> None:
    (here / "tuned.toml").write_text(SUITE.replace("trials = 5", "trials = 7"))
    with pytest.raises(ConfigError, match="maml has 6 combinations for 7 trials"):
        tune.drawn(here, load_suite("tuned.toml"), "synthetic", "maml")


def test_an_unknown_sampler_is_refused(here: Path) -> None:
    (here / "tuned.toml").write_text(SUITE.replace('"tpe"', '"random"'))
    with pytest.raises(ConfigError, match=r"tuning\.sampler = 'random': Input should be 'grid' or 'tpe'"):
        load_suite("tuned.toml")
