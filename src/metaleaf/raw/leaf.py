"""LEAF's JSON as its scripts write it, checked while it is read: users, num_samples, user_data, hierarchies."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from metaleaf.errors import DataError

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

T = TypeVar("T")

Arrays = tuple[np.ndarray, np.ndarray]
Read = Callable[[list[Any], list[Any]], Arrays]
"""Makes x and y of one user's lists of n examples: y [n], x [n, ...] or however many rows an example has.

ValueError says what is wrong with them.
"""

MAX_TEXT = 1 << 30
"""Most bytes of one file (1 GiB). LEAF's of 100 writers have 0.1 GiB, all of Shakespeare in one has 0.4."""

VALUE, LIST = 32, 64
"""Bytes that Python takes for a number and its place in a list, and for a list."""

MAX_VALUES = 4 << 30
"""Most bytes that the values of one file may take, if nothing of them were turned into arrays while it is read."""


class User(NamedTuple):
    """One user of a shard: x [n, ...], y [n]; environment is its hierarchy, None where the file does not say."""

    id: str
    environment: str | None
    x: np.ndarray
    y: np.ndarray


def read_shard(raw: "RawFiles", path: Path, read: Read) -> list[User]:
    """The users of one file in its order. Its text is in memory, but the Python values of one user only.

    DataError names the file, and what is wrong: it is not whole, a name is there twice, num_samples is not what is
    there, or there is not one label an example.
    """
    users, counts = _users(raw, path, read)
    if [len(user.y) for user in users] != counts:
        raise disagree(path)
    return users


def read_parts(raw: "RawFiles", paths: Sequence[Path], read: Read) -> list[User]:
    """The users of files that hold some of each one's examples, joined in the order of the files.

    In LEAF's own num_samples is the user's total in every one of them. DataError as in `read_shard`, and if the files
    name other users.
    """
    parts = [_users(raw, path, read) for path in paths]
    for path, (users, _) in zip(paths, parts, strict=True):
        if [user.id for user in users] != [user.id for user in parts[0][0]]:
            raise DataError(f"{path} names other users than {paths[0]}: they are not parts of the same.")
    joined = [_joined(same) for same in zip(*(users for users, _ in parts), strict=True)]
    totals = [len(user.y) for user in joined]
    for path, (users, counts) in zip(paths, parts, strict=True):
        if counts not in (totals, [len(user.y) for user in users]):
            raise disagree(path)
    return joined


def _joined(parts: Sequence[User]) -> User:
    x, y = (np.concatenate(arrays) for arrays in zip(*((user.x, user.y) for user in parts), strict=True))
    return User(parts[0].id, parts[0].environment, x, y)


def _users(raw: "RawFiles", path: Path, read: Read) -> tuple[list[User], list[Any]]:
    """One file's users, and its num_samples."""
    found, counts = parsed(raw, path, partial(_compact, read), tuple)
    return [User(name, environment, *arrays) for name, environment, arrays in found], counts


def parsed(
    raw: "RawFiles", path: Path, compact: Callable[[list[tuple[str, Any]]], Any], kind: type[T]
) -> tuple[list[tuple[str, str | None, T]], list[Any]]:
    """Each user of one file by name, environment and what `compact` made of its lists; and the file's num_samples.

    compact: from a JSON object's keys and values to a `kind` where it is a user's, as soon as it is parsed; ValueError
    says what is wrong. DataError as in `read_shard`.
    """
    with raw.open(path, limit=MAX_TEXT) as file:
        text = file.read()
    if (room := VALUE * text.count(b",") + LIST * text.count(b"[")) > MAX_VALUES:
        limit = f"{MAX_VALUES:,} are allowed"
        raise DataError(f"{path} is not used: its values could take {room:,} bytes of memory; {limit}.")
    try:
        shard = json.loads(text, object_pairs_hook=compact)
        names, counts, data = shard["users"], shard["num_samples"], shard["user_data"]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("users must be a list of names")
        users = [(name, title, _of_user(data[name], kind)) for name, title in zip(names, _titles(shard), strict=True)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DataError(f"{path} is not a whole LEAF file ({_in_words(error)}): fetch or make it again.") from error
    if len(set(names)) != len(names) or len(names) != len(data):
        raise disagree(path)
    return users, counts


def disagree(path: Path) -> DataError:
    """What is said of a file that contradicts itself."""
    return DataError(f"{path} is damaged: its users, num_samples and user_data disagree.")


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _compact(read: Read, pairs: list[tuple[str, Any]]) -> Any:
    """Turn a user's x and y into arrays as soon as they are parsed: Python's values take many times the room."""
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:  # Python's parser would silently keep the last
            raise ValueError(f"{key!r} is there twice")
        value[key] = item
    if not (isinstance(value.get("x"), list) and isinstance(value.get("y"), list)):
        return value
    examples = len(value["x"])
    x, y = read(value["x"], value["y"])
    if y.shape != (examples,):
        raise ValueError(f"y has the shape {list(y.shape)}, not one label for each of {examples} examples")
    return x, y


def _of_user(value: Any, kind: type[T]) -> T:
    """What `compact` has made of a user's lists; ValueError if it has not, as one of them is called otherwise."""
    if not isinstance(value, kind):
        raise ValueError("a user has no lists x and y")
    return value


def _titles(shard: dict[str, Any]) -> list[str | None]:
    users, titles = shard["users"], shard.get("hierarchies", [])
    if not all(isinstance(title, str) for title in titles):
        raise ValueError("hierarchies must be a list of names")
    # LEAF's split drops users from "users" but not from "hierarchies", which then says nothing any more.
    return list(titles) if len(titles) == len(users) else [None] * len(users)
