"""Configurations: what decides numbers is in the hash and nothing else; committed records keep theirs."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from metaleaf.config.config import NewEnvironments, Protocol, RunConfig, Start, digest
from metaleaf.config.suite import Suite, load_suite
from metaleaf.errors import ConfigError
from metaleaf.jobs.tune import trial_config, trial_path

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted((ROOT / "results").glob("*/*/*/*/seed-*.json"))
TRIALS = sorted((ROOT / "results").glob("*/tuning/*/*/*.json"))


@cache
def suite(name: str) -> Suite:
    return load_suite(str(ROOT / "benchmarks" / f"{name}.toml"))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT / "results"))


# ------------------------------------------------------------------------------------------------------ committed ones


def test_there_are_records_of_three_suites() -> None:
    assert {path.parents[3].name for path in RECORDS} >= {"synthetic", "lite_femnist", "environments_shakespeare"}
    assert {path.parents[3].name for path in TRIALS} >= {"synthetic_search", "lite_femnist"}


@pytest.mark.parametrize("path", RECORDS, ids=shown)
def test_a_committed_record_has_its_suites_hash(path: Path) -> None:
    """A hash that moved would have the whole suite run again, beside records that nobody could tell apart."""
    record = json.loads(path.read_text())
    tuned: dict[str, Any] = record["tuning"] or {}
    found = suite(record["suite"]).config(
        record["dataset"], record["algorithm"], record["seed"], changes=tuned.get("chosen")
    )
    assert found.config_hash() == path.parent.name == record["config_hash"]
    assert found.resolved() == record["config"]
    assert digest(record["config"])[:12] == path.parent.name


@pytest.mark.parametrize("path", TRIALS, ids=shown)
def test_a_committed_trial_has_its_suites_hash(path: Path) -> None:
    outcome = json.loads(path.read_text())
    name, dataset, algorithm = path.parents[3].name, path.parents[1].name, path.parent.name
    found = trial_config(suite(name), dataset, algorithm, outcome["changes"])
    assert trial_path(ROOT / "results", found) == path


# ------------------------------------------------------------------------------------------------- redraw and starts

SUITE = """
name = "tiny"
title = "Tiny"
seeds = [1, 2]

[protocol.environments]
budget = 100

[datasets.drawn]
name = "synthetic_environments"
redraw = true
options = { tasks = 40 }

[datasets.fixed]
name = "synthetic_environments"
options = { tasks = 40 }

[algorithms.fedavg]

