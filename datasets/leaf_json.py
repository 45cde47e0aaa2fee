"""LEAF's JSON, of any dataset: users, num_samples, user_data, hierarchies (Caldas et al. 2019, arXiv 1812.01097).

FEMNIST and Shakespeare of LEAF have plugins of their own, which know more about them.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaleaf.dataset import Client
from metaleaf.datasets._exchange import Foreign, in_order
from metaleaf.errors import DataError
from metaleaf.raw import PACKED, RawFiles
from metaleaf.raw.exchange import KEY, MOST_TEXT
from metaleaf.raw.leaf import disagree, parsed

STAGES = ((".",), ("all_data",), ("train", "test"))
"""Where LEAF's scripts leave files below a folder; the first that has any is read."""


_HEAD = 1 << 14
"""Bytes that are read to look for a note; most have a tenth of it."""


class _User(NamedTuple):
    """Of one user x [n, ...] and y [n] or [n, ...], and groups [n] where metaleaf's export has them."""

    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None


@dataclass(frozen=True)
class LeafJson(Foreign):
    """Clients out of LEAF's JSON of any dataset.

    path: a file, or a folder of them as LEAF's scripts leave it: what is in train and test is joined. vocabulary: of
    texts, all characters that they may have; then x is the place of each in it.
    """

    vocabulary: str = ""

    def files(self) -> list[Path]:
        """The file, or the shards of the folder."""
        place = self.place("leaf_json")
        if place.is_file():
            return [place]
        for stage in STAGES:
            names = (path for part in stage for packed in PACKED for path in (place / part).glob(f"*.json{packed}"))
            if found := in_order([path for path in names if path.is_file()]):
                return found
        raise DataError(f"{place} has no .json, neither in all_data nor in train and test: give LEAF's folder data.")

    def said(self) -> str | None:
        """The first key of an export; all shards have the same."""
        raw = RawFiles("leaf_json")
        first, *rest = (_note(raw, path) for path in self.files())
        if any(note != first for note in rest):
            raise DataError(f"{self.path} has files of different exports: keep those of one.")
        return first

    def parts(self, raw: RawFiles) -> Iterator[Client]:
        """The users of each file in its order. A file's text is in memory, and the Python values of one user."""
        for path in self.files():
            yield from self._users(raw, path)

    def _users(self, raw: RawFiles, path: Path) -> list[Client]:
        users, counts = parsed(raw, path, self._compact, _User)
        if [len(user.y) for _, _, user in users] != counts:
            raise disagree(path)
        return [Client(name, title or "", *user) for name, title, user in users]

    def _compact(self, pairs: list[tuple[str, Any]]) -> Any:
        """Turn a user's lists into arrays as soon as they are parsed: Python's values take many times the room."""
        value = dict(pairs)
        if len(value) < len(pairs):  # Python's parser would silently keep the last
            raise ValueError("a name is there twice")
        if not (isinstance(value.get("x"), list) and isinstance(value.get("y"), list)):
            return value
        user = _User(self._inputs(value["x"]), _array(value["y"], "y"), _groups(value.get("groups")))
        if len(user.x) != len(user.y):
            raise ValueError(f"a user has {len(user.x)} x and {len(user.y)} y")
        return user

    def _inputs(self, values: list[Any]) -> np.ndarray:
        if not (values and all(isinstance(text, str) for text in values)):
            found = _array(values, "x")
            if found.dtype.kind == "U":
                raise ValueError("x has texts among lists or numbers, which are not read")
            return found
        if not self.vocabulary:
            raise ValueError("x is text: give its characters as `vocabulary`, or make numbers of it first")
        if len({len(text) for text in values}) > 1:
            raise ValueError("x has texts of different lengths: cut or fill them to one")
        places = {character: place for place, character in enumerate(self.vocabulary)}
        if unknown := set("".join(values)) - places.keys():
            raise ValueError(f"x has the character {min(unknown)!r}, which is not in the vocabulary")
        symbols = np.array([places[character] for text in values for character in text])
        return symbols.astype(np.min_scalar_type(len(places) - 1)).reshape(len(values), -1)


def _array(values: list[Any], what: str) -> np.ndarray:
    """Numbers [n, ...] or texts [n]; ValueError for anything else."""
    found = np.asarray(values)
    if found.dtype.kind not in "biufU" or (found.dtype.kind == "U" and not all(isinstance(v, str) for v in values)):
        raise ValueError(f"{what} is neither all numbers nor all texts")
    return found


def _groups(values: Any) -> np.ndarray | None:
    return None if values is None else np.asarray(values, np.int64)


def _note(raw: RawFiles, path: Path) -> str | None:
    """The note that metaleaf's export begins with, as JSON; None in any other file."""
    with raw.open(path) as file:
        start = f'{{"{KEY}": '.encode()
        if file.read(len(start)) != start:
            return None
        head = ""
        while len(head) < MOST_TEXT and (more := file.read(max(_HEAD, len(head)))):
            head += more.decode("ascii", "replace")
            with suppress(ValueError, RecursionError):
                return head[: json.JSONDecoder().raw_decode(head)[1]]
    raise DataError(f"{path} is cut off, or not as metaleaf wrote it: export it again.")
