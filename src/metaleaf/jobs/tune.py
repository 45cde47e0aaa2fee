"""Search hyper-parameters on validation clients, the same number of trials for every algorithm.

Trials are drawn from the grid that the plugin (or the suite) declares, all different and such that every value of a
hyper-parameter is tried equally often (a Latin hypercube on the grid), by a seed that depends on nothing measured. Or,
with the sampler "tpe", they come one after the other, each from the scores of those before it (`metaleaf.jobs.tpe`). A
trial is a training run on the tuning seed, scored once, at its end: for `rounds` rounds and by the validation clients'
score over points after adaptation; on the track of new environments for `budget` client updates and by the mean
score in the validation environments after each of `validation_rounds`. Test clients are never touched.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metaleaf import registry
from metaleaf.algorithm import Space
from metaleaf.config.config import RunConfig
from metaleaf.config.sources import REMEDY, Making, common, of_run
from metaleaf.config.suite import Suite, Tuning
from metaleaf.data.prepare import load
from metaleaf.errors import ConfigError, DataError, StaleError
from metaleaf.jobs import tpe
from metaleaf.jobs.execute import KEPT, UNKNOWN, Outcome, Settings, run_all, runner
from metaleaf.metrics import ACCURACY, Metric
from metaleaf.runs.run import OnRound
from metaleaf.runs.store import write_json
from metaleaf.seeds import derive
from metaleaf.terminal.display import Display


def trials(suite: Suite, algorithm: str) -> list[dict[str, Any]]:
    """The balanced draw of changes of hyper-parameters to try for an algorithm of the suite, each by dotted key.

    ConfigError if the grid is smaller than the number of trials, or no balanced draw without repetition is found.
    """
    tuning, space = _tuning(suite), space_of(suite, algorithm)
    if math.prod(len(values) for values in space.values()) == tuning.trials:
        return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    rng = np.random.default_rng(derive(tuning.seed, "trials"))
    for _ in range(1000):
        columns = [_balanced(values, tuning.trials, rng) for values in space.values()]
        drawn = [dict(zip(space, row, strict=True)) for row in zip(*columns, strict=True)]
        if all(trial not in drawn[:i] for i, trial in enumerate(drawn)):
            return drawn
    raise ConfigError(f"no {tuning.trials} different trials for {algorithm}: widen its `space` or lower `trials`.")


def space_of(suite: Suite, algorithm: str) -> Space:
    """The values to try: the suite's, else the plugin's. ConfigError if they are too few for the suite's trials."""
    tuning, entry = _tuning(suite), suite.algorithms[algorithm]
    space: Space = entry.space or registry.plugin("algorithms", entry.name or algorithm).space
    size = math.prod(len(values) for values in space.values())
    if size < tuning.trials:
        raise ConfigError(f"{algorithm} has {size} combinations for {tuning.trials} trials: widen its `space`.")
    return space


