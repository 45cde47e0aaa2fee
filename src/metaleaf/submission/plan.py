"""Rules that a suite's records keep: they are its cells, all of them, found with its budget."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from metaleaf.config.config import digest, explain
from metaleaf.config.suite import Suite
from metaleaf.errors import UserError
from metaleaf.jobs import tune
from metaleaf.records.records import Part
from metaleaf.submission.entry import Entry
from metaleaf.submission.problem import Problem

SEEDS = 3
"""Least number of seeds of an algorithm on a dataset."""


class Trial(Part):
    """A trial in a record's history; the file of a trial has more."""

    changes: dict[str, Any]
    score: float | None


class Outcome(Trial):
    """The file of a trial."""

    config: dict[str, Any]


class Search(Part):
    """A record's `tuning`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    score: float
    chosen: dict[str, Any]
    history: tuple[Trial, ...]


def cells(entry: Entry, suite: Suite) -> Iterator[str]:
    """The record is a cell of the suite, with its configuration."""
    content = entry.content
    known = (content.dataset, content.algorithm) in suite.grid()
    if not known or content.seed not in suite.seeds_for(content.algorithm):
        yield f"{entry.cell} is no cell of the suite {suite.name}"
        return
    changes = (content.tuning or {}).get("chosen")
    try:
        expected = suite.config(
            content.dataset, content.algorithm, content.seed, changes=changes if isinstance(changes, dict) else None
        )
    except UserError as error:
        yield f"the suite {suite.name} cannot have chosen these hyper-parameters: {error}"
        return
    for part, value in expected.resolved().items():
        if content.config.get(part) != value:
            yield f"config.{part} is not what the suite {suite.name} says"
    if content.title != expected.title:
        yield f"the title is {content.title!r}, the suite's {expected.title!r}"


def tuning(entry: Entry, suite: Suite) -> Iterator[str]:
    """The search had the suite's budget, tried what the suite has drawn, and the best trial was taken."""
    content = entry.content
    if suite.tuning is None or (content.dataset, content.algorithm) not in suite.grid():
        if content.tuning is not None and suite.tuning is None:
            yield f"has a search, but the suite {suite.name} has none"
        return
    try:
        search = Search.model_validate(content.tuning)
    except ValidationError as error:
        yield explain(error, "tuning")
        return
    for name, value in tune.budget(suite, content.dataset).items():
        if (search.model_extra or {}).get(name) != value:
            yield f"tuning.{name} is {(search.model_extra or {}).get(name)}, the suite's {value}"
    if not _drawn([trial.changes for trial in search.history], suite, content.algorithm):
        yield f"tuning.history does not have the {suite.tuning.trials} trials that the suite draws"
    finished = [trial for trial in search.history if trial.score is not None]
    sign = 1 if content.metric.higher_is_better else -1
    best = max(finished, key=lambda trial: sign * (trial.score or 0.0), default=None)
    if best is None or (best.changes, best.score) != (search.chosen, search.score):
        yield "tuning.chosen is not the first trial of the best score in tuning.history"


def _drawn(tried: list[dict[str, Any]], suite: Suite, algorithm: str) -> bool:
    """Whether these are the trials of the balanced draw, or what the sampler "tpe" may have proposed."""
    if suite.tuning is None or suite.tuning.sampler == "grid":
        return bool(tried == _as_json(tune.trials(suite, algorithm)))
    space: dict[str, list[Any]] = _as_json(tune.space_of(suite, algorithm))
    known = all(c.keys() == space.keys() and all(c[name] in space[name] for name in space) for c in tried)
    return known and len(tried) == suite.tuning.trials and all(c not in tried[:i] for i, c in enumerate(tried))


def _as_json(value: Any) -> Any:
    """The value as a record has it: a plugin may declare tuples."""
    return json.loads(json.dumps(value))


def complete(entries: Sequence[Entry], suite: Suite) -> Iterator[Problem]:
    """Every cell is there once, and at least three seeds of every algorithm on every dataset."""
    for dataset, algorithm in suite.grid():
        found = [e.content.seed for e in entries if (e.content.dataset, e.content.algorithm) == (dataset, algorithm)]
        missing = sorted(set(suite.seeds_for(algorithm)) - set(found))
        lacks = f"lacks {_seeds(missing)} of the suite {suite.name}" if missing else ""
        few = f"has {len(found)} of at least {SEEDS} seeds" if len(found) < SEEDS else ""
        if what := "; ".join(filter(None, (lacks, few))):
            yield Problem("complete", f"{dataset}/{algorithm}", what)


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def once(entries: Iterable[Entry]) -> Iterator[Problem]:
    """No cell is there twice, under two configurations."""
    first: dict[str, str] = {}
    for entry in entries:
        if (other := first.setdefault(entry.cell, entry.where)) != entry.where:
            yield Problem("cells", entry.where, f"is the same cell as {other}")


def trials(folder: Path, paths: Iterable[Path], entries: Sequence[Entry]) -> Iterator[Problem]:
    """The files of the search's trials are those of the records' histories."""
    histories = {(e.content.dataset, e.content.algorithm): e.content.tuning for e in entries}
    for path in paths:
        where = path.relative_to(folder).as_posix()
        try:
            outcome = Outcome.model_validate_json(path.read_bytes())
            found = digest(outcome.config)[:12]
        except ValueError as error:
            why = explain(error, "trial") if isinstance(error, ValidationError) else str(error)
            yield Problem("schema", where, why)
            continue
        if not path.name.startswith(f"{found}-"):
            yield Problem("hash", where, "is not called by the hash of its configuration")
        search = histories.get((path.parts[-3], path.parts[-2]))
        if search and not _in_history(outcome, search):
            yield Problem("tuning", where, "is not in the history of the records with this score")


def _in_history(outcome: Outcome, search: dict[str, Any]) -> bool:
    try:
        history = Search.model_validate(search).history
    except ValidationError:
        return True  # which `tuning` says
    return any((trial.changes, trial.score) == (outcome.changes, outcome.score) for trial in history)


RULES = {"cells": cells, "tuning": tuning}
