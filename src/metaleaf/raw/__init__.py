"""Find, download and open the publishers' files. Nothing here trusts what is in them.

A dataset plugin gets a `RawFiles` and asks it for files by name::

    path = raw.require(["by_class.zip"], remedy="download it from NIST.")
    with raw.zip(path) as archive:
        image = archive.read("by_class/30/hsf_0/hsf_0_00000.png")

Files are looked for in ``$METALEAF_RAW/<dataset>/``, among earlier downloads, and then at the publisher's URL if
``datasets/checksums/<dataset>.tsv`` has one; or in an explicit folder and nowhere else. Anything missing, damaged or
unsafe is a `DataError` of one sentence that names the file.
"""

import errno
import gzip
import hashlib
import io
import lzma
import os
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from importlib.resources import files
from pathlib import Path, PurePosixPath
from tokenize import TokenError
from typing import IO, BinaryIO, NamedTuple, cast

import numpy as np

from metaleaf.errors import DataError
from metaleaf.terminal.progress import progress_of

MAX_BYTES = 64 << 30
"""Most bytes that one archive or one compressed file may unpack to (64 GiB)."""

MAX_MEMBER_BYTES = 2 << 30
"""Most bytes that one member of an archive may unpack to (2 GiB)."""

PACKED = ("", ".xz", ".gz")
"""A file may lie in the raw folder as published or packed with one of these suffixes added."""

_CHUNK = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile,
    lzma.LZMAError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


def data_home() -> Path:
    """Where downloads and prepared data live: ``$METALEAF_DATA``, or metaleaf/ in the user's cache folder."""
    if home := os.environ.get("METALEAF_DATA"):
        return Path(home)
    if cache := cache_home():
        return cache
    raise DataError("there is no home folder to keep data in: set METALEAF_DATA to a folder.")


def cache_home() -> Path | None:
    """metaleaf/ in the user's cache folder; None for a user without a home."""
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "metaleaf"
    try:
        return Path.home() / ".cache" / "metaleaf"
    except RuntimeError:
        return None


def brought(path: str) -> Path:
    """The file of one's own that an option names, or one of that name that came from Python (`brought_home`)."""
    found = Path(path).expanduser()
    kept = brought_home() / found
    if not found.is_file() and not found.is_absolute() and kept.is_file():
        return kept
    if not found.is_file():
        raise DataError(f"there is no file {path}: give its path, from the current folder or from the root.")
    return found


def brought_home() -> Path:
    """Where data lies that was given from Python, in files named by their content."""
    return data_home() / "brought"


class Published(NamedTuple):
    """A file at its publisher: one line of a checksums file. Size in bytes; None where it is not known."""

    url: str
    size: int | None
    sha256: str | None
    name: str


class UsedFile(NamedTuple):
    """A raw file that was found: name relative to the dataset's folder, size in bytes, sha256 in hex."""

    name: str
    size: int
    sha256: str
    dataset: str


def published_files(dataset: str) -> list[Published]:
    """The files in ``datasets/checksums/<dataset>.tsv``: url, size, sha256, name; ``-`` where not known."""
    table = files("metaleaf.datasets") / "checksums" / f"{dataset}.tsv"
    if not table.is_file():
        return []
    rows = [
        line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]
    return [
        Published(url, None if size == "-" else int(size), None if sha256 == "-" else sha256, name)
        for url, size, sha256, name in rows
    ]


def sha256_of(path: Path) -> str:
    """sha256 of a file in hex, read as a stream."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_of(path: Path) -> tuple[int, ...]:
    """What changes with a file's content: size, times of the last change of content and of the inode, inode."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


