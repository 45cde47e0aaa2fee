"""Reading the store: every record below a folder, checked, because a record may come from anyone.

The format is described in docs/records.md. Whatever is wrong with a file becomes a DataError that names it.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Container, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import pandas as pd
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    model_validator,
)
from pydantic_core import from_json

from metaleaf.config.labels import Printable, printable
from metaleaf.errors import DataError
from metaleaf.files.whole_files import plain
from metaleaf.metrics import ACCURACY, REPORTED, Metric, constant

Model = Literal["final", "selected"]
MODELS: tuple[Model, ...] = ("final", "selected")
"""The two models that a record reports: of the last round, and of the round that validation chose."""

Who = Literal["new", "participants"]
"""Whose scores: of new clients (the test clients), or of those that trained, on what they held out."""

_CLIENT_COLUMNS = ["model", "support", "client", "n", "step", "loss"]
_ROUND_COLUMNS = ["round", "bytes_down", "bytes_up", "flops", "update_norm", "validation_before", "validation_after"]

_TEXTS = ("model", "client", "environment")
"""Columns of text; an empty cell of any other has no number."""

LIMITS = {".json": 4 << 20, ".csv": 256 << 20, ".safetensors": 1 << 30}
"""Largest size of a file in bytes. The largest table so far has 0.4 MiB; one of 3,550 test writers would have 50."""

_LONGEST_HEAD = 1 << 16
_MOST_COLUMNS = 100
"""Characters of a table's first two lines, and columns: a table is not given to pandas, whose time grows with the
square of the columns, before these are known."""


Fraction = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of a record that a reader checks; keys that it does not name are not looked at."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Summary(Part):
    """Scores of one model over the test clients; see `metaleaf.statistics.statistics.summarise`."""

    clients: NonNegativeInt
    points: NonNegativeInt
    pooled: float = Field(validation_alias=AliasChoices("pooled", "accuracy"))  # as older records have it
    client_mean: float
    client_sd: NonNegativeFloat
    p10: float
    p50: float
    p90: float
    bottom10: float
    loss: float | None = None  # the constant predictor has no loss; a diverging model has none that JSON can hold
    hurt: Fraction | None = None


class Scores(Part):
    """What one model reached at one support fraction: before and after adaptation, and the constant predictor."""

    before: Summary
    after: Summary
    majority: Summary


class Counts(Part):
    """Numbers of clients, or of something of theirs, in the three parts of a split."""

    train: NonNegativeInt
    validation: NonNegativeInt
    test: NonNegativeInt


class Data(Part):
    """The data behind a run."""

    name: Printable
    clients: Counts
    examples: Counts | None = None
    classes: NonNegativeInt | None = None
    data_hash: Printable
    split_hash: Printable
    scale: dict[str, float | list[float]] | None = None
    """How x and y were centred and divided, where they were (`metaleaf.data.scale`)."""


class Cost(Part):
    """Counted cost of all rounds: bytes sent to and by clients, floating-point operations.

    Of runs with systems (docs/systems.md) also the clock's seconds and the clients' joules.
    """

    bytes_down: NonNegativeFloat
    bytes_up: NonNegativeFloat
    flops: NonNegativeFloat
    simulated_seconds: NonNegativeFloat | None = None
    joules: NonNegativeFloat | None = None


class Privacy(Part):
    """What a run with noise tells about one client (docs/protection.md)."""

    epsilon: NonNegativeFloat
    delta: Fraction
    of: Printable


class Deceived(Part):
    """The share of examples with a backdoor's trigger that are taken for its target (docs/protection.md)."""

    before: Fraction
    after: Fraction


