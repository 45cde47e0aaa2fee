"""eICU: which stays are examples, every number of x and y by hand, and a sentence about every fault of the files."""

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from metaleaf.config.config import Protocol
from metaleaf.data.federation import Federation
from metaleaf.data.prepare import load
from metaleaf.dataset import Client
from metaleaf.datasets import eicu
from metaleaf.datasets.eicu import COLUMNS, FIRST_DAY, FOLDER, HISTORY, PHYSIOLOGY, REMEDY, Eicu, apache_iva, stays
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles

Tables = dict[str, list[dict[str, Any]]]

PATIENT = {
    "patientunitstayid": 0,
    "gender": "Male",
    "age": "70",
    "hospitalid": 56,
    "hospitaladmitoffset": -60,
    "hospitaldischargestatus": "Alive",
    "hospitaldischargelocation": "Home",
    "unitadmitsource": "Floor",
    "unitdischargeoffset": 2880,
    "uniquepid": "002-1",
}
NORMAL: dict[str, Any] = {
    "intubated": 0, "vent": 0, "dialysis": 0, "eyes": 4, "motor": 6, "verbal": 5, "meds": 0, "urine": "1800.5",
    "wbc": "9.1", "temperature": "36.6", "respiratoryrate": 12, "sodium": 140, "heartrate": 90, "meanbp": 80,
    "ph": "7.4", "hematocrit": "40", "creatinine": "1.1", "albumin": "4", "pao2": 90, "pco2": 40, "bun": 15,
    "glucose": 100, "bilirubin": "0.5", "fio2": 21,
}  # fmt: skip


def tables() -> Tables:
    """Eight stays: two of patient 002-1, two of 002-4 in two hospitals, one without end, one without a first day."""
    patients = [
        {},
        {"patientunitstayid": 3, "hospitaldischargestatus": "Expired", "unitdischargeoffset": 720},
        {"patientunitstayid": 2, "uniquepid": "002-2", "gender": "Female", "age": "> 89", "unitadmitsource": ""},
        {"patientunitstayid": 4, "uniquepid": "002-3", "hospitalid": 100, "gender": "", "age": ""},
        {"patientunitstayid": 5, "uniquepid": "002-4", "hospitalid": 100},
        {"patientunitstayid": 6, "uniquepid": "002-4", "hospitalid": 56},
        {"patientunitstayid": 7, "uniquepid": "002-5", "hospitalid": 100, "hospitaldischargestatus": ""},
        {"patientunitstayid": 8, "uniquepid": "002-6", "hospitalid": 100},
    ]
    some = {"patientunitstayid": 0, **dict.fromkeys([*HISTORY, *FIRST_DAY], 0), "diedinhospital": 1}
    measured = (0, 3, 2, 4, 5, 6, 7)
    path = "admission diagnosis|All Diagnosis|"
    result = {"apacheversion": "IVa", "predictedhospitalmortality": "1.5E-2", "actualhospitalmortality": "ALIVE"}
    return {
        "patient": [{**PATIENT, **changed} for changed in patients],
        "hospital": [{"hospitalid": 100, "region": ""}, {"hospitalid": 56, "region": "Midwest"}],
        "apacheApsVar": [{"patientunitstayid": stay, **NORMAL} for stay in measured],
        "apachePredVar": [{**some, "patientunitstayid": stay} for stay in measured],
        "apachePatientResult": [
            {"patientunitstayid": 0, **result},
            {"patientunitstayid": 0, **result, "apacheversion": "IV", "predictedhospitalmortality": "0.5"},
            {"patientunitstayid": 3, **result, "actualhospitalmortality": "EXPIRED"},
            {"patientunitstayid": 2, **result, "predictedhospitalmortality": -1},
        ],
        "admissionDx": [
            {"patientunitstayid": 0, "admitdxpath": f"{path}Operative|Diagnosis|Neurologic|Craniotomy"},
            {"patientunitstayid": 3, "admitdxpath": f"{path}Non-operative|Diagnosis|Cardiovascular|Sepsis, pulmonary"},
            {"patientunitstayid": 3, "admitdxpath": "admission diagnosis|Elective|Yes"},
        ],
    }