class RawFiles:
    """The raw files of one dataset; remembers which it has handed out, so that prepared data can name its sources.

    dataset: the plugin's name. folder: look only here (in a folder named after the dataset in it, then in it
    itself). download: whether the publisher's URL may be used where no folder is given. shown: report progress on
    stderr. DataError if ``folder`` does not exist.
    """

    def __init__(self, dataset: str, folder: Path | None = None, download: bool = True, *, shown: bool = True) -> None:
        self.dataset = dataset
        self.folders = tuple(_folders(dataset, folder))
        self.only_here = folder is not None
        self._download = download and not self.only_here
        self._shown = shown
        self._used: dict[Path, tuple[str, tuple[int, ...]]] = {}

    def of(self, dataset: str) -> "RawFiles":
        """The same places for a dataset made from another's files; what is opened through it counts as used here."""
        other = copy(self)
        other.dataset = dataset
        other.folders = tuple(f.with_name(dataset) if f.name == self.dataset else f for f in self.folders)
        return other

    @contextmanager
    def scratch(self) -> Iterator[IO[bytes]]:
        """An empty, unnamed file on the data home's disk that is gone with the process, however it ends."""
        data_home().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_home()) as file:
            yield file

    def find(self, *names: str) -> Path | None:
        """The first file that has one of these names or glob patterns (``**/`` looks deeper), or None.

        Folders are searched in order, and in each the names in order; .xz and .gz forms are found as well.
        """
        found = self._matches(names)[:1]
        self.use(*found)
        return next(iter(found), None)

    def find_all(self, *names: str) -> list[Path]:
        """All files of the first folder, and there of the first name or pattern, that has any; sorted."""
        found = self._matches(names)
        self.use(*found)
        return found

    def use(self, *paths: Path) -> None:
        """Remember that the data is made of these files, too: as they are now."""
        for path in paths:
            self._used.setdefault(path, (self.dataset, stamp_of(path)))

    def _matches(self, names: Sequence[str]) -> list[Path]:
        for folder in self.folders:
            for name in names:
                # A set: the pattern "*.json*" finds a packed file that "*.json" + ".xz" finds too.
                found = {path for packed in PACKED for path in _matching(folder, name + packed) if path.is_file()}
                if found:
                    return sorted(found)
        return []

    def where(self, name: str, dataset: str) -> Path | None:
        """Where a file that was used lies now: the `name` and `dataset` of a `UsedFile`; None if there is none."""
        return next((folder / name for folder in self.of(dataset).folders if (folder / name).is_file()), None)

    def require(self, names: Sequence[str], remedy: str) -> Path:
        """Like `find`; a file that is not there is downloaded if its publisher is known, else DataError."""
        if found := self.find(*names):
            return found
        if self._download:
            for source in published_files(self.dataset):
                if source.name in names and source.url != "-":
                    path = _download(source, data_home() / "downloads" / self.dataset, self._shown)
                    self.use(path)
                    return path
        if self.only_here:
            remedy = remedy.replace(f"$METALEAF_RAW/{self.dataset}/", f"{self.folders[-1]}/")
        raise DataError(f"{self.dataset}: no {' or '.join(names)} in {self.looked_in()}: {remedy}")

    def looked_in(self) -> str:
        """The folders that are searched, in words, for error messages."""
        unset = "" if self.only_here or os.environ.get("METALEAF_RAW") else " (METALEAF_RAW is not set)"
        return " or ".join(map(str, self.folders)) + unset

    def open(self, path: Path, limit: int = MAX_BYTES) -> BinaryIO:
        """The file's bytes as a stream, unpacked if it ends in .xz or .gz.

        DataError, on opening or reading, if it is damaged, cut off, or unpacks to more than ``limit`` bytes.
        """
        with _named(path):
            self.use(path)
            return io.BufferedReader(_Guarded(path, limit), _CHUNK)

    @contextmanager
    def zip(self, path: Path, limit: int = MAX_BYTES, member_limit: int = MAX_MEMBER_BYTES) -> Iterator["ZipReader"]:
        """Open a zip archive to read its members in place; nothing is ever written to disk.

        DataError if it is damaged, if a member is a link or lies outside the archive, if one is larger than
        ``member_limit`` bytes, or all together larger than ``limit``.
        """
        with _named(path):
            self.use(path)
        with _named(path), zipfile.ZipFile(path) as archive:
            reader = ZipReader(path, archive, limit, member_limit)
            yield reader

    def used(self) -> list[UsedFile]:
        """The files handed out or named so far, with size and sha256 (reads each of them once).

        DataError if one of them has changed meanwhile.
        """
        found = []
        for path, (dataset, stamp) in self._used.items():
            with _named(path):
                sha256, now = sha256_of(path), stamp_of(path)
            if now != stamp:
                raise DataError(f"{path} has changed while it was read: prepare again.")
            found.append(UsedFile(self._name(path, dataset), now[0], sha256, dataset))
        return sorted(found)

    def _name(self, path: Path, dataset: str) -> str:
        inside = [folder for folder in self.of(dataset).folders if path.is_relative_to(folder)]
        return (path.relative_to(inside[0]) if inside else path.absolute()).as_posix()