class SavedState(Part):
    """The file beside the record that holds the trained model (`metaleaf.runs.saved`)."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: NonNegativeInt
    tensors: list[Printable]


class Moved(Part):
    """How far rounding moves the scores: the farthest of all accuracies, and by which variant of computing."""

    moved: Fraction
    by: Printable
    variants: dict[Printable, Fraction] = Field(min_length=1)


def _readable(metric: Metric) -> Metric:
    for text in (metric.name, metric.total, metric.weight, *([metric.unit] if metric.unit else [])):
        printable(text)
    return metric


Measured = Annotated[Metric, AfterValidator(_readable)]


class Head(Part):
    """What the JSON files of all tracks share."""

    new_environments: ClassVar[bool]
    """Whether it is of that track."""

    schema_version: Literal[1] = Field(alias="schema")
    suite: Printable
    dataset: Printable
    algorithm: Printable
    seed: int = Field(ge=-(2**63), lt=2**63)
    config_hash: Printable
    title: Printable
    place: NonNegativeInt | None = None  # of the algorithm in its suite; our oldest records do not say
    status: Literal["finished", "diverged"]
    reason: str | None = None
    config: dict[str, Any]
    tuning: dict[str, Any] | None = None
    data: Data
    parameters: NonNegativeInt
    rounds: NonNegativeInt
    selected_round: NonNegativeInt | None = None
    cost: Cost
    metrics: tuple[Measured, ...] = Field((ACCURACY,), min_length=1)  # older records do not say
    saved: SavedState | None = None
    privacy: Privacy | None = None
    rounding: Moved | None = None  # where `metaleaf stability` has measured it

    @model_validator(mode="before")
    @classmethod
    def _of_this_track(cls, content: object) -> object:
        """Before all else, because a record of the other track lacks much."""
        config = content.get("config") if isinstance(content, dict) else None
        if isinstance(config, dict) and (environments_in(config) is not None) != cls.new_environments:
            track = "new clients" if cls.new_environments else "new environments"
            raise ValueError(f"is of the track of {track}; report each track from a folder of its own")
        return content

    @property
    def metric(self) -> Metric:
        """The main one, by which the model was selected."""
        return self.metrics[0]

    def summaries(self) -> Iterator[Summary]:
        """All that the record reports."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _within_bounds(self) -> "Head":
        low, high = self.metric.low, self.metric.high
        for summary in self.summaries():
            for key in ("pooled", "client_mean", "p10", "p50", "p90", "bottom10"):
                value = getattr(summary, key)
                if (low is not None and value < low) or (high is not None and value > high):
                    raise ValueError(f"has {self.metric.name} {value} ({key}), which is not from {low} to {high}")
        return self

    @property
    def environments(self) -> dict[str, Any] | None:
        """The settings of the track of new environments; None on the track of new clients."""
        return environments_in(self.config)

    @property
    def plugin(self) -> str:
        """The algorithm behind the label."""
        name = _within(self.config, "algorithm", "name")
        return name if isinstance(name, str) else self.algorithm

    @property
    def judged(self) -> dict[str, Hashable]:
        """What has to be the same for numbers to be comparable, in words; how long a run trains is not among it."""
        model = _within(self.config, "model")
        split = {"other clients or other data in their splits": (self.data.data_hash, self.data.split_hash)}
        metric = {"another metric": self.metric}
        return {**split, "another model": json.dumps(model, sort_keys=True), **metric}

    @property
    def comparable(self) -> tuple[Hashable, ...]:
        """Runs with the same have to have the same split."""
        return (self.dataset,)