def _balanced(values: Sequence[Any], count: int, rng: np.random.Generator) -> list[Any]:
    """`count` of the values in random order, each equally often (give or take one)."""
    repeated = [values[i] for _ in range(-(-count // len(values))) for i in rng.permutation(len(values))]
    return [repeated[i] for i in rng.permutation(count)]


def trial_config(suite: Suite, dataset: str, algorithm: str, changes: dict[str, Any]) -> RunConfig:
    """The run of one trial: validated once, at its end."""
    tuning = _tuning(suite)
    config = suite.config(dataset, algorithm, tuning.seed, changes=changes)
    [length] = _length(suite, dataset, tuning).values()
    # Validated once, at its end; on the track of new environments no run has more rounds than client updates.
    short: dict[str, Any] = {"rounds": length, "evaluate_every": length}
    if environments := config.protocol.environments:
        short = {"environments": environments.model_copy(update={"budget": length}), "evaluate_every": length}
    changed = config.protocol.model_copy(update=short)
    return config.model_copy(update={"protocol": changed, "tuning": {"changes": changes}})


def _length(suite: Suite, dataset: str, tuning: Tuning) -> dict[str, int]:
    """How long a trial is, by its unit: rounds, or the budget of client updates in new environments."""
    unit = "budget" if suite.protocol_for(dataset).environments else "rounds"
    length: int | None = getattr(tuning, unit)
    if length is None:
        raise ConfigError(
            f"suite {suite.name!r} does not say how long a trial on {dataset} is: add {unit} to [tuning]."
        )
    return {unit: length}


def budget(suite: Suite, dataset: str) -> dict[str, Any]:
    """What every algorithm may spend on a dataset: trials and their length, on which seed and support; how drawn."""
    tuning = _tuning(suite)
    found = {
        "trials": tuning.trials,
        **_length(suite, dataset, tuning),
        "seed": tuning.seed,
        "support": suite.protocol_for(dataset).support,
    }
    return found if tuning.sampler == "grid" else {**found, "sampler": tuning.sampler}


def trial_path(root: Path, config: RunConfig) -> Path:
    """Where a trial's outcome lies: ``<root>/<suite>/tuning/<dataset>/<algorithm>/<config hash>-seed-<n>.json``."""
    folder = root / config.suite / "tuning" / config.dataset_label / config.algorithm_label
    return folder / f"{config.config_hash()}-seed-{config.seed}.json"


def drawn(root: Path, suite: Suite, dataset: str, algorithm: str) -> list[dict[str, Any]]:
    """The trials of an algorithm on a dataset in their order; with "tpe" as far as outcomes are there, and one more."""
    tuning = _tuning(suite)
    if tuning.sampler == "grid":
        return trials(suite, algorithm)
    outcome = partial(_outcome, root, suite, dataset, algorithm)
    return tpe.proposed(space_of(suite, algorithm), tuning.trials, derive(tuning.seed, "trials"), outcome)


def _outcome(root: Path, suite: Suite, dataset: str, algorithm: str, changes: dict[str, Any]) -> dict[str, Any] | None:
    path = trial_path(root, trial_config(suite, dataset, algorithm, changes))
    return _read(path) if path.exists() else None


def length(suite: Suite, pairs: Sequence[tuple[str, str]]) -> int:
    """Trials in all, of these datasets and algorithms."""
    return _tuning(suite).trials * len(pairs)


def batches(root: Path, suite: Suite, pairs: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, RunConfig]]]:
    """Named trials that may run at the same time; with "tpe" the next of each algorithm, once those before are done."""
    tuning = _tuning(suite)
    if tuning.sampler == "grid":
        yield [_named(suite, *pair, changes) for pair in pairs for changes in trials(suite, pair[1])]
        return
    for number in range(tuning.trials):
        yield [_named(suite, *pair, drawn(root, suite, *pair)[number]) for pair in pairs]


def _named(suite: Suite, dataset: str, algorithm: str, changes: dict[str, Any]) -> tuple[str, RunConfig]:
    values = ", ".join(f"{key.split('.')[0]} {value}" for key, value in changes.items())
    return f"{dataset} {algorithm} ({values})", trial_config(suite, dataset, algorithm, changes)


def search(suite: Suite, pairs: Sequence[tuple[str, str]], settings: Settings, display: Display) -> None:
    """Try what has not been tried, of these datasets and algorithms. Errors as of `run_all`."""
    for jobs in batches(settings.root, suite, pairs):
        run_all(jobs, attempt, settings, display)


def attempt(settings: Settings, config: RunConfig, on_round: OnRound) -> Outcome:
    """The job of a tuning: train and validate one trial, unless its outcome exists."""
    path, kind = trial_path(settings.root, config), runner(config)
    store = load(config.dataset, config.build_dataset(), raw=settings.raw, stale=settings.stale)
    now = Making(store.about["data_hash"], of_run(config, kind.__module__, store.about))
    if path.exists():
        found = _read(path)
        differs = now.unlike(found.get("data_hash"), found.get("sources"))
        if differs and settings.stale == "refuse":
            raise StaleError(f"the trial {path} was made {differs}: {REMEDY}")
        if not differs or settings.stale == "keep":
            if found["changes"] != (changes := (config.tuning or {})["changes"]):  # of an earlier space
                write_json(path, {**found, "changes": changes})
            return Outcome(_in_words(found), KEPT if differs else None if found.get("sources") else UNKNOWN)
    run = kind(config, store, mode=settings.mode, device=settings.device)
    progress = run.train(on_round=on_round)
    last = progress.rows[-1]
    outcome = {
        "changes": (config.tuning or {})["changes"],
        "config": config.resolved(),
        "seed": config.seed,
        **now._asdict(),
        "metric": run.metric.facts(),
        "score": None if progress.diverged else last["validation_after"],
        "diverged": progress.diverged,
        "seconds": last["seconds"],
    }
    write_json(path, outcome)
    return Outcome(_in_words(outcome))


def _in_words(outcome: Mapping[str, Any]) -> str:
    return "diverged" if outcome["score"] is None else f"validation {metric_of(outcome).text(outcome['score'])}"


def metric_of(outcome: Mapping[str, Any]) -> Metric:
    """The metric of a trial's score; older ones do not say that it is the accuracy."""
    return Metric(**outcome["metric"]) if "metric" in outcome else ACCURACY


def chosen(root: Path, suite: Suite, dataset: str, algorithm: str) -> dict[str, Any]:
    """The best trial of an algorithm, and the whole budget: a record's `tuning`.

    ConfigError if a trial is missing, or all diverged.
    """
    outcomes = []
    for changes in drawn(root, suite, dataset, algorithm):
        path = trial_path(root, trial_config(suite, dataset, algorithm, changes))
        if not path.exists():
            raise ConfigError(
                f"suite {suite.name!r} is tuned, but {algorithm} on {dataset} lacks a trial in {path.parent}: "
                f"run `metaleaf tune {suite.name}` first."
            )
        # As they are called now: a trial of an earlier space has the same file if it comes to the same configuration.
        outcomes.append({**_read(path), "changes": changes})
    finished = [outcome for outcome in outcomes if outcome["score"] is not None]
    if not finished:
        raise ConfigError(f"all {len(outcomes)} trials of {algorithm} on {dataset} diverged: give it another `space`.")
    sign = 1 if metric_of(finished[0]).higher_is_better else -1
    best = max(finished, key=lambda outcome: sign * float(outcome["score"]))
    found = {
        **budget(suite, dataset),
        "score": best["score"],
        "chosen": best["changes"],
        "history": [{"changes": o["changes"], "score": o["score"]} for o in outcomes],
    }
    sources = common(outcome.get("sources") or {} for outcome in outcomes)
    return {**found, "sources": sources} if any(sources.values()) else found


def best_in_words(root: Path, suite: Suite, dataset: str, algorithm: str) -> str:
    """The best trial and its score, and where it is at an edge of the space. Errors as of `chosen`."""
    best = chosen(root, suite, dataset, algorithm)
    outcome = _read(trial_path(root, trial_config(suite, dataset, algorithm, best["chosen"])))
    edges = [f"{key} {best['chosen'][key]}" for key in at_edges(space_of(suite, algorithm), best["chosen"])]
    widen = f"; at an edge of its space, which others beyond may beat: {', '.join(edges)}" if edges else ""
    return f"{dataset} {algorithm}: {best['chosen']} ({_in_words(outcome)}){widen}"


def at_edges(space: Space, chosen: Mapping[str, Any]) -> list[str]:
    """The keys whose chosen number is the least or the greatest of three or more."""
    return [
        key
        for key, values in space.items()
        if len(values) > 2 and all(isinstance(value, int | float) for value in values)
        if chosen[key] in (min(values), max(values))
    ]


def _tuning(suite: Suite) -> Tuning:
    if suite.tuning is None:
        raise ConfigError(f"suite {suite.name!r} has no [tuning] table: add one with `trials` and `rounds`.")
    return suite.tuning


def _read(path: Path) -> dict[str, Any]:
    try:
        outcome: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        dict(outcome["changes"]), dict(outcome.get("sources") or {}), metric_of(outcome)
        if outcome["score"] is not None:
            outcome["score"] = float(outcome["score"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the trial {path} is damaged ({error}): delete it and tune again.") from error
    return outcome
