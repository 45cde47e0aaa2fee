"""What a leaderboard table is made of: columns, rows, cells with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from metaleaf import registry
from metaleaf.algorithm import About
from metaleaf.errors import ConfigError
from metaleaf.metrics import Metric
from metaleaf.report.tables.tables import unit_of
from metaleaf.statistics.intervals import Estimate


class Cell(NamedTuple):
    """What is shown, what it is sorted by (nan: last), and the interval around it, as text and as numbers.

    drawn: whether it may stand on its column's axis, which is in percent.
    """

    text: str
    value: float = math.nan
    interval: str = ""
    low: float = math.nan
    high: float = math.nan
    drawn: bool = True


UNKNOWN = Cell("–")


class Column(NamedTuple):
    """`key` names it in links; `better` is what a first click puts on top; a column with an `axis` has bars on it."""

    key: str
    heading: str
    better: Literal["high", "low"] = "high"
    axis: tuple[float, float] | None = None
    text: bool = False


@dataclass(frozen=True)
class Row:
    """`filters` has what the row is found by, e.g. its dataset; `run` the id of the run behind it, if there is one."""

    filters: Mapping[str, str]
    cells: tuple[Cell, ...]
    run: str | None = None


@dataclass(frozen=True)
class Track:
    """One table of the leaderboard; a row's first cell is the algorithm. `about` says what its numbers are."""

    key: str
    title: str
    about: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...] = ()

    def of(self, rows: Sequence[Row]) -> "Track":
        """With these rows, and axes that hold all of their bars."""
        columns = tuple(
            column._replace(axis=_spanning(column.axis, [row.cells[i] for row in rows])) if column.axis else column
            for i, column in enumerate(self.columns)
        )
        return replace(self, columns=columns, rows=tuple(rows))


def _spanning(axis: tuple[float, float], cells: Sequence[Cell]) -> tuple[float, float]:
    drawn = [cell for cell in cells if cell.drawn]
    ends = [end for cell in drawn for end in (cell.value, cell.low, cell.high) if not math.isnan(end)]
    return min([axis[0], *ends]), max([axis[1], *ends])


PERCENT = (0.0, 100.0)
ALGORITHM = Column("algorithm", "Algorithm", "low", text=True)
METRIC = Column("metric", "Metric", "low", text=True)
FAMILY = Column("family", "Family", "low", text=True)
DATASET = Column("dataset", "Dataset", "low", text=True)
SUITE = Column("suite", "Suite", "low", text=True)

BASELINE = "baseline"
"""Family of what is no algorithm."""


def percent(found: Estimate, signed: bool = False) -> Cell:
    """A fraction and its interval in percent."""
    if math.isnan(found.value):
        return UNKNOWN
    value, low, high = (100 * number for number in found)
    if math.isnan(low):
        return Cell(_number(value, signed), value)
    return Cell(_number(value, signed), value, f"[{_number(low, signed)}, {_number(high, signed)}]", low, high)


def _number(value: float, signed: bool) -> str:
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return "0.0" if not float(text) else text.replace("-", "−")


def score(found: Estimate, metric: Metric, signed: bool = False) -> Cell:
    """A score and its interval; what is no share has its unit beside it."""
    if metric.unit == "%" or math.isnan(found.value):
        return percent(found, signed)
    show = metric.signed if signed else metric.number
    interval = "" if math.isnan(found.low) else f"[{show(found.low)}, {show(found.high)}]"
    text = f"{show(found.value)} {metric.unit}".rstrip()
    return Cell(text, found.value, interval, found.low, found.high, drawn=False)


def points(fraction: float) -> Cell:
    """A difference of shares, in points."""
    return UNKNOWN if math.isnan(fraction) else Cell(_number(100 * fraction, signed=False), 100 * fraction)


def amount(value: float, unit: str) -> Cell:
    """A number with the unit's prefix, to three digits."""
    if math.isnan(value):
        return UNKNOWN
    scale, prefix = unit_of(value) if value else (1, "")
    scaled = value / scale
    return Cell(f"{scaled:.0f} {prefix}{unit}" if scaled >= 100 else f"{scaled:.3g} {prefix}{unit}", value)


def count(value: float) -> Cell:
    """A whole number."""
    return UNKNOWN if math.isnan(value) else Cell(f"{value:,.0f}", value)


def seeds(finished: int, diverged: int) -> Cell:
    """Finished seeds, and those that diverged."""
    return Cell(f"{finished} ({diverged} diverged)" if diverged else f"{finished}", finished)


def family(plugin: str) -> str:
    """Of an algorithm's plugin; "other" where it is not installed here or does not say."""
    try:
        about: About | None = getattr(registry.plugin("algorithms", plugin), "about", None)
    except ConfigError:
        about = None
    return about.family if about else "other"