class Content(Head):
    """The JSON file of a record on the track of new clients."""

    new_environments = False

    scores: dict[Model, dict[str, Scores]]
    participants: dict[Model, Scores] | None = None
    backdoor: dict[Model, dict[str, Deceived]] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Content":
        for by_support in self.scores.values():
            for support in by_support:
                if not 0 < float(support) < 1:
                    raise ValueError(f"support fraction {support} is not between 0 and 1")
        if self.status == "finished" and set(self.scores) != set(MODELS):
            raise ValueError("is finished but lacks the scores of a model; run this cell again")
        if (self.participants is not None) != bool(self.held_out):
            raise ValueError("must have scores of participants just if its protocol holds something out")
        if self.held_out and self.status == "finished" and set(self.participants or ()) != set(MODELS):
            raise ValueError("is finished but lacks the participants' scores of a model; run this cell again")
        return self

    def summaries(self) -> Iterator[Summary]:
        """See `Head`."""
        for _, _, _, scores in _scores(self):
            yield from (scores.before, scores.after, scores.majority)

    @property
    def held_out(self) -> float:
        """The fraction of their examples that training clients held out; 0 where participants are not scored."""
        found = _within(self.config, "protocol", "held_out")
        return float(found) if isinstance(found, (int, float)) and 0 < found < 1 else 0.0


def environments_in(config: object) -> dict[str, Any] | None:
    """The settings of the track of new environments in a record's configuration; None on the other track."""
    found = _within(config, "protocol", "environments")
    return found if isinstance(found, dict) else None


def _within(config: object, *keys: str) -> object:
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


AnyContent = TypeVar("AnyContent", bound=Head, covariant=True)


@dataclass(frozen=True)
class Stored(Generic[AnyContent]):
    """One run, finished or diverged: the checked content of `path` and, read when asked for, two tables."""

    path: Path
    content: AnyContent

    schema: ClassVar[type[Head]]

    @property
    def columns(self) -> list[str]:
        """Of the table of clients."""
        raise NotImplementedError

    @cached_property
    def clients(self) -> pd.DataFrame:
        """Scores of the test clients."""
        return _read_csv(self.path.with_suffix(".clients.csv"), self.columns)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """Cost and validation scores, one row per round; scores are nan on rounds without an evaluation."""
        return _read_csv(self.path.with_suffix(".rounds.csv"), _ROUND_COLUMNS)


class Record(Stored[Content]):
    """A run on the track of new clients; one row of `clients` per model, support fraction, client and step."""

    schema = Content

    @property
    def columns(self) -> list[str]:
        """See `Stored`."""
        sums = sums_of(self.content.metrics)
        return [*_CLIENT_COLUMNS, *sums, *map(constant, sums)]

    @cached_property
    def participants(self) -> pd.DataFrame:
        """Scores of the training clients on what they held out, in the same columns; empty where nothing is."""
        if not self.content.held_out:
            return pd.DataFrame(columns=self.columns)
        return _read_csv(self.path.with_suffix(".participants.csv"), self.columns)

    def scores_of(self, who: Who) -> pd.DataFrame:
        """The table of those clients."""
        return self.clients if who == "new" else self.participants


AnyRecord = TypeVar("AnyRecord", bound=Stored[Head])


def sums_of(metrics: Sequence[Metric]) -> list[str]:
    """The columns of the sums that these metrics are ratios of, beside n."""
    named = (column for metric in metrics for column in (metric.total, metric.weight))
    return list(dict.fromkeys(column for column in named if column != "n"))


def read_records(folder: Path, only: Container[str] | None = None) -> list[Record]:
    """All records of the track of new clients below `folder`, sorted by path; an empty list when there are none.

    Raises DataError on a record that cannot be read, does not follow the schema, or repeats another one.
    """
    return read_all(Record, folder, only)


def record_paths(folder: Path, only: Container[str] | None = None) -> list[Path]:
    """Paths of all records below `folder`, or of those with these config hashes, sorted."""
    return [path for path in sorted(folder.rglob("seed-*.json")) if only is None or path.parent.name in only]


def of_new_environments(path: Path) -> bool:
    """Whether a record is of that track; not if it cannot be read, which its reader will say."""
    try:
        content = from_json(plain(path, LIMITS[".json"]).read_bytes())
    except (OSError, ValueError, DataError):
        return False
    return isinstance(content, dict) and environments_in(content.get("config")) is not None


