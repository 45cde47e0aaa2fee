"""A dataset of Hugging Face's on disk, or Parquet: a row an example, one column that says whose it is.

Read are the folders that `datasets` writes with ``save_to_disk`` (of a `Dataset` or a `DatasetDict`), and Parquet files
as the Hub has them. Both are Arrow's columns, for which pyarrow is enough: no script is run, nothing is fetched, and
the package `datasets` need not be there.
"""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from metaleaf.dataset import Client
from metaleaf.datasets._exchange import Foreign, in_order
from metaleaf.errors import ConfigError, DataError, unknown
from metaleaf.raw import RawFiles
from metaleaf.raw import exchange as notes

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1000
"""Rows of Parquet that are in memory at a time; as many as Hugging Face puts into one batch of Arrow."""

MOST_JSON = 16 << 20
"""Bytes of a file that describes a dataset."""

MOST_PIXELS = 1 << 24
"""Of one image."""


@dataclass(frozen=True)
class HuggingFace(Foreign):
    """Clients out of a dataset of Hugging Face's on disk, or out of Parquet.

    path: a folder that save_to_disk has written (all splits are read), a .parquet file or a folder of them. client, x,
    y: the columns. x holds numbers or lists of one shape, or images; y a class or numbers. environment, group: the
    columns of the group that a client belongs to, and of examples that belong together (`metaleaf.dataset.Client`).
    """

    client: str = notes.CLIENT
    x: str = notes.X
    y: str = notes.Y
    environment: str | None = None
    group: str | None = None

    def files(self) -> list[Path]:
        """Parquet or Arrow files: those that a folder lists, in its order, else those that it has."""
        place = self.place("huggingface")
        if place.is_file():
            return [place]
        if (place / "dataset_dict.json").is_file():
            splits = _listed(place / "dataset_dict.json", "splits")
            return [path for split in splits for path in _saved(place / split)]
        if (place / "state.json").is_file():
            return _saved(place)
        if found := in_order([*place.glob("*.parquet"), *(place / "data").glob("*.parquet")]):
            return found
        raise DataError(f"{place} has neither Parquet files nor what save_to_disk of Hugging Face's datasets writes.")

    def said(self) -> bytes | None:
        """What an export left in the schema."""
        found: bytes | None = (self._schema.metadata or {}).get(notes.KEY.encode())
        return found

    def class_names(self) -> tuple[str, ...]:
        """Of a `ClassLabel`."""
        names = self._features.get(self.y, {}).get("names", ())
        if not (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)):
            raise DataError(f"{self.path}: the names of the classes of {self.y!r} are damaged.")
        return tuple(names)

    def parts(self, raw: RawFiles) -> Iterator[Client]:
        """What each client has in each batch of rows."""
        columns = [name for name in self._columns if name is not None]
        for path in self.files():
            for batch in _batches(path, columns):
                with _named(path):
                    clients = list(self._clients(batch))
                yield from clients

    @property
    def _columns(self) -> tuple[str, str, str, str | None, str | None]:
        """Of client, x, y, environment and group; an export has its own."""
        if self._said is None:
            return self.client, self.x, self.y, self.environment, self.group
        group = notes.GROUP if self.spec.grouped else None
        return notes.CLIENT, notes.X, notes.Y, notes.ENVIRONMENT, group

    @cached_property
    def _schema(self) -> "pa.Schema":
        """Of the first file; ConfigError for a column that it has not."""
        return _schema(self.files()[0])

    @cached_property
    def _features(self) -> Mapping[str, Any]:
        """What Hugging Face says of the columns beyond Arrow's types."""
        said = (self._schema.metadata or {}).get(b"huggingface", b"{}")
        try:
            found = json.loads(said)["info"]["features"] if len(said) < MOST_JSON else None
        except (ValueError, KeyError, TypeError, RecursionError):
            found = {}
        return {name: of for name, of in found.items() if isinstance(of, dict)} if isinstance(found, dict) else {}

    def _clients(self, batch: "pa.RecordBatch") -> Iterator[Client]:
        """One after the other, in the order of their first rows."""
        client, x_name, y_name, environment, group = self._columns
        owners = _texts(batch.column(client), client)
        places = _texts(batch.column(environment), environment) if environment else np.full(len(batch), "")
        x, y = _numbers(batch.column(x_name), x_name), _answers(batch.column(y_name), y_name)
        groups = _numbers(batch.column(group), group) if group else None
        _, first, inverse = np.unique(owners, return_index=True, return_inverse=True)
        for i in np.argsort(first):
            rows = np.flatnonzero(inverse == i)
            name, titles = str(owners[rows[0]]), set(places[rows].tolist())
            if len(titles) > 1:
                raise ValueError(f"client {name!r} is in several environments")
            yield Client(name, titles.pop(), x[rows], y[rows], None if groups is None else groups[rows])


