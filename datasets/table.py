"""A table of one's own, CSV or Parquet: a row an example, and a column that says whose it is.

What is not said is found out: which columns are x (all others), whether y is of classes or numbers
(`metaleaf.datasets._own`), and with it task, shapes and a small model. Texts and truth values among x become a
column for each value. Numbers of x, and y where it is numbers, are standardised by training clients (`standardise`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.datasets._own import Own, Target, inferred, several, spec_of
from metaleaf.errors import ConfigError, DataError, unknown
from metaleaf.raw import brought, stamp_of

if TYPE_CHECKING:
    import pandas as pd

    from metaleaf.raw import RawFiles

MOST_TEXTS = 50
"""Different texts that a column of x may have: each becomes a column of its own."""

_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
"""What stands for no value in the columns of a CSV file; as the name of a client each is a name."""


class _Column(NamedTuple):
    """A number of x: a column of the table, or whether it holds that text."""

    name: str
    text: str | None = None


class _Read(NamedTuple):
    """The table's examples, and how each number of x is made."""

    own: Own
    columns: tuple[_Column, ...]


@dataclass(frozen=True)
class Table:
    """Clients out of one table of your own, CSV or Parquet.

    path: the file. client, target: names of columns; several targets make several labels or numbers an example. time:
    the column that puts a client's rows in order; then support and query are not drawn, the past adapts to the future.
    environment: the column of the group that a client belongs to. features: the columns of x (default: all others),
    without those in drop. target_type: whether y is of classes or numbers, where it could be either.
    """

    path: str = ""
    client: str = "client"
    target: str | tuple[str, ...] = "y"
    time: str | None = None
    environment: str | None = None
    features: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    target_type: Target | None = None
    standardise: bool = True

    @property
    def spec(self) -> Spec:
        """As the file has it; DataError if it cannot be read or makes no sense."""
        own = self._read().own
        spec = spec_of(own, ordered=self.time is not None)
        return replace(spec, standardise="x" if spec.classes else "xy") if self.standardise else spec

    @property
    def columns(self) -> tuple[str, ...]:
        """What the numbers of x are."""
        columns = self._read().columns
        return tuple(name if text is None else f"{name}={text}" for name, text in columns)

    def x_of(self, frame: "pd.DataFrame") -> np.ndarray:
        """x float32 [n, columns] of other rows, made as those of the clients; DataError if a column is missing."""
        columns = self._read().columns
        for name in dict.fromkeys(column.name for column in columns):
            if name not in frame:
                raise DataError(f"the rows have no column {name!r}, which x is made of.")
            if frame[name].isna().any():
                raise DataError(f"a row has no {name!r}: fill it in or leave the row out.")
        return np.stack([_value(frame[column.name], column) for column in columns], axis=1).astype(np.float32)

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """In the order of their first rows."""
        raw.use(self._file())
        return self._read().own.by_client()

    def _file(self) -> Path:
        if not self.path:
            raise ConfigError('table: say where it is, options = { path = "mine.csv", client = ..., target = ... }.')
        return brought(self.path)

    def _read(self) -> _Read:
        path = self._file()
        return _read(self, path, stamp_of(path))


@lru_cache(maxsize=2)  # asked for spec, labels and clients, and for every cell of a suite
def _read(table: Table, path: Path, stamp: tuple[int, ...]) -> _Read:
    frame = _frame(table, path)
    targets = [table.target] if isinstance(table.target, str) else list(table.target)
    _check(table, targets, frame, path)
    if table.time is not None:
        frame = frame.iloc[_times(frame[table.time], path).argsort(kind="stable")]
    own = {table.client, table.time, table.environment, *targets, *table.drop}
    given = [name for name in table.features or frame.columns if name not in own]
    if not given:
        raise DataError(f"{path} has no column left for x beside {', '.join(map(str, sorted(filter(None, own))))}.")
    columns = tuple(column for name in given for column in _columns(frame[name], path))
    x = np.stack([_value(frame[column.name], column) for column in columns], axis=1).astype(np.float32)
    ys = [_column(frame[name], path) for name in targets]
    what = f"{path}: {' and '.join(map(repr, targets))}"
    found = inferred(ys[0], what, table.target_type) if len(ys) == 1 else several(ys, what, table.target_type)
    environments = frame[table.environment].astype(str) if table.environment else [""] * len(frame)
    return _Read(Own(_names(frame[table.client]), np.array(environments, dtype=str), x, found), columns)


