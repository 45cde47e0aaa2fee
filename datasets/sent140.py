"""Sent140: is a tweet happy or sad? One client per Twitter user.

Go, Bhayani, Huang, "Twitter Sentiment Classification using Distant Supervision", Stanford 2009: a tweet is positive if
it had a happy smiley and negative if it had a sad one; smileys are taken out. A client is a user, as in Caldas et al.,
"LEAF: A Benchmark for Federated Settings", arXiv:1812.01097. Read from Sentiment140's CSV or from LEAF's JSON.

A tweet is its first 25 tokens: words (letters, digits, _ and ') and the marks . , ! ? ; one by one. Which number a
word has must not depend on anyone's tweets, least of all a test client's. So it is the word's hash, or its place in
GloVe's list.

LEAF's own reading (``fidelity="leaf"``) keeps capitals, which GloVe's list lacks, and HTML's escapes; pads behind the
text, with the number of unknown words; calls neutral tweets negative, and joins Sentiment140's hand-labelled tweets.
"""

import csv
import html
import io
import re
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, get_args

import numpy as np

from metaleaf.dataset import Client, Published, Spec
from metaleaf.errors import ConfigError, DataError, unknown
from metaleaf.raw.leaf import Arrays, read_shard

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

Source = Literal["auto", "csv", "leaf"]
Vocabulary = Literal["hashed", "glove"]
Fidelity = Literal["mended", "leaf"]

TOKENS = 25
"""Of a tweet; those behind are left out, as in LEAF."""

GLOVE_WORDS = 400_000
"""In each of GloVe's lists of 6 billion tokens."""

MOST_BUCKETS = 65_535
HAND_LABELLED = 498
"""Tweets in Sentiment140's test file."""

TRAINING = "training.*.processed.noemoticon.csv"
ARCHIVE = "trainingandtestdata.zip"
BY_HAND = "testdata.manual.2009.06.14.csv"
JSON_NAMES = ("all_data/all_data*.json", "all_data*.json", "t[er]*/all_data*.json", "sent140_*.json")
GLOVE = "glove.6B.*d.txt"
REMEDY = (
    f"put {ARCHIVE} (https://cs.stanford.edu/people/alecmgo/{ARCHIVE}), the training.1600000.processed.noemoticon.csv "
    "that is in it, or LEAF's all_data.json into $METALEAF_RAW/sent140/."
)
GLOVE_REMEDY = (
    "put glove.6B.300d.txt, out of glove.6B.zip (https://nlp.stanford.edu/projects/glove/), into "
    "$METALEAF_RAW/sent140/."
)

_TOKEN = re.compile(r"[\w']+|[.,!?;]")
_ROWS = re.compile(r"training\.(\d+)\.")
_ANSWERS = {"0": 0, "2": None, "4": 1}


