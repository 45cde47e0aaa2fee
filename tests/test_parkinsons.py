"""Parkinson's telemonitoring: files in the publisher's format made here, faults in them, the real one if there."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged import FUZZ, check_whole_or_refused, damages, placed, read, read_file, real, refusal
from hypothesis import given
from hypothesis import strategies as st

from metaleaf.data.prepare import load
from metaleaf.datasets import parkinsons
from metaleaf.datasets.parkinsons import FILE, VOICE, Parkinsons
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles

HEADER = ",".join(["subject#", "age", "sex", "test_time", "motor_UPDRS", "total_UPDRS", *VOICE])
TIMES = {1: (7.001, 0.5, 7.0, 0.501, 14.2), 2: (-3.5, 3.5)}
"""Days of the two patients' recordings, in the order of the file: the first has three sessions."""

VALUES = [*(math.log(i / 100) for i in range(1, 13)), 0.13, 0.14, 0.15, 0.16]
"""The voice of all of them: jitter, shimmer and NHR in logarithms."""


def table() -> str:
    lines = [
        f"{patient},{60 + patient},{patient - 1},{time},{10 * patient + time},{20 * patient + time},"
        + ",".join(f"{(i + 1) / 100:g}" for i in range(len(VOICE)))
        for patient, times in TIMES.items()
        for time in times
    ]
    return "\n".join((HEADER, *lines))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(parkinsons, "RECORDINGS", 7)
    monkeypatch.setattr(parkinsons, "PATIENTS", 2)
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    path = placed(tmp_path, "multitask", FILE)
    path.write_text(table())
    return path


def test_a_client_is_a_patient_in_the_order_of_time(file: Path) -> None:
    found = read_file(Parkinsons(), file)
    assert [(name, client.environment) for name, client in found.items()] == [
        ("patient 01", "men"),
        ("patient 02", "women"),
    ]
    first = found["patient 01"]
    assert first.x[:, 2].tolist() == pytest.approx([0.5, 0.501, 7, 7.001, 14.2])
    assert first.y.tolist() == pytest.approx([10.5, 10.501, 17, 17.001, 24.2])
    assert first.x[0].tolist() == pytest.approx([61, 0, 0.5, *VALUES])


def test_recordings_of_one_session_are_a_group(file: Path) -> None:
    groups = {name: client.groups for name, client in read_file(Parkinsons(), file).items()}
    assert {name: None if g is None else g.tolist() for name, g in groups.items()} == {
        "patient 01": [0, 0, 1, 1, 2],
        "patient 02": [0, 1],
    }


def test_target_and_features_can_be_chosen(file: Path) -> None:
    dataset = Parkinsons(target="total", features="voice")
    found = read_file(dataset, file)["patient 02"]
    assert dataset.columns == VOICE
    assert found.y.tolist() == [36.5, 43.5]
    assert found.x[0].tolist() == pytest.approx(VALUES)


def test_the_future_is_a_window_apart(file: Path) -> None:
    assert (Parkinsons().spec.window, Parkinsons(future=True).spec.window) == (0, 6)


def test_groups_are_prepared(file: Path) -> None:
    store = load("parkinsons", Parkinsons(), raw=file.parent.parent)
    assert store.groups is not None
    assert store.groups.tolist() == [0, 0, 1, 1, 2, 0, 1]


FAULTS: dict[str, tuple[str, str]] = {
    "no column": (table().replace("NHR", "NRH"), f"{FILE} has 0 columns called 'NHR', not 1: "),
    "cut off": (table().rsplit("\n", 1)[0], " has 6 recordings, not 7: it is cut off or another edition: "),
    "cut in a line": (table()[:-20], "line 8 has "),
    "a patient missing": (table().replace("\n2,62", "\n1,62").replace(",1,-3.5", ",0,-3.5").replace(",1,3.5", ",0,3.5"),
                          " has 1 patients, not 2: "),
    "no number": (table().replace(",61,0,7.0,", ",61,0,late,"), "line 4: test_time is 'late', not a number from -3"),
    "a sex": (table().replace(",61,0,7.0,", ",61,2,7.0,"), "line 4: sex is '2', not a number from 0 to 1: "),
    "half a sex": (table().replace(",61,0,7.0,", ",61,0.5,7.0,"), "line 4: sex is '0.5', not a whole number: "),
    "both sexes": (table().replace(",61,0,7.0,", ",61,1,7.0,"), "patient 1 is of both sexes: "),
    "points": (table().replace("17.0,27.0", "117.0,27.0"), "motor_UPDRS is '117.0', not a number from 0 to 108: "),
    "no patient": (table().replace("\n2,62", "\n3,62", 1), "subject# is '3', not a number from 1 to 2: "),
    "silence": (table().replace(",0.01,", ",0,", 1), "line 2: Jitter(%) is '0', not above 0: "),
    "not finite": (table().replace("0.16", "nan", 1), "PPE is 'nan', not a number from 0 to 1000: "),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_said(file: Path, fault: str) -> None:
    content, said = FAULTS[fault]
    found = refusal(Parkinsons(), file, content)
    assert said in found
    assert str(file) in found
    assert found.endswith("into $METALEAF_RAW/multitask/.")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"multitask: no {FILE} in .*https://archive.ics.uci.edu/dataset/189/"):
        list(Parkinsons().clients(RawFiles("parkinsons", tmp_path, download=False)))


@pytest.mark.parametrize("options", [{"target": "all"}, {"features": "face"}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"unknown parkinsons {next(iter(options))}"):
        Parkinsons(**options)


@FUZZ
@given(st.data())
def test_damage_is_refused_or_harmless(file: Path, data: st.DataObject) -> None:
    check_whole_or_refused(Parkinsons(), file, data.draw(damages(table().encode())))


def test_the_real_file() -> None:
    found = read(Parkinsons(), real("multitask", FILE))
    sizes = [len(client.y) for client in found.values()]
    assert (len(found), sum(sizes), min(sizes), max(sizes)) == (42, 5_875, 101, 168)
    assert Counter(client.environment for client in found.values()) == {"men": 28, "women": 14}
    sessions = [size for client in found.values() for size in np.bincount(client.groups).tolist()]  # type: ignore[arg-type]
    assert Counter(sessions) == {6: 913, 5: 68, 4: 7, 3: 2, 11: 1, 12: 1}
    y = np.concatenate([client.y for client in found.values()])
    assert (y.min(), y.max()) == pytest.approx((5.0377, 39.511))
