"""Tables in text files, read line by line and strictly: every fault is a sentence that names file, line and value."""

import csv
import io
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from metaleaf.errors import DataError

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

T = TypeVar("T")

MAX_TEXT = 1 << 30
"""Most bytes that a table may unpack to (1 GiB); the largest that is known here has 180 MB."""

_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Row:
    """A line's fields by the names of their columns; where it stands and what to do if it is wrong, for errors."""

    where: str
    remedy: str
    fields: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.fields[name]

    def fault(self, name: str, wanted: str) -> DataError:
        """Say that a field does not hold what is wanted."""
        return DataError(f"{self.where}: {name} is {self.fields[name][:60]!r}, not {wanted}: {self.remedy}")

    def number(self, name: str, low: float = -math.inf, high: float = math.inf, missing: str | None = None) -> float:
        """A plain finite number from low to high; nan where the field is `missing`, DataError for anything else."""
        if self.fields[name] == missing:
            return math.nan
        if _NUMBER.fullmatch(self.fields[name]):
            value = float(self.fields[name])
            if math.isfinite(value) and low <= value <= high:
                return value
        within = "" if low == -math.inf else f" from {low:g}" + ("" if high == math.inf else f" to {high:g}")
        raise self.fault(name, f"a number{within}")

    def whole(self, name: str, low: float = -math.inf, high: float = math.inf) -> int:
        """As `number`, without a fraction."""
        value = self.number(name, low, high)
        if value != int(value):
            raise self.fault(name, "a whole number")
        return int(value)

    def text(self, name: str, known: Collection[str]) -> str:
        """The field; DataError unless it is one of those that are known."""
        if self.fields[name] not in known:
            raise self.fault(name, f"one of {', '.join(filter(None, known))}")
        return self.fields[name]

    def one_of(self, name: str, known: Mapping[str, T]) -> T:
        """What the field's text stands for; DataError for a text that is not known."""
        return known[self.text(name, known)]


def lines_of(raw: "RawFiles", path: Path, remedy: str) -> Iterator[str]:
    """The lines of a UTF-8 text with their ends; DataError if it is damaged or in another encoding."""
    with raw.open(path, limit=MAX_TEXT) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
        try:
            yield from text
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not a UTF-8 text ({error}): {remedy}") from error


def rows(
    lines: Iterable[str],
    path: Path,
    names: Sequence[str],
    remedy: str,
    *,
    header: bool,
    separator: str = ",",
    before: int = 0,
) -> Iterator[Row]:
    """The table's rows; blank lines are passed over.

    header: the first line names the columns, of which only `names` are wanted. Otherwise `names` are all columns.
    before: lines of the file that come before these. DataError for a column that is not there or there twice, another
    number of fields, or quotation marks that do not match.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True)
    places, width = list(range(len(names))), len(names)
    try:
        if header:
            first = next(reader, [])
            for name in names:
                if first.count(name) != 1:
                    raise DataError(f"{path} has {first.count(name)} columns called {name!r}, not 1: {remedy}")
            places, width = [first.index(name) for name in names], len(first)
        for fields in reader:
            if not fields:
                continue
            where = f"{path}, line {reader.line_num + before}"
            if len(fields) != width:
                raise DataError(f"{where} has {len(fields)} fields, not {width}: {remedy}")
            yield Row(where, remedy, dict(zip(names, (fields[i] for i in places), strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + before} cannot be read ({error}): {remedy}") from error


def check_count(path: Path, found: int, expected: int, what: str, remedy: str) -> None:
    """DataError unless as many are there as in the publisher's file."""
    if found != expected:
        raise DataError(f"{path} has {found:,} {what}, not {expected:,}: it is cut off or another edition: {remedy}")


def table(
    raw: "RawFiles", path: Path, names: Sequence[str], remedy: str, *, header: bool = True, count: int | None = None
) -> list[Row]:
    """All rows of a comma-separated file, `count` of them; DataError as of `rows`, `lines_of` and `check_count`."""
    found = list(rows(lines_of(raw, path, remedy), path, names, remedy, header=header))
    if count is not None:
        check_count(path, len(found), count, "rows", remedy)
    return found


def by_number(found: Iterable[Row], name: str) -> dict[int, Row]:
    """The rows by a whole number that each has alone; DataError if two have the same."""
    numbered: dict[int, Row] = {}
    for row in found:
        if numbered.setdefault(row.whole(name), row) is not row:
            raise row.fault(name, "a number that no other row has")
    return numbered
