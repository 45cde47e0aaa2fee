"""TCGA-BRCA: who is in which region and client, x and y by hand, and a sentence about every fault of the files."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaleaf.config.config import build
from metaleaf.data.prepare import load
from metaleaf.datasets import tcga_brca
from metaleaf.datasets.tcga_brca import FEATURES, FOLDER, LIMITS, PATIENTS, REGIONS, REMEDY, ROWS, SPLIT, TcgaBrca
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles

WHOLE = dict(ROWS)
HEAD = ["pid", *FEATURES, "E", "T"]


def patients() -> list[list[str]]:
    """Two in each region, whose age is 30 and their number, and one in none; every fifth died."""
    return [[f"P{i}", str(30 + i), *["0", "1"] * 19, f"{i % 5 == 0:.1f}", f"{100 * i}.0"] for i in range(13)]


def split() -> list[list[str]]:
    """The other way round: the order is that of the patients' file."""
    return [[f"P{i}", "train", f"{'test' if i > 5 else 'train'}_{i % 6}"] for i in reversed(range(12))]


def written(folder: Path, lines: list[list[str]], folds: list[list[str]]) -> RawFiles:
    (folder / FOLDER).mkdir(exist_ok=True)
    for name, rows in ((PATIENTS[0], [HEAD, *lines]), (SPLIT[0], [["pid", "fold", "fold2"], *folds])):
        quoted = [[f'"{field}"' if "," in field else field for field in row] for row in rows]
        (folder / FOLDER / name).write_text("\n".join(map(",".join, quoted)) + "\n")
    return RawFiles("tcga_brca", folder, download=False)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, PATIENTS, 13)
    monkeypatch.setitem(ROWS, SPLIT, 12)


def test_regions_by_hand(tmp_path: Path) -> None:
    found = tcga_brca.regions(written(tmp_path, patients(), split()).of(FOLDER))
    assert [one.name for one in found] == list(REGIONS)
    first = found[0]
    assert first.x.tolist() == [[30, *[0, 1] * 19], [36, *[0, 1] * 19]]
    assert first.y.tolist() == [[0, 1], [600, 0]]
    assert first.test.tolist() == [False, True]
    assert first.x.dtype == first.y.dtype == np.float32
    assert found[4].y.tolist() == [[400, 0], [1000, 1]]


def test_regions_are_dealt_out_by_the_seed(tmp_path: Path) -> None:
    files = written(tmp_path, patients(), split())
    whole = list(TcgaBrca(clients_per_region=1).clients(files))
    assert [(one.id, one.environment, one.x[:, 0].tolist()) for one in whole[:2]] == [
        ("Northeast", "Northeast", [30, 36]),
        ("South", "South", [31, 37]),
    ]
    drawn = [list(TcgaBrca(clients_per_region=2, seed=seed).clients(files)) for seed in range(4)]
    for each in drawn:
        assert [(one.id, one.environment) for one in each[:2]] == [
            ("Northeast-01", "Northeast"),
            ("Northeast-02", "Northeast"),
        ]
        assert sorted(float(one.x[0, 0]) for one in each) == list(range(30, 42))
    assert len({tuple(float(one.x[0, 0]) for one in each) for each in drawn}) == 4


def change(row: int, column: str, value: str) -> Callable[[list[list[str]], list[list[str]]], None]:
    def changed(lines: list[list[str]], folds: list[list[str]]) -> None:
        lines[row][HEAD.index(column)] = value

    return changed


