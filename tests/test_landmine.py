"""Landmines: files made here, faults planted in them, and the real one if there."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from damaged import FUZZ, check_whole_or_refused, damages, placed, read, read_file, real, refusal
from hypothesis import given
from hypothesis import strategies as st
from test_school import mat

from metaleaf.datasets import landmine
from metaleaf.datasets.landmine import Landmine
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles

SIZES = (2, 3, 1)


def spots() -> list[np.ndarray]:
    return [np.arange(9.0 * n).reshape(n, 9) - i for i, n in enumerate(SIZES)]


def labels() -> list[np.ndarray]:
    return [np.eye(n, 1, -1, dtype=np.uint8) for n in SIZES]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(landmine, "FIELDS", 3)
    monkeypatch.setattr(landmine, "FOLIATED", 2)
    monkeypatch.setattr(landmine, "SPOTS", sum(SIZES))
    path = placed(tmp_path, "multitask", "landmine.mat")
    path.write_bytes(mat(feature=spots(), label=labels()))
    return path


def test_a_client_is_a_field(file: Path) -> None:
    found = read_file(Landmine(), file)
    assert {name: (client.environment, client.y.tolist()) for name, client in found.items()} == {
        "field 01": ("foliated", [0, 1]),
        "field 02": ("foliated", [0, 1, 0]),
        "field 03": ("bare", [0]),
    }
    assert found["field 02"].x[1].tolist() == list(range(8, 17))


def test_the_publishers_own_name_will_do(file: Path) -> None:
    file.rename(file.with_name("LandmineData.mat"))
    assert len(read_file(Landmine(), file)) == 3


FAULTS = {
    "a field missing": (mat(feature=spots()[1:], label=labels()), "feature has 2 matrices, not 3: "),
    "a spot missing": (mat(feature=[spots()[0][1:], *spots()[1:]], label=labels()), " has 5 spots, not 6: it is cut"),
    "a label missing": (mat(feature=spots(), label=labels()[::-1]), "field 1 has 2 spots and 1 labels: "),
    "a third label": (
        mat(feature=spots(), label=[3 * y for y in labels()]),
        "field 1 has a label that is not 0 or 1: ",
    ),
    "too large": (mat(feature=[x * 1e60 for x in spots()], label=labels()), "field 1 has a number that is too large: "),
    "no variable": (mat(feature=spots()), "(it has no variable label): "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_said(file: Path, fault: str) -> None:
    content, said = FAULTS[fault]
    found = refusal(Landmine(), file, content)
    assert said in found
    assert str(file) in found
    assert found.endswith("into $METALEAF_RAW/multitask/.")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"multitask: no landmine.mat or LandmineData.mat in .*Xue et al."):
        list(Landmine().clients(RawFiles("landmine", tmp_path, download=False)))


@FUZZ
@given(st.data())
def test_damage_is_refused_or_harmless(file: Path, data: st.DataObject) -> None:
    content = mat(compressed=False, feature=spots(), label=labels())
    check_whole_or_refused(Landmine(), file, data.draw(damages(content)))


def test_the_real_file() -> None:
    found = read(Landmine(), real("multitask", "landmine.mat"))
    sizes = [len(client.y) for client in found.values()]
    assert (len(found), sum(sizes), min(sizes), max(sizes)) == (29, 14_820, 445, 690)
    assert Counter(client.environment for client in found.values()) == {"foliated": 15, "bare": 14}
    assert sum(int(client.y.sum()) for client in found.values()) == 904
    assert min(int(client.y.sum()) for client in found.values()) == 15
    means = [float(client.x[:, 2].mean()) for client in found.values()]
    assert min(means[:15]) > 0.2 > max(means[15:]), "the two kinds of terrain are told apart where we put the border"
