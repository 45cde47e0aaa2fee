"""Tables as text: cells, columns, and what is marked in them. Each track says what its tables show."""

import math
import re
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple

import pandas as pd

from metaleaf.errors import DataError, unknown
from metaleaf.metrics import ACCURACY, Metric
from metaleaf.records.records import Head

BEST_ROUND = "the round with the best validation {}"
"""The selected model's, in captions, of a metric's name."""


@dataclass(frozen=True)
class Cell:
    """What is shown, what it is sorted by (nan: last), how it is marked, and the ends of its interval, if any."""

    text: str
    value: float = math.nan
    mark: Literal["", "best", "second"] = ""
    interval: tuple[str, str] | None = None


@dataclass(frozen=True)
class Table:
    """One comparison as text. `columns` are (group, heading) pairs; the first column holds the names."""

    label: str
    title: str
    caption: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    baseline: str = ""
    """Name of the row that stands for no algorithm."""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups from left to right, each with its number of columns."""
        return [(group, len(list(columns))) for group, columns in groupby(group for group, _ in self.columns)]


class Field(NamedTuple):
    """A column: group and heading, what it shows of a row, which values are better (max, min), if any.

    Where a test was made on just these values, `tied` has the algorithms that it calls the best; `among` those that
    compete in this column, where they are not those of the whole table. `prints`: values that it makes the same text of
    are ties.
    """

    group: str
    heading: str
    show: Callable[[pd.Series], Cell]
    better: Callable[..., Any] | None = None
    tied: Container[str] | None = None
    among: Container[str] | None = None
    prints: Callable[[float], str] = "{:.1f}".format


Layout = tuple[tuple[tuple[str, str], ...], tuple[tuple[Cell, ...], ...]]
"""Columns and rows of a `Table`."""


def lay_out(rows: pd.DataFrame, fields: Sequence[Field], competes: Sequence[bool]) -> Layout:
    """What `fields` show of `rows`, with the best and the second among the rows that compete marked."""
    columns = []
    for field in fields:
        cells = [field.show(row) for _, row in rows.iterrows()]
        tied, among = (None if c is None else [n in c for n in rows["algorithm"]] for c in (field.tied, field.among))
        columns.append(_marked(cells, among or competes, field, tied))
    headings = tuple((field.group, field.heading) for field in fields)
    return headings, tuple(zip(*columns, strict=True))


def whole(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows may win: the mean of the seeds that survived, or of fewer seeds than others ran, is no result."""
    return rows["diverged"].eq(0) & rows["seeds"].eq(rows["seeds"].max())


def configuration_of(label: str | None, runs: pd.DataFrame) -> str | None:
    """The name under which `runs`, of one dataset, have the baseline `label`; None where they lack it.

    Raises DataError if it has several configurations there.
    """
    names = runs.loc[runs["algorithm"] == label, "name"].unique()
    if len(names) > 1:
        raise DataError(f"the baseline {label} has several configurations ({', '.join(names)}); remove the older ones")
    return str(names[0]) if len(names) else None


def check_baseline(label: str | None, known: Collection[str]) -> None:
    """Raise ConfigError if a baseline is asked for that is not there."""
    if label is not None and label not in known:
        raise unknown("baseline", label, known)


# ------------------------------------------------------------------------------------------------- cells


def score_cell(score: float, spread: float | None = None, metric: Metric = ACCURACY) -> Cell:
    """A score as its metric shows it, shares in percent, with its spread if one is given."""
    if math.isnan(score):
        return Cell("–")
    around = "" if spread is None else f" ± {'–' if math.isnan(spread) else metric.number(spread)}"
    return Cell(f"{metric.number(score)}{around}", metric.scale * score)


def interval_cell(
    value: float, low: float, high: float, metric: Metric = ACCURACY, show: Callable[[float], str] | None = None
) -> Cell:
    """A score, or with `show` a difference, with the ends of its interval where they are known."""
    shown = show or metric.number
    if math.isnan(value):
        return Cell("–")
    return Cell(shown(value), metric.scale * value, interval=None if math.isnan(low) else (shown(low), shown(high)))


def p_cell(p: float) -> Cell:
    """A p value."""
    if math.isnan(p):
        return Cell("–")
    return Cell("<0.001" if p < 0.001 else f"{p:.3f}", p)


def seeds_cell(row: pd.Series) -> Cell:
    """Finished seeds, and those that diverged."""
    diverged = f" ({row['diverged']} diverged)" if row["diverged"] else ""
    return Cell(f"{row['seeds']}{diverged}", row["seeds"])


def rounding_fields(group: str, rows: pd.DataFrame) -> list[Field]:
    """The column of how far rounding moves a score, in points; none where it was not measured."""
    column = Field(group, "Rounding", lambda row: score_cell(row["rounding"]))
    return [column] if rows["rounding"].notna().any() else []


ROUNDING = "Rounding: points by which a score of any seed moves when only rounding differs, at most."
RELATIVE = "Rounding: percent by which a score of any seed moves when only rounding differs, at most."


def count_cell(value: float) -> Cell:
    """A whole number."""
    return Cell("–") if math.isnan(value) else Cell(f"{value:.0f}", value)


