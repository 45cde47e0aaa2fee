"""Reddit: the next word at every position of comments of December 2017, one client per user.

Caldas et al., "LEAF: A Benchmark for Federated Settings", arXiv:1812.01097; comments by way of pushshift.io. Read from
the JSON that LEAF hands out: comments as tokens between <BOS> and <EOS>, cut into pieces of ten, with <PAD> behind.
Each user's are in the order of time, 60/20/20 in the folders train, val and test, which are joined here.

Words have numbers by how often they occur, and so need somebody's comments to be counted. LEAF counts those of all
clients. Here a tenth of the users, drawn by a hash of their ids, give the vocabulary and are no clients: nothing of a
client, nor of a test client least of all, is in it.

LEAF's own reading (``fidelity="leaf"``) also asks for <PAD> after a comment's end, which can never be right.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from metaleaf.dataset import Client, Published, Spec
from metaleaf.errors import ConfigError, DataError, unknown
from metaleaf.raw.leaf import Arrays, User, read_parts

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

Fidelity = Literal["mended", "leaf"]

TOKENS = 10
"""Of a piece."""

PAD, UNKNOWN, FIRST = 0, 1, 2
"""Numbers of the padding, of all words outside the vocabulary, and of the most frequent one in it."""

PADDING = "<PAD>"
UNJUDGED = -1
MOST_WORDS = 32_767
SMALL_WORDS = 2_000
PARTS = ("train", "val", "test")
"""LEAF's folders, in the order of time."""

TRAIN = 0.6
"""Of a user's comments, in the first of them."""

REMEDY = "put the folders train, val and test of LEAF's Reddit (https://leaf.cmu.edu) into $METALEAF_RAW/reddit/."


@dataclass(frozen=True)
class Reddit:
    """Comments in pieces of ten tokens, one client per user: 1,660,820 of them in the whole.

    words: the vocabulary's size, <PAD> and the unknown word among them. apart: the share of the users who give the
    vocabulary and are no clients. fidelity: "leaf" for LEAF's reading, where all users are clients and give the
    vocabulary with their comments in train.
    """

    words: int = 10_000
    apart: float = 0.1
    fidelity: Fidelity = "mended"

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(TOKENS,),
        x_dtype="uint16",
        classes=10_000,
        y_shape=(TOKENS,),
        y_dtype="int16",
        # As in LEAF: whoever answers that the next word is unknown, or that there is none, is wrong.
        task={"name": "sequence", "unanswerable": [PAD, UNKNOWN]},
        model="word_lstm",
        licence="Reddit comments, by way of pushshift.io; LEAF: BSD 2-Clause",
        homepage="https://leaf.cmu.edu",
        citation="Caldas et al. LEAF: A Benchmark for Federated Settings. arXiv 1812.01097, 2019.",
        window=1,  # in the order of time: a user's later comments are not known when he adapts
        published=Published(1_660_820, 56_587_343, 34.07, 62.9, "https://leaf.cmu.edu"),
    )

    def __post_init__(self) -> None:
        if self.fidelity not in get_args(Fidelity):
            raise unknown("reddit fidelity", self.fidelity, get_args(Fidelity))
        if not FIRST < self.words <= MOST_WORDS:
            raise ConfigError(f"reddit: words is {self.words}, not from {FIRST + 1} to {MOST_WORDS:,}.")
        if not 0 < self.apart < 1:
            raise ConfigError(f"reddit: apart is {self.apart}, not between 0 and 1.")
        small = {"name": "small_lstm", "embedding": 16, "width": 32} if self.words <= SMALL_WORDS else ""
        object.__setattr__(self, "spec", replace(self.spec, classes=self.words, small_model=small))

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the users in the order of LEAF's files; x uint16 [n, 10], y int16 [n, 10], in the order of time.

        The files are read twice, first for the vocabulary; one is in memory at a time. DataError if they are not there,
        damaged, or not all of one another's parts.
        """
        shards = _shards(raw)
        number = {word: i for i, word in enumerate(self._vocabulary(raw, shards), start=FIRST)}
        for paths in shards:
            comments = _Comments()
            users = read_parts(raw, paths, comments.read)
            numbers = np.array([number.get(token, UNKNOWN) for token in comments.tokens], np.uint16)
            numbers[0] = PAD
            for user in users:
                if self.fidelity == "leaf" or not self._gives(user.id):
                    yield Client(user.id, "reddit", *self._pieces(user.x, numbers))

    def _pieces(self, pieces: np.ndarray, numbers: np.ndarray) -> Arrays:
        """x and y of a user's pieces [n, 3, 10], as `_Comments.read` has them."""
        x, y, judged = numbers[pieces[:, 0]], numbers[pieces[:, 1]].astype(np.int16), pieces[:, 2] > 0
        if self.fidelity == "leaf":
            return x, np.where(judged, y, np.int16(UNJUDGED))
        judged &= pieces[:, 1] > 0  # the padding after a comment's end
        some = judged.any(1)
        return x[some], np.where(judged, y, np.int16(UNJUDGED))[some]

    def _vocabulary(self, raw: "RawFiles", shards: Sequence[Sequence[Path]]) -> list[str]:
        """The most frequent tokens of those who give it, the most frequent first, then by the alphabet."""
        counter: Counter[str] = Counter()
        for paths in shards:
            comments = _Comments()
            given = [self._given(user) for user in read_parts(raw, paths, comments.read)]
            times = np.bincount(np.concatenate([part.ravel() for part in given] or [np.zeros(0, int)]))
            counter.update({comments.tokens[i]: int(times[i]) for i in np.flatnonzero(times) if i})
        if not counter:
            raise DataError(f"reddit: none of the users in {shards[0][0].parent} gives the vocabulary: raise `apart`.")
        # LEAF counts <PAD> among the most frequent, and so leaves a number unused.
        most = self.words - FIRST - (self.fidelity == "leaf")
        return sorted(counter, key=lambda token: (-counter[token], token))[:most]

    def _given(self, user: User) -> np.ndarray:
        """Tokens that the user gives to the vocabulary."""
        if self.fidelity == "leaf":
            return user.x[: user.y[: int(TRAIN * len(user.y))].sum(), 0]
        return user.x[: len(user.x) * self._gives(user.id), 0]

    def _gives(self, user: str) -> bool:
        """Whether the user gives the vocabulary and is no client."""
        return int.from_bytes(hashlib.sha256(user.encode()).digest()[:8], "big") < self.apart * 2**64