def written(folder: Path, given: Tables, ending: str = ".csv") -> RawFiles:
    """The files as the publisher's are: quoted texts, a header, one line a row."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for name, lines in given.items():
        text = io.StringIO()
        out = csv.DictWriter(text, list(lines[0]), quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        out.writeheader()
        out.writerows(lines)
        (folder / FOLDER / f"{name}{ending}").write_text(text.getvalue())
    return RawFiles("eicu", folder, download=False)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, lines in tables().items():
        monkeypatch.setitem(eicu.COUNTS, name, len(lines))


def clients(folder: Path, given: Tables, **options: str) -> list[Client]:
    return list(Eicu(**options).clients(written(folder, given)))  # type: ignore[arg-type]


def cell(client: Client, row: int, column: str) -> float:
    return float(client.x[row, COLUMNS.index(column)])


def test_clients_are_hospitals_and_environments_regions(tmp_path: Path) -> None:
    """Who was in two hospitals, has no known end or no first day is left out; stays stand by their numbers."""
    found = clients(tmp_path, tables())
    assert [(one.id, one.environment) for one in found] == [("56", "Midwest"), ("100", "unknown")]
    assert [one.y.tolist() for one in found] == [[0, 0, 1], [0]]
    groups = [one.groups for one in found]
    assert [None if one is None else one.tolist() for one in groups] == [[0, 1, 0], [0]]


def test_x_by_hand(tmp_path: Path) -> None:
    given = tables()
    given["apacheApsVar"][1].update(eyes=-1, ph="-1", urine=-1, temperature="-1.0")
    given["apachePredVar"][1].update(cirrhosis=1, oobventday1=1)
    given["patient"][0]["hospitaladmitoffset"] = 5  # said to have come to the unit before the hospital
    first = clients(tmp_path, given)[0]
    assert first.x.shape == (3, len(COLUMNS))
    assert first.x.dtype == np.float32
    assert first.x[0, : len(PHYSIOLOGY)].tolist() == [float(np.float32(value)) for value in NORMAL.values()]
    for column in ("eyes", "ph", "urine", "temperature"):
        assert math.isnan(cell(first, 2, column))
        assert [cell(first, row, f"no {column}") for row in range(3)] == [0, 0, 1]
    assert math.isnan(cell(first, 2, "motor")) is False
    for column, values in {
        "age": [70, 90, 70],
        "male": [1, 0, 1],
        "ward": [1, 0, 1],
        "emergency": [0, 0, 0],
        "cirrhosis": [0, 0, 1],
        "oobventday1": [0, 0, 1],
        "diabetes": [0, 0, 0],
        "operated": [1, 0, 0],
        "sepsis": [0, 0, 1],
        "cardiac arrest": [0, 0, 0],
        "log hours in hospital before": [0, float(np.float32(math.log(2))), float(np.float32(math.log(2)))],
    }.items():
        assert [cell(first, row, column) for row in range(3)] == values, column
    other = clients(tmp_path, given)[1]
    assert math.isnan(cell(other, 0, "age"))
    assert math.isnan(cell(other, 0, "male"))


def test_nothing_from_after_the_first_day_is_in_x(tmp_path: Path) -> None:
    """Whatever the end was: x is the same."""
    before = clients(tmp_path, tables())
    given = tables()
    for row in given["patient"]:
        row.update(hospitaldischargelocation="Death", unitdischargeoffset=77)
        if row["hospitaldischargestatus"]:
            row.update(hospitaldischargestatus="Expired")
    for row in given["apachePredVar"]:
        row.update(diedinhospital=0)
    given["apachePatientResult"] = [
        {**row, "predictedhospitalmortality": "0.9"} for row in tables()["apachePatientResult"]
    ]
    after = clients(tmp_path, given)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.x, other.x)
        assert other.y.all()


def test_days_in_the_unit(tmp_path: Path) -> None:
    found = clients(tmp_path, tables(), outcome="days")
    assert [one.y.tolist() for one in found] == [[2.0, 2.0, 0.5], [2.0]]
    spec = Eicu(outcome="days").spec
    assert (spec.classes, spec.stored, spec.standardise) == (0, np.dtype("float32"), "xy")
    assert Eicu().spec.classes == 2


def test_apache_of_those_that_have_a_prediction(tmp_path: Path) -> None:
    assert apache_iva(written(tmp_path, tables()).of(FOLDER)) == {0: (0.015, False), 3: (0.015, True)}


def test_it_is_prepared_and_no_patient_is_on_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    written(tmp_path, tables(), ".csv")
    store = load("eicu", Eicu(), raw=tmp_path, progress=False)
    assert store.x.shape == (4, len(COLUMNS))
    assert {used["dataset"] for used in store.about["raw"]} == {FOLDER}
    assert len(store.about["raw"]) == 5, "what APACHE predicts is not read"


def change(table: str, row: int, **values: object) -> Callable[[Tables], None]:
    return lambda given: given[table][row].update(values)


def without(table: str, column: str) -> Callable[[Tables], None]:
    def drop(given: Tables) -> None:
        for row in given[table]:
            del row[column]

    return drop


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            change("patient", 1, patientunitstayid=0),
            r"patient\.csv, line 3: patientunitstayid is '0', not a number that no other row",
        ),
        (
            change("patient", 0, hospitaldischargestatus="Dead"),
            "line 2: hospitaldischargestatus is 'Dead', not one of",
        ),
        (change("patient", 0, age="91"), r"line 2: age is '91', not a number from 0 to 89"),
        (change("patient", 0, gender="M"), "line 2: gender is 'M', not one of"),
        (change("patient", 0, unitadmitsource="Moon"), "line 2: unitadmitsource is 'Moon', not one of"),
        (change("patient", 0, uniquepid=""), "line 2: uniquepid is '', not a patient"),
        (change("patient", 2, hospitalid=7), "hospital 7 is not in the table of hospitals"),
        (change("patient", 0, hospitaladmitoffset="x"), "line 2: hospitaladmitoffset is 'x', not a number"),
        (change("patient", 0, unitdischargeoffset=-5), "line 2: unitdischargeoffset is '-5', not a number"),
        (change("hospital", 0, region="North"), r"hospital\.csv, line 2: region is 'North', not one of"),
        (change("apacheApsVar", 0, ph="74"), r"apacheApsVar\.csv, line 2: ph is '74', not a number from -1 to 9"),
        (change("apacheApsVar", 0, eyes="0"), "line 2: eyes is '0', not a number from 1 to 4"),
        (change("apacheApsVar", 0, eyes="-0.5"), "line 2: eyes is '-0.5', not a number from 1 to 4"),
        (
            change("apacheApsVar", 0, patientunitstayid=9),
            "patientunitstayid is '9', not a stay that the other tables have",
        ),
        (
            change("apachePredVar", 0, patientunitstayid=9),
            "patientunitstayid is '0', not a stay that the other tables have",
        ),
        (change("apachePredVar", 0, aids=2), r"apachePredVar\.csv, line 2: aids is '2', not a number from 0 to 1"),
        (
            change("admissionDx", 2, patientunitstayid=3, admitdxpath="a|All Diagnosis|b"),
            "not a stay with one diagnosis",
        ),
        (without("patient", "age"), r"patient\.csv has 0 columns called 'age'"),
        (lambda given: given["patient"].pop(), r"patient\.csv has 7 rows, not 8"),
    ],
)
def test_a_fault_of_the_files_is_one_sentence(tmp_path: Path, fault: Callable[[Tables], None], sentence: str) -> None:
    given = tables()
    fault(given)
    with pytest.raises(DataError, match=sentence) as error:
        clients(tmp_path, given)
    assert str(error.value).endswith(f": {REMEDY}")


def test_a_missing_file_is_named_with_the_folder(tmp_path: Path) -> None:
    files = written(tmp_path, tables())
    (tmp_path / FOLDER / "admissionDx.csv").unlink()
    with pytest.raises(DataError, match=rf"{FOLDER}: no admissionDx\.csv or admissiondx\.csv in .*physionet\.org"):
        list(Eicu().clients(files))


@given(st.sampled_from(sorted(tables())), st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 4))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_refused_or_give_plausible_examples(
    tmp_path: Path, table: str, place: int, bytes_in: bytes, bytes_out: int
) -> None:
    files = written(tmp_path, tables())
    path = tmp_path / FOLDER / f"{table}.csv"
    data = path.read_bytes()
    place %= len(data)
    path.write_bytes(data[:place] + bytes_in + data[place + bytes_out :])
    try:
        found = list(Eicu().clients(files))
        risks = apache_iva(files.of(FOLDER))
    except DataError:
        return
    for one in found:
        assert one.x.shape == (len(one.y), len(COLUMNS))
        assert not np.isinf(one.x).any()
        assert set(one.y.tolist()) <= {0, 1}
    assert all(0 <= risk <= 1 for risk, _ in risks.values())


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> RawFiles:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip(f"METALEAF_RAW is not set: it names the folder with {FOLDER}/patient.csv")
    files = RawFiles(FOLDER, download=False)
    if not files.find("patient.csv"):
        pytest.skip(f"no patient.csv in {files.looked_in()}")
    for name, count in WHOLE.items():
        monkeypatch.setitem(eicu.COUNTS, name, count)
    return files


WHOLE = dict(eicu.COUNTS)


def test_the_real_hospitals(real: RawFiles) -> None:
    found = list(Eicu().clients(real))
    assert (len(found), sum(len(one.y) for one in found), sum(int(one.y.sum()) for one in found)) == (186, 2137, 194)
    regions = {"Midwest": 62, "South": 54, "West": 39, "unknown": 18, "Northeast": 13}
    assert Counter(one.environment for one in found) == regions
    assert sum(len(set(one.groups.tolist())) for one in found if one.groups is not None) == 1746
    x = np.concatenate([one.x for one in found])
    assert int(np.isnan(x[:, COLUMNS.index("ph")]).sum()) == 1745
    assert not np.isinf(x).any()


def test_apache_iva_on_the_real_stays(real: RawFiles) -> None:
    """The built-in baseline: AUROC 0.862 on all stays that have a prediction, 0.867 on those that are examples."""
    risks = apache_iva(real)
    predicted, died = zip(*risks.values(), strict=True)
    assert len(died) == 1683
    assert sk.roc_auc_score(died, predicted) == pytest.approx(0.8620, abs=5e-5)
    own = [(stay.died, risks[stay.id][0]) for stay in stays(real) if stay.id in risks]
    assert len(own) == 1651
    assert sk.roc_auc_score(*zip(*own, strict=True)) == pytest.approx(0.8672, abs=5e-5)


def test_no_real_patient_is_on_both_sides_of_a_split(
    real: RawFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path))
    store = load("eicu", Eicu(), progress=False)
    rules: dict[str, Any] = {"min_examples": 8}
    federation = Federation(store, Protocol(**rules), 1)
    for client in np.concatenate(list(federation.clients.values())):
        groups = store.groups[store.offsets[client] : store.offsets[client + 1]]  # type: ignore[index]
        support, query = federation.split_rows(int(client), 0.5)
        assert not set(groups[support].tolist()) & set(groups[query].tolist())
