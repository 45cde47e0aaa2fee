"""Small tables of text, a line of comma-separated fields an example, checked field by field as they are read."""

import csv
import io
import math
import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from metaleaf.errors import DataError

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

MAX_TEXT = 1 << 27
"""Most bytes of one table (128 MiB): all of it is in memory."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Row(NamedTuple):
    """One line: its fields by column. The rest is for sentences about it: the file, the line's number, what to do."""

    fields: dict[str, str]
    path: Path
    line: int
    remedy: str

    def text(self, column: str, known: Container[str]) -> str:
        """The field; DataError unless it is one of those that are known."""
        found = self.fields[column]
        if found not in known:
            raise self.wrong(column, "which is not known")
        return found

    def number(self, column: str, low: float, high: float, missing: str | None = None) -> float:
        """The field as a number from low to high; nan where it is `missing`, else DataError."""
        found = self.fields[column]
        if found == missing:
            return math.nan
        if not _NUMBER.fullmatch(found) or not low <= float(found) <= high:
            raise self.wrong(column, f"not a number from {low:g} to {high:g}")
        return float(found)

    def whole(self, column: str, low: int = 0, high: int = 2**53) -> int:
        """The field as a whole number from low to high; DataError if it is none."""
        found = self.number(column, low, high)
        if not found.is_integer():
            raise self.wrong(column, "not a whole number")
        return int(found)

    def wrong(self, column: str, problem: str) -> DataError:
        """The error of a field that is no such thing."""
        found = f"{column} is {self.fields[column]!r}, {problem}"
        return DataError(f"{self.path}, line {self.line}: {found}: {self.remedy}")


def rows(
    raw: "RawFiles", path: Path, columns: Sequence[str], remedy: str, *, headed: bool = True, count: int | None = None
) -> list[Row]:
    """The lines of a table that has these columns. headed: its first line names them, and it may have more.

    count: how many lines the publisher's file has. DataError, in a sentence with the remedy, if it is no such table.
    """
    with raw.open(path, limit=MAX_TEXT) as file:
        data = file.read()
    try:
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        read = [(lines.line_num, fields) for fields in lines]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table of comma-separated text ({error}): {remedy}") from error
    names = read.pop(0)[1] if headed and read else list(columns)
    if absent := sorted(set(columns) - set(names)):
        raise DataError(f"{path} has no column {absent[0]!r}: {remedy}")
    if len(set(names)) < len(names):
        raise DataError(f"{path} has two columns of one name: {remedy}")
    for line, fields in read:
        if len(fields) != len(names):
            raise DataError(f"{path}, line {line} has {len(fields)} fields, not {len(names)}: {remedy}")
    if count is not None and len(read) != count:
        raise DataError(f"{path} has {len(read):,} rows, not {count:,}: {remedy}")
    return [Row(dict(zip(names, fields, strict=True)), path, line, remedy) for line, fields in read]


def by_number(table: Sequence[Row], column: str) -> dict[int, Row]:
    """The rows by a whole number that each has alone; DataError if two have the same."""
    found: dict[int, Row] = {}
    for row in table:
        if found.setdefault(row.whole(column), row) is not row:
            raise row.wrong(column, "which another row has, too")
    return found
