"""How far rounding moves the scores of a run: its cell computed in other ways, which differ by rounding only.

The farthest that any score of the record moves is written into the record (docs/records.md, `rounding`).
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from metaleaf import models, tasks, trees
from metaleaf.config.config import RunConfig
from metaleaf.config.sources import Making, of_run
from metaleaf.data.prepare import load
from metaleaf.engine.engine import SMALL_MODEL, Mode
from metaleaf.engine.factored import big_layers
from metaleaf.errors import DataError, StaleError
from metaleaf.jobs.execute import Outcome, Settings, compute, runner
from metaleaf.runs.rounding import Rounding
from metaleaf.runs.run import OnRound
from metaleaf.runs.store import Cell, write_json
from metaleaf.submission.entry import Entry, entry
from metaleaf.submission.side_by_side import moved
from metaleaf.task import Task

NUDGES = 3
"""Starts that are one bit away in every parameter."""


class Variant(NamedTuple):
    """One of the ways to compute a cell."""

    name: str
    mode: Mode
    threads: int
    rounding: Rounding = Rounding()

    def settings(self, settings: Settings, root: Path) -> Settings:
        """Those that compute this way, into another store."""
        how = dataclasses.replace(settings, mode=self.mode, threads=self.threads, rounding=self.rounding)
        return dataclasses.replace(how, root=root, workers=1, save=False, stale="keep")


def variants(given: Entry) -> list[Variant]:
    """The ways other than the record's own: perturbed starts, engines that suit the model, precision, threads."""
    mode, threads = given.made.engine.mode, given.made.engine.threads or 1
    first, *others = [Variant(f"start {i}", mode, threads, Rounding(nudge=i)) for i in range(1, NUDGES + 1)]
    engines = [Variant(other, other, threads) for other in _modes(given.config) if other != mode]
    count = 1 if threads > 1 else 2
    return [
        first,
        *engines,
        *others,
        Variant("float64", mode, threads, Rounding("float64")),
        Variant(f"{count} thread{'s' if count > 1 else ''}", mode, count),
    ]


def _modes(config: RunConfig) -> Iterator[Mode]:
    """The engines that are made for models of this size, on a CPU."""
    spec = dataclasses.asdict(config.build_dataset().spec)
    model = models.build(config.model, spec, 0, tasks.of(spec, config.task))
    yield "sequential"
    if trees.nbytes(Task(model).params()) <= 4 * SMALL_MODEL:
        yield "vectorised"
    elif big_layers(model):
        yield "lowrank"


def measure(settings: Settings, config: RunConfig, on_round: OnRound) -> Outcome:
    """The job of `metaleaf stability`: compute the record's cell in every way that it does not name yet.

    The record is written again after each of them, so that what was measured stays. StaleError if other code or data
    made it, which would be measured, too; DataError if it is no record.
    """
    path = Cell(settings.root, config).record_path
    if not path.exists():
        return Outcome("has no record yet")
    given = entry(path, path.name)
    _check_making(given, settings)
    if given.content.status == "diverged":
        return Outcome("diverged: no score can move")
    found = given.content.rounding if settings.stale != "again" else None
    known = dict(found.variants) if found else {}
    for variant in variants(given):
        if variant.name not in known:
            known[variant.name] = moved(given, _computed(settings, config, variant, on_round))
            _write(path, known)
    farthest = max(known, key=lambda name: known[name])
    points = 100 * known[farthest]
    return Outcome(f"rounding moves scores by {points:.2f} points at most ({farthest})" if points else "moves no score")


def _check_making(given: Entry, settings: Settings) -> None:
    config = given.config
    store = load(config.dataset, config.build_dataset(), raw=settings.raw, stale=settings.stale)
    now = Making(store.about["data_hash"], of_run(config, runner(config).__module__, store.about))
    differs = now.unlike(given.content.data.data_hash, given.made.sources)
    if differs and settings.stale != "keep":
        raise StaleError(
            f"the record {given.record.path} was made {differs}: run its suite with --again first, or add --keep to "
            "measure what both do."
        )


def _computed(settings: Settings, config: RunConfig, variant: Variant, on_round: OnRound) -> Entry:
    before = torch.get_num_threads()
    with TemporaryDirectory(prefix="metaleaf-stability-") as folder:
        torch.set_num_threads(variant.threads)
        try:
            compute(variant.settings(settings, Path(folder)), config, on_round)
        finally:
            torch.set_num_threads(before)
        path = Cell(Path(folder), config).record_path
        return entry(path, path.name)


def _write(path: Path, known: dict[str, float]) -> None:
    """Put what was found into the record, and leave all else as it is."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a record: {error}") from error
    farthest = max(known, key=lambda name: known[name])
    write_json(path, {**record, "rounding": {"moved": known[farthest], "by": farthest, "variants": known}})
