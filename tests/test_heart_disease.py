"""Heart disease: x and y of both forms by hand, and a sentence about every fault of the files."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaleaf.config.config import build
from metaleaf.data.prepare import load
from metaleaf.datasets import heart_disease
from metaleaf.datasets.heart_disease import COLUMNS, COLUMNS_FLAMBY, HOSPITALS, LIMITS, REMEDY, HeartDisease
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles

LINES = {
    "cleveland": [
        "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0",
        "50,0,4,120,200,0,1,140,1,-.5,2,1,7,4",
    ],
    "hungarian": ["28,1,2,130,132,0,2,185,0,0,?,?,?,0", "29,1,2,140,?,0,0,170,0,0,?,?,?,1"],
    "switzerland": ["32,1,1,95,0,0,0,127,0,.7,1,?,?,1", "35,1,4,?,0,?,0,130,1,?,?,?,7,3"],
    "va": ["63,1,4,0,260,0,1,112,1,3,2,?,?,2"],
}


def written(folder: Path, **lines: list[str]) -> RawFiles:
    (folder / "heart_disease").mkdir(exist_ok=True)
    for hospital, own in {**LINES, **lines}.items():
        (folder / "heart_disease" / f"processed.{hospital}.data").write_text("\n".join(own) + "\n")
    return RawFiles("heart_disease", folder, download=False)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart_disease, "HOSPITALS", {hospital: len(own) for hospital, own in LINES.items()})


def test_x_by_hand(tmp_path: Path) -> None:
    files, dataset = written(tmp_path), HeartDisease()
    x, y = dataset.patients(files, "cleveland")
    assert y.tolist() == [0, 1]
    expected = [63, 1, 145, 233, 1, 150, 0, 2.3, 3, 0, *(1, 0, 0, 0), *(0, 0, 1), *(0, 1, 0), *(0, 0, 0, 0, 0)]
    assert x[0].tolist() == pytest.approx(expected)
    assert x.dtype == np.float32
    assert y.dtype == np.uint8


def test_what_was_not_measured_is_nan_and_said(tmp_path: Path) -> None:
    """Cholesterol of 0 was not measured, either, nor was a pressure of 0."""
    files = written(tmp_path)
    x, _ = HeartDisease().patients(files, "switzerland")
    first = dict(zip(COLUMNS, x[0].tolist(), strict=True))
    assert {name for name, value in first.items() if math.isnan(value)} == {"chol", "ca", "thal=3", "thal=6", "thal=7"}
    assert {name for name in COLUMNS if name.startswith("no ") and first[name]} == {"no chol", "no ca", "no thal"}
    x, _ = HeartDisease().patients(files, "va")
    assert math.isnan(x[0, COLUMNS.index("trestbps")])


def test_the_form_of_flamby(tmp_path: Path) -> None:
    """Without slope, ca and thal, whoever lacks anything else is left out; 0 counts as measured."""
    files, dataset = written(tmp_path), HeartDisease(form="flamby")
    assert dataset.spec.x_shape == (13,) == (len(COLUMNS_FLAMBY),)
    x, _ = dataset.patients(files, "cleveland")
    assert x[0].tolist() == pytest.approx([63, 1, 145, 233, 1, 150, 0, 2.3, *(0, 0, 0), *(0, 1)])
    assert x[1].tolist() == [50, 0, 120, 200, 0, 140, 1, -0.5, *(0, 0, 1), *(1, 0)]
    counts = {hospital: len(dataset.patients(files, hospital)[1]) for hospital in HOSPITALS}
    assert counts == {"cleveland": 2, "hungarian": 1, "switzerland": 1, "va": 1}
    x, _ = dataset.patients(files, "switzerland")
    assert x[0, COLUMNS_FLAMBY.index("chol")] == 0


def test_hospitals_are_dealt_out(tmp_path: Path) -> None:
    files = written(tmp_path)
    whole = list(HeartDisease(clients_per_hospital=1).clients(files))
    assert [(one.id, one.environment, len(one.y)) for one in whole] == [
        ("cleveland", "cleveland", 2),
        ("hungarian", "hungarian", 2),
        ("switzerland", "switzerland", 2),
        ("va", "va", 1),
    ]
    several = list(HeartDisease(clients_per_hospital=2).clients(files))
    assert [one.id for one in several[:3]] == ["cleveland-01", "cleveland-02", "hungarian-01"]
    assert sum(len(one.y) for one in several) == 7


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("63,1,4,150,260,0,1,112,1,3,2,?,?", "line 1 has 13 fields, not 14"),
        ("x,1,4,150,260,0,1,112,1,3,2,?,?,0", "line 1: age is 'x', not a number from 0 to 120"),
        ("63,1,5,150,260,0,1,112,1,3,2,?,?,0", "line 1: cp is '5', not a number from 1 to 4"),
        ("63,1,1.5,150,260,0,1,112,1,3,2,?,?,0", r"line 1: cp is '1\.5', not one of 1, 2, 3, 4"),
        ("63,1,4,150,260,0,1,112,1,3,2,?,4,0", "line 1: thal is '4', not one of 3, 6, 7"),
        ("63,1,4,150,260,0,1,112,1,3,2,?,?,5", "line 1: num is '5', not a number from 0 to 4"),
        ("63,1,4,150,260,0,1,112,1,3,2,?,?,?", r"line 1: num is '\?', not a number from 0 to 4"),
        ("63,1,4,150,260,0,1,112,1,3,2,?,?,1\n" * 2, r"processed\.va\.data has 2 rows, not 1"),
    ],
)
def test_a_fault_of_a_file_is_one_sentence(tmp_path: Path, line: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as error:
        list(HeartDisease().clients(written(tmp_path, va=line.splitlines())))
    assert str(error.value).endswith(f": {REMEDY}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    files = written(tmp_path)
    (tmp_path / "heart_disease" / "processed.va.data").unlink()
    with pytest.raises(DataError, match=r"no processed\.va\.data in .*archive\.ics\.uci\.edu"):
        list(HeartDisease().clients(files))


@given(st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 4), st.sampled_from(["whole", "flamby"]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_refused_or_give_plausible_examples(
    tmp_path: Path, place: int, bytes_in: bytes, bytes_out: int, form: str
) -> None:
    files = written(tmp_path)
    path = tmp_path / "heart_disease" / "processed.cleveland.data"
    data = path.read_bytes()
    place %= len(data)
    path.write_bytes(data[:place] + bytes_in + data[place + bytes_out :])
    try:
        x, y = HeartDisease(form=form).patients(files, "cleveland")  # type: ignore[arg-type]
    except DataError:
        return
    assert set(y.tolist()) <= {0, 1}
    assert not np.isinf(x).any()
    assert len(y) == 2 or form == "flamby"


@pytest.mark.parametrize("option", LIMITS)
def test_options_outside_their_limits_are_named(option: str) -> None:
    low, high = LIMITS[option]
    for value in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=f"heart_disease: {option} is {value}, not from {low} to {high}"):
            build("datasets", "heart_disease", {option: value})


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> RawFiles:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: it names the folder with heart_disease/processed.va.data")
    files = RawFiles("heart_disease", download=False)
    if not files.find("processed.va.data"):
        pytest.skip(f"no processed.va.data in {files.looked_in()}")
    monkeypatch.setattr(heart_disease, "HOSPITALS", HOSPITALS)
    return files


def test_the_real_hospitals(real: RawFiles) -> None:
    found = {one.id: one for one in HeartDisease(clients_per_hospital=1).clients(real)}
    assert {name: (len(one.y), int(one.y.sum())) for name, one in found.items()} == {
        "cleveland": (303, 139),
        "hungarian": (294, 106),
        "switzerland": (123, 115),
        "va": (200, 149),
    }
    unmeasured = {name: int(one.x[:, COLUMNS.index("no chol")].sum()) for name, one in found.items()}
    assert unmeasured == {"cleveland": 0, "hungarian": 23, "switzerland": 123, "va": 56}
    flamby = {one.id: len(one.y) for one in HeartDisease(form="flamby", clients_per_hospital=1).clients(real)}
    assert flamby == {"cleveland": 303, "hungarian": 261, "switzerland": 46, "va": 130}


@pytest.mark.usefixtures("real")
def test_the_real_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path))
    store = load("heart_disease", HeartDisease(), progress=False)
    assert (len(store), store.x.shape) == (40, (920, 25))
    assert (store.counts.min(), store.counts.max()) == (12, 31)
