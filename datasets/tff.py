"""TensorFlow Federated's files: HDF5 as of its first years, SQLite as it has now. Neither TensorFlow nor TFF is needed.

HDF5 (the package `h5py`, ``pip install 'metaleaf[exchange]'``): a group ``examples``, in it a group a client, in it an
array a feature, its rows the examples. SQLite: a table ``examples`` of split_name, client_id and
serialized_example_proto, a row an example, each a `tf.train.Example`.
"""

import lzma
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metaleaf.dataset import Client
from metaleaf.datasets._exchange import Foreign, in_order
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import MAX_BYTES, MAX_MEMBER_BYTES, RawFiles, data_home

if TYPE_CHECKING:
    import h5py

HDF5 = (".h5", ".hdf5")
SQLITE = (".sqlite", ".sqlite.lzma", ".sqlite.xz")

MOST_ROW = 64 << 20
"""Bytes of one serialised example."""

TOGETHER = 1000
"""Examples of a client that are put into one array, which are not many as each is an array of its own before."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Tff(Foreign):
    """Clients out of a file of TensorFlow Federated, HDF5 or SQLite.

    path: the file, or a folder of them; what a client has in train and test is joined. x, y: the features (of EMNIST
    "pixels" and "label", of CIFAR-100 "image" and "label"), of numbers and of one shape in all examples. SQLite does
    not keep shapes, so say it: shape = [28, 28].
    """

    x: str = "pixels"
    y: str = "label"

    def files(self) -> list[Path]:
        """The file, or all of the folder."""
        place = self.place("tff")
        if place.is_file():
            return [place]
        if found := in_order([path for path in place.iterdir() if path.name.endswith((*HDF5, *SQLITE))]):
            return found
        raise DataError(f"{place} has no file that ends in {', '.join((*HDF5, *SQLITE))}.")

    def said(self) -> None:
        """Nothing: metaleaf exports no such files."""

    def parts(self, raw: RawFiles) -> Iterator[Client]:
        """Of HDF5 the clients by name; of SQLite as its rows come."""
        for path in self.files():
            if path.name.endswith(HDF5):
                yield from self._of_hdf5(path)
            elif path.name.endswith(SQLITE):
                yield from self._of_sqlite(path)
            else:
                raise DataError(f"{path}: a file of TFF ends in {', '.join((*HDF5, *SQLITE))}.")

    def _of_hdf5(self, path: Path) -> Iterator[Client]:
        h5py = _h5py()
        with _named(path), h5py.File(path, "r") as file:
            examples = _member(file, "examples", h5py.Group)
            for name in sorted(examples):
                client = _member(examples, name, h5py.Group)
                x, y = (_values(_member(client, feature, h5py.Dataset)) for feature in (self.x, self.y))
                yield Client(name, "", x, y)

    def _of_sqlite(self, path: Path) -> Iterator[Client]:
        with _named(path), _unpacked(path) as plain, closing(_opened(plain)) as database:
            rows = database.execute("SELECT client_id, serialized_example_proto FROM examples")
            name, xs, ys, n = None, [], [], 0
            for client, example in rows:
                if not (isinstance(client, str) and isinstance(example, bytes)):
                    raise ValueError(f"a client is {type(client).__name__}, its example {type(example).__name__}")
                if name is not None and (client != name or len(ys) == TOGETHER):
                    yield Client(name, "", np.stack(xs), np.stack(ys))
                    xs, ys = [], []
                x, y = _features(example, self.x, self.y)
                name, n = client, n + 1
                xs.append(x)
                ys.append(y)
            if name is not None:
                yield Client(name, "", np.stack(xs), np.stack(ys))
            if (counted := _counted(database)) not in (None, n):
                raise ValueError(f"it has {n:,} examples, where its client_metadata counts {counted:,}")


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("tff: HDF5 needs the package h5py, pip install 'metaleaf[exchange]'.") from error
    return h5py


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is wrong with a file, in one sentence that names it."""
    try:
        yield
    except (DataError, ConfigError):
        raise
    except Exception as error:  # HDF5's and SQLite's own are of all kinds
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{path} is damaged, or not of TFF's layout ({said[0].rstrip('.')}): fetch it again."
        ) from error


# HDF5


def _member(group: "h5py.Group", name: str, kind: type[Any]) -> Any:
    """What is called so in the group itself: HDF5 can also link to any other file of this machine."""
    import h5py

    if name not in group:
        some = ", ".join(sorted(group)[:9])
        raise ValueError(f"{group.name} has no {name!r}, but {some or 'nothing'}")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name!r} is a link, which is not followed")
    found = group[name]
    if not isinstance(found, kind):
        raise ValueError(f"{name!r} is no {kind.__name__.lower()}")
    return found


def _values(array: "h5py.Dataset") -> np.ndarray:
    """All of it, [n, ...]; ValueError if it is no array of numbers, or lies in another file."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{array.name} is of texts or other values, only numbers of one shape are read")
    if array.external or array.is_virtual or not array.shape:
        raise ValueError(f"{array.name} is no array in this file")
    if array.nbytes > MAX_MEMBER_BYTES:
        raise ValueError(f"{array.name} has {array.nbytes:,} bytes, {MAX_MEMBER_BYTES:,} are allowed")
    return np.asarray(array[()])


# SQLite


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file, or what it unpacks to, beside other data for as long as it is read: SQLite cannot read a stream."""
    if path.suffix == ".sqlite":
        yield path
        return
    data_home().mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=data_home(), suffix=".sqlite") as whole:
        with lzma.open(path) as packed:
            while chunk := packed.read(_CHUNK):
                whole.write(chunk)
                if whole.tell() > MAX_BYTES:
                    raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes")
        whole.flush()
        yield Path(whole.name)


def _opened(path: Path) -> sqlite3.Connection:
    """The database, read only; ValueError if it has no table `examples`."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA cell_size_check = ON")
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_ROW)
    if not _is_table(database, "examples"):
        database.close()
        raise ValueError("it has no table `examples`")
    return database


def _is_table(database: sqlite3.Connection, name: str) -> bool:
    """Whether that is a table of values: views and generated columns could compute anything."""
    kinds = database.execute("SELECT type, sql FROM sqlite_master WHERE name = ?", [name]).fetchall()
    return [kind for kind, _ in kinds] == ["table"] and not re.search(r"\bas\b", kinds[0][1], re.IGNORECASE)


def _counted(database: sqlite3.Connection) -> int | None:
    """How many examples all clients have in all splits, as TFF notes it beside them; None where it has not."""
    if not _is_table(database, "client_metadata"):
        return None
    found: int | None = database.execute("SELECT SUM(num_examples) FROM client_metadata").fetchone()[0]
    return found


def _features(example: bytes, *names: str) -> list[np.ndarray]:
    """The numbers of these features of a serialised `tf.train.Example`: [k], of a single one []."""
    from tensorflow_datasets.proto import tf_example_pb2  # type: ignore[import-untyped]  # heavy

    features = tf_example_pb2.Example.FromString(example).features.feature
    found = []
    for name in names:
        if name not in features:
            raise ValueError(f"an example has no feature {name!r}, but {', '.join(sorted(features)[:9]) or 'none'}")
        kind = features[name].WhichOneof("kind")
        if kind not in ("float_list", "int64_list"):
            raise ValueError(f"the feature {name!r} is of texts or other bytes, only numbers of one shape are read")
        values = getattr(features[name], kind).value
        array = np.array(values, np.float32 if kind == "float_list" else np.int64)
        found.append(array[0] if len(array) == 1 else array)
    return found
