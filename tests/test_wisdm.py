"""WISDM's activities: files in the publisher's format made here, faults planted in them, the real one if there."""

from pathlib import Path

import numpy as np
import pytest
from damaged import FUZZ, check_whole_or_refused, damages, placed, read, read_file, real, refusal
from hypothesis import given
from hypothesis import strategies as st

from metaleaf.datasets import wisdm
from metaleaf.datasets.wisdm import ACTIVITIES, FEATURES, FILE, Wisdm
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles

HEAD = (
    "@relation activity_recognition_labeled\n\n"
    + "".join(f'@attribute "{name}" numeric\n' for name in ("UNIQUE_ID", "user", *FEATURES))
    + "@attribute class\n\n@data\n"
)


def line(number: int, person: int, activity: str, peak: str = "125", first: float = 0.1) -> str:
    """43 numbers: the first, then 1, 2, ... but for YPEAK."""
    values = [f"{first:g}", *map(str, range(1, 43))]
    values[FEATURES.index("YPEAK")] = peak
    return ",".join([str(number), str(person), *values, activity]) + "\n"


LINES = (
    line(1, 33, "Jogging"),
    line(2, 33, "Walking", "?"),
    line(1, 2, "Standing"),
    line(3, 33, "Jogging", first=0.2),
    line(9, 33, "Walking", "?"),
)


def arff(*lines: str) -> str:
    return HEAD + "".join(lines or LINES)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(wisdm, "WINDOWS", len(LINES))
    path = placed(tmp_path, "multitask", FILE)
    path.write_text(arff())
    return path


def test_a_client_is_a_person(file: Path) -> None:
    found = read_file(Wisdm(), file)
    assert [(name, client.environment) for name, client in found.items()] == [
        ("person 02", "wisdm"),
        ("person 33", "wisdm"),
    ]
    assert [ACTIVITIES[i] for i in found["person 33"].y] == ["Jogging", "Walking", "Jogging"], "the copy is left out"
    x = found["person 33"].x
    assert x[0].tolist() == pytest.approx([0.1, *range(1, 34), 125, *range(35, 43), 0, 0, 0])
    assert x[:, 0].tolist() == pytest.approx([0.1, 0.1, 0.2])


def test_missing_peaks_are_nan_and_marked(file: Path) -> None:
    x = read_file(Wisdm(), file)["person 33"].x
    assert np.argwhere(np.isnan(x)).tolist() == [[1, FEATURES.index("YPEAK")]]
    assert x[:, 43:].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_copies_may_be_kept(file: Path) -> None:
    assert len(read_file(Wisdm(keep_duplicates=True), file)["person 33"].y) == 4


FAULTS = {
    "an attribute missing": (arff().replace('"X3"', '"Q3"'), f"{FILE} does not have the 46 attributes of that file: "),
    "no data": (arff().replace("@data", ""), " has 0 windows, not 5: it is cut off or another edition: "),
    "cut off": (arff(*LINES[:-1]), " has 4 windows, not 5: "),
    "cut in a line": (arff()[:-20], "line 55 has "),
    "a field more": (arff().replace("1,33,", "1,33,7,", 1), "line 51 has 47 fields, not 46: "),
    "no number": (arff().replace("33,0.1,1,", "33,0.1,one,", 1), "line 51: X1 is 'one', not a number from -1e+06 to"),
    "missing elsewhere": (arff().replace("33,0.1,1,", "33,0.1,?,", 1), "line 51: X1 is '?', not a number"),
    "too large": (arff().replace("33,0.1,1,", "33,0.1,1e7,", 1), "line 51: X1 is '1e7', not a number"),
    "no person": (arff().replace("1,33,", "1,0,", 1), "line 51: user is '0', not a number from 1 to 1000: "),
    "an activity": (arff().replace("Standing", "Sleeping"), "line 53: class is 'Sleeping', not one of Walking, Jogg"),
    "nothing": ("", "does not have the 46 attributes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_said(file: Path, fault: str) -> None:
    content, said = FAULTS[fault]
    found = refusal(Wisdm(), file, content)
    assert said in found
    assert str(file) in found
    assert found.endswith("into $METALEAF_RAW/multitask/.")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"multitask: no {FILE} in .*https://www.cis.fordham.edu/wisdm/"):
        list(Wisdm().clients(RawFiles("wisdm", tmp_path, download=False)))


@FUZZ
@given(st.data())
def test_damage_is_refused_or_harmless(file: Path, data: st.DataObject) -> None:
    check_whole_or_refused(Wisdm(), file, data.draw(damages(arff().encode())))


def test_the_real_file() -> None:
    raw = real("multitask", FILE)
    every, kept = read(Wisdm(keep_duplicates=True), raw), read(Wisdm(), raw)
    sizes = [len(client.y) for client in every.values()]
    assert (len(every), sum(sizes), min(sizes), max(sizes)) == (36, 5_418, 60, 273)
    dropped = {name: len(client.y) - len(kept[name].y) for name, client in every.items()}
    assert {name: count for name, count in dropped.items() if count} == {"person 19": 61}
    y = np.concatenate([client.y for client in every.values()])
    assert np.bincount(y).tolist() == [2081, 1625, 632, 528, 306, 246]
    x = np.concatenate([client.x for client in every.values()])
    assert np.isnan(x).sum() == x[:, 43:].sum() == 615
    assert not x[:, FEATURES.index("XAVG")].any()
    assert np.array_equal(x[:, FEATURES.index("XSTANDDEV")], x[:, FEATURES.index("ZSTANDDEV")])
