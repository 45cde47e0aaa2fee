"""Heart disease: 920 patients sent for coronary angiography in four hospitals; is an artery narrowed by half or more?

Janosi, Steinbrunn, Pfisterer, Detrano, "Heart Disease", UCI Machine Learning Repository, 1988; Detrano et al. 1989,
American Journal of Cardiology 64. x are 13 measurements, of which the hospitals took different ones. With
``form="flamby"`` x and the patients are those of Fed-Heart-Disease (Ogier du Terrail et al., FLamby, NeurIPS 2022).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.datasets._centres import dealt
from metaleaf.datasets.synthetic import check_limits
from metaleaf.raw import RawFiles
from metaleaf.raw.rows import Row, table

HOSPITALS: Mapping[str, int] = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
"""Patients of each, in FLamby's order."""

REMEDY = (
    f"put {', '.join(f'processed.{name}.data' for name in HOSPITALS)} of UCI's Heart Disease "
    "(https://archive.ics.uci.edu/dataset/45/heart+disease) into $METALEAF_RAW/heart_disease/."
)

MEASURED: Mapping[str, tuple[float, float]] = {
    "age": (0, 120),
    "sex": (0, 1),  # 1: male
    "cp": (1, 4),  # chest pain: typical angina, atypical, other, none
    "trestbps": (0, 300),  # blood pressure at rest, mmHg
    "chol": (0, 1000),  # cholesterol, mg/dl
    "fbs": (0, 1),  # fasting blood sugar above 120 mg/dl
    "restecg": (0, 2),  # electrocardiogram: normal, ST-T abnormal, hypertrophy
    "thalach": (20, 300),  # highest heart rate
    "exang": (0, 1),  # angina by exercise
    "oldpeak": (-10, 10),  # ST depression by exercise
    "slope": (1, 3),
    "ca": (0, 9),  # vessels coloured by fluoroscopy
    "thal": (3, 7),  # thallium scan: normal 3, fixed defect 6, reversible 7
}
"""The columns before the diagnosis `num` (0: no; 1 to 4: yes), and what is plausible."""

KINDS: Mapping[str, tuple[int, ...]] = {"cp": (1, 2, 3, 4), "restecg": (0, 1, 2), "thal": (3, 6, 7)}
"""Columns that name a kind: 0 or 1 for each in x."""

SELDOM = ("chol", "fbs", "slope", "ca", "thal")
"""What whole hospitals did not measure: x says whether it was."""

FLAMBY = ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak")
"""What FLamby takes as it is; of `cp` and `restecg` it takes all kinds but the first."""

LIMITS = {"clients_per_hospital": (1, 40), "seed": (0, 2**32 - 1)}
"""Least and greatest value of each option."""

COLUMNS = (
    *(name for name in MEASURED if name not in KINDS),
    *(f"{name}={kind}" for name, kinds in KINDS.items() for kind in kinds),
    *(f"no {name}" for name in SELDOM),
)
"""What the numbers of x are."""

COLUMNS_FLAMBY = (*FLAMBY, *(f"{name}={kind}" for name in ("cp", "restecg") for kind in KINDS[name][1:]))


@dataclass(frozen=True)
class HeartDisease:
    """Four hospitals, each dealt out into clients; environments are the hospitals.

    form: "whole", all patients with nan for what was not measured, or "flamby": 13 numbers and the 740 patients who
    have them all. clients_per_hospital: 1 makes FLamby's clients, too few to split them into training, validation and
    test. seed: draws who is in which. ConfigError for an option outside `LIMITS`.
    """

    form: Literal["whole", "flamby"] = "whole"
    clients_per_hospital: int = 10
    seed: int = 0

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(len(COLUMNS),),
        x_dtype="float32",
        classes=2,
        model="logistic",
        licence="CC BY 4.0",
        homepage="https://archive.ics.uci.edu/dataset/45/heart+disease",
        citation="""@misc{janosi1988heart,
  title = {Heart Disease},
  author = {Janosi, Andras and Steinbrunn, William and Pfisterer, Matthias and Detrano, Robert},
  howpublished = {UCI Machine Learning Repository},
  year = {1988},
  doi = {10.24432/C52P4X}
}""",
        task={"name": "binary", "metrics": ["accuracy", "auc", "average_precision"]},
        standardise="x",
    )

    def __post_init__(self) -> None:
        check_limits("heart_disease", self, LIMITS)
        if self.form == "flamby":
            object.__setattr__(self, "spec", replace(self.spec, x_shape=(len(COLUMNS_FLAMBY),)))

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        """Yield the clients hospital by hospital. DataError if a file is missing or damaged."""
        for hospital in HOSPITALS:
            x, y = self.patients(raw, hospital)
            yield from dealt("heart_disease", hospital, x, y, self.clients_per_hospital, self.seed)

    def patients(self, raw: RawFiles, hospital: str) -> tuple[np.ndarray, np.ndarray]:
        """x float32 [n, columns] and y uint8 [n] of a hospital, in the order of its file."""
        files = raw.of("heart_disease")
        path = files.require([f"processed.{hospital}.data"], REMEDY)
        found = table(files, path, [*MEASURED, "num"], REMEDY, header=False, count=HOSPITALS[hospital])
        made = _flamby if self.form == "flamby" else _whole
        x = np.array([made(_values(row)) for row in found], dtype=np.float32)
        y = np.array([row.whole("num", 0, 4) > 0 for row in found], dtype=np.uint8)
        kept = ~np.isnan(x).any(1) if self.form == "flamby" else np.ones(len(y), dtype=bool)
        return x[kept], y[kept]


def _values(row: Row) -> dict[str, float]:
    values = {name: row.number(name, low, high, missing="?") for name, (low, high) in MEASURED.items()}
    for name, kinds in KINDS.items():
        if not math.isnan(values[name]) and values[name] not in kinds:
            raise row.fault(name, f"one of {', '.join(map(str, kinds))}")
    return values


def _whole(values: dict[str, float]) -> list[float]:
    # Nobody's cholesterol or pressure is 0: two hospitals wrote it for what they had not measured.
    values = {
        name: math.nan if name in ("chol", "trestbps") and value == 0 else value for name, value in values.items()
    }
    return [
        *(value for name, value in values.items() if name not in KINDS),
        *_kinds(values, KINDS),
        *(float(math.isnan(values[name])) for name in SELDOM),
    ]


def _flamby(values: dict[str, float]) -> list[float]:
    taken = [values[name] for name in FLAMBY]
    return [*taken, *_kinds(values, {name: KINDS[name][1:] for name in ("cp", "restecg")})]


def _kinds(values: dict[str, float], kinds: Mapping[str, tuple[int, ...]]) -> Iterator[float]:
    """0 or 1 for each kind; nan for all of them where it is not known."""
    for name, each in kinds.items():
        yield from (math.nan if math.isnan(values[name]) else float(values[name] == kind) for kind in each)
