"""Tuning: fair trials, a resumable history, and records that state the budget."""

import json
from collections import Counter
from pathlib import Path

import pytest

from metaleaf.cli import main
from metaleaf.config.suite import load_suite
from metaleaf.errors import ConfigError
from metaleaf.jobs import tune

SUITE = """
name = "tuned"
title = "Tuned"
seeds = [1]

[tuning]
trials = 4
rounds = 2

[protocol]
rounds = 3
clients_per_round = 5
evaluate_every = 3
test_supports = [0.2]

[datasets.synthetic]
options = { tasks = 40, dimension = 5, classes = 3 }

[algorithms.fedavg]
space = { "client_optimizer.lr" = [0.0001, 0.3], epochs = [1, 2, 3], decay = [0.9, 1.0] }

[algorithms.maml]
space = { inner_lr = [0.1, 0.5], "server_optimizer.lr" = [0.001, 0.03] }
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned.toml").write_text(SUITE)
    return tmp_path


def test_trials_are_as_many_for_all_different_and_balanced(here: Path) -> None:
    suite = load_suite("tuned.toml")
    for algorithm in suite.algorithms:
        drawn = tune.trials(suite, algorithm)
        assert len(drawn) == 4
        assert len({json.dumps(trial) for trial in drawn}) == 4
        assert drawn == tune.trials(suite, algorithm)
    uses = Counter(trial["client_optimizer.lr"] for trial in tune.trials(suite, "fedavg"))
    assert set(uses.values()) == {2}, "every value equally often"


def test_trials_of_other_code_are_a_question(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune_it = ["tune", "tuned.toml", "--algorithms", "maml"]
    suite = ["suite", "tuned.toml", "--algorithms", "maml", "--no-report"]
    (here / "tuned.toml").write_text(
        SUITE.split("[algorithms.fedavg]")[0] + "[algorithms.maml]" + SUITE.split("maml]")[1]
    )
    assert main(tune_it) == 0
    trials = sorted(here.glob("results/tuned/tuning/*/maml/*.json"))
    outcome = json.loads(trials[0].read_text())
    other = {**outcome, "sources": {**outcome["sources"], "algorithm": "0" * 64}}
    trials[0].write_text(json.dumps(other))
    capsys.readouterr()
    assert main(tune_it) == 2
    said = capsys.readouterr().err
    assert "was made by other code than what is here (algorithm): add --again" in said
    assert said.count("validation") == 3, "the other trials are looked at all the same"
    assert main(suite) == 2
    assert "searched by other code than what is here (algorithm): search again" in capsys.readouterr().err
    assert main([*tune_it, "--keep"]) == 0
    assert json.loads(trials[0].read_text()) == other
    assert main([*suite, "--keep"]) == 0
    [path] = here.glob("results/tuned/synthetic/maml/*/seed-1.json")
    assert json.loads(path.read_text())["tuning"]["sources"]["algorithm"] == "mixed"
    assert main(suite) == 0, "what is finished is finished"
    assert main([*tune_it, "--again"]) == 0
    assert json.loads(trials[0].read_text())["score"] == outcome["score"]
    assert main(tune_it) == 0


def test_a_tuned_suite_uses_the_best_trial_and_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", "tuned.toml"]) == 2
    assert "run `metaleaf tune tuned` first" in capsys.readouterr().err
    assert main(["tune", "tuned.toml"]) == 0
    files = sorted((here / "results" / "tuned" / "tuning").rglob("*.json"))
    assert len(files) == 8
    times = [path.stat().st_mtime_ns for path in files]
    assert main(["tune", "tuned.toml"]) == 0
    assert [path.stat().st_mtime_ns for path in files] == times, "finished trials are kept"
    assert main(["suite", "tuned.toml"]) == 0
    [path] = (here / "results" / "tuned" / "synthetic" / "fedavg").rglob("seed-1.json")
    record = json.loads(path.read_text())
    tuning = record["tuning"]
    assert tuning["trials"] == len(tuning["history"]) == 4
    best = max(tuning["history"], key=lambda trial: trial["score"])
    assert (tuning["chosen"], tuning["score"]) == (best["changes"], best["score"])
    used = record["config"]["algorithm"]["hyperparameters"]
    assert used["client_optimizer"]["lr"] == tuning["chosen"]["client_optimizer.lr"]
    assert used["epochs"] == tuning["chosen"]["epochs"]


def test_a_finished_record_names_the_search_of_now(here: Path) -> None:
    """One that was widened, and still chooses the same."""
    words = ["suite", "tuned.toml", "--algorithms", "maml", "--no-report"]
    (here / "tuned.toml").write_text(SUITE.replace("trials = 4", "trials = 1"))
    assert main(["tune", "tuned.toml"]) == 0
    assert main(words) == 0
    [path] = here.glob("results/tuned/synthetic/maml/*/seed-1.json")
    before = json.loads(path.read_text())
    (here / "tuned.toml").write_text(SUITE)
    assert main(["tune", "tuned.toml"]) == 0
    for trial in here.glob("results/tuned/tuning/synthetic/maml/*.json"):
        outcome = json.loads(trial.read_text())
        won = outcome["changes"] == before["tuning"]["chosen"]
        trial.write_text(json.dumps(outcome | {"score": 1.0 if won else 0.1}))
    assert main(words) == 0
    after = json.loads(path.read_text())
    assert after == before | {"tuning": after["tuning"]}
    assert (after["tuning"]["trials"], len(after["tuning"]["history"])) == (4, 4)


def test_a_trial_is_called_by_what_the_space_of_now_changes(here: Path) -> None:
    """A hyper-parameter that was searched and then fixed leaves trials that come to the same configuration."""
    words = ["tune", "tuned.toml", "--algorithms", "maml"]
    text, space = SUITE.replace("trials = 4", "trials = 2"), '[0.1, 0.5], "server_optimizer.lr" = [0.001, 0.03]'
    (here / "tuned.toml").write_text(text.replace(space, "[0.1, 0.5], adapt_steps = [3]"))
    assert main(words) == 0
    fixed = text.replace(space, "[0.1, 0.5]").replace("[algorithms.maml]", "[algorithms.maml]\nadapt_steps = 3")
    (here / "tuned.toml").write_text(fixed)
    assert main(words) == 0
    trials = [json.loads(path.read_text()) for path in here.glob("results/tuned/tuning/synthetic/maml/*.json")]
    assert sorted(list(trial["changes"].items()) for trial in trials) == [[("inner_lr", 0.1)], [("inner_lr", 0.5)]]
    history = tune.chosen(Path("results"), load_suite("tuned.toml"), "synthetic", "maml")["history"]
    assert sorted(trial["changes"]["inner_lr"] for trial in history) == [0.1, 0.5]
    assert all(trial["changes"].keys() == {"inner_lr"} for trial in history)


def test_algorithms_that_are_not_asked_for_need_not_have_been_searched(here: Path) -> None:
    assert main(["tune", "tuned.toml", "--algorithms", "maml"]) == 0
    assert main(["suite", "tuned.toml", "--algorithms", "maml"]) == 0
    records = [path.parts[-3] for path in (here / "results" / "tuned" / "synthetic").rglob("seed-1.json")]
    assert records == ["maml"]
    assert main(["suite", "tuned.toml", "--algorithms", "fedavg"]) == 2
    table = (here / "results" / "tuned" / "report" / "table.md").read_text(encoding="utf-8")
    assert "MAML" in table


def test_a_damaged_trial_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", "tuned.toml", "--algorithms", "maml"])
    path = next((here / "results" / "tuned" / "tuning").rglob("*.json"))
    path.write_text("{")
    assert main(["tune", "tuned.toml", "--algorithms", "maml"]) == 2
    assert f"the trial {Path('results') / path.relative_to(here / 'results')} is damaged" in capsys.readouterr().err


def test_a_suite_without_tuning_cannot_be_tuned(here: Path) -> None:
    (here / "tuned.toml").write_text(SUITE.replace("[tuning]\ntrials = 4\nrounds = 2\n", ""))
    with pytest.raises(ConfigError, match=r"suite 'tuned' has no \[tuning\] table"):
        tune.trials(load_suite("tuned.toml"), "fedavg")


ENVIRONMENTS = """
name = "tuned"
title = "Tuned"
seeds = [1]

