"""Reading the store: every record below a folder, checked, because a record may come from anyone.

The format is described in docs/records.md. Whatever is wrong with a file becomes a DataError that names it.
"""

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
)

from metaleaf.errors import DataError

Model = Literal["final", "selected"]
MODELS: tuple[Model, ...] = ("final", "selected")
"""The two models that a record reports: of the last round, and of the round that validation chose."""

_CLIENT_COLUMNS = ["model", "support", "client", "n", "step", "correct", "loss", "majority"]
_ROUND_COLUMNS = ["round", "validation_before", "validation_after"]


def _printable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("must be printable text")  # a control character would damage an SVG or a LaTeX file
    return text


Label = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Summary(_Part):
    """Scores of one model over the test clients; see `metaleaf.statistics.summarise`."""

    clients: NonNegativeInt
    points: NonNegativeInt
    accuracy: Fraction
    client_mean: Fraction
    client_sd: NonNegativeFloat
    p10: Fraction
    p50: Fraction
    p90: Fraction
    bottom10: Fraction
    loss: float | None = None  # the majority baseline has no loss; a diverging model has none that JSON can hold
    hurt: Fraction | None = None


class Scores(_Part):
    """What one model reached at one support fraction: before and after adaptation, and the majority class."""

    before: Summary
    after: Summary
    majority: Summary


class Counts(_Part):
    """Numbers of clients in the three parts of a split."""

    train: NonNegativeInt
    validation: NonNegativeInt
    test: NonNegativeInt


class Data(_Part):
    """The data behind a run."""

    name: Label
    clients: Counts
    classes: NonNegativeInt | None = None
    data_hash: Label
    split_hash: Label


class Cost(_Part):
    """Counted cost of all rounds: bytes sent to and by clients, floating-point operations."""

    bytes_down: NonNegativeFloat
    bytes_up: NonNegativeFloat
    flops: NonNegativeFloat


class Content(_Part):
    """The JSON file of a record; keys that no table or figure needs are not looked at."""

    schema_version: Literal[1] = Field(alias="schema")
    suite: Label
    dataset: Label
    algorithm: Label
    seed: int
    config_hash: Label
    title: Label
    status: Literal["finished", "diverged"]
    reason: str | None = None
    config: dict[str, Any]
    tuning: dict[str, Any] | None = None
    data: Data
    parameters: NonNegativeInt
    rounds: NonNegativeInt
    selected_round: NonNegativeInt | None = None
    cost: Cost
    scores: dict[Model, dict[str, Scores]]


@dataclass(frozen=True)
class Record:
    """One run, finished or diverged: the checked content of `path` and, read when asked for, two tables."""

    path: Path
    content: Content

    @cached_property
    def clients(self) -> pd.DataFrame:
        """Scores per test client: one row per model, support fraction, client and step."""
        return _read_csv(self.path.with_suffix(".clients.csv"), _CLIENT_COLUMNS)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """Cost and validation scores, one row per round; scores are nan on rounds without an evaluation."""
        return _read_csv(self.path.with_suffix(".rounds.csv"), _ROUND_COLUMNS)


def read_records(folder: Path, only: Container[str] | None = None) -> list[Record]:
    """All records below `folder`, sorted by path; an empty list when there are none.

    Raises DataError on a record that cannot be read, does not follow the schema, or repeats another one.
    """
    paths = [path for path in sorted(folder.rglob("seed-*.json")) if only is None or path.parent.name in only]
    records = [_read_record(path) for path in paths]
    cells = Counter(_cell(record.content) for record in records)
    for record in records:
        if cells[_cell(record.content)] > 1:
            raise DataError(f"{record.path} is one of several records of the same run; remove the copy")
    _check_comparable(records, folder)
    return records


