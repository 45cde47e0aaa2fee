"""Four cities in one form: every place measured by its own first day, and cities left out as new environments."""

import os
from pathlib import Path

import numpy as np
import pytest
from moments import shared, with_gap

from metaleaf.data.client_store import ClientStore
from metaleaf.data.prepare import load
from metaleaf.datasets.traffic import CITIES, City, calendar
from metaleaf.datasets.traffic_cities import TrafficCities, examples
from metaleaf.errors import ConfigError
from metaleaf.raw import RawFiles

ALL = {"los_angeles": 207, "hangzhou": 80, "birmingham": 30, "new_york": 30}


def hours(city: City) -> np.ndarray:
    """Counts [days, hours of a day] that tell their hour, from 1 on."""
    _, days, steps = city.shape
    found: np.ndarray = 1.0 + np.arange(days * steps // city.hour).reshape(days, -1)
    return found


def times(city: City) -> np.ndarray:
    found: np.ndarray = calendar(city)[:, :, :: city.hour]
    return found


def test_a_places_first_day_measures_all_later_ones() -> None:
    city = CITIES["hangzhou"]
    x, y = examples(hours(city), times(city), city)
    assert x.shape == (24 * 14, 4, 4), "18 hours a day, and no window over night"
    assert x.dtype == y.dtype == np.float32
    mean, sd = np.arange(1, 19).mean(), np.arange(1, 19).std()
    np.testing.assert_allclose(x[0, :, 0], (np.arange(19, 23) - mean) / sd, rtol=1e-6)
    np.testing.assert_allclose(y[:2, 0], (np.array([23, 24]) - mean) / sd, rtol=1e-6)
    np.testing.assert_allclose(x[14, 0, 0], (37 - mean) / sd, rtol=1e-6, err_msg="the third day's first")
    np.testing.assert_allclose(x[14, 0, 1:], [1, 0, 0], atol=1e-6, err_msg="6:00 on a Thursday")


def test_the_day_that_measures_is_whole_and_does_not_stand_still() -> None:
    city = CITIES["birmingham"]
    values = hours(city)
    values[0, 3], values[1], values[3, 8] = np.nan, 7, np.nan
    x, y = examples(values, times(city), city)
    own = values[2]
    np.testing.assert_allclose(x[0, :, 0], (values[3, :4] - own.mean()) / own.std(), rtol=1e-6)
    assert len(y) == 74 * 5 - 1, "without the window that ends in a missing hour"


@pytest.mark.parametrize("name", ["birmingham", "los_angeles"])
def test_a_place_that_stands_still_has_no_examples(name: str) -> None:
    city = CITIES[name]
    still = np.full_like(hours(city), 5.0)
    assert examples(still, times(city), city)[0].shape == (0, 4, 4)
    still[-1] = hours(city)[-1]
    assert examples(still, times(city), city)[1].shape == (0, 1), "the last day has none after it"


def test_what_comes_later_does_not_change_what_was_known() -> None:
    city = CITIES["new_york"]
    values = hours(city)
    before, _ = examples(values, times(city), city)
    values[30, 12:] *= 3
    values[31:] *= 3
    after, _ = examples(values, times(city), city)
    differ = np.flatnonzero((before != after).any(axis=(1, 2)))
    assert differ[0] == 29 * 24 + 12 - 3, "the first window with the hour that changed"


def test_a_city_can_be_left_out_for_new_environments() -> None:
    dataset = TrafficCities(left_out="hangzhou")
    assert [dataset._environment("hangzhou", i) for i in range(3)] == [
        "test/hangzhou 1", "test/hangzhou 2", "test/hangzhou 1",
    ]  # fmt: skip
    assert [dataset._environment("new_york", i) for i in range(2)] == ["train/new_york", "validation/new_york"]
    assert TrafficCities()._environment("new_york", 1) == "new_york"
    with pytest.raises(ConfigError, match="unknown traffic city 'bergen'"):
        TrafficCities(left_out="bergen")


@pytest.mark.parametrize("name", list(ALL))
def test_no_hour_is_on_both_sides_of_a_split(name: str) -> None:
    city = CITIES[name]
    x, y = examples(hours(city), times(city), city)
    clients = 12
    offsets = len(y) * np.arange(clients + 1)
    ids = np.array([f"place {i}" for i in range(clients)])
    spec = {"window": TrafficCities.spec.window, "x_shape": [4, 4], "y_shape": [1]}
    about = {"name": "traffic_cities", "spec": spec, "data_hash": "d"}
    store = ClientStore(np.tile(x, (clients, 1, 1)), np.tile(y, (clients, 1)), offsets, ids, ids, about)

    def moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.rint(1000 * np.concatenate([x[:, :, 0], y], axis=1))
        return found

    assert shared(store, moments) == []
    assert not city.all_day or len(shared(with_gap(store, 3), moments)) == clients


def test_the_cities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: it names the folder with traffic/")
    if missing := [city.file for city in CITIES.values() if not RawFiles("traffic", download=False).find(city.file)]:
        pytest.skip(f"METALEAF_RAW has no {' or '.join(missing)}")
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path))
    store = load("traffic_cities", TrafficCities(), progress=False)
    names, counts = np.unique(store.environments, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == ALL
    assert len(store.y) == 108_101
    assert store.about["empty_clients"] == []
