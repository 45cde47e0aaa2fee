"""Hashes of files, verified once and remembered for as long as a file keeps its size, its times and its inode.

So a byte that changes on the disk is found when the file is opened next, and opening stays a matter of milliseconds.
What is remembered lies beside the files, or in the user's cache folder where that cannot be written.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from metaleaf.files.whole_files import write_atomically
from metaleaf.raw import cache_home, sha256_of, stamp_of

NAME = "verified.json"

SETTLED = 100_000_000
"""Nanoseconds since a file's last change after which a further one is sure to give it another time."""


class Verified:
    """What is known of the files of one folder, and of others that it was made from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        short = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]
        cache = cache_home()
        self._places = (folder / NAME, *([cache / "verified" / f"{short}.json"] if cache else []))
        self._known: dict[str, list[Any]] = {}
        for place in reversed(self._places):
            self._known |= _read(place)
        self._new = False

    def known(self, path: Path) -> bool:
        """Whether a file is still what was verified or noted last. OSError if it is not there."""
        return self._known.get(self._key(path), [])[:-1] == [*stamp_of(path)]

    def same(self, path: Path, sha256: str, *, anew: bool = False) -> bool:
        """Whether a file has that hash; it is read only if this is not known, or `anew`. OSError as from reading."""
        stamp = stamp_of(path)
        if not anew and self._known.get(self._key(path)) == [*stamp, sha256]:
            return True
        if sha256_of(path) != sha256:
            return False
        self.note(path, stamp, sha256)
        return True

    def note(self, path: Path, stamp: tuple[int, ...], sha256: str) -> None:
        """The file had that hash when it had that stamp."""
        self._known[self._key(path)] = [*stamp, sha256]
        self._new = True

    def save(self) -> None:
        """Remember what is new; where nothing can be written, it will be verified again."""
        now = time.time_ns()
        settled = {name: entry for name, entry in self._known.items() if now - max(entry[1:3]) > SETTLED}
        for place in self._places if self._new else ():
            try:
                write_atomically(place, lambda path: path.write_text(json.dumps(settled), encoding="utf-8"))
            except OSError:
                continue
            self._new = False
            return

    def _key(self, path: Path) -> str:
        return path.name if path.parent == self.folder else os.path.abspath(path)


def _read(place: Path) -> dict[str, list[Any]]:
    try:
        found = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    items = found.items() if isinstance(found, dict) else ()
    return {name: entry for name, entry in items if _is_entry(entry)}


def _is_entry(entry: Any) -> bool:
    kinds = [int, int, int, int, str]
    return isinstance(entry, list) and [type(value) for value in entry] == kinds