def _listed(path: Path, key: str) -> list[str]:
    """Names in the folder of this JSON file that it lists; DataError if they lie elsewhere."""
    try:
        found = json.loads(path.read_bytes())[key] if path.stat().st_size < MOST_JSON else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}): save the dataset again.") from error
    names = [one["filename"] if isinstance(one, dict) and "filename" in one else one for one in found or ()]
    if not names or not all(isinstance(name, str) and PurePath(name).name == name != ".." for name in names):
        raise DataError(f"{path} is damaged: {key} are not names in its folder.")
    return names


def _saved(folder: Path) -> list[Path]:
    """The files of one `Dataset`."""
    files = [folder / name for name in _listed(folder / "state.json", "_data_files")]
    if missing := [path for path in files if not path.is_file()]:
        raise DataError(f"{missing[0]} is missing: save the dataset again.")
    return files


def _schema(path: Path) -> "pa.Schema":
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _named(path):
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                return file.schema_arrow
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            return reader.schema


def _batches(path: Path, columns: list[str]) -> Iterator["pa.RecordBatch"]:
    """The rows of a file in its order, with these columns only, each known to be as Arrow has to have it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _named(path):
        known = _schema(path).names
        for name in columns:
            if known.count(name) != 1:
                raise unknown(f"column of {path}", name, known)
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                yield from map(_checked, file.iter_batches(BATCH, columns=columns))
            return
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                yield _checked(batch.select(columns))


def _checked(batch: "pa.RecordBatch") -> "pa.RecordBatch":
    batch.validate(full=True)
    return batch


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is wrong with a file, in one sentence that names it."""
    import pyarrow as pa

    try:
        yield
    except (DataError, ConfigError):
        raise
    except (pa.ArrowException, ValueError, OSError, TypeError, KeyError, MemoryError, OverflowError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{path} cannot be read ({said[0].rstrip('.')}): save or fetch it again.") from error


def _texts(column: "pa.Array", name: str) -> np.ndarray:
    """Of names [n]: texts, or whole numbers as such."""
    values = column.to_pylist()
    if not all(isinstance(value, str | int) or (isinstance(value, float) and value.is_integer()) for value in values):
        raise ValueError(f"{name!r} has something other than texts and whole numbers")
    return np.array([value if isinstance(value, str) else str(int(value)) for value in values], dtype=str)


def _answers(column: "pa.Array", name: str) -> np.ndarray:
    """y [n] or [n, ...]: texts or numbers."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        if column.null_count:
            raise ValueError(f"{name!r} has gaps")
        return np.array(column.to_pylist(), dtype=str)
    return _numbers(column, name)


def _numbers(column: "pa.Array", name: str) -> np.ndarray:
    """Numbers [n], lists of them of one shape [n, ...], or images [n, height, width] or [n, height, width, 3]."""
    import pyarrow as pa

    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return np.stack([_image(picture, name) for picture in column.field("bytes").to_pylist()])
    if column.null_count:
        raise ValueError(f"{name!r} has gaps")
    if pa.types.is_fixed_size_list(kind):
        length = kind.list_size
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = np.unique(column.value_lengths().to_numpy())
        if len(lengths) > 1:
            raise ValueError(f"{name!r} has lists of different lengths")
        length = int(lengths[0]) if len(lengths) else 0
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        found: np.ndarray = column.to_numpy(zero_copy_only=False)
        return found
    else:
        raise ValueError(f"{name!r} is of {kind}: give numbers, lists of numbers of one shape, or images")
    inner = _numbers(column.flatten(), name)
    return inner.reshape(len(column), length, *inner.shape[1:])


def _image(data: bytes | None, name: str) -> np.ndarray:
    """Grey [height, width] or RGB [height, width, 3], uint8."""
    if data is None:
        raise ValueError(f"{name!r} has an image that is not in the file itself")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{name!r} has an image of {image.width} x {image.height}")
            return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except (SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name!r} has an image that is damaged ({error})") from error
