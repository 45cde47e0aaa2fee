"""German credit (Statlog): is a borrower a bad risk? 1,000 loans; what a loan was for is declared to be its client.

Hofmann 1994, UCI. Small, and without natural clients: ten purposes, with 9 to 280 loans each, of four kinds. Good to
see whether something works at all; no result on it means much.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.raw.rows import Row, check_count, lines_of, rows

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

LOANS = 1_000

NUMBERS = {
    "duration": (1, 120), "amount": (1, 1e6), "instalment rate": (1, 4), "residence since": (1, 4), "age": (18, 120),
    "credits": (1, 10), "people liable": (1, 10),
}  # fmt: skip
"""The numbers among the attributes, and what they may be: months, German marks, a class of per cents, classes of years,
years, how many at this bank, how many."""

CODES = {
    "checking account": ("A11", "A12", "A13", "A14"),
    "credit history": ("A30", "A31", "A32", "A33", "A34"),
    "savings": ("A61", "A62", "A63", "A64", "A65"),
    "employment since": ("A71", "A72", "A73", "A74", "A75"),
    "sex and marriage": ("A91", "A92", "A93", "A94", "A95"),
    "other debtors": ("A101", "A102", "A103"),
    "property": ("A121", "A122", "A123", "A124"),
    "other plans": ("A141", "A142", "A143"),
    "housing": ("A151", "A152", "A153"),
    "job": ("A171", "A172", "A173", "A174"),
    "telephone": ("A191", "A192"),
    "foreign worker": ("A201", "A202"),
}
"""The publisher's codes; each is a column of x."""

PURPOSES = {
    "A40": ("new car", "car"), "A41": ("used car", "car"), "A42": ("furniture", "household"),
    "A43": ("radio and television", "household"), "A44": ("appliances", "household"), "A45": ("repairs", "household"),
    "A46": ("education", "learning"), "A47": ("vacation", "other"), "A48": ("retraining", "learning"),
    "A49": ("business", "other"), "A410": ("others", "other"),
}  # fmt: skip
"""Client and environment by the publisher's code; nobody borrowed for a vacation."""

_COLUMNS = (
    "checking account", "duration", "credit history", "purpose", "amount", "savings", "employment since",
    "instalment rate", "sex and marriage", "other debtors", "residence since", "property", "age", "other plans",
    "housing", "credits", "job", "people liable", "telephone", "foreign worker", "risk",
)  # fmt: skip

FILE = "german.data"
REMEDY = f"put {FILE} (https://archive.ics.uci.edu/dataset/144/statlog+german+credit+data) into $METALEAF_RAW/credit/."


@dataclass(frozen=True)
class GermanCredit:
    """Ten purposes as clients."""

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(len(NUMBERS) + sum(map(len, CODES.values())),),
        x_dtype="float32",
        classes=2,
        task={"name": "binary", "metrics": ["auc", "average_precision", "accuracy"]},
        model="logistic",
        standardise="x",
        licence="CC BY 4.0",
        homepage="https://archive.ics.uci.edu/dataset/144/statlog+german+credit+data",
        citation="""@misc{hofmann1994statlog,
  title = {Statlog (German Credit Data)},
  author = {Hofmann, Hans},
  howpublished = {UCI Machine Learning Repository},
  year = {1994}
}""",
    )

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the purposes in the order of their codes: x float32 [n, 52], y uint8 [n], 1 for a bad risk.

        Loans are in the file's order. DataError if the file is not there, damaged, or not the whole data.
        """
        raw = raw.of("credit")
        path = raw.require([FILE], REMEDY)
        loans: dict[str, list[list[float]]] = {purpose: [] for purpose in PURPOSES}
        for row in rows(lines_of(raw, path, REMEDY), path, _COLUMNS, REMEDY, header=False, separator=" "):
            row.one_of("purpose", PURPOSES)
            loans[row["purpose"]].append([*_features(row), row.whole("risk", 1, 2) - 1])
        check_count(path, sum(map(len, loans.values())), LOANS, "loans", REMEDY)
        for purpose, found in loans.items():
            if found:
                x, y = np.split(np.array(found), [-1], axis=1)
                yield Client(*PURPOSES[purpose], x.astype(np.float32), y[:, 0].astype(np.uint8))


def _features(row: Row) -> list[float]:
    """The numbers, then 1 for each code that the loan has and 0 for the others."""
    for name, codes in CODES.items():
        row.one_of(name, dict.fromkeys(codes))
    marks = [float(row[name] == code) for name, codes in CODES.items() for code in codes]
    return [*(row.number(name, *limits) for name, limits in NUMBERS.items()), *marks]