def read_all(
    kind: type[AnyRecord], folder: Path, only: Container[str] | None = None, also: Sequence[Path] = ()
) -> list[AnyRecord]:
    """Like `read_records`, on the track of that kind of record; after them the records below the folders `also`."""
    paths = record_paths(folder, only)
    for other in also:
        paths += (more := record_paths(other))
        if not more:
            raise DataError(f"no records below {other}; run that suite first")
    records = [read_record(kind, path) for path in paths]
    cells = Counter(_cell(record.content) for record in records)
    for record in records:
        if cells[_cell(record.content)] > 1:
            raise DataError(f"{record.path} is one of several records of the same run; remove the copy")
    for place in (folder, *also):
        suites = sorted({record.content.suite for record in records if record.path.is_relative_to(place)})
        if len(suites) > 1:
            raise DataError(f"{place} holds records of several suites ({', '.join(suites)}); report one of them")
    _check_comparable(records)
    firsts: dict[Hashable, AnyRecord] = {}
    for record in records:
        firsts.setdefault(_run(record.content), record)
    return list(firsts.values())


def _check_comparable(records: Sequence[Stored[Head]]) -> None:
    """DataError if a table of these records would compare what cannot be compared."""
    firsts: dict[tuple[Hashable, ...], Stored[Head]] = {}
    for record in records:
        first = firsts.setdefault(record.content.comparable, record)
        theirs, ours = first.content, record.content
        if other := [what for what, value in ours.judged.items() if theirs.judged[what] != value]:
            remedy = "remove the older ones" if ours.suite == theirs.suite else "report them apart"
            raise DataError(f"{first.path} and {record.path} have {other[0]} and cannot be compared; {remedy}")


def tidy(records: Sequence[Record]) -> pd.DataFrame:
    """One row per record, model, kind of client and support fraction; a single row for a run that diverged.

    Columns: `record` (position in `records`), `suite`, `dataset`, `algorithm`, `config_hash`, `seed`,
    `status`, `rounds`, `bytes` (down and up), `flops`, `rounding` (how far it moves a score; nan: not measured), `name`
    (the title; with label and hash where one title stands for several configurations), `model`, `who` (see `Who`),
    `support` (a fraction; of participants what they did not hold out; nan on a row without scores), and
    `<side>_<summary key>` for each side of `before`, `after`, `majority` (the constant predictor), e.g. `after_pooled`.
    """
    rows: list[dict[str, Any]] = []
    for position, record in enumerate(records):
        run = about_run(position, record)
        scored = [
            run | {"model": model, "who": who, "support": support} | _flat(scores)
            for model, who, support, scores in _scores(record.content)
        ]
        rows += scored or [run | {"model": None, "who": "new", "support": float("nan")}]
    return with_distinct_names(pd.DataFrame(rows))


def _scores(content: Content) -> Iterator[tuple[Model, Who, float, Scores]]:
    """All that the record reports; support as the tables of clients have it."""
    for model, by_support in content.scores.items():
        for support, scores in by_support.items():
            yield model, "new", float(support), scores
    for model, scores in (content.participants or {}).items():
        yield model, "participants", round(1 - content.held_out, 12), scores


def about_run(position: int, record: Stored[Head]) -> dict[str, Any]:
    """The columns of `tidy` that do not depend on the track; the name is the title."""
    content, cost = record.content, record.content.cost
    run = content.model_dump(include={"suite", "dataset", "algorithm", "config_hash", "seed", "status", "rounds"})
    sent = cost.bytes_down + cost.bytes_up
    moved = content.rounding.moved if content.rounding else float("nan")
    return {**run, "record": position, "name": content.title, "bytes": sent, "flops": cost.flops, "rounding": moved}


def names_of(records: Sequence[Stored[Head]]) -> list[str]:
    """The name of each, as tables and figures have it: see `with_distinct_names`."""
    runs = pd.DataFrame([about_run(position, record) for position, record in enumerate(records)])
    return list(with_distinct_names(runs)["name"]) if records else []


