"""Traffic: files in the publishers' formats made here, faults planted in them, and the real ones if there."""

import io
import os
from datetime import date, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moments import shared, with_gap
from scipy.io import savemat

from metaleaf.data.prepare import load
from metaleaf.dataset import Client
from metaleaf.datasets.traffic import CITIES, TRIPS, Name, Traffic, calendar
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles

SENSORS = [str(700_000 + i) for i in range(207)]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))


def speeds() -> str:
    """Los Angeles, in its format: at step t the speed is t / 25 mph at every sensor, but a bit more at the second."""
    lines = (",".join([f"{t / 25:g}", f"{t / 25 + 0.01:.8g}", *205 * [f"{t / 25:g}"]]) for t in range(2016))
    return "\n".join([",".join(SENSORS), *lines]) + "\n"


def tensor(shape: tuple[int, ...]) -> np.ndarray:
    """Counts of which each tells its own moment: 1, 2, ... along the days and steps, the same everywhere."""
    moments = 1 + np.arange(int(np.prod(shape[1:])))
    return np.broadcast_to(moments.reshape(shape[1:]), shape).astype(np.uint16)


def mat(values: Any, name: str = "tensor") -> bytes:
    file = io.BytesIO()
    savemat(file, {name: values}, do_compression=True)  # type: ignore[arg-type]  # a file will do
    return file.getvalue()


TENSORS = {name: tensor(city.shape) for name, city in CITIES.items() if name in ("hangzhou", "birmingham")}
TENSORS["new_york"] = np.broadcast_to(1 + np.arange(TRIPS[2]), TRIPS).astype(np.uint16)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    (folder / "los_speed.csv").write_text(speeds())
    for name, values in TENSORS.items():
        (folder / CITIES[name].file).write_bytes(mat(values))
    return folder


def clients(folder: Path, city: Any, **options: Any) -> dict[str, Client]:
    found = list(Traffic(city=city, **options).clients(RawFiles("traffic", folder)))
    assert {client.environment for client in found} == {city}
    return {client.id: client for client in found}


def real(city: str) -> RawFiles:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: it names the folder with traffic/los_speed.csv")
    raw = RawFiles("traffic", download=False)
    if not raw.find(CITIES[city].file):
        pytest.skip(f"no {CITIES[city].file} in {raw.looked_in()}")
    return raw


# What an example is


def test_los_angeles_is_read_through_the_nights(files: Path) -> None:
    found = clients(files, "los_angeles")
    assert list(found) == [f"los_angeles/sensor {name}" for name in SENSORS]
    x, y = found["los_angeles/sensor 700001"].x, found["los_angeles/sensor 700001"].y
    assert (x.shape, y.shape) == ((2016 - 23, 12, 4), (2016 - 23, 12))
    assert x.dtype == y.dtype == np.float32
    np.testing.assert_allclose(x[280, :, 0], np.arange(280, 292) / 25 + 0.01, rtol=1e-6, err_msg="around midnight")
    np.testing.assert_allclose(y[280], np.arange(292, 304) / 25 + 0.01, rtol=1e-6)
    np.testing.assert_allclose(x[72, 0, 1:], [1, 0, 0], atol=1e-6, err_msg="6:00 on a Thursday")
    np.testing.assert_allclose(x[2 * 288 + 216, 0, 1:], [-1, 0, 1], atol=1e-6, err_msg="18:00 on Saturday")


def test_hangzhous_windows_stay_within_a_day(files: Path) -> None:
    found = clients(files, "hangzhou", history=10)
    assert list(found)[::79] == ["hangzhou/station 01", "hangzhou/station 80"]
    x, y = found["hangzhou/station 80"].x, found["hangzhou/station 80"].y
    assert x.shape == (25 * 93, 10, 4)
    assert y.shape == (25 * 93, 6)
    assert x[92, :, 0].tolist() == list(range(93, 103)), "the first day's last window"
    assert y[92].tolist() == list(range(103, 109))
    assert x[93, :, 0].tolist() == list(range(109, 119)), "the second day's first"
    np.testing.assert_allclose(x[93, 0, 1:], [1, 0, 0], atol=1e-6, err_msg="6:00")


def test_birminghams_windows_have_no_gap_in_them(tmp_path: Path) -> None:
    values = TENSORS["birmingham"].copy()
    values[0, 0, 7] = values[0, 1] = 0
    (tmp_path / "birmingham_tensor.mat").write_bytes(mat(values))
    found = clients(tmp_path, "birmingham")
    first, second = found["birmingham/car park 01"], found["birmingham/car park 02"]
    assert len(second.y) == 77 * 13
    assert len(first.y) == 77 * 13 - 6 - 13
    assert first.x[:8, 0, 0].tolist() == [1, 2, 9, 10, 11, 12, 13, 37]
    assert first.y[:3].tolist() == [[5, 6], [6, 7], [13, 14]]


