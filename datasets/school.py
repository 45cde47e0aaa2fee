"""Exam scores of the Inner London Education Authority's pupils, 1985 to 1987; a client is a school.

Nuttall, Goldstein, Prosser and Rasbash 1989; the first of the multi-task classics (Bakker and Heskes 2003, Argyriou,
Evgeniou and Pontil 2008), in the form that MALSAR hands on. The file's last column is 1 for every pupil: it is checked
and left out, since models here have a bias of their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.datasets._matlab import cells
from metaleaf.errors import DataError
from metaleaf.raw.rows import check_count

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

SCHOOLS = 139
PUPILS = 15_362
COLUMNS = 28
"""Of the file; the last one is 1."""

PERCENT = (3, 4)
"""Pupils of the school and year with free meals, and in the highest band of verbal reasoning; all else is 0 or 1."""

KINDS = ("mixed", "boys", "girls")
"""Whom a school takes: columns 21 to 23."""

REMEDY = "put school.mat (data/school.mat of https://github.com/jiayuzhou/MALSAR) into $METALEAF_RAW/multitask/."


@dataclass(frozen=True)
class School:
    """Pupils of 139 schools; environments are schools for boys, for girls, and mixed ones."""

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(COLUMNS - 1,),
        x_dtype="float32",
        classes=0,
        y_dtype="float32",
        task={"name": "regression", "metrics": ["rmse", "r2", "mae"], "unit": "points"},
        model="mlp",
        standardise="xy",
        licence="none stated; handed on publicly for research",
        homepage="https://github.com/jiayuzhou/MALSAR",
        citation="""@article{bakker2003task,
  title = {Task Clustering and Gating for Bayesian Multitask Learning},
  author = {Bakker, Bart and Heskes, Tom},
  journal = {Journal of Machine Learning Research},
  volume = {4},
  year = {2003}
}
@article{nuttall1989differential,
  title = {Differential School Effectiveness},
  author = {Nuttall, Desmond L. and Goldstein, Harvey and Prosser, Robert and Rasbash, Jon},
  journal = {International Journal of Educational Research},
  volume = {13},
  number = {7},
  year = {1989}
}""",
    )

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the schools in the file's order: x float32 [n, 27], y float32 [n], scores from 1 to 70.

        DataError if the file is not there, damaged, or not the whole data.
        """
        raw = raw.of("multitask")
        path = raw.require(["school.mat"], REMEDY)
        pupils = cells(raw, path, "X", SCHOOLS, COLUMNS, REMEDY)
        scores = cells(raw, path, "Y", SCHOOLS, 1, REMEDY)
        check_count(path, sum(map(len, pupils)), PUPILS, "pupils", REMEDY)
        for number, (x, y) in enumerate(zip(pupils, scores, strict=True), 1):
            _check(x, y[:, 0], f"{path}: school {number}")
            kind = KINDS[int(x[0, 21:24].argmax())]
            yield Client(f"school {number:03}", kind, x[:, :-1].astype(np.float32), y[:, 0].astype(np.float32))


def _check(x: np.ndarray, y: np.ndarray, where: str) -> None:
    """DataError unless x [n, 28] and y [n] are what they have to be."""
    if len(x) != len(y):
        raise DataError(f"{where} has {len(x)} pupils and {len(y)} scores: {REMEDY}")
    if not ((y >= 1) & (y <= 70)).all():
        raise DataError(f"{where} has a score that is not from 1 to 70: {REMEDY}")
    percent = x[:, PERCENT]
    if not ((percent >= 0) & (percent <= 100)).all():
        raise DataError(f"{where} has a share of pupils that is not from 0 to 100 %: {REMEDY}")
    if not np.isin(np.delete(x, PERCENT, axis=1), (0, 1)).all() or not (x[:, -1] == 1).all():
        raise DataError(f"{where} has something else than 0 or 1 among its marks, or not 1 in the last: {REMEDY}")
    if not (x[:, 21:24].sum(1) == 1).all() or not (x[:, 21:24] == x[0, 21:24]).all():
        raise DataError(f"{where} is not one for boys, one for girls or a mixed one: {REMEDY}")