def in_order(records: Sequence[AnyRecord], algorithms: Sequence[str] = ()) -> list[AnyRecord]:
    """`records` suite by suite as they come, in each the algorithm labels in the given order and then in the suite's.

    An algorithm whose records do not say its place is after those that do.
    """
    given = {label: position for position, label in enumerate(algorithms)}
    suites = list(dict.fromkeys(record.content.suite for record in records))
    rank: dict[str, tuple[float, ...]] = {}
    for content in (record.content for record in records):
        place = math.inf if content.place is None else content.place
        key = (suites.index(content.suite), given.get(content.algorithm, len(given)), place)
        rank[content.algorithm] = min(rank.get(content.algorithm, key), key)
    return sorted(records, key=lambda record: rank[record.content.algorithm])


def read_record(kind: type[AnyRecord], path: Path) -> AnyRecord:
    """The record of that track at `path`, its tables not read yet; DataError if it is none."""
    try:
        content = kind.schema.model_validate_json(plain(path, LIMITS[".json"]).read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{path} is not a record of schema 1: {where or 'file'}: {message}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a record: {error}") from error
    return kind(path, content)


def _read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        numbers = [name for name in _header(path) if name not in _TEXTS]
        # What stands for no number elsewhere ("NA", "null") may be the name of a client.
        frame = pd.read_csv(
            path, dtype=dict.fromkeys(_TEXTS, "string"), keep_default_na=False, na_values=dict.fromkeys(numbers, "")
        )
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {str(error).strip()}; run this cell again") from error
    if missing := [name for name in columns if name not in frame]:
        raise DataError(f"{path} lacks the column {missing[0]!r}; run this cell again")
    if "model" in columns and not frame["model"].isin(MODELS).all():
        raise DataError(f"{path} has scores of a model other than {' and '.join(MODELS)}; run this cell again")
    if frame.empty:  # a run that diverged
        return frame
    for name in [name for name in (*columns, *reported(frame)) if name not in _TEXTS]:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise DataError(f"{path} has something other than numbers in the column {name!r}; run this cell again")
    return frame


def reported(table: pd.DataFrame) -> list[str]:
    """The table's columns that an algorithm has reported; older records, and most algorithms', have none."""
    return [name for name in map(str, table) if name.startswith(REPORTED)]


def _header(path: Path) -> list[str]:
    """The names of a table's columns; ValueError if they are too many, not distinct, or not those of its first row."""
    with plain(path, LIMITS[".csv"]).open(encoding="utf-8", newline="") as file:
        head = csv.reader(io.StringIO(file.read(_LONGEST_HEAD), newline=""))
    names = next(head, [])
    if not names or len(names) > _MOST_COLUMNS or len(set(names)) < len(names):
        raise ValueError("its first line does not name the columns of a record's table")
    if len(next(head, names)) != len(names):
        raise ValueError("its second line does not have a cell for each column")
    return names


def _cell(content: Head) -> tuple[str, str, str, str, int]:
    return content.suite, content.dataset, content.algorithm, content.config_hash, content.seed


def _run(content: Head) -> tuple[str, str, str, int]:
    """The same run in several suites is one: that of the folder that was named first."""
    return content.dataset, content.algorithm, content.config_hash, content.seed


def _flat(scores: Scores) -> dict[str, float]:
    return {
        f"{side}_{key}": value
        for side, summary in scores.model_dump(exclude_none=True).items()
        for key, value in summary.items()
    }


def with_distinct_names(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with names made distinct where a dataset has one title for several labels or configurations.

    Runs of different configurations are never averaged as if they were seeds of one.
    """
    if frame.empty:
        return frame
    identity = frame["algorithm"] + " " + frame["config_hash"].str[:6]
    runs = identity.groupby([frame["dataset"], frame["name"]]).transform("nunique")
    return frame.assign(name=frame["name"].where(runs == 1, frame["name"] + " [" + identity + "]"))
