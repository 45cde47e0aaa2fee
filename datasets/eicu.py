"""eICU: stays in the intensive care units of 186 US hospitals, one client per hospital; does the patient die there?

Pollard, Johnson, Raffa, Celi, Mark, Badawi, "The eICU Collaborative Research Database", Scientific Data 5, 2018; here
its open demo, version 2.0.1. An example is a stay of which APACHE (Knaus et al. 1991; Zimmerman et al. 2006) took the
first day's physiology; x is that, what is known on admission, and how the first day went. Nothing of it is from after
the first day: no discharge, no length, no prediction of APACHE's.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles
from metaleaf.raw.rows import Row, by_number, table

FOLDER = "hospitals_eicu"
REMEDY = (
    "put patient, hospital, apacheApsVar, apachePredVar, apachePatientResult and admissionDx, each .csv, .csv.gz or "
    ".csv.xz, of the eICU demo 2.0.1 (https://physionet.org/content/eicu-crd-demo/2.0.1/) into "
    f"$METALEAF_RAW/{FOLDER}/."
)
COUNTS = {
    "patient": 2520,
    "hospital": 186,
    "apacheApsVar": 2205,
    "apachePredVar": 2205,
    "apachePatientResult": 3676,
    "admissionDx": 7578,
}
"""Rows of each of the publisher's files."""

PHYSIOLOGY: Mapping[str, tuple[float, float]] = {
    "intubated": (0, 1),
    "vent": (0, 1),
    "dialysis": (0, 1),
    "eyes": (1, 4),
    "motor": (1, 6),
    "verbal": (1, 5),
    "meds": (0, 1),  # whether they hid how awake the patient was
    "urine": (0, 100_000),  # ml
    "wbc": (0, 1000),
    "temperature": (10, 50),  # degrees Celsius
    "respiratoryrate": (0, 200),
    "sodium": (50, 300),
    "heartrate": (0, 400),
    "meanbp": (0, 400),
    "ph": (5, 9),
    "hematocrit": (0, 100),
    "creatinine": (0, 100),
    "albumin": (0, 20),
    "pao2": (0, 1000),
    "pco2": (0, 500),
    "bun": (0, 1000),
    "glucose": (0, 5000),
    "bilirubin": (0, 200),
    "fio2": (0, 100),
}
"""The worst values of the first day, and what is plausible; -1 in the file is what was not measured."""

SELDOM = [
    "eyes",
    "urine",
    "wbc",
    "temperature",
    "sodium",
    "hematocrit",
    "creatinine",
    "albumin",
    "bun",
    "glucose",
    "bilirubin",
    "ph",
]
"""Those of which x says whether they were measured: the doctors' choice says something about the patient. The scores of
the coma scale are there or missing together, and so are the blood gases with pH."""

HISTORY = [
    "aids",
    "hepaticfailure",
    "lymphoma",
    "metastaticcancer",
    "leukemia",
    "immunosuppression",
    "cirrhosis",
    "diabetes",
    "readmit",
]
FIRST_DAY = ["thrombolytics", "oobventday1", "oobintubday1"]

CAME_FROM = {
    "Emergency Department": "emergency",
    "Chest Pain Center": "emergency",
    "Floor": "ward",
    "Acute Care/Floor": "ward",
    "Step-Down Unit (SDU)": "ward",
    "Operating Room": "theatre",
    "Recovery Room": "theatre",
    "PACU": "theatre",
    "Other Hospital": "transfer",
    "Other ICU": "transfer",
    "ICU": "transfer",
    "ICU to SDU": "transfer",
    "Direct Admit": "",
    "Other": "",
    "Observation": "",
    "": "",
}
"""Where a patient was before the unit, as far as x tells."""

DIAGNOSES = {"operated": "|Operative|", "sepsis": "|Sepsis, ", "cardiac arrest": "|Cardiac arrest "}
"""What x has of the admission diagnosis, and what shows it in its path."""

