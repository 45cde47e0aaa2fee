"""Baselines: what every cell of a suite reached over many seeds, a JSON file a suite, reviewed like code."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import isclose
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from metaleaf.config.config import Strict
from metaleaf.config.labels import Printable
from metaleaf.config.provenance import git_facts, versions
from metaleaf.errors import DataError
from metaleaf.gate.measures import Found
from metaleaf.runs.store import write_json
from metaleaf.statistics.statistics import over_seeds

SEEDS = range(1001, 1021)
"""The seeds of a baseline, unless others are given. A gate's own must be others: the test takes them for new draws."""


class Measure(Strict):
    """A measure over the baseline's seeds: mean, sample standard deviation, their number, and the values themselves."""

    mean: FiniteFloat
    sd: FiniteFloat
    n: int
    values: Annotated[tuple[FiniteFloat, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _of_these_values(self) -> "Measure":
        mean, sd = over_seeds(self.values)
        close = partial(isclose, rel_tol=1e-6, abs_tol=1e-9)
        if self.n != len(self.values) or not close(self.mean, mean) or not close(self.sd, sd):
            raise ValueError("mean, sd and n are not those of the values: make the file with `metaleaf gate --update`")
        return self


class Cell(Strict):
    """The baseline of one algorithm on one dataset."""

    hashes: dict[Printable, Printable]
    seeds: tuple[int, ...]
    counts: dict[Printable, int]
    measures: dict[Printable, Measure]


class Baseline(Strict):
    """The baseline of a suite; `cells` by ``<dataset>/<algorithm>``, both labels of the suite."""

    format: Literal[1] = 1
    suite: Printable
    made_with: dict[str, Any]
    cells: dict[Printable, Cell]


def path_of(folder: Path, suite: str) -> Path:
    """The suite's file in a folder of baselines."""
    return folder / f"{suite}.json"


def read(path: Path) -> Baseline | None:
    """The checked baseline, or None where there is no file. DataError if it is damaged or was written by hand."""
    if not path.is_file():
        return None
    try:
        return Baseline.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DataError(f"{path} is not a baseline: {where or 'file'}: {first['msg']}.") from None


def make(suite: str, runs: Mapping[str, Sequence[Found]]) -> Baseline:
    """The baseline of finished runs, by cell. DataError where there are fewer than two of a cell, or they differ."""
    facts = {"revision": git_facts()["revision"], "versions": versions()}
    return Baseline(suite=suite, made_with=facts, cells={name: _cell(name, found) for name, found in runs.items()})


def _cell(name: str, runs: Sequence[Found]) -> Cell:
    if len(runs) < 2:
        raise DataError(f"{name}: a baseline needs two seeds or more, got {len(runs)}.")
    first = runs[0]
    for run in runs:
        if run.diverged or any(value != value for value in run.measures.values()):
            reason = run.diverged or "a loss is not finite"
            raise DataError(f"{name} seed {run.seed}: {reason}; a gate's cell has to be one that works.")
        if (run.hashes, run.counts) != (first.hashes, first.counts):
            raise DataError(f"{name}: seeds {first.seed} and {run.seed} have other data or other counts.")
    values = {measure: tuple(run.measures[measure] for run in runs) for measure in first.measures}
    measures = {measure: _measure(each) for measure, each in values.items()}
    return Cell(hashes=first.hashes, seeds=tuple(run.seed for run in runs), counts=first.counts, measures=measures)


def _measure(values: tuple[float, ...]) -> Measure:
    mean, sd = over_seeds(values)
    return Measure(mean=mean, sd=sd, n=len(values), values=values)


def write(path: Path, baseline: Baseline) -> None:
    """Replace the file as a whole."""
    write_json(path, baseline.model_dump(mode="json"))