def test_new_yorks_zones_send_trips_to_all_others(files: Path) -> None:
    found = clients(files, "new_york")
    assert list(found)[29] == "new_york/zone 30"
    x, y = found["new_york/zone 30"].x, found["new_york/zone 30"].y
    assert (x.shape, y.shape) == ((1440, 24, 4), (1440, 1))
    assert x[-1, :, 0].tolist() == [30 * hour for hour in range(1440, 1464)]
    assert y[-1].tolist() == [30 * 1464]


def test_a_client_is_a_zone_of_pick_up(tmp_path: Path) -> None:
    values = TENSORS["new_york"].copy()
    values[2, 5, 24] += 7
    (tmp_path / "nyc_tensor.mat").write_bytes(mat(values))
    found = clients(tmp_path, "new_york")
    assert [found[f"new_york/zone {i:02}"].y[0, 0] for i in (1, 3, 6)] == [750, 757, 750]


def test_0_is_a_count_but_in_birmingham(tmp_path: Path) -> None:
    values = TENSORS["hangzhou"].copy()
    values[0] = 0
    (tmp_path / "hangzhou_tensor.mat").write_bytes(mat(values))
    assert len(clients(tmp_path, "hangzhou")["hangzhou/station 01"].y) == 25 * 91


@pytest.mark.parametrize("name", list(CITIES))
def test_weekends_are_those_of_the_calendar(name: str) -> None:
    city = CITIES[name]
    days = [city.first + timedelta(days=i) for i in range(city.shape[1])]
    weekend = calendar(city)[2]
    assert [bool(day.all()) for day in weekend] == [day.isoweekday() in (6, 7) for day in days]
    assert ((weekend == 0) | (weekend == 1)).all()
    last = {"hangzhou": date(2019, 1, 25), "new_york": date(2018, 6, 30), "birmingham": date(2016, 12, 19)}
    assert days[-1] == last.get(name, date(2012, 3, 7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"city": "bergen"}, "unknown traffic city 'bergen'"),
        ({"city": "birmingham", "history": 17}, "history is 17 steps, not from 1 to 16 in birmingham"),
        ({"history": -1}, "history is -1 steps, not from 1 to 2004 in los_angeles"),
        ({"stride": 0}, "stride is 0 steps, not from 1 to 23 in los_angeles"),
        ({"stride": 24}, "stride is 24 steps, not from 1 to 23 in los_angeles"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Traffic(**options)


# Leaks


def moments_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of files made here: every value tells its moment, to a tenth of a step of Los Angeles'."""
    found: np.ndarray = np.rint(np.concatenate([x[:, :, 0], y], axis=1) * 100)
    return found


@pytest.mark.parametrize(
    ("city", "stride", "gap"),
    [
        ("los_angeles", 7, 3), ("hangzhou", 1, 17), ("hangzhou", 17, 1), ("birmingham", 1, 5), ("birmingham", 4, 1),
        ("new_york", 1, 24), ("new_york", 12, 2),
    ],
)  # fmt: skip
def test_no_moment_is_on_both_sides_of_a_split(files: Path, city: Any, stride: int, gap: int) -> None:
    store = load("traffic", Traffic(city=city, stride=stride), raw=files, progress=False)
    assert store.about["spec"]["window"] == gap
    assert shared(store, moments_of) == []
    # At a day's end a smaller gap may do; where no night helps, every client's moments would be on both sides.
    leaks = shared(with_gap(store, gap - 1), moments_of)
    assert len(leaks) == len(store) if city in ("los_angeles", "new_york") else leaks


# Faults


def broken(files: Path, folder: Path, old: str, new: str | None) -> Path:
    """Los Angeles' file with new in old's place; None: it ends there."""
    before = (files / "los_speed.csv").read_text()
    place = before.index(old)
    (folder / "los_speed.csv").write_text(before[:place] + ("" if new is None else new + before[place + len(old) :]))
    return folder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("700005,", "700006,", "does not begin with the ids of 207 sensors"),
        ("700005,", "", "does not begin with the ids of 207 sensors"),
        ("700005,", "7000.5,", "does not begin with the ids of 207 sensors"),
        ("\n80.6,", None, "ends in the middle of a line"),
        ("80.6,", None, "has 2,015 steps of five minutes instead of 2,016"),
        ("\n0.04,0.05,", "\n0.04,", "is not a table of numbers .*the number of columns changed"),
        ("\n0.04,0.05,", "\n0.04,,", "is not a table of numbers .*could not convert string ''"),
        ("\n0.04,0.05,", "\n0.04,nan,", "has nan in row 2, column 2"),
        ("\n0.04,0.05,", "\n0.04,100.5,", "has a speed of 100.5 mph at sensor 700001, step 2"),
        ("\n0.04,0.05,", "\n0.04,-1,", "has a speed of -1 mph at sensor 700001, step 2"),
        ("700000", None, "does not begin with the ids of 207 sensors"),
    ],
)
def test_faults_of_the_speeds_are_named(files: Path, tmp_path: Path, old: str, new: str | None, message: str) -> None:
    with pytest.raises(DataError, match=rf"los_speed\.csv {message}.*: put los_speed\.csv") as caught:
        clients(broken(files, tmp_path, old, new), "los_angeles")
    assert "\n" not in str(caught.value)