COLUMNS = (
    *PHYSIOLOGY,
    *(f"no {name}" for name in SELDOM),
    "age",
    "male",
    "log hours in hospital before",
    *(place for place in dict.fromkeys(CAME_FROM.values()) if place),
    *HISTORY,
    *FIRST_DAY,
    *DIAGNOSES,
)
"""What the numbers of x are."""

REGIONS = ("Midwest", "Northeast", "South", "West")
ENDS = {"Alive": False, "Expired": True, "ALIVE": False, "EXPIRED": True}


class Stay(NamedTuple):
    """One stay: its number, hospital and patient, x float32 [columns], whether the patient died, days in the unit."""

    id: int
    hospital: int
    patient: str
    x: np.ndarray
    died: bool
    days: float


@dataclass(frozen=True)
class Eicu:
    """Stays of which APACHE has the first day and the end is known; those of a client in the order of their numbers.

    outcome: "death" in hospital, or "days" in the unit. A client's environment is its hospital's region, or "unknown".
    All stays of a patient are one group; who was in more than one hospital is left out.
    """

    outcome: Literal["death", "days"] = "death"

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(len(COLUMNS),),
        x_dtype="float32",
        classes=2,
        model="logistic",
        licence="Open Data Commons Open Database License 1.0",
        homepage="https://physionet.org/content/eicu-crd-demo/2.0.1/",
        citation="""@article{pollard2018eicu,
  title = {The {eICU} Collaborative Research Database, a freely available multi-center database for critical care
           research},
  author = {Pollard, Tom J. and Johnson, Alistair E. W. and Raffa, Jesse D. and Celi, Leo A. and Mark, Roger G.
            and Badawi, Omar},
  journal = {Scientific Data},
  volume = {5},
  number = {180178},
  year = {2018}
}""",
        task={"name": "binary", "metrics": ["auc", "average_precision", "accuracy"]},
        standardise="x",
        grouped=True,
    )

    def __post_init__(self) -> None:
        if self.outcome == "days":
            task = {"name": "regression", "loss": "huber", "metrics": ["mae", "rmse"], "unit": "days"}
            own = replace(self.spec, classes=0, y_dtype="float32", task=task, standardise="xy")
            object.__setattr__(self, "spec", own)

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        """Yield the hospitals by number; x float32 [n, columns], nan: not measured. DataError if a file is damaged."""
        files = raw.of(FOLDER)
        region_of = regions(files)
        by_hospital: dict[int, list[Stay]] = {}
        for stay in stays(files):
            by_hospital.setdefault(stay.hospital, []).append(stay)
        for hospital, own in sorted(by_hospital.items()):
            if hospital not in region_of:
                raise DataError(f"{FOLDER}: hospital {hospital} is not in the table of hospitals: {REMEDY}")
            patients = {name: i for i, name in enumerate(dict.fromkeys(stay.patient for stay in own))}
            y = [stay.days if self.outcome == "days" else stay.died for stay in own]
            yield Client(
                str(hospital),
                region_of[hospital],
                np.stack([stay.x for stay in own]),
                np.array(y, dtype=self.spec.stored),
                np.array([patients[stay.patient] for stay in own], dtype=np.int32),
            )


def regions(files: RawFiles) -> dict[int, str]:
    """The region of each hospital by its number."""
    found = by_number(_table(files, "hospital", "hospitalid", "region"), "hospitalid")
    return {hospital: row.text("region", {*REGIONS, ""}) or "unknown" for hospital, row in found.items()}