def fold(row: int, place: int, value: str) -> Callable[[list[list[str]], list[list[str]]], None]:
    def changed(lines: list[list[str]], folds: list[list[str]]) -> None:
        folds[row][place] = value

    return changed


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (change(1, "pid", "P0"), r"fed_tcga_brca\.csv, line 3: pid is 'P0', not a patient whom no other row has"),
        (change(0, "age_at_index", ""), "line 2: age_at_index is '', not a number from 0 to 120"),
        (change(0, "race_asian", "2"), "line 2: race_asian is '2', not a number from 0 to 1"),
        (change(0, "race_asian", "0.5"), "line 2: race_asian is '0.5', not a whole number"),
        (change(0, "E", "nan"), "line 2: E is 'nan', not a number from 0 to 1"),
        (change(0, "T", "-1"), "line 2: T is '-1', not a number from 0 to 100000"),
        (fold(0, 0, "Q1"), r"train_test_split\.csv, line 2: pid is 'Q1', not a patient whom the other file has"),
        (fold(0, 0, "P1"), r"train_test_split\.csv, line 12: pid is 'P1', not a patient whom no other row has"),
        (fold(0, 2, "train_6"), "line 2: fold2 is 'train_6', not one of"),
        (lambda lines, folds: lines.pop(), r"fed_tcga_brca\.csv has 12 rows, not 13"),
        (lambda lines, folds: folds.pop(), r"split\.csv has 11 rows, not 12"),
        (
            lambda lines, folds: folds.__setitem__(slice(None), [[*row[:2], "train_0"] for row in folds]),
            "nobody is in the region South",
        ),
    ],
)
def test_a_fault_of_the_files_is_one_sentence(tmp_path: Path, fault: Callable[..., Any], sentence: str) -> None:
    lines, folds = patients(), split()
    fault(lines, folds)
    with pytest.raises(DataError, match=sentence) as error:
        list(TcgaBrca().clients(written(tmp_path, lines, folds)))
    assert str(error.value).endswith(f": {REMEDY}")


@given(st.sampled_from([PATIENTS[0], SPLIT[0]]), st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_refused_or_give_plausible_examples(
    tmp_path: Path, name: str, place: int, bytes_in: bytes, bytes_out: int
) -> None:
    files = written(tmp_path, patients(), split())
    path = tmp_path / FOLDER / name
    data = path.read_bytes()
    place %= len(data)
    path.write_bytes(data[:place] + bytes_in + data[place + bytes_out :])
    try:
        found = tcga_brca.regions(files.of(FOLDER))
    except DataError:
        return
    assert sum(len(one.y) for one in found) == 12
    for one in found:
        assert np.isfinite(one.x).all()
        assert set(one.y[:, 1].tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("option", LIMITS)
def test_options_outside_their_limits_are_named(option: str) -> None:
    low, high = LIMITS[option]
    for value in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=f"tcga_brca: {option} is {value}, not from {low} to {high}"):
            build("datasets", "tcga_brca", {option: value})


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> RawFiles:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip(f"METALEAF_RAW is not set: it names the folder with {FOLDER}/{PATIENTS[0]}")
    files = RawFiles("tcga_brca", download=False)
    if not files.of(FOLDER).find(PATIENTS[0]):
        pytest.skip(f"no {PATIENTS[0]} in {files.of(FOLDER).looked_in()}")
    for names, count in WHOLE.items():
        monkeypatch.setitem(ROWS, names, count)
    return files


def test_the_real_regions(real: RawFiles) -> None:
    """As FLamby's readme counts them."""
    found = tcga_brca.regions(real.of(FOLDER))
    assert {one.name: (int((~one.test).sum()), int(one.test.sum())) for one in found} == {
        "Northeast": (248, 63),
        "South": (156, 40),
        "West": (164, 42),
        "Midwest": (129, 33),
        "Europe": (129, 33),
        "Canada": (40, 11),
    }
    assert [int(one.y[:, 1].sum()) for one in found] == [59, 39, 22, 19, 9, 3]
    assert sum(int((one.y[:, 0] == 0).sum()) for one in found) == 12


def test_the_real_clients(real: RawFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path))
    store = load("tcga_brca", TcgaBrca(), progress=False)
    assert (len(store), store.x.shape, store.y.shape) == (30, (1088, 39), (1088, 2))
    assert Counter(map(str, store.environments)) == dict.fromkeys(REGIONS, 5)