class ZipReader:
    """The members of an untrusted zip archive; made by `RawFiles.zip`, which describes the checks."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, limit: int, member_limit: int) -> None:
        self._path = path
        self._archive = archive
        total = 0
        for member in archive.infolist():
            self._check(member, member_limit)
            total += member.file_size
        if total > limit:
            raise DataError(f"{path} is not used: it would unpack to {total:,} bytes; {limit:,} are allowed.")

    def names(self) -> list[str]:
        """Names of all members that are files, sorted (so independent of how the archive was packed)."""
        return sorted(member.filename for member in self._archive.infolist() if not member.is_dir())

    def read(self, name: str) -> bytes:
        """All bytes of one member; DataError if it is not there or damaged."""
        with self.open(name) as stream:
            return stream.read()

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """One member as a stream of bytes; DataError if it is not there or damaged."""
        try:
            # zipfile stops at the size that the directory declares and checks the CRC: the limits hold.
            with _named(self._path), self._archive.open(name) as stream:
                yield cast(BinaryIO, stream)
        except KeyError as error:
            raise DataError(f"{self._path} has no member {name!r}: it is another archive.") from error

    def array(self, name: str) -> np.ndarray:
        """The array in an .npy member, read-only; DataError if it is not there, damaged, or no array of plain values.

        Its bytes are in memory once, and no more of them than the archive's directory says, whatever its header says.
        """
        with self.open(name) as stream:
            try:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, turned, dtype = read(stream)
                values = np.frombuffer(stream.read(), dtype)  # refuses objects
                return values.reshape(shape, order="F" if turned else "C")
            except (ValueError, TypeError, SyntaxError, TokenError) as error:
                raise DataError(f"{self._path} is damaged: {name} is not a whole array ({error}).") from error

    def _check(self, member: zipfile.ZipInfo, limit: int) -> None:
        # orig_filename: ZipInfo.filename has already been cut at a NUL byte and given the system's separator.
        name = member.orig_filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or "\0" in name or any(part.startswith("/") or ":" in part for part in parts[:1]):
            raise DataError(f"{self._path} is not used: member {name!r} lies outside the archive.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{self._path} is not used: member {name!r} is a link.")
        if member.file_size > limit:
            size = f"{member.file_size:,} bytes; {limit:,} are allowed"
            raise DataError(f"{self._path} is not used: member {name!r} would unpack to {size}.")


class _Guarded(io.RawIOBase):
    """An unpacked file whose errors name it and whose length is bounded."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = self._left = limit
        self._stream = _opener(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        with _named(self._path):
            data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"{self._path} unpacks to more than {self._limit:,} bytes: it is not used.")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _opener(path: Path) -> IO[bytes]:
    if path.suffix == ".xz":
        return lzma.open(path)
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    return path.open("rb")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what the unpackers raise on a damaged file into a DataError that names it."""
    try:
        yield
    except _DAMAGED as error:
        raise DataError(f"{path} is damaged or cut off ({error}): fetch it again.") from error
    except OSError as error:
        # Not what happens to another file meanwhile, e.g. on a full disk.
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or Path(error.filename or path) != path:
            raise
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error


def _folders(dataset: str, folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        if not folder.is_dir():
            raise DataError(f"the raw-data folder {folder} does not exist.")
        yield folder / dataset
        yield folder
        return
    if root := os.environ.get("METALEAF_RAW"):
        yield Path(root) / dataset
    yield data_home() / "downloads" / dataset


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    """`Path.glob`, but ``**/`` at the pattern's start follows links to folders, into each real folder once."""
    if not pattern.startswith("**/"):
        yield from folder.glob(pattern)
        return
    entered = {os.path.realpath(folder)}
    for place, inner, _ in os.walk(folder, followlinks=True):
        yield from Path(place).glob(pattern.removeprefix("**/"))
        real = {name: os.path.realpath(os.path.join(place, name)) for name in sorted(inner)}
        inner[:] = [name for name, path in real.items() if path not in entered]
        entered.update(real.values())


def _download(source: Published, folder: Path, shown: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.name
    # The process id keeps two downloaders apart; whoever renames last leaves the same checked file.
    partial = folder / f"{source.name}.{os.getpid()}.partial"
    try:
        size, sha256 = _fetch(source, partial, shown)
        if source.size not in (None, size) or source.sha256 not in (None, sha256):
            raise DataError(f"{source.url} is not the file we know: {size:,} bytes, sha256 {sha256}.")
        partial.rename(target)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        remedy = f"put {source.name} into $METALEAF_RAW/{folder.name}/ yourself."
        raise DataError(f"{source.url} could not be downloaded ({error}): {remedy}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _fetch(source: Published, partial: Path, shown: bool) -> tuple[int, str]:
    """Stream the URL to a file; its size and sha256. More than was expected is not read to its end."""
    limit = source.size or MAX_BYTES
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(source.url, timeout=60) as answer, partial.open("wb") as file:
        length = answer.headers.get("Content-Length")
        with progress_of(f"download {source.name}", int(length) if length else None, shown=shown) as advance:
            while size <= limit and (chunk := answer.read(_CHUNK)):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                advance(len(chunk))
        os.fsync(file.fileno())
    if length and size < int(length):
        raise ConnectionError(f"cut off after {size:,} of {int(length):,} bytes")
    return size, digest.hexdigest()