def _check_comparable(records: Sequence[Record], folder: Path) -> None:
    """DataError if a table of these records would compare what cannot be compared."""
    suites = sorted({record.content.suite for record in records})
    if len(suites) > 1:
        raise DataError(f"{folder} holds records of several suites ({', '.join(suites)}); report one of them")
    splits: dict[str, Record] = {}
    for record in records:
        first = splits.setdefault(record.content.dataset, record)
        if first.content.data.split_hash != record.content.data.split_hash:
            raise DataError(
                f"{first.path} and {record.path} have other clients or other data in their splits and cannot be "
                "compared; remove the older ones"
            )


def tidy(records: Sequence[Record]) -> pd.DataFrame:
    """One row per record, model and support fraction; a single row for a run without scores (diverged).

    Columns: `record` (position in `records`), `suite`, `dataset`, `algorithm`, `config_hash`, `seed`,
    `status`, `rounds`, `bytes` (down and up), `flops`, `name` (the title; with label and hash where one title
    stands for several configurations), `model`, `support` (a fraction; nan on a row without scores), and
    `<side>_<summary key>` for each side of `before`, `after`, `majority`, e.g. `after_accuracy`, a fraction.
    """
    rows: list[dict[str, Any]] = []
    for position, record in enumerate(records):
        content = record.content
        cost = content.cost
        run = content.model_dump(include={"suite", "dataset", "algorithm", "config_hash", "seed", "status", "rounds"})
        run["record"] = position
        run["name"] = content.title
        run["bytes"] = cost.bytes_down + cost.bytes_up
        run["flops"] = cost.flops
        scored = [
            run | {"model": model, "support": float(support)} | _flat(scores)
            for model, by_support in content.scores.items()
            for support, scores in by_support.items()
        ]
        rows += scored or [run | {"model": None, "support": float("nan")}]
    frame = pd.DataFrame(rows)
    return frame.assign(name=_distinct_names(frame)) if rows else frame


def in_order(records: Sequence[Record], algorithms: Sequence[str]) -> list[Record]:
    """`records` with the algorithm labels in the given order (a suite's); those not named follow."""
    rank = {label: position for position, label in enumerate(algorithms)}
    return sorted(records, key=lambda record: rank.get(record.content.algorithm, len(rank)))


def _read_record(path: Path) -> Record:
    try:
        content = Content.model_validate_json(path.read_bytes())
        for by_support in content.scores.values():
            for support in by_support:
                if not 0 < float(support) < 1:
                    raise ValueError(f"support fraction {support} is not between 0 and 1")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DataError(f"{path} is not a record of schema 1: {where or 'file'}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a record: {error}") from error
    if content.status == "finished" and set(content.scores) != set(MODELS):
        raise DataError(f"{path} is finished but lacks the scores of a model; run this cell again")
    return Record(path, content)


def _read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype={"client": "string", "environment": "string"})
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; run this cell again") from error
    if missing := [name for name in columns if name not in frame]:
        raise DataError(f"{path} lacks the column {missing[0]!r}; run this cell again")
    if "model" in columns and not frame["model"].isin(MODELS).all():
        raise DataError(f"{path} has scores of a model other than {' and '.join(MODELS)}; run this cell again")
    if frame.empty:  # a run that diverged
        return frame
    numbers = [name for name in columns if name not in ("model", "client")]
    for name in numbers:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise DataError(f"{path} has something other than numbers in the column {name!r}; run this cell again")
    return frame


def _cell(content: Content) -> tuple[str, str, str, str, int]:
    return content.suite, content.dataset, content.algorithm, content.config_hash, content.seed


def _flat(scores: Scores) -> dict[str, float]:
    return {
        f"{side}_{key}": value
        for side, summary in scores.model_dump(exclude_none=True).items()
        for key, value in summary.items()
    }


def _distinct_names(frame: pd.DataFrame) -> pd.Series:
    """Titles, made distinct where a dataset has one title for several labels or configurations.

    Runs of different configurations are never averaged as if they were seeds of one.
    """
    identity = frame["algorithm"] + " " + frame["config_hash"].str[:6]
    runs = identity.groupby([frame["dataset"], frame["name"]]).transform("nunique")
    return frame["name"].where(runs == 1, frame["name"] + " [" + identity + "]")
