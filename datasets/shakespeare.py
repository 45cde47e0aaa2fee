"""Next-character prediction on the roles of Shakespeare's plays (McMahan et al. 2017), windowed as in LEAF.

A client is a role of a play; an example is 80 characters of what the role says and the one after them, at
every position. The text is Project Gutenberg's etext #100 of January 1994, read by LEAF's rules:

- A play begins at a line "by William Shakespeare", the first of which (the Sonnets) is skipped; its title is
  the nearest non-blank line two to seven lines above. Fewer than two roles are no play (A Lover's Complaint).
- "  Name. Words" begins a speech, lines indented by four go on with it, other lines are passed over. The
  Comedy of Errors has lost its indentation: every line goes on with a speech, until "Act ..." or "<".
- Roles are upper-cased, those of one or two lines left out; lines are joined, runs of spaces become one.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, get_args

import numpy as np

from metaleaf.dataset import Client, Published, Spec
from metaleaf.errors import DataError, unknown
from metaleaf.raw.leaf import Arrays, read_shard

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

Source = Literal["auto", "text", "any_text", "leaf"]
Roles = dict[str, list[str]]
Said = tuple[str, str, np.ndarray]
"""A play, a role of it, and the classes of the characters that it says, uint8 [n]."""


class Edition(NamedTuple):
    """What all roles of three lines or more say: how many, characters in all, and the hash of all of it."""

    roles: int
    characters: int
    sha256: str


EDITION = Edition(1_145, 4_317_538, "776b58b7253520ec515dd6d4119e2a11c395549894e22fa63a4c0cd73b3457ab")
"""The etext of January 1994."""

WINDOW = 80
ALPHABET = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""LEAF's vocabulary in LEAF's order: class i is ALPHABET[i]."""

TEXT_NAMES = ["gutenberg100_1994.txt", "raw_data.txt", "1994-01-100.zip"]
# The unsplit file before the shards in train/ and test/; no deeper, where another dataset's shards may lie.
JSON_NAMES = ["all_data/all_data*.json", "all_data*.json", "t[er]*/all_data*.json"]
REMEDY = "get Project Gutenberg's etext #100 of January 1994 (1994-01-100.zip), or LEAF's all_data.json."

_AUTHOR = "by William Shakespeare"
_LINES = 124_197  # LEAF's constant: the plays end above
_MAX_TEXT = 64 << 20  # bytes; the text has 5.5 MB
_UNINDENTED = "THE COMEDY OF ERRORS"
_SPEECH = r"([a-zA-Z][a-zA-Z ]*)\. (.*)"
_CODES = np.array([ALPHABET.find(chr(code)) % len(ALPHABET) for code in range(128)], np.uint8)


@dataclass(frozen=True)
class Shakespeare:
    """1,130 roles with 4,226,206 windows in 36 plays, when made from the text.

    source: "text" reads the Gutenberg etext, "any_text" also one that differs from it but for its layout, "leaf" the
    JSON files that LEAF's scripts write, "auto" the text if it is there and else the JSON. What LEAF split into a train
    and a test shard is joined in this order.
    """

    source: Source = "auto"

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(WINDOW,),
        x_dtype="uint8",
        classes=len(ALPHABET),
        model="lstm",
        licence="Copyright 1990-1993 World Library, Inc.; personal use, no commercial distribution",
        terms="the text may be copied and given away for personal use, but not be distributed or used commercially.",
        homepage="https://leaf.cmu.edu",
        citation="Caldas et al. LEAF: A Benchmark for Federated Settings. arXiv 1812.01097, 2019.",
        window=WINDOW,
        # LEAF's page prints "4,226,15", a digit short. Without one role of 48 windows (there are two) we get
        # 4,226,158 and the page's clients, mean and standard deviation.
        published=Published(1129, 4_226_158, 3743.2, 6212, "https://leaf.cmu.edu"),
    )

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise unknown("shakespeare source", self.source, get_args(Source))

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the roles in the order of the text or of LEAF's file; x uint8 [n, 80], y uint8 [n].

        The environment is the play's title; "shakespeare" for JSON files that do not name it. From the text,
        x is an overlapping view. DataError if nothing is found, or a file is cut off or of another kind.
        """
        first = raw.find(*TEXT_NAMES, *JSON_NAMES) if self.source == "auto" else None
        if self.source == "leaf" or (first and ".json" in first.suffixes):
            yield from _leaf_clients(raw)
        else:
            yield from _text_clients(raw, raw.require(TEXT_NAMES, REMEDY), self.source == "any_text")


def encode(text: str) -> np.ndarray:
    """Classes of the characters, uint8 [len(text)].

    A character outside the alphabet becomes the last class, as in LEAF, where find() gives -1 and element -1
    of a one-hot vector is its last. The 1994 text has no such character in any role.
    """
    # All that is not ASCII goes with code 127, which the alphabet lacks.
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return _CODES[np.minimum(codes, len(_CODES) - 1)]


def plays(text: str) -> Iterator[tuple[str, Roles]]:
    """Yield (title, {role: its lines}) of every play in the order of the text; all roles, however small."""
    lines = text.splitlines()[:_LINES]
    begins = [i for i, line in enumerate(lines) if _AUTHOR in line][1:]
    for begin, end in pairwise([*begins, len(lines)]):
        above = lines[max(begin - 7, 0) : begin - 1]
        title = next((line.strip() for line in reversed(above) if line.strip()), "")
        roles = _roles(lines[begin + 1 : end], indented=title != _UNINDENTED)
        if len(roles) > 1:
            yield title, roles


def _roles(lines: Iterable[str], indented: bool) -> Roles:
    speech = re.compile("  " + _SPEECH if indented else _SPEECH)
    indent = "    " if indented else ""
    roles: Roles = {}
    speaker = ""
    for line in lines:
        if match := speech.match(line):
            speaker, words = match[1].upper(), match[2]
        elif speaker and line.startswith(indent):
            words = line[len(indent) :]
        else:
            continue
        if not indented and (speaker.startswith("ACT ") or line.startswith("<")):
            speaker = ""
        else:
            roles.setdefault(speaker, []).append(words)
    return roles


def spoken(lines: Iterable[str]) -> str:
    """What a role says as one string: a space for every line's end, one space for many."""
    return re.sub("  +", " ", "".join(line + " " for line in lines))


