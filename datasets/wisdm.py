"""What people are doing, from the accelerometer of the phone in their trouser pocket; a client is a person.

Kwapisz, Weiss and Moore, "Activity Recognition using Cell Phone Accelerometers", SIGKDD Explorations 12(2), 2010. An
example is ten seconds, as the authors have summed them up: for each of three axes the share of the values in ten bins,
their mean, the time between peaks, the mean deviation and the standard deviation, and the mean length of the vector.

Of the publisher's file: XAVG is 0 everywhere and ZSTANDDEV is a copy of XSTANDDEV; both are kept. No peaks were found
in 615 places: these are NaN, and three numbers at the end of x say so. 61 windows of person 19 are there twice, and
would lie on both sides of a split; one copy is dropped unless ``keep_duplicates`` is set.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.errors import DataError
from metaleaf.raw.rows import Row, check_count, lines_of, rows

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

ACTIVITIES = ("Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing")
WINDOWS = 5_418
"""In the publisher's file."""

PEAKS = ("XPEAK", "YPEAK", "ZPEAK")
"""Milliseconds between peaks; ``?`` where none were found."""

FEATURES = (
    *(f"{axis}{bin_}" for axis in "XYZ" for bin_ in range(10)),
    *(f"{axis}{what}" for what in ("AVG", "PEAK", "ABSOLDEV", "STANDDEV") for axis in "XYZ"),
    "RESULTANT",
)
_COLUMNS = ("UNIQUE_ID", "user", *FEATURES, "class")
_LIMIT = 1e6
_ATTRIBUTE = re.compile(r"""@attribute\s+["']?(\w+)""", re.IGNORECASE)
_CLASS = {activity: i for i, activity in enumerate(ACTIVITIES)}

FILE = "WISDM_ar_v1.1_transformed.arff"
REMEDY = f"put {FILE} (WISDM_ar_v1.1 of https://www.cis.fordham.edu/wisdm/dataset.php) into $METALEAF_RAW/multitask/."


@dataclass(frozen=True)
class Wisdm:
    """36 persons and six activities. keep_duplicates: keep the second copies of person 19's windows."""

    keep_duplicates: bool = False

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(len(FEATURES) + len(PEAKS),),
        x_dtype="float32",
        classes=len(ACTIVITIES),
        labels=ACTIVITIES,
        model="mlp",
        standardise="x",
        licence="WISDM Lab, Fordham University; for research",
        homepage="https://www.cis.fordham.edu/wisdm/dataset.php",
        citation="""@article{kwapisz2010activity,
  title = {Activity Recognition using Cell Phone Accelerometers},
  author = {Kwapisz, Jennifer R. and Weiss, Gary M. and Moore, Samuel A.},
  journal = {ACM SIGKDD Explorations Newsletter},
  volume = {12},
  number = {2},
  year = {2010}
}""",
    )

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the persons by number: x float32 [n, 46], y uint8 [n]; windows in the file's order.

        DataError if the file is not there, damaged, or not the whole data.
        """
        raw = raw.of("multitask")
        path = raw.require([FILE], REMEDY)
        found: dict[int, list[list[float]]] = {}
        for row in _windows(raw, path):
            person = row.whole("user", 1, 1000)
            found.setdefault(person, []).append([*_features(row), row.one_of("class", _CLASS)])
        check_count(path, sum(map(len, found.values())), WINDOWS, "windows", REMEDY)
        for person, windows in sorted(found.items()):
            kept = windows if self.keep_duplicates else _without_copies(windows)
            x, y = np.split(np.array(kept), [-1], axis=1)
            yield Client(f"person {person:02}", "wisdm", x.astype(np.float32), y[:, 0].astype(np.uint8))


def _windows(raw: "RawFiles", path: Path) -> Iterator[Row]:
    """What follows the line ``@data``; DataError if the lines before it name other attributes."""
    lines = lines_of(raw, path, REMEDY)
    head = [line.strip() for line in takewhile(lambda line: line.strip().lower() != "@data", lines)]
    named = tuple(match[1] for line in head if (match := _ATTRIBUTE.match(line)))
    if named != _COLUMNS:
        raise DataError(f"{path} does not have the {len(_COLUMNS)} attributes of that file: {REMEDY}")
    return rows(lines, path, _COLUMNS, REMEDY, header=False, before=len(head) + 1)


def _features(row: Row) -> list[float]:
    """The 43 numbers, and for each axis whether its peaks are missing."""
    missing = [row[name] == "?" for name in PEAKS]
    numbers = [
        math.nan if name in PEAKS and row[name] == "?" else row.number(name, -_LIMIT, _LIMIT) for name in FEATURES
    ]
    return [*numbers, *map(float, missing)]


def _without_copies(windows: list[list[float]]) -> list[list[float]]:
    """The windows without those that are as an earlier one of the same person; NaN is as NaN."""
    return list({repr(window): window for window in windows}.values())
