"""C-MAPSS: files in NASA's format made here, faults planted in them, and NASA's own if there."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moments import shared, with_gap

from metaleaf.data.prepare import load
from metaleaf.dataset import Client
from metaleaf.datasets import cmapss
from metaleaf.datasets.cmapss import COMPLETE, ENVIRONMENTS, SENSORS, Cmapss
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles

TRAIN, TEST, LEFT = [40, 62], [29, 33, 70], [5, 8, 110]
"""Cycles of the engines that files made here have, and how many those of the test file had left."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))


def cell(engine: int, cycle: int, column: int) -> float:
    """What is in a file made here: tells engine, cycle and column (settings 0-2, sensors 3-23)."""
    if column == 0:
        return cmapss.ALTITUDES[cycle % 2] + 0.002  # two operating conditions in turn
    return round(100 * engine + cycle + column / 100, 2)


def text(cycles: list[int]) -> str:
    """NASA's format: unit, cycle, 24 numbers, two blanks at the end of each line."""
    return "".join(
        f"{unit} {cycle} " + " ".join(f"{cell(unit, cycle, column):g}" for column in range(24)) + "  \n"
        for unit, length in enumerate(cycles, 1)
        for cycle in range(1, length + 1)
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """FD001's three files."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for name, cycles in (("train_FD001.txt", TRAIN), ("test_FD001.txt", TEST)):
        (folder / name).write_text(text(cycles))
        monkeypatch.setitem(COMPLETE, name, (len(cycles), sum(cycles)))
    (folder / "RUL_FD001.txt").write_text("".join(f"{left} \n" for left in LEFT))
    return folder


def clients(folder: Path, **options: Any) -> dict[str, Client]:
    found = list(Cmapss(subset="FD001", **options).clients(RawFiles("cmapss", folder)))
    return {client.id: client for client in found}


def real() -> RawFiles:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: it names the folder with cmapss/train_FD001.txt")
    raw = RawFiles("cmapss", download=False)
    if not raw.find("train_FD001.txt"):
        pytest.skip(f"no train_FD001.txt in {raw.looked_in()}")
    return raw


# What an example is


def test_windows_end_at_every_fifth_cycle_counted_from_the_last(files: Path) -> None:
    found = clients(files, relative=False, cap=0)
    assert list(found) == ["FD001/train/1", "FD001/train/2", "FD001/test/1", "FD001/test/2", "FD001/test/3"]
    assert {client.environment for client in found.values()} == {"1 condition, 1 fault"}
    x, y = found["FD001/train/1"].x, found["FD001/train/1"].y
    assert x.shape == (3, 30, 17)
    assert x.dtype == y.dtype == np.float32
    assert y.tolist() == [10, 5, 0], "40 cycles: windows end at cycle 30, 35 and 40, the last"
    wanted = [cell(1, 6, column) for column in (0, 1, 2, *(2 + number for number in SENSORS))]
    np.testing.assert_allclose(x[1, 0], wanted, rtol=1e-6, err_msg="the second window begins at cycle 6")
    np.testing.assert_allclose(x[:, -1, 1], [cell(1, cycle, 1) for cycle in (30, 35, 40)], rtol=1e-6)


def test_test_engines_live_on_for_as_long_as_the_third_file_says(files: Path) -> None:
    found = clients(files, cap=0, stride=1)
    assert len(found["FD001/test/1"].y) == 0, "29 cycles are no window"
    assert found["FD001/test/2"].y.tolist() == [11, 10, 9, 8]
    assert found["FD001/test/3"].y.tolist() == [110 + i for i in range(40, -1, -1)]


def test_lives_are_capped(files: Path) -> None:
    assert clients(files, stride=20)["FD001/test/3"].y.tolist() == [125, 125, 110]
    assert clients(files, stride=20, cap=112)["FD001/test/3"].y.tolist() == [112, 112, 110]


def test_whether_an_engine_fails_within_30_cycles(files: Path) -> None:
    found = clients(files, target="fault", stride=1)
    assert found["FD001/train/2"].y.tolist() == 2 * [0] + 31 * [1], "from 32 cycles left to none"
    assert found["FD001/train/2"].y.dtype == np.uint8
    assert not found["FD001/test/3"].y.any()
    spec = Cmapss(target="fault").spec
    assert (spec.classes, spec.standardise) == (2, "x")
    assert spec.task == {"name": "binary", "metrics": ["auc", "average_precision", "accuracy"]}


def test_sensors_are_relative_to_the_engines_first_30_cycles_under_the_same_condition(files: Path) -> None:
    x = clients(files)["FD001/train/1"].x
    # Even cycles 2, 4, ..., 30 are at sea level, with a mean of 16; odd ones 1, 3, ..., 29 higher up, with one of 15.
    cycles = np.arange(11, 41)
    np.testing.assert_allclose(x[-1, :, 3], cycles - np.where(cycles % 2 == 0, 16, 15), atol=1e-4)
    np.testing.assert_allclose(x[-1, :, 1], [cell(1, cycle, 1) for cycle in range(11, 41)], rtol=1e-6)


def test_what_comes_later_does_not_change_what_was_known(files: Path) -> None:
    before = clients(files, stride=1)["FD001/train/2"].x
    changed = "".join(
        line if not line.startswith("2 ") or int(line.split()[1]) <= 45 else line.replace("  \n", "77  \n")
        for line in (files / "train_FD001.txt").read_text().splitlines(keepends=True)
    )
    (files / "train_FD001.txt").write_text(changed)
    after = clients(files, stride=1)["FD001/train/2"].x
    differ = (before != after).any(axis=(1, 2))
    assert differ.tolist() == 16 * [False] + 17 * [True], "windows that end at cycle 46 and later"


def test_a_condition_that_is_new_after_30_cycles_is_not_measured(files: Path) -> None:
    lines = (files / "train_FD001.txt").read_text().splitlines(keepends=True)
    parts = lines[39].split(" ")
    lines[39] = " ".join([*parts[:2], "42.003", *parts[3:]])
    (files / "train_FD001.txt").write_text("".join(lines))
    x = clients(files)["FD001/train/1"].x
    assert np.isnan(x[-1, -1, 3:]).all()
    assert np.isfinite(x[-1, -1, :3]).all()
    assert np.isfinite(x[:-1]).all()


# Environments


def test_a_subset_can_be_left_out_for_new_environments() -> None:
    dataset = Cmapss(left_out="FD003")
    assert [dataset._environment(subset, "train") for subset in ENVIRONMENTS] == [
        "train/FD001", "train/FD002", "test/FD003 train", "train/FD004",
    ]  # fmt: skip
    assert [dataset._environment(subset, "test") for subset in ENVIRONMENTS] == [
        "validation/FD001", "validation/FD002", "test/FD003 test", "validation/FD004",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "FD005"}, "unknown cmapss subset 'FD005'"),
        ({"target": "lives"}, "unknown cmapss target 'lives'"),
        ({"left_out": "FD03"}, "unknown cmapss subset 'FD03'"),
        ({"left_out": "FD003", "subset": "FD001"}, "left_out = 'FD003' needs all subsets, and subset is 'FD001'"),
        ({"stride": 0}, "stride is 0, not from 1 to 29"),
        ({"stride": 30}, "stride is 30, not from 1 to 29"),
        ({"cap": -1}, "cap is -1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cmapss(**options)


# Leaks


def cycles_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of files made here: setting 2 is 100 times the engine and its cycle, and a hundredth."""
    return np.rint(x[:, :, 1] - 0.01)


@pytest.mark.parametrize("stride", [1, 4, 5, 29])
def test_no_cycle_is_on_both_sides_of_a_split(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    lengths = [150 + 17 * i for i in range(12)]
    (files / "train_FD001.txt").write_text(text(lengths))
    monkeypatch.setitem(COMPLETE, "train_FD001.txt", (len(lengths), sum(lengths)))
    store = load("cmapss", Cmapss(subset="FD001", stride=stride, relative=False), raw=files, progress=False)
    gap = store.about["spec"]["window"]
    assert gap == {1: 29, 4: 7, 5: 5, 29: 1}[stride]
    assert len(shared(with_gap(store, gap - 1), cycles_of)) > 10, "a gap of one less lets cycles through"
    assert shared(store, cycles_of) == []


def test_no_row_of_nasas_is_on_both_sides_of_a_split() -> None:
    real()
    dataset = Cmapss(subset="FD001", relative=False)
    store = load("cmapss", dataset, progress=False)

    def rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Each cycle's seventeen numbers as one text: no two cycles of an engine have the same."""
        return np.ascontiguousarray(x).view(f"V{4 * x.shape[2]}")[:, :, 0]

    assert shared(store, rows) == []
    assert shared(with_gap(store, 0), rows), "a split at random would"


# Faults


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("train_FD001.txt", "1 7 ", "1 8 ", "has unit 1 and cycle 8 in row 7, where unit 1 and cycle 7 should be"),
        ("train_FD001.txt", "2 1 ", "3 1 ", "has unit 3 and cycle 1 in row 41, where unit 2 and cycle 1 should be"),
        ("train_FD001.txt", "1 1 ", "0 1 ", "has unit 0 and cycle 1 in row 1, where unit 1 and cycle 1 should be"),
        ("train_FD001.txt", "1 7 ", "1 7 7 ", "is not a table of numbers .*the number of columns changed"),
        ("train_FD001.txt", "1 7 ", "1 7x ", "is not a table of numbers .*could not convert string '7x'"),
        ("train_FD001.txt", "1 7 10.002", "1 7 nan", "has nan in row 7, column 3"),
        ("train_FD001.txt", "1 7 10.002", "1 7 -inf", "has -inf in row 7, column 3"),
        ("train_FD001.txt", "1 7 10.002", "1 7 15.002", "has operating setting 1 = 15.002 in row 7"),
        ("train_FD001.txt", "1 7 ", "1 ü ", "is not a plain text"),
        ("test_FD001.txt", "3 70 ", None, "has 3 engines and 131 rows, the complete file 3 engines and 132 rows"),
        ("test_FD001.txt", "1 1 ", None, "has no numbers in it"),
        ("RUL_FD001.txt", "8 ", "", "has 2 remaining lives for 3 engines"),
        ("RUL_FD001.txt", "8 ", "8.5 ", "has 8.5 in row 2, which is no number of cycles"),
        ("RUL_FD001.txt", "8 ", "-8 ", "has -8 in row 2, which is no number of cycles"),
        ("RUL_FD001.txt", "5 \n8 \n110 ", "5 8\n8 9\n1 1", "has 2 columns instead of 1"),
        ("RUL_FD001.txt", "110 \n", "11", "ends in the middle of a line"),
    ],
)
def test_faults_are_named(files: Path, name: str, old: str, new: str | None, message: str) -> None:
    """new: in old's place where it begins a line; None: the file ends there."""
    before = (files / name).read_text()
    place = f"\n{before}".index(f"\n{old}")
    (files / name).write_text(before[:place] + ("" if new is None else new + before[place + len(old) :]))
    with pytest.raises(DataError, match=rf"{name} {message}.*: take it from CMAPSSData\.zip") as caught:
        clients(files)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(files: Path) -> None:
    (files / "RUL_FD001.txt").unlink()
    with pytest.raises(DataError, match=r"no RUL_FD001\.txt in .*: put train_FD00x\.txt"):
        clients(files)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bytes_changed_cut_or_inserted(files: Path, data: st.DataObject) -> None:
    """What is read then is as many windows of finite numbers, or nothing; of a file that was cut, nothing."""
    name = data.draw(st.sampled_from(["train_FD001.txt", "test_FD001.txt", "RUL_FD001.txt"]))
    before = (files / name).read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    kind = data.draw(st.sampled_from(["change", "cut", "insert"]))
    byte = bytes([data.draw(st.integers(0, 255))])
    after = {"change": byte + before[place + 1 :], "cut": b"", "insert": byte + before[place:]}[kind]
    (files / name).write_bytes(before[:place] + after)
    try:
        found = clients(files)
    except DataError as error:
        sentence = str(error)
    else:
        sentence = name
        assert kind != "cut"
        assert [len(client.y) for client in found.values()] == [3, 7, 0, 1, 9]
        assert all(np.isfinite(client.x).all() and (client.y >= 0).all() for client in found.values())
    finally:
        (files / name).write_bytes(before)
    assert name in sentence
    assert "\n" not in sentence