def _check(table: Table, targets: Sequence[str], frame: "pd.DataFrame", path: Path) -> None:
    """ConfigError or DataError unless the frame has rows and the columns that the table names, each for one thing."""
    roles = [name for name in (table.client, *targets, table.time, table.environment) if name is not None]
    if not targets or len(set(roles)) < len(roles):
        raise ConfigError(f"table: client, target, time and environment are columns of their own, not {roles}.")
    for name in (*roles, *table.features, *table.drop):
        if name not in frame:
            raise unknown(f"column of {path}", name, map(str, frame.columns))
    if frame.empty:
        raise DataError(f"{path} has no rows.")
    for role in (table.client, table.environment, table.time):
        if role is not None and frame[role].isna().any():
            raise DataError(f"{path}: a row has no {role!r}; fill it in or leave the row out.")


def _frame(table: Table, path: Path) -> "pd.DataFrame":
    import pandas as pd  # only here: it takes half a second

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix not in (".csv", ".tsv"):
            raise DataError(f"{path}: a table ends in .csv, .tsv or .parquet.")
        separator = "\t" if path.suffix == ".tsv" else ","
        names = [name for name in pd.read_csv(path, sep=separator, nrows=0).columns if name != table.client]
        return pd.read_csv(
            path,
            sep=separator,
            dtype={table.client: "string"},
            keep_default_na=False,
            na_values=dict.fromkeys(names, _MISSING),
        )
    except (ValueError, OSError) as error:  # pandas' and pyarrow's own are among these
        raise DataError(f"{path} cannot be read as a table: {str(error).strip().splitlines()[0]}.") from error


def _names(clients: "pd.Series[Any]") -> np.ndarray:
    """Of clients; a whole number without its point."""
    values = [int(value) if isinstance(value, float) and value.is_integer() else value for value in clients.tolist()]
    return np.array([str(value) for value in values])


def _column(column: "pd.Series[Any]", path: Path) -> np.ndarray:
    """A target's values; DataError if one is missing."""
    if column.isna().any():
        raise DataError(f"{path}: a row has no {column.name!r}; fill it in or leave the row out.")
    return _plain(column, path, "target")


def _plain(column: "pd.Series[Any]", path: Path, use: str) -> np.ndarray:
    """Numbers, truth values or texts; DataError for anything else."""
    import pandas as pd

    if pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=bool)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        return column.to_numpy(dtype=np.float64 if pd.api.types.is_float_dtype(column) else np.int64)
    values = column.tolist()
    if kinds := {type(value).__name__ for value in values if not isinstance(value, str)}:
        raise DataError(
            f"{path}: {column.name!r} is of {min(kinds)}: make numbers or texts of it"
            f"{', or name it as `time`' if use == 'feature' else ''}."
        )
    return np.array(values, dtype=str)


def _times(column: "pd.Series[Any]", path: Path) -> np.ndarray:
    """What puts rows in order; texts must be ISO dates, whose order is not that of any other text."""
    import pandas as pd

    if column.dtype.kind in "iufM" or pd.api.types.is_datetime64_any_dtype(column):
        return column.to_numpy()
    try:
        return pd.to_datetime(column, format="ISO8601").to_numpy()
    except (ValueError, TypeError):
        raise DataError(
            f"{path}: {column.name!r} is neither numbers nor dates such as 2024-01-31: it puts nothing in order."
        ) from None


def _columns(column: "pd.Series[Any]", path: Path) -> list[_Column]:
    """The numbers of x that a column makes; DataError if it cannot."""
    import pandas as pd

    name = str(column.name)
    if column.isna().any():
        raise DataError(f"{path}: the column {name!r} has gaps: fill them, or drop the column.")
    if pd.api.types.is_datetime64_any_dtype(column):
        raise DataError(f"{path}: {name!r} is a date: make numbers of it, drop it, or name it as `time`.")
    if (plain := _plain(column, path, "feature")).dtype.kind != "U":
        return [_checked(column, _Column(name), path)]
    values = sorted(set(plain.tolist()))
    if len(values) > MOST_TEXTS:
        raise DataError(f"{path}: {name!r} has {len(values):,} different texts: make numbers of it, or drop it.")
    return [_Column(name, value) for value in values]


def _checked(column: "pd.Series[Any]", plain: _Column, path: Path) -> _Column:
    if not (np.abs(_value(column, plain)) <= np.finfo(np.float32).max).all():
        raise DataError(f"{path}: the column {plain.name!r} has a value that is not finite in float32.")
    return plain


def _value(column: "pd.Series[Any]", how: _Column) -> np.ndarray:
    """float64 [n]."""
    values = column if how.text is None else column.astype(str) == how.text
    return values.to_numpy(dtype=np.float64)