def stays(files: RawFiles) -> list[Stay]:
    """The stays that are examples, by number. DataError names what is wrong with a file."""
    patients = by_number(_table(files, "patient", *_PATIENT), _ID)
    days = by_number(_table(files, "apacheApsVar", _ID, *PHYSIOLOGY), _ID)
    facts = by_number(_table(files, "apachePredVar", _ID, *HISTORY, *FIRST_DAY), _ID)
    diagnoses = _diagnoses(files)
    hospitals = _hospitals(list(patients.values()))
    found = []
    for stay, day in sorted(days.items()):
        if stay not in patients or stay not in facts:
            raise day.fault(_ID, "a stay that the other tables have, too")
        row = patients[stay]
        ended = row.text("hospitaldischargestatus", {"Alive", "Expired", ""})
        patient = row["uniquepid"]
        if ended and hospitals[patient] == 1:
            x = [*_physiology(day), *_admission(row), *_facts(facts[stay])]
            x += [float(mark in diagnoses.get(stay, "")) for mark in DIAGNOSES.values()]
            length = row.number("unitdischargeoffset", 0, 10**6) / (24 * 60)
            hospital = row.whole("hospitalid")
            found.append(Stay(stay, hospital, patient, np.array(x, dtype=np.float32), ENDS[ended], length))
    return found


def _hospitals(patients: list[Row]) -> Counter[str]:
    """In how many each patient was."""
    for row in patients:
        if not row["uniquepid"]:
            raise row.fault("uniquepid", "a patient")
    return Counter(patient for patient, _ in {(row["uniquepid"], row.whole("hospitalid")) for row in patients})


def apache_iva(files: RawFiles) -> dict[int, tuple[float, bool]]:
    """By stay, the risk of death in hospital that APACHE IVa gives, and whether the patient died; where it gives one.

    No model sees it; it is what hospitals use, from many variables that the demo has and some that it lacks.
    """
    columns = (_ID, "apacheversion", "predictedhospitalmortality", "actualhospitalmortality")
    results = _table(files, "apachePatientResult", *columns)
    found = by_number([row for row in results if row.text("apacheversion", {"IV", "IVa"}) == "IVa"], _ID)
    risks = {stay: row.number("predictedhospitalmortality", 0, 1, missing="-1") for stay, row in found.items()}
    ends = {stay: row.one_of("actualhospitalmortality", ENDS) for stay, row in found.items()}
    return {stay: (risk, ends[stay]) for stay, risk in risks.items() if not math.isnan(risk)}


_ID = "patientunitstayid"
_PATIENT = (
    _ID,
    "uniquepid",
    "hospitalid",
    "age",
    "gender",
    "hospitaladmitoffset",
    "unitadmitsource",
    "unitdischargeoffset",
    "hospitaldischargestatus",
)


def _table(files: RawFiles, name: str, *columns: str) -> list[Row]:
    path = files.require([f"{name}.csv", f"{name.lower()}.csv"], REMEDY)
    return table(files, path, columns, REMEDY, count=COUNTS[name])


def _diagnoses(files: RawFiles) -> dict[int, str]:
    """The path of each stay's admission diagnosis: whether operated, the organ, what it was."""
    found: dict[int, str] = {}
    for row in _table(files, "admissionDx", _ID, "admitdxpath"):
        path = row["admitdxpath"]
        if "|All Diagnosis|" in path and found.setdefault(row.whole(_ID), path) != path:
            raise row.fault(_ID, "a stay with one diagnosis")
    return found


def _physiology(row: Row) -> list[float]:
    values = {
        name: math.nan if row.number(name, -1, high) == -1 else row.number(name, low, high)
        for name, (low, high) in PHYSIOLOGY.items()
    }
    return [*values.values(), *(float(math.isnan(values[name])) for name in SELDOM)]


def _admission(row: Row) -> list[float]:
    age = 90.0 if row["age"] == "> 89" else row.number("age", 0, 89, missing="")
    gender = row.one_of("gender", {"Male": 1.0, "Female": 0.0, "": math.nan})
    # Minutes from the unit to the hospital: below 0, but for a few who are said to have come to the unit first.
    before = max(-row.number("hospitaladmitoffset", -(10**7), 10**7), 0.0) / 60
    came = row.one_of("unitadmitsource", CAME_FROM)
    return [age, gender, math.log1p(before), *(float(came == place) for place in _PLACES)]


_PLACES = [place for place in dict.fromkeys(CAME_FROM.values()) if place]


def _facts(row: Row) -> list[float]:
    return [float(row.whole(name, 0, 1)) for name in (*HISTORY, *FIRST_DAY)]