@dataclass(frozen=True)
class Sent140:
    """Tweets, one client per user: 660,120 of them in the whole, with 2.4 tweets each.

    source: "csv" (Sentiment140's), "leaf" (LEAF's JSON), "auto" the CSV if it is there and else the JSON. vocabulary:
    "hashed" into that many `buckets`, or "glove", the words of a file of GloVe's. fidelity: "leaf" for LEAF's reading.
    """

    source: Source = "auto"
    vocabulary: Vocabulary = "hashed"
    buckets: int = 4096
    fidelity: Fidelity = "mended"

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(TOKENS,),
        x_dtype="uint16",
        classes=2,
        task={"name": "binary", "metrics": ["accuracy", "auc", "f1"]},
        labels=("negative", "positive"),
        model="tweet_lstm",
        licence="Sentiment140: for research, the tweets are their authors'; LEAF: BSD 2-Clause",
        terms="these tweets are their authors', collected for research: do not publish them.",
        homepage="https://leaf.cmu.edu",
        citation="""@techreport{go2009twitter,
  title = {Twitter Sentiment Classification using Distant Supervision},
  author = {Go, Alec and Bhayani, Richa and Huang, Lei},
  institution = {Stanford University},
  year = {2009}
}
@article{caldas2018leaf,
  title = {LEAF: A Benchmark for Federated Settings},
  author = {Caldas, Sebastian and Duddu, Sai Meher Karthik and Wu, Peter and Li, Tian
            and Kone{\\v{c}}n{\\'y}, Jakub and McMahan, H. Brendan and Smith, Virginia and Talwalkar, Ameet},
  journal = {arXiv preprint arXiv:1812.01097},
  year = {2018}
}""",
        published=Published(660_120, 1_600_498, 2.42, 4.71, "https://leaf.cmu.edu"),
    )

    def __post_init__(self) -> None:
        for name, kind in (("source", Source), ("vocabulary", Vocabulary), ("fidelity", Fidelity)):
            if getattr(self, name) not in get_args(kind):
                raise unknown(f"sent140 {name}", getattr(self, name), get_args(kind))
        if not 1 <= self.buckets <= MOST_BUCKETS:
            raise ConfigError(f"sent140: buckets is {self.buckets}, not from 1 to {MOST_BUCKETS:,}.")
        hashed = self.vocabulary == "hashed"
        spec = replace(
            self.spec,
            x_dtype="uint16" if hashed else "uint32",
            model={"name": "tweet_lstm", "symbols": self.symbols},
            # GloVe's list is too long for a small one.
            small_model={"name": "embedding_bag", "symbols": self.symbols} if hashed else "",
        )
        object.__setattr__(self, "spec", spec)

    @property
    def symbols(self) -> int:
        """How many numbers a token can have: padding, then hashes; or padding, the unknown word and GloVe's.

        In LEAF's reading GloVe's words and then one number for both.
        """
        if self.vocabulary == "hashed":
            return 1 + self.buckets
        return GLOVE_WORDS + (1 if self.fidelity == "leaf" else 2)

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the users, sorted by name; x uint16 or uint32 [n, 25], y uint8 [n], a user's tweets in order of time.

        All tweets are in memory, about 64 bytes each. DataError if no source is there, or it is damaged.
        """
        first = raw.find(TRAINING, ARCHIVE, *JSON_NAMES) if self.source == "auto" else None
        tweets = _Tweets(self._encoder(raw), self.spec.x_dtype, as_leaf=self.fidelity == "leaf")
        if self.source == "leaf" or (first and ".json" in first.suffixes):
            _read_json(raw, tweets)
        else:
            _read_csv(raw, tweets)
        return tweets.by_user()

    def _encoder(self, raw: "RawFiles") -> "Encode":
        as_leaf, number = self.fidelity == "leaf", self._numbering(raw)
        padding = self.symbols - 1 if as_leaf and self.vocabulary == "glove" else 0

        def encode(text: str) -> list[int]:
            found = [number(token) for token in tokens(text, as_leaf)]
            padded = [padding] * (TOKENS - len(found))
            # In front, so that the last state of a recurrent network has just read the last word.
            return found + padded if as_leaf else padded + found

        return encode

    def _numbering(self, raw: "RawFiles") -> Callable[[str], int]:
        if self.vocabulary == "hashed":
            return partial(hashed, buckets=self.buckets)
        first, other = (0, self.symbols - 1) if self.fidelity == "leaf" else (2, 1)
        place = {word: i for i, word in enumerate(_glove(raw), start=first)}
        return lambda token: place.get(token, other)


Encode = Callable[[str], list[int]]
"""The numbers of a text's tokens, `TOKENS` of them."""


def hashed(token: str, buckets: int) -> int:
    """Its number, from 1 to `buckets`: by CRC-32 of its UTF-8, the same for ever."""
    return 1 + zlib.crc32(token.encode()) % buckets


def tokens(text: str, as_leaf: bool = False) -> list[str]:
    """The first 25 tokens of a tweet."""
    return _TOKEN.findall(text if as_leaf else html.unescape(text).lower())[:TOKENS]


@dataclass
class _Tweets:
    """Tweets as they are read, whoever's they are; then by user."""

    encode: Encode
    dtype: str
    as_leaf: bool
    users: dict[str, int] = field(default_factory=dict)
    owner: "array[int]" = field(default_factory=lambda: array("I"))
    number: "array[int]" = field(default_factory=lambda: array("q"))
    answer: "array[int]" = field(default_factory=lambda: array("B"))
    words: bytearray = field(default_factory=bytearray)

    def add(self, user: str, number: int, answer: int, words: np.ndarray) -> None:
        """Take one tweet: Twitter's number for it, y, x [25]."""
        self.owner.append(self.users.setdefault(user, len(self.users)))
        self.number.append(number)
        self.answer.append(answer)
        self.words += words.tobytes()

    def by_user(self) -> Iterator[Client]:
        """Sorted by name. What is listed twice, as positive and as negative, is left out but in LEAF's reading."""
        owner, number, answer = (np.asarray(column) for column in (self.owner, self.number, self.answer))
        words = np.frombuffer(self.words, self.dtype).reshape(-1, TOKENS)
        order = np.lexsort((number, owner))
        starts = np.searchsorted(owner[order], np.arange(len(self.users) + 1))
        for user in sorted(self.users):
            place = self.users[user]
            rows = order[starts[place] : starts[place + 1]]
            if not self.as_leaf:
                _, inverse, times = np.unique(number[rows], return_inverse=True, return_counts=True)
                rows = rows[times[inverse] == 1]
            yield Client(user, "twitter", words[rows], answer[rows])


def _glove(raw: "RawFiles") -> list[str]:
    """The words of GloVe's file, in its order."""
    path = raw.require([GLOVE], GLOVE_REMEDY)
    with raw.open(path) as stream:
        words = [line.split(b" ", 1)[0].decode("utf-8", "replace") for line in stream]
    if len(words) != GLOVE_WORDS or len(set(words)) != GLOVE_WORDS:
        found = f"{len(words):,} lines with {len(set(words)):,} words"
        raise DataError(f"{path} has {found}, not GloVe's {GLOVE_WORDS:,}: {GLOVE_REMEDY}")
    return words


