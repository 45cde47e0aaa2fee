"""One record of a submission, read and resolved: what the rules are checked on."""

import os
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pydantic import NonNegativeInt, PositiveInt, ValidationError

from metaleaf.config.config import RunConfig, explain
from metaleaf.config.labels import Printable
from metaleaf.engine.engine import Mode
from metaleaf.environments import run as environment_run
from metaleaf.errors import DataError, UserError
from metaleaf.files.whole_files import plain
from metaleaf.jobs.execute import Settings
from metaleaf.jobs.from_record import config_of
from metaleaf.records.environments import EnvironmentRecord
from metaleaf.records.records import LIMITS, Head, Part, Record, Stored, of_new_environments, read_record, sums_of
from metaleaf.runs import evaluate
from metaleaf.submission.problem import Problem

COUNTS = ("n_support", "n", "correct", "correct_after", "majority", "step", "draw", "rounds")
"""Columns of clients.csv that count something."""


class Engine(Part):
    """How the run was computed."""

    mode: Mode
    threads: PositiveInt | None = None  # our oldest records do not say


class Made(Part):
    """By what a record was made, of which nothing is derived."""

    versions: dict[Printable, Printable]
    git: dict[str, Printable | bool | None]
    device: dict[str, Printable | bool | NonNegativeInt]
    engine: Engine
    sources: dict[Printable, Printable | None] | None = None  # our oldest records do not say


class Entry(NamedTuple):
    """`where`: the record's path in the submission; its configuration resolved; its tables in memory.

    participants: the table of their scores, empty where none are.
    """

    where: str
    record: Stored[Head]
    config: RunConfig
    made: Made
    clients: pd.DataFrame
    participants: pd.DataFrame
    rounds: pd.DataFrame

    @property
    def content(self) -> Head:
        """The record's JSON."""
        return self.record.content

    @property
    def federation(self) -> tuple[object, ...]:
        """Entries with the same have the same data and the same split: those of a dataset, or of one drawing of it."""
        return (self.content.dataset, self.content.seed if self.config.redraw else None)

    @property
    def cell(self) -> str:
        """Dataset, algorithm and seed, in words."""
        return f"{self.content.dataset}/{self.content.algorithm} seed {self.content.seed}"


def read(folder: Path, paths: Iterable[Path]) -> tuple[list[Entry], list[Problem]]:
    """The records at `paths`, and what is wrong with those that cannot be read as the schema has it."""
    entries, problems = [], []
    for path in paths:
        where = path.relative_to(folder).as_posix()
        try:
            entries.append(entry(path, where))
        except UserError as error:
            problems.append(Problem("schema", where, str(error).replace(f"{folder}/", "")))
    return entries, problems


def read_one(path: Path) -> Entry:
    """The single record at `path`, its files looked at before any is read. Errors as of `entry`."""
    for suffix in (".json", ".clients.csv", ".rounds.csv", ".participants.csv"):
        file = path.with_suffix(suffix)
        if suffix == ".participants.csv" and not file.exists():
            continue  # most records have none
        if path.suffix != ".json" or not file.exists():
            raise DataError(f"there is no {file.name} in {file.parent}: give a record, .../seed-<n>.json.")
        plain(file, LIMITS[file.suffix])
    return entry(path, str(path))


def entry(path: Path, where: str) -> Entry:
    """The record whose JSON is at `path`; DataError if it is none, ConfigError if its configuration is none here."""
    kind = EnvironmentRecord if of_new_environments(path) else Record
    record = read_record(kind, path)
    config = config_of(record.content)
    sums = sums_of(record.content.metrics)
    of_clients = ("model", *evaluate.client_columns(sums))
    needed = environment_run.client_columns(sums) if kind is EnvironmentRecord else of_clients
    clients = _checked("clients.csv", record.clients, needed)
    participants = pd.DataFrame(columns=list(needed))
    if isinstance(record, Record) and record.content.held_out:
        participants = _checked("participants.csv", record.participants, needed)
    try:
        made = Made.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(explain(error, "the record")) from None
    return Entry(where, record, config, made, clients, participants, record.rounds)


def _checked(file: str, table: pd.DataFrame, needed: Collection[str]) -> pd.DataFrame:
    """The table of clients; DataError if it lacks something."""
    if missing := sorted(set(needed).difference(table)):
        raise DataError(f"{file} lacks the column {missing[0]!r}")
    for name in set(needed).intersection(COUNTS):
        if not table.empty and not _counts(table[name]):
            raise DataError(f"{file} has something other than whole numbers from 0 in the column {name!r}")
    return table


def as_recorded(settings: Settings, made: Engine) -> Settings:
    """With the record's engine and threads where the settings leave them open and this machine has as many."""
    threads = made.threads if made.threads and made.threads <= (os.cpu_count() or 1) else None
    mode = made.mode if settings.mode == "auto" else settings.mode
    return replace(settings, mode=mode, threads=settings.threads or threads)


def _counts(column: "pd.Series[Any]") -> bool:
    return pd.api.types.is_numeric_dtype(column) and bool(((column >= 0) & (column % 1 == 0)).all())