[tuning]
trials = 2
budget = 60

[protocol]
clients_per_round = 5
support = 0.5

[protocol.environments]
budget = 120
participants = 2
train_participants = [2, 2]
queries = 2
scored = 2
members = 4
rounds = [0, 1]

[datasets.synthetic_environments]
redraw = true
options = { tasks = 60, clusters = 6, dimension = 5, classes = 3, size_mean = 3.0, size_sd = 0.1 }

[algorithms.fedavg]
space = { "client_optimizer.lr" = [0.0001, 0.3] }

[algorithms.few_round]
start = { name = "fedavg", share = 0.5 }
space = { "optimizer.lr" = [0.001, 0.03] }
"""


def test_new_environments_are_tuned_within_a_smaller_budget(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "tuned.toml").write_text(ENVIRONMENTS)
    assert main(["tune", "tuned.toml"]) == 0
    files = sorted((here / "results" / "tuned" / "tuning").rglob("*.json"))
    assert len(files) == 4
    outcome = json.loads(files[0].read_text())
    assert outcome["config"]["protocol"]["environments"]["budget"] == 60
    assert main(["suite", "tuned.toml"]) == 0
    for path in (here / "results" / "tuned" / "synthetic_environments").rglob("seed-1.json"):
        record = json.loads(path.read_text())
        assert record["tuning"]["budget"] == 60
        assert record["config"]["protocol"]["environments"]["budget"] == 120


@pytest.mark.parametrize(
    ("text", "old", "new", "missing"),
    [(SUITE, "rounds = 2", "budget = 2", "rounds"), (ENVIRONMENTS, "budget = 60", "rounds = 60", "budget")],
)
def test_a_trial_without_a_length_is_refused(here: Path, text: str, old: str, new: str, missing: str) -> None:
    """The unit is the track's: rounds say nothing about methods that ask different numbers of clients."""
    (here / "tuned.toml").write_text(text.replace(old, new, 1))
    suite = load_suite("tuned.toml")
    with pytest.raises(ConfigError, match=f"how long a trial on .* is: add {missing} to"):
        tune.trial_config(suite, next(iter(suite.datasets)), "fedavg", {})