# Sentiment140's CSV


def _read_csv(raw: "RawFiles", tweets: _Tweets) -> None:
    path = raw.require([TRAINING, ARCHIVE], REMEDY)
    with _csv_of(raw, path, TRAINING) as (name, stream):
        named = _ROWS.search(name)
        _read_rows(f"{path}" if name == path.name else f"{path}: {name}", stream, named and int(named[1]), tweets)
    by_hand = path if path.suffix == ".zip" else raw.find(BY_HAND)
    if tweets.as_leaf and by_hand:
        with _csv_of(raw, by_hand, BY_HAND) as (name, stream):
            _read_rows(f"{by_hand}", stream, HAND_LABELLED, tweets)


@contextmanager
def _csv_of(raw: "RawFiles", path: Path, pattern: str) -> Iterator[tuple[str, BinaryIO]]:
    """The file's name and its bytes; of an archive, those of its member of that name."""
    if path.suffix != ".zip":
        with raw.open(path) as stream:
            yield path.name, stream
        return
    with raw.zip(path) as archive:
        names = [name for name in archive.names() if Path(name).match(pattern)]
        if len(names) != 1:
            raise DataError(f"{path} has {len(names)} members {pattern} instead of one: {REMEDY}")
        with archive.open(names[0]) as stream:
            yield names[0], stream


def _read_rows(where: str, stream: BinaryIO, expected: int | None, tweets: _Tweets) -> None:
    # Any byte is a character of Latin-1.
    reader = csv.reader(io.TextIOWrapper(stream, "latin-1", newline=""), strict=True)
    rows = 0
    try:
        for row in reader:
            _read_row(row, tweets)
            rows += 1
    except (csv.Error, ValueError) as error:
        raise DataError(f"{where}, row {rows + 1:,}: {error}: {REMEDY}") from error
    if rows != expected:
        raise DataError(f"{where} has {rows:,} rows, not {expected:,}: it is cut or another file: {REMEDY}")


def _read_row(row: list[str], tweets: _Tweets) -> None:
    """ValueError says what is wrong with the row."""
    if len(row) != 6:
        raise ValueError(f"{len(row)} fields instead of 6")
    polarity, number, _, _, user, text = row
    if polarity not in _ANSWERS:
        raise ValueError(f"the polarity is {polarity[:20]!r}, not 0, 2 or 4")
    if not user:
        raise ValueError("there is no user")
    answer = _ANSWERS[polarity]
    if answer is not None or tweets.as_leaf:
        words = np.array(tweets.encode(text), tweets.dtype)
        tweets.add(user, _number(number), answer or 0, words)


def _number(text: str) -> int:
    """Twitter's number of a tweet; ValueError if it is none."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(f"the tweet's number is {text[:20]!r}")
    return int(text)


# LEAF's JSON


def _read_json(raw: "RawFiles", tweets: _Tweets) -> None:
    shards = raw.find_all(*JSON_NAMES)
    if not shards:
        raise DataError(f"sent140: no all_data.json or shards of it in {raw.looked_in()}: {REMEDY}")
    tweet = np.dtype([("number", "i8"), ("by_hand", "?"), ("words", tweets.dtype, TOKENS)])

    def read(x: list[Any], y: list[Any]) -> Arrays:
        """The user's tweets; ValueError says what is wrong with them."""
        if bad := [row for row in x if not _is_row(row)]:
            raise ValueError(f"x has {str(bad[0])[:60]!r}, not the 5 or 6 texts of a tweet")
        if any(type(answer) is not int or answer not in (0, 1) for answer in y):
            raise ValueError("y has something other than 0 and 1")
        rows = [(_number(row[0]), row[5:] == ["test"], tweets.encode(row[4])) for row in x]
        return np.array(rows, tweet), np.array(y, np.uint8)

    seen: set[tuple[str, bool]] = set()
    for path in shards:
        for user, _, x, y in read_shard(raw, path, read):
            part = (user, _is_test(path))
            if part in seen:
                raise DataError(f"{path}: user {user!r} is in another file too: use the files of one LEAF run only.")
            seen.add(part)
            for row, answer in zip(x, y, strict=True):
                # Some of these are neutral, and LEAF's file calls them negative.
                if tweets.as_leaf or not row["by_hand"]:
                    tweets.add(user, row["number"], answer, row["words"])


def _is_row(row: Any) -> bool:
    """Whether it is id, date, query, user, text, and perhaps which of Sentiment140's files it was in."""
    return isinstance(row, list) and len(row) in (5, 6) and all(isinstance(cell, str) for cell in row)


def _is_test(path: Path) -> bool:
    return path.parent.name == "test" or "_test" in path.name
