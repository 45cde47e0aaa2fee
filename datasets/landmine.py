"""Landmines in radar images taken from the air; a client is a field.

Xue, Liao, Carin and Krishnapuram, "Multi-Task Learning for Classification with Dirichlet Process Priors", JMLR 8, 2007.
An example is a spot that looks like something: nine numbers, from its moments, correlations with a template, its energy
ratio and its variance, as the authors have scaled them. Which of them is which the file does not say.
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

FIELDS = 29
FOLIATED = 15
"""The first fields lie under plants, those after them on bare earth or desert."""

SPOTS = 14_820
COLUMNS = 9
_LARGEST = 1e6  # the file's own end at 39
REMEDY = "put landmine.mat (LandmineData.mat of Xue et al., JMLR 8, 2007) into $METALEAF_RAW/multitask/."


@dataclass(frozen=True)
class Landmine:
    """Spots in 29 fields, mines and clutter; environments are the two kinds of terrain."""

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(COLUMNS,),
        x_dtype="float32",
        classes=2,
        task={"name": "binary", "metrics": ["auc", "average_precision", "accuracy"]},
        model="logistic",
        standardise="x",
        licence="none stated; handed on publicly for research",
        homepage="https://www.jmlr.org/papers/v8/xue07a.html",
        citation="""@article{xue2007multi,
  title = {Multi-Task Learning for Classification with {D}irichlet Process Priors},
  author = {Xue, Ya and Liao, Xuejun and Carin, Lawrence and Krishnapuram, Balaji},
  journal = {Journal of Machine Learning Research},
  volume = {8},
  year = {2007}
}""",
    )

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the fields in the file's order: x float32 [n, 9], y uint8 [n], 1 for a mine.

        DataError if the file is not there, damaged, or not the whole data.
        """
        raw = raw.of("multitask")
        path = raw.require(["landmine.mat", "LandmineData.mat"], REMEDY)
        spots = cells(raw, path, "feature", FIELDS, COLUMNS, REMEDY)
        mines = cells(raw, path, "label", FIELDS, 1, REMEDY)
        check_count(path, sum(map(len, spots)), SPOTS, "spots", REMEDY)
        for number, (x, y) in enumerate(zip(spots, mines, strict=True), 1):
            if len(x) != len(y):
                raise DataError(f"{path}: field {number} has {len(x)} spots and {len(y)} labels: {REMEDY}")
            if not np.isin(y, (0, 1)).all():
                raise DataError(f"{path}: field {number} has a label that is not 0 or 1: {REMEDY}")
            if np.abs(x).max() > _LARGEST:
                raise DataError(f"{path}: field {number} has a number that is too large: {REMEDY}")
            terrain = "foliated" if number <= FOLIATED else "bare"
            yield Client(f"field {number:02}", terrain, x.astype(np.float32), y[:, 0].astype(np.uint8))