class _Comments:
    """Reads comments into small numbers of their own, which `tokens` tells; number 0 is <PAD>."""

    def __init__(self) -> None:
        self._number = {PADDING: 0}

    @property
    def tokens(self) -> list[str]:
        return list(self._number)

    def read(self, x: list[Any], y: list[Any]) -> Arrays:
        """A user's pieces int32 [n, 3, 10]: tokens, targets, whether they count; how many pieces each comment has.

        ValueError says what is wrong with them.
        """
        if len(x) != len(y):
            raise ValueError(f"a user has {len(x)} x and {len(y)} y")
        pieces = [self._pieces(*one) for one in zip(x, y, strict=True)]
        joined = np.concatenate(pieces) if pieces else np.empty((0, 3, TOKENS), np.int32)
        return joined, np.array([len(one) for one in pieces], np.int32)

    def _pieces(self, tokens: Any, label: dict[str, Any]) -> np.ndarray:
        targets, counts = label["target_tokens"], label["count_tokens"]
        for rows in (tokens, targets, counts):
            if not isinstance(rows, list) or len(rows) != len(tokens) or any(not _is_piece(row) for row in rows):
                raise ValueError(f"a comment is not as many pieces of {TOKENS} in x, target_tokens and count_tokens")
        found = np.empty((len(tokens), 3, TOKENS), np.int32)
        for piece, row, target, count in zip(found, tokens, targets, counts, strict=True):
            piece[0], piece[1] = self._numbers(row), self._numbers(target)
            if set(count) - {0, 1}:
                raise ValueError("count_tokens has something other than 0 and 1")
            piece[2] = count
        return found

    def _numbers(self, row: list[Any]) -> list[int]:
        if not all(isinstance(token, str) for token in row):
            raise ValueError("a token is no text")
        return [self._number.setdefault(token, len(self._number)) for token in row]


def _is_piece(row: Any) -> bool:
    return isinstance(row, list) and len(row) == TOKENS


def _shards(raw: "RawFiles") -> list[tuple[Path, ...]]:
    """LEAF's files, each with its other parts; DataError if there are none, or one is missing."""
    found = [{_whole(path): path for path in raw.find_all(f"{part}/*.json")} for part in PARTS]
    names = sorted(set().union(*found))
    if not names:
        raise DataError(f"reddit: no train/*.json in {raw.looked_in()}: {REMEDY}")
    for name in names:
        for part, paths in zip(PARTS, found, strict=True):
            if name not in paths:
                there = next(paths[name] for paths in found if name in paths)
                raise DataError(f"reddit: {there} has no counterpart in {part}/: {REMEDY}")
    return [tuple(paths[name] for paths in found) for name in names]


def _whole(path: Path) -> str:
    """The name of the file that LEAF has split."""
    return path.name.removesuffix(".xz").removesuffix(".gz").replace(f"_{path.parent.name}.", ".")
