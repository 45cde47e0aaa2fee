"""Federations out of other systems' files.

A file that metaleaf exported says what it holds (`metaleaf.raw.exchange`). Of any other, that is found out by reading
it once, and remembered under the data home for as long as the file stays what it is. Clients come in the order in which
they are met first; what a client has in several places (a train and a test file, rows here and there) is joined in the
order of these places.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.datasets import _own
from metaleaf.datasets._own import Inferred, Own, Target, inferred, spec_of
from metaleaf.errors import ConfigError, DataError, UserError
from metaleaf.raw import MAX_BYTES, RawFiles, brought, data_home, stamp_of
from metaleaf.raw import exchange as notes
from metaleaf.raw.exchange import MOST_NUMBERS, Note

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

VERSION = "1.0.0"


@dataclass(frozen=True)
class Foreign:
    """What all formats have in common.

    path: a file, or a folder of them. The other options are for files that do not say it themselves. shape: of x of one
    example, where the file has its numbers in a row. dtype: of x, where it is not to be float32 ("uint8" for pixels and
    symbols; what is stored in bytes stays so). ordered, target_type: as of `metaleaf.datasets.arrays`. standardise: as
    of `metaleaf.dataset.Spec`.
    """

    path: str = ""
    shape: tuple[int, ...] = ()
    dtype: Literal["", "uint8", "float32"] = ""
    ordered: bool = False
    target_type: Target | None = None
    standardise: Literal["", "x", "xy", "series"] = ""

    def __post_init__(self) -> None:
        # Prepared data is told apart by the place of the files among a plugin's attributes: a folder is no file.
        with suppress(UserError, OSError):
            object.__setattr__(self, "_first", self.files()[0])

    def files(self) -> list[Path]:
        """All files with data, in the order in which they are read; DataError if there is none."""
        raise NotImplementedError

    def said(self) -> str | bytes | None:
        """The note of metaleaf's export, if it is one."""
        raise NotImplementedError

    def parts(self, raw: RawFiles) -> Iterator[Client]:
        """The clients, or parts of them, with x and y as the files have them; DataError names a damaged file."""
        raise NotImplementedError

    def class_names(self) -> tuple[str, ...]:
        """What the classes 0, 1, ... of y are called, if the files say so."""
        return ()

    @cached_property
    def spec(self) -> Spec:
        """As the files say, or as it is found out; DataError if they cannot be read or make no sense."""
        return replace(self._note.spec, version=VERSION)

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        """Yield every client once, in the order of their first examples."""
        raw.use(*self.files())
        with raw.scratch() as spool:
            places, environments = self._spooled(raw, spool)
            found = len(places), sum(n for each in places.values() for _, n in each)
            if found != (self._note.clients, self._note.samples):
                said = f"not the {self._note.clients:,} and {self._note.samples:,} that it had"
                raise DataError(
                    f"{self.path} has {found[0]:,} clients and {found[1]:,} examples, {said}: get all of it."
                )
            for name, each in places.items():
                rows = np.concatenate([_rows(spool, place, n, self._row) for place, n in each])
                groups = rows["group"] if self.spec.grouped else None
                yield Client(name, environments[name], np.ascontiguousarray(rows["x"]), rows["y"].copy(), groups)

    def place(self, form: str) -> Path:
        """The file or folder of the path; ConfigError if none is named."""
        if not self.path:
            raise ConfigError(f'{form}: say where it is, options = {{ path = "..." }}.')
        folder = Path(self.path).expanduser()
        return folder if folder.is_dir() else brought(self.path)

    @cached_property
    def _said(self) -> str | bytes | None:
        return self.said()

    @cached_property
    def _note(self) -> Note:
        if self._said is None:
            return _remembered(self, self._found_out)
        usual = {field.name: field.default for field in fields(Foreign) if field.name != "path"}
        if told := [name for name, value in usual.items() if getattr(self, name) != value]:
            raise ConfigError(
                f"{self.path} was exported by metaleaf and says itself what it holds: leave out {told[0]}."
            )
        return notes.read(self._said, self.path)

    @cached_property
    def _row(self) -> np.dtype[Any]:
        """An example in the spool. Classes are kept wide, so that one that is out of range is not wrapped."""
        spec = self.spec
        y = spec.stored if spec.stored.kind == "f" else np.dtype(np.int64)
        return np.dtype([("x", spec.x_dtype, spec.x_shape), ("y", y, spec.y_shape), ("group", np.int64)])

    def _spooled(self, raw: RawFiles, spool: IO[bytes]) -> tuple[dict[str, list[tuple[int, int]]], dict[str, str]]:
        """Write all examples; of each client where its parts start and how many they are, and its environment."""
        places: dict[str, list[tuple[int, int]]] = {}
        environments: dict[str, str] = {}
        for part in self.parts(raw):
            if environments.setdefault(part.id, part.environment) != part.environment:
                both = f"{environments[part.id]} and {part.environment}"
                raise DataError(f"{self.path}: client {part.id!r} is in several environments, {both}.")
            places.setdefault(part.id, []).append((spool.tell(), len(part.y)))
            if len(part.y):
                x, y, groups = self._x(part), self._y(part), self._groups(part)
                rows = np.empty(len(y), self._row)
                rows["x"], rows["y"], rows["group"] = x, y, groups
                spool.write(rows.tobytes())
            if spool.tell() > MAX_BYTES:
                raise DataError(f"{self.path} is not used: it holds more than {MAX_BYTES:,} bytes.")
        return {name: each for name, each in places.items() if any(n for _, n in each)}, environments

    def _x(self, part: Client) -> np.ndarray:
        wanted = (len(part.y), *self.spec.x_shape)
        if part.x.size != math.prod(wanted) or len(part.x) != len(part.y):
            raise DataError(f"{self.path}: x of client {part.id!r} has shape {list(part.x.shape)}, not {list(wanted)}.")
        return _cast(part.x.reshape(wanted), self.spec.x_dtype, f"{self.path}: x of client {part.id!r}")

    def _y(self, part: Client) -> np.ndarray:
        y, spec, what = part.y, self.spec, f"{self.path}: y of client {part.id!r}"
        if y.shape[1:] != spec.y_shape:
            raise DataError(f"{what} has shape {list(y.shape)}, not {['n', *spec.y_shape]}.")
        if spec.labels and self._said is None and not self.class_names():
            labels = np.array(spec.labels)
            found = np.searchsorted(labels, y).clip(max=len(labels) - 1)
            if (labels[found] != y).any():
                raise DataError(f"{what} has a class that was not there before: {self.path} has changed.")
            return found
        if y.dtype.kind not in "biuf":
            raise DataError(f"{what} is {y.dtype}, not numbers.")
        return _cast(y, spec.stored if spec.stored.kind == "f" else np.int64, what)

    def _groups(self, part: Client) -> np.ndarray | int:
        if not self.spec.grouped:
            return 0
        if part.groups is None or part.groups.shape != part.y.shape[:1] or part.groups.dtype.kind not in "iu":
            raise DataError(f"{self.path}: client {part.id!r} has not one group, a whole number, for each example.")
        return part.groups

    def _found_out(self) -> Note:
        """What the files hold, from all of their examples; y of all of them is in memory."""
        like: Client | None = None
        ys, clients, bytes_only = [], set(), True
        for part in self.parts(RawFiles("exchange", shown=False)):
            if not len(part.y):
                continue
            like = like or part
            self._check_alike(like, part)
            ys.append(part.y)
            clients.add(part.id)
            bytes_only = bytes_only and part.x.dtype == np.uint8
        if like is None:
            raise DataError(f"{self.path} holds no client with examples.")
        dtype = self.dtype or ("uint8" if bytes_only else "float32")
        given = like.x.shape[1:] or (1,)
        shape, numbers = self.shape or given, math.prod(given)
        if not 0 < numbers <= MOST_NUMBERS:
            raise DataError(f"{self.path}: an example of x has {numbers:,} numbers, not 1 to {MOST_NUMBERS:,}.")
        if min(shape) < 1 or math.prod(shape) != numbers:
            raise ConfigError(f"{self.path}: x has shape {list(given)} an example, which is not {list(shape)}.")
        y = np.concatenate(ys)
        none = np.empty(0, str)
        spec = spec_of(Own(none, none, np.empty((0, *shape), dtype), self._target(y)), ordered=self.ordered)
        spec = replace(spec, standardise=self.standardise, grouped=like.groups is not None)
        return Note(spec, len(clients), len(y))

    def _check_alike(self, one: Client, other: Client) -> None:
        """DataError unless examples of both have the same shapes and kinds."""
        for name in ("x", "y"):
            a, b = getattr(one, name), getattr(other, name)
            if b.dtype.kind not in ("biuf" if name == "x" else "biufU"):
                raise DataError(f"{self.path}: {name} of client {other.id!r} is {b.dtype}, not numbers.")
            if a.shape[1:] != b.shape[1:] or (a.dtype.kind == "U") != (b.dtype.kind == "U") or len(b) != len(other.y):
                both = f"{a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}"
                raise DataError(
                    f"{self.path}: {name} of clients {one.id!r} and {other.id!r} is {both}, which is unlike."
                )
        if (one.groups is None) != (other.groups is None):
            raise DataError(f"{self.path}: of clients {one.id!r} and {other.id!r} only one has groups.")

    def _target(self, y: np.ndarray) -> Inferred:
        names = self.class_names()
        if not names or y.ndim > 1 or self.target_type == "numbers":
            return inferred(y, f"{self.path}: y", self.target_type)
        labels = () if names == tuple(map(str, range(len(names)))) else names
        return Inferred(np.empty(0, np.uint64), len(names), labels, "binary" if len(names) == 2 else "multiclass")