def amount_cell(value: float, unit: float) -> Cell:
    """A number in a unit of `unit_of`, to three digits or the whole number."""
    if math.isnan(value):
        return Cell("–")
    scaled = value / unit
    return Cell(f"{scaled:.0f}" if scaled >= 100 else f"{scaled:.2g}" if scaled < 1 else f"{scaled:.3g}", value)


def unit_of(largest: float) -> tuple[float, str]:
    """The largest of the units kilo to peta in which `largest` is at least 1; mega if there is nothing."""
    for unit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if largest >= unit:
            return unit, prefix
    return 1e6, "M"


def _marked(cells: list[Cell], competes: Sequence[bool], field: Field, tied: Sequence[bool] | None) -> list[Cell]:
    """Mark the best of the competing cells, and the best of the others; without a test all that print the same."""
    known = [c and not math.isnan(cell.value) for cell, c in zip(cells, competes, strict=True)]
    if field.better is None or not any(known):
        return cells
    if tied is None:
        best = _printing_best(cells, known, field)
    else:
        best = [t and k for t, k in zip(tied, known, strict=True)]
    second = _printing_best(cells, [k and not b for k, b in zip(known, best, strict=True)], field)
    return [
        replace(cell, mark="best" if first else "second" if next_ else "")
        for cell, first, next_ in zip(cells, best, second, strict=True)
    ]


def _printing_best(cells: Sequence[Cell], among: Sequence[bool], field: Field) -> list[bool]:
    """Which of the cells in question print the best value."""
    values = [cell.value for cell, a in zip(cells, among, strict=True) if a]
    best = field.prints(field.better(values)) if field.better and values else ""
    return [a and field.prints(cell.value) == best for cell, a in zip(cells, among, strict=True)]


# -------------------------------------------------------------------------------------------------- words


def tuning_sentence(contents: Iterable[Head]) -> str:
    """Where the hyper-parameters come from."""
    trials = [(content.title, integer((content.tuning or {}).get("trials", 0)) or 0) for content in contents]
    each = {number for _, number in trials}
    if each == {0}:
        return "Hyper-parameters are those that the suite states."
    if len(each) == 1:
        return f"Hyper-parameters: {span(each)} trials per algorithm on validation clients."
    return f"Hyper-parameters: unequal numbers of trials on validation clients: {by_value(trials)}."


def systems_and_protection(contents: Iterable[Head]) -> list[str]:
    """The systems, the layers between clients and server, and what noise leaves of privacy; nothing where none are."""
    known = [(content.title, content) for content in contents]
    layers = [(title, _layers(content.config.get("protection"))) for title, content in known]
    found = []
    systems = [(title, _systems(content.config.get("systems"))) for title, content in known]
    if any(text for _, text in systems):
        found.append(f"Systems: {by_value((title, text or 'none') for title, text in systems)}.")
    if any(text for _, text in layers):
        found.append(f"Protection: {by_value((title, text or 'none') for title, text in layers)}.")
    if told := [(title, content.privacy) for title, content in known if content.privacy]:
        sizes = by_value((title, f"ε = {one.epsilon:.3g} at δ = {one.delta:.2g}") for title, one in told)
        found.append(f"Of one client: {sizes}.")
    return found


def _systems(given: object) -> str:
    """Who could be asked, and when a round ended; devices by name."""
    if not isinstance(given, Mapping):
        return ""
    devices = given.get("devices")
    names = [str(one.get("name")) for one in devices if isinstance(one, Mapping)] if isinstance(devices, list) else []
    there = given.get("availability")
    said = {
        "availability": there.get("name") if isinstance(there, Mapping) else None,
        "deadline": given.get("deadline"),
    }
    said |= {"over_select": given.get("over_select"), "weigh": given.get("weigh"), "devices": " and ".join(names)}
    return _printable(", ".join(f"{key} {value}" for key, value in said.items() if value))


def _layers(given: object) -> str:
    """What a configuration's protection is, with the options that are not None."""
    if not isinstance(given, Mapping):
        return ""
    texts = []
    for layer, options in given.items():
        known = options if isinstance(options, Mapping) else {}
        said = [f"{key} {value}" for key, value in known.items() if key != "name" and value is not None]
        name = [str(known["name"])] if "name" in known else []
        texts.append(layer + (f" ({', '.join([*name, *said])})" if name or said else ""))
    return _printable("; ".join(texts))


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor: records may be a stranger's."""
    return "".join(letter for letter in text if letter.isprintable())


def integer(value: object) -> int | None:
    """The value, if that is what it is."""
    return value if isinstance(value, int) else None


def span(values: Iterable[int | None]) -> str:
    """`100`, or `50–100` when runs differ."""
    known = sorted({value for value in values if value is not None})
    if not known:
        return ""
    return f"{known[0]}" if len(known) == 1 else f"{known[0]}–{known[-1]}"


def by_value(found: Iterable[tuple[str, object]]) -> str:
    """Who has what, as ``100 (FedAvg, MAML), 2 (Mine)``, or only ``100`` where all have the same."""
    names: dict[object, dict[str, None]] = {}
    for name, value in found:
        names.setdefault(value, {})[name] = None
    if len(names) < 2:
        return "".join(map(str, names))
    return ", ".join(f"{value} ({', '.join(its)})" for value, its in names.items())


def slug(text: str) -> str:
    """A text as a name for links and LaTeX labels."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