def user_id(play: str, role: str) -> str:
    """The role's name in LEAF's files, e.g. ``THE_TRAGEDY_OF_MACBETH_FIRST_WITCH``."""
    return re.sub(r"\W+", "_", f"{play}_{role}".replace(" ", "_"))


def _text_clients(raw: "RawFiles", path: Path, any_edition: bool) -> Iterator[Client]:
    for play, role, codes in texts(raw, path, any_edition):
        if len(codes) > WINDOW:
            windows = np.lib.stride_tricks.sliding_window_view(codes[:-1], WINDOW)
            yield Client(user_id(play, role), play, windows, codes[WINDOW:])


def texts(raw: "RawFiles", path: Path, any_edition: bool = False) -> list[Said]:
    """Every role of three lines or more.

    DataError if the file is damaged, has no plays, or is another edition than EDITION and that was not asked for.
    """
    found = [
        (play, role, encode(spoken(lines)))
        for play, roles in plays(_read(raw, path))
        for role, lines in roles.items()
        if len(lines) > 2
    ]
    if not found:
        raise DataError(f"{path} has no plays in the layout of the 1994 edition: {REMEDY}")
    edition = edition_of(found)
    if not any_edition and edition != EDITION:
        raise DataError(
            f"{path} is not the 1994 edition, or not all of it: {edition.roles:,} roles say {edition.characters:,} "
            f"characters there, {EDITION.roles:,} say {EDITION.characters:,} in the edition, not the same: {REMEDY} "
            'The dataset shakespeare takes it as it is with source = "any_text".'
        )
    return found


def edition_of(said: Iterable[Said]) -> Edition:
    """What an edition is known by: all that its roles say, in order."""
    digest, roles, characters = hashlib.sha256(), 0, 0
    for play, role, codes in said:
        digest.update(f"{play}\n{role}\n{len(codes)}\n".encode())
        digest.update(codes.tobytes())
        roles, characters = roles + 1, characters + len(codes)
    return Edition(roles, characters, digest.hexdigest())


def _read(raw: "RawFiles", path: Path) -> str:
    if path.suffix == ".zip":
        with raw.zip(path, member_limit=_MAX_TEXT) as archive:
            texts = [name for name in archive.names() if name.lower().endswith(".txt")]
            if len(texts) != 1:
                raise DataError(f"{path} has {len(texts)} .txt members instead of one: {REMEDY}")
            data = archive.read(texts[0])
    else:
        with raw.open(path, limit=_MAX_TEXT) as stream:
            data = stream.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a UTF-8 text ({error}): {REMEDY}") from error


def _leaf_clients(raw: "RawFiles") -> Iterator[Client]:
    """Join each client's part of a train shard with that of its test shard; one such pair in memory."""
    shards = raw.find_all(*JSON_NAMES)
    if not shards:
        raise DataError(f"shakespeare: no all_data.json or shards of it in {raw.looked_in()}: {REMEDY}")

    def whole(path: Path) -> str:
        return re.sub("_(train|test)(?=_)", "", path.name)

    train_first = sorted(shards, key=lambda path: (whole(path), "_test_" in path.name))
    for _, parts in groupby(train_first, whole):
        pieces: dict[str, list[Client]] = {}
        for client in chain.from_iterable(_leaf_shard(raw, path) for path in parts):
            pieces.setdefault(client.id, []).append(client)
        for user, (first, *rest) in pieces.items():
            x = np.concatenate([first.x, *(piece.x for piece in rest)])
            y = np.concatenate([first.y, *(piece.y for piece in rest)])
            yield Client(user, first.environment, x, y)


def _leaf_shard(raw: "RawFiles", path: Path) -> Iterator[Client]:
    for user, play, x, y in read_shard(raw, path, _leaf_windows):
        yield Client(user, play or "shakespeare", x, y)


def _leaf_windows(x: list[str], y: list[str]) -> Arrays:
    if len(x) != len(y) or set(map(len, x)) - {WINDOW} or set(map(len, y)) - {1}:
        raise ValueError(f"a user has {len(x)} x and {len(y)} y; each x has {WINDOW} characters and each y 1")
    return encode("".join(x)).reshape(-1, WINDOW), encode("".join(y))