GOOD = TENSORS["birmingham"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (mat(GOOD[:, :76]), r"holds numbers of shape \[30, 76, 18\], not \[30, 77, 18\]"),
        (mat(GOOD + 0.5), r"has a count of [0-9]*\.5"),
        (mat(GOOD.astype(np.int16) - 2), "has a count of -1"),
        (mat(GOOD, "sensor"), r"is not a whole MATLAB file of version 5 \(it has no variable tensor\)"),
        (mat({"a": 1}), r"is not a whole MATLAB file of version 5 \(tensor is no matrix of numbers\)"),
        (mat(GOOD)[:-100], "is not a whole MATLAB file"),
        (b"", "is not a whole MATLAB file"),
        (b"tensor", "is not a whole MATLAB file"),
    ],
)
def test_faults_of_the_tensors_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "birmingham_tensor.mat").write_bytes(data)
    with pytest.raises(DataError, match=rf"birmingham_tensor\.mat {message}.*: put los_speed\.csv") as caught:
        clients(tmp_path, "birmingham")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("city", list(CITIES))
def test_missing_files_are_named(tmp_path: Path, city: Any) -> None:
    with pytest.raises(DataError, match=rf"no {CITIES[city].file} in .*: put los_speed\.csv"):
        clients(tmp_path, city)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.floats(0, 1, exclude_max=True), kind=st.sampled_from(["change", "cut", "insert"]), byte=st.integers(0, 255)
)
def test_bytes_of_a_tensor_changed_cut_or_inserted(tmp_path: Path, place: float, kind: str, byte: int) -> None:
    """What is read then is what was written, or nothing: the file is packed, and packed data have a checksum."""
    before = mat(np.random.default_rng(0).integers(1, 900, GOOD.shape).astype(np.uint16))
    at = int(place * len(before))
    after = {"change": bytes([byte]) + before[at + 1 :], "cut": b"", "insert": bytes([byte]) + before[at:]}[kind]
    wanted = _read(tmp_path, before)
    assert _read(tmp_path, before[:at] + after) in (wanted, None)


def _read(folder: Path, data: bytes) -> list[bytes] | None:
    """What clients have; None for a DataError of one sentence."""
    (folder / "birmingham_tensor.mat").write_bytes(data)
    try:
        return [client.x.tobytes() + client.y.tobytes() for client in clients(folder, "birmingham").values()]
    except DataError as error:
        if "\n" in str(error):
            raise
        return None


# The publishers' files


@pytest.mark.parametrize(
    ("city", "places", "windows"),
    [("los_angeles", 207, 412_551), ("hangzhou", 80, 182_000), ("birmingham", 30, 24_847), ("new_york", 30, 43_200)],
)
def test_the_cities(city: Any, places: int, windows: int) -> None:
    found = list(Traffic(city=city).clients(real(city)))
    assert len(found) == places
    assert sum(len(client.y) for client in found) == windows
    assert all(len(client.y) > 50 for client in found)
    most = max(client.y.max() for client in found)
    assert most == {"los_angeles": 70, "hangzhou": 3334, "birmingham": 4327}.get(city, most)


def test_weekends_are_where_the_calendar_has_them() -> None:
    """No file bears dates. At weekends fewer go by metro or park, roads are faster, and taxis are out at night."""
    for city in get_args(Name):
        last = np.concatenate([client.x[:, -1] for client in Traffic(city=city).clients(real(city))])
        if city == "new_york":
            last = last[np.isclose(last[:, 1], np.sin(np.pi / 4)) & (last[:, 2] > 0)]  # 3:00
        weekend, other = (last[last[:, 3] == flag, 0].mean() for flag in (1, 0))
        assert (weekend > 1.03 * other) if city in ("los_angeles", "new_york") else (weekend < 0.97 * other), city