# NASA's files


def test_nasas_engines() -> None:
    raw = real()
    found = list(Cmapss().clients(raw))
    assert len(found) == 709 + 707
    assert len({client.id for client in found}) == len(found)
    assert sum(len(client.y) > 0 for client in found) == 1_399, "17 test engines have less than 30 cycles"
    by_environment = {
        name: [client for client in found if client.environment == name] for name in ENVIRONMENTS.values()
    }
    assert [len(each) for each in by_environment.values()] == [200, 519, 200, 497]
    runs = [client for client in found if "/train/" in client.id]
    assert all(client.y[-1] == 0 for client in runs), "train engines run until they fail"
    cut = {client.id: client for client in found if "/test/" in client.id}
    assert cut["FD001/test/1"].y[-1] == 112, "the first line of RUL_FD001.txt"
    assert max(client.y.max() for client in found if len(client.y)) == 125
    sizes = sum(client.x.nbytes for client in found)
    assert sizes < 100e6
    assert sum(len(client.y) for client in found) == 45_403
    unmet = sum(int(np.isnan(client.x[:, :, -1]).sum()) for client in found)
    assert unmet < 0.01 * 30 * 45_403, "nearly all conditions are met in 30 cycles"
    assert not any(np.isnan(client.x).any() for client in by_environment["1 condition, 1 fault"])