[algorithms.few_round]
start = { name = "fedavg", share = 0.5, hyperparameters = { epochs = 2 } }
"""


def load(tmp_path: Path, *changes: tuple[str, str]) -> Suite:
    text = SUITE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "tiny.toml").write_text(text)
    return load_suite(str(tmp_path / "tiny.toml"))


def test_redraw_gives_every_seed_its_data_and_one_hash(tmp_path: Path) -> None:
    tiny = load(tmp_path)
    drawn, fixed = ([tiny.config(label, "fedavg", seed) for seed in (1, 2)] for label in ("drawn", "fixed"))
    assert [one.dataset_options["seed"] for one in drawn] == [1, 2]
    assert [getattr(one.build_dataset(), "seed", None) for one in drawn] == [1, 2]
    assert drawn[0].config_hash() == drawn[1].config_hash()
    assert drawn[0].resolved()["dataset"]["options"] == {**drawn[0].dataset_options, "seed": "the run's"}
    assert fixed[0].dataset_options == fixed[1].dataset_options
    assert fixed[0].config_hash() == fixed[1].config_hash() != drawn[0].config_hash()
    other = load(tmp_path, ("redraw = true\noptions = { tasks = 40 }", "redraw = true\noptions = { tasks = 41 }"))
    assert other.config("drawn", "fedavg", 1).config_hash() != drawn[0].config_hash()


def test_redraw_needs_a_dataset_with_a_seed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="redraw is set, but dataset shakespeare has no option seed"):
        load(tmp_path, ('name = "synthetic_environments"\nredraw = true\noptions = { tasks = 40 }', REDRAWN))


REDRAWN = 'name = "shakespeare"\nredraw = true'


def test_a_start_is_resolved_and_hashed(tmp_path: Path) -> None:
    found = load(tmp_path).config("fixed", "few_round", 1)
    assert found.start is not None
    assert found.start.hyperparameters["epochs"] == 2
    assert found.start.hyperparameters["batch_size"] == 10, "defaults are written out"
    assert found.resolved()["start"] == {"name": "fedavg", "share": 0.5, "hyperparameters": found.start.hyperparameters}
    assert "start" not in load(tmp_path).config("fixed", "fedavg", 1).resolved()
    hashes = [found.config_hash()]
    for change in (("share = 0.5", "share = 0.4"), ("epochs = 2", "epochs = 3"), ("epochs = 2", "decay = 0.9")):
        hashes.append(load(tmp_path, change).config("fixed", "few_round", 1).config_hash())
    without = found.model_copy(update={"start": None})
    assert len({*hashes, without.config_hash()}) == 5
    written_out = load(tmp_path, ("epochs = 2", "epochs = 2, batch_size = 10")).config("fixed", "few_round", 1)
    assert written_out.config_hash() == found.config_hash()


def test_seeds_and_labels_are_not_in_the_hash(tmp_path: Path) -> None:
    found = load(tmp_path).config("fixed", "few_round", 1)
    same: list[dict[str, Any]] = [{"seed": 5}, {"suite": "a"}, {"algorithm_label": "b"}, {"title": "c"}, {"tuning": {}}]
    assert {found.model_copy(update=change).config_hash() for change in same} == {found.config_hash()}


def test_every_rule_of_new_environments_is_in_the_hash(tmp_path: Path) -> None:
    found = load(tmp_path).config("fixed", "few_round", 1)
    rules = found.protocol.environments
    assert rules is not None
    for name in NewEnvironments.model_fields:
        value = getattr(rules, name)
        other = (*value[:-1], value[-1] + 1) if isinstance(value, tuple) else value + 1
        changed = rules.model_copy(update={name: other})
        protocol = found.protocol.model_copy(update={"environments": changed})
        assert found.model_copy(update={"protocol": protocol}).config_hash() != found.config_hash(), name


def test_other_tracks_do_not_mention_environments() -> None:
    whole = suite("synthetic").config("synthetic", "fedavg", 1).resolved()
    assert "environments" not in whole["protocol"]
    assert "start" not in whole
    assert "redraw" not in whole


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('start = { name = "fedavg"', 'start = { name = "fedavgg"'), "unknown algorithm 'fedavgg': did you mean"),
        (("epochs = 2", "epoch = 2"), "unknown option of fedavg 'epoch': did you mean 'epochs'"),
        (("share = 0.5", "share = 1.5"), r"start.share = 1.5: .*less than 1"),
        (("share = 0.5", "share = 0"), r"start.share = 0: .*greater than 0"),
        (("share = 0.5,", ""), r"'algorithms.few_round.start.share' is missing"),
        (("[protocol.environments]\nbudget = 100", ""), "few_round has a start, which only new environments have"),
        (("budget = 100", "budgett = 100"), r"\[protocol.environments\] 'budgett': did you mean 'budget'"),
        (("budget = 100", "budget = -1"), r"protocol.environments.budget = -1|environments.budget = -1"),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, change: tuple[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(tmp_path, change)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"train_participants": (3, 2)}, "train_participants must rise from 1 or more"),
        ({"train_participants": (0, 2)}, "train_participants must rise from 1 or more"),
        ({"train_participants": (5, 20)}, "members must be more than the 20 train_participants"),
        ({"rounds": (1, 0)}, "rounds must be rising numbers from 0"),
        ({"rounds": ()}, "rounds must be rising numbers from 0"),
        ({"validation_rounds": (-1, 0)}, "validation_rounds must be rising numbers from 0"),
        ({"validation_rounds": (1, 1)}, "validation_rounds must be rising numbers from 0"),
        ({"local_lr": 0}, "greater than 0"),
        ({"scored": 0}, "greater than or equal to 1"),
    ],
)
def test_rules_of_new_environments(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        NewEnvironments(**values)


def test_suites_of_new_environments_are_whole() -> None:
    found = sorted((ROOT / "benchmarks").glob("environments_*.toml"))
    assert found
    for path in found:
        whole = load_suite(str(path))
        for dataset, algorithm in whole.grid():
            one: RunConfig = whole.config(dataset, algorithm, 1)
            assert isinstance(one.protocol, Protocol)
            assert one.protocol.environments is not None
            assert one.config_hash() == whole.config(dataset, algorithm, 2).config_hash()
            assert one.start is None or isinstance(one.start, Start)
