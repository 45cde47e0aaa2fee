"""Tables of plain numbers in text files, read strictly: every fault is a sentence that names the file."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metaleaf.errors import DataError

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

MAX_TEXT = 64 << 20
"""Most bytes that such a file may unpack to (64 MiB); the largest here has 10."""


def lines_of(raw: "RawFiles", path: Path, remedy: str) -> list[str]:
    """The file's lines; DataError if it is damaged, not plain text, or cut off within a line."""
    with raw.open(path, limit=MAX_TEXT) as stream:
        data = stream.read()
    if data and not data.endswith(b"\n"):
        raise DataError(f"{path} ends in the middle of a line: {remedy}")
    try:
        return data.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not a plain text (byte {data[error.start]:#04x} at {error.start:,}): {remedy}"
        ) from error


def table_of(lines: list[str], path: Path, columns: int, remedy: str, separator: str | None = None) -> np.ndarray:
    """Finite numbers, float64 [rows, columns]; separator None: any blanks. DataError for anything else."""
    if not any(line.strip() for line in lines):
        raise DataError(f"{path} has no numbers in it: {remedy}")
    try:
        values = np.loadtxt(lines, delimiter=separator, comments=None, ndmin=2)
    except ValueError as error:
        reason = str(error).split(";")[0].rstrip(".")
        raise DataError(f"{path} is not a table of numbers ({reason}): {remedy}") from error
    if values.shape[1] != columns:
        raise DataError(f"{path} has {values.shape[1]} columns instead of {columns}: {remedy}")
    if not (finite := np.isfinite(values)).all():
        row, column = np.argwhere(~finite)[0]
        raise DataError(f"{path} has {values[row, column]} in row {row + 1:,}, column {column + 1}: {remedy}")
    return values
