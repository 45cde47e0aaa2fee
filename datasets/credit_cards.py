"""Credit cards in Taiwan, 2005: will the bill of the next month be paid? There are no natural clients.

Yeh and Lien, "The Comparisons of Data Mining Techniques for the Predictive Accuracy of Probability of Default of Credit
Card Clients", Expert Systems with Applications 36(2), 2009. All cards are of one bank. So who the clients of a
federation are is declared here: groups of people alike, or people drawn at random, where there is nothing to adapt to.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.errors import ConfigError, unknown
from metaleaf.raw.rows import Row, check_count, lines_of, rows

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

Partition = Literal["strata", "iid"]

CARDS = 30_000
EDUCATION = ("graduate school", "university", "high school", "other")
MARRIAGE = ("married", "single", "other")
AGES = ("21-25", "26-30", "31-35", "36-40", "41-45", "46-50", "51+")

MONTHS = ("PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5", "PAY_6")
"""How the bill was paid, from September back to April: -2 no use, -1 in full, 0 in part, 1 to 9 so many months late."""

_BILLS = tuple(f"BILL_AMT{i}" for i in range(1, 7))
_PAID = tuple(f"PAY_AMT{i}" for i in range(1, 7))
_DEFAULT = "default.payment.next.month"
_READ = ("ID", "LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE", *MONTHS, *_BILLS, *_PAID, _DEFAULT)

FEATURES = (
    "log limit", "age", "woman", *EDUCATION[:-1], *MARRIAGE[:-1],
    *(f"{name} {what}" for what in ("months late", "in full", "no use") for name in MONTHS),
    *(f"log {name}" for name in (*_BILLS, *_PAID)),
)  # fmt: skip
"""The columns of x. A bill's logarithm has its sign, since bills may be credits."""

FILE = "UCI_Credit_Card.csv"
REMEDY = (
    f"put {FILE} (https://archive.ics.uci.edu/dataset/350/default+of+credit+card+clients, as CSV) into "
    "$METALEAF_RAW/credit/."
)


@dataclass(frozen=True)
class CreditCards:
    """30,000 cards and whether the next payment was missed.

    partition: "strata", a client is people of one education, marriage and age band, and an environment an education;
    "iid", `people` clients of equal size are drawn with `seed`, all in one environment.
    """

    partition: Partition = "strata"
    people: int = 100
    seed: int = 0

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(len(FEATURES),),
        x_dtype="float32",
        classes=2,
        task={"name": "binary", "metrics": ["auc", "average_precision", "accuracy"]},
        model="mlp",
        standardise="x",
        licence="CC BY 4.0",
        homepage="https://archive.ics.uci.edu/dataset/350/default+of+credit+card+clients",
        citation="""@article{yeh2009comparisons,
  title = {The Comparisons of Data Mining Techniques for the Predictive Accuracy of Probability of Default of Credit
           Card Clients},
  author = {Yeh, I-Cheng and Lien, Che-hui},
  journal = {Expert Systems with Applications},
  volume = {36},
  number = {2},
  year = {2009}
}""",
    )

    def __post_init__(self) -> None:
        if self.partition not in get_args(Partition):
            raise unknown("credit_cards partition", self.partition, get_args(Partition))
        if not 1 <= self.people <= CARDS:
            raise ConfigError(f"credit_cards: people = {self.people} is not from 1 to {CARDS:,}.")

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the clients, sorted by id: x float32 [n, 38], y uint8 [n], 1 for a default; cards by their numbers.

        DataError if the file is not there, damaged, or not the whole data.
        """
        raw = raw.of("credit")
        path = raw.require([FILE], REMEDY)
        x, y = np.empty((CARDS, len(FEATURES)), np.float32), np.empty(CARDS, np.uint8)
        strata: list[tuple[str, str]] = []
        for row in rows(lines_of(raw, path, REMEDY), path, _READ, REMEDY, header=True):
            number = len(strata) + 1
            if row.whole("ID", 1, CARDS) != number:
                raise row.fault("ID", f"{number:,}, the number of its row")
            x[number - 1], y[number - 1] = _features(row), row.whole(_DEFAULT, 0, 1)
            strata.append(_stratum(row))
        check_count(path, len(strata), CARDS, "cards", REMEDY)
        owners = strata if self.partition == "strata" else self._drawn()
        members: dict[tuple[str, str], list[int]] = {}
        for card, owner in enumerate(owners):
            members.setdefault(owner, []).append(card)
        for (name, environment), cards in sorted(members.items()):
            yield Client(name, environment, x[cards], y[cards])

    def _drawn(self) -> list[tuple[str, str]]:
        """A client for each card, as many cards each as can be."""
        numbers = np.random.default_rng(self.seed).permutation(CARDS) % self.people
        return [(f"client {number:05}", "taiwan") for number in numbers.tolist()]


def _stratum(row: Row) -> tuple[str, str]:
    """The client and environment of a card among strata."""
    education = EDUCATION[_education(row)]
    band = AGES[min((row.whole("AGE") - 21) // 5, len(AGES) - 1)]
    return f"{education}, {MARRIAGE[_marriage(row)]}, {band}", education


def _education(row: Row) -> int:
    """Its place in `EDUCATION`; the file's 0, 5 and 6 are not documented."""
    return (3, 0, 1, 2, 3, 3, 3)[row.whole("EDUCATION", 0, 6)]


def _marriage(row: Row) -> int:
    """Its place in `MARRIAGE`; the file's 0 is not documented."""
    return (2, 0, 1, 2)[row.whole("MARRIAGE", 0, 3)]


def _features(row: Row) -> list[float]:
    """The numbers of `FEATURES`."""
    education, marriage = _education(row), _marriage(row)
    months = [row.whole(name, -2, 9) for name in MONTHS]
    bills = [row.number(name, -1e9, 1e9) for name in _BILLS]
    return [
        math.log(row.number("LIMIT_BAL", 1, 1e9)),
        row.whole("AGE", 21, 120),
        row.whole("SEX", 1, 2) - 1,
        *(float(education == i) for i in range(len(EDUCATION) - 1)),
        *(float(marriage == i) for i in range(len(MARRIAGE) - 1)),
        *(float(max(month, 0)) for month in months),
        *(float(month == -1) for month in months),
        *(float(month == -2) for month in months),
        *(math.copysign(math.log1p(abs(bill)), bill) for bill in bills),
        *(math.log1p(row.number(name, 0, 1e9)) for name in _PAID),
    ]
