"""Files that are written as a whole or not at all, whose errors name them, and that are read only if they are files."""

import fcntl
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metaleaf.errors import DataError


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it; nothing half-written is left behind.

    What a killed process has left of an earlier attempt is removed. OSError names `path`.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with open(temporary, "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # dies with the process: this tells what is being written from litter
                write(temporary)
                os.fsync(file.fileno())
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """OSErrors inside name `path`, which a full disk or a failing one leaves to the caller to know."""
    try:
        yield
    except OSError as error:
        error.filename = os.fspath(path)
        raise


def plain(path: Path, limit: int) -> Path:
    """The path, if that is a file (or a link to one) of at most `limit` bytes.

    DataError for what has no end, or waits for a writer: a device, a pipe; OSError if nothing is there.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise DataError(f"{path} is not a plain file")
    if about.st_size > limit:
        raise DataError(f"{path} has {about.st_size:,} bytes, more than {limit:,}")
    return path


def _sweep(path: Path) -> None:
    for litter in path.parent.glob(f".{_literally(path.name)}.????????"):
        with open(litter, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            litter.unlink(missing_ok=True)


def _literally(name: str) -> str:
    """The pattern that only this name fits."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