def _cast(values: np.ndarray, dtype: "DTypeLike", what: str) -> np.ndarray:
    """The numbers in another type; DataError if that type has not all of them. Fractions are rounded to floats."""
    with np.errstate(all="ignore"):
        found = values.astype(dtype)
        if found.dtype.kind != "f" and (found != values).any():
            raise DataError(f"{what} has a number that is no {found.dtype}.")
    return found


def _rows(spool: IO[bytes], place: int, n: int, row: np.dtype[Any]) -> np.ndarray:
    spool.seek(place)
    return np.frombuffer(spool.read(n * row.itemsize), row)


def _remembered(plugin: Foreign, find: Callable[[], Note]) -> Note:
    """What was found out when these files were read with these options by this code; else it is found out now."""
    key = hashlib.sha256()
    for source in (__file__, _own.__file__):
        key.update(Path(source).read_bytes())
    for path in plugin.files():
        key.update(f"{path.absolute()} {stamp_of(path)}\n".encode())
    key.update(f"{type(plugin).__name__} {json.dumps(asdict(plugin), sort_keys=True)}".encode())
    kept = data_home() / "found" / f"{key.hexdigest()[:24]}.json"
    with suppress(OSError, DataError):
        return notes.read(kept.read_bytes(), kept)
    note = find()
    with suppress(OSError):  # then it will be found out again
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f"{kept.name}.{os.getpid()}")
        partial.write_text(note.text(), encoding="ascii")
        partial.rename(kept)
    return note


def in_order(files: Sequence[Path]) -> list[Path]:
    """Files by name, their numbers by size, and those of a test part last."""

    def key(path: Path) -> tuple[bool, list[tuple[int, str]]]:
        words = re.findall(r"\d+|[^\W\d_]+", f"{path.parent.name} {path.name}".lower())
        return "test" in words, [(int(word), "") if word.isdecimal() else (-1, word) for word in words]

    return sorted(files, key=key)
