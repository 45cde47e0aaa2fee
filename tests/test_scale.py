"""Scaling by training clients: what it is made of, what it leaves in the data's own units, and that nothing leaks."""

import json
import runpy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import metaleaf as ml
from metaleaf import registry
from metaleaf.config.config import Protocol
from metaleaf.data.client_store import ClientStore
from metaleaf.data.federation import Federation
from metaleaf.data.scale import Scale
from metaleaf.dataset import Client, Spec
from metaleaf.errors import DataError
from metaleaf.reuse.export import export

NUMBERS: dict[str, Any] = {"classes": 0, "y_shape": [], "y_dtype": "float32", "window": 0}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_brought", {})


def rules(**options: Any) -> Protocol:
    return Protocol(**options)


def store(x: np.ndarray, y: np.ndarray, clients: int, **spec: Any) -> ClientStore:
    """Clients of equally many examples."""
    about = {"name": "made_up", "spec": {"x_shape": list(x.shape[1:]), **NUMBERS, **spec}, "data_hash": "d"}
    offsets = np.linspace(0, len(y), clients + 1).astype(np.int64)
    ids = np.array([f"client{i}" for i in range(clients)])
    return ClientStore(x, y, offsets, ids, np.array([""] * clients), about)


def some(clients: int = 10, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.normal([5, -300], [2, 40], (clients * size, 2)).astype(np.float32)
    return x, (1000 + 50 * rng.normal(size=clients * size)).astype(np.float32)


def rows(federation: Federation, clients: Any) -> np.ndarray:
    offsets = federation.store.offsets
    return np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in clients])


def test_figures_are_those_of_the_training_clients() -> None:
    x, y = some()
    found = Federation(store(x, y, 10, standardise="xy"), rules(), 1)
    trained = rows(found, found.clients["train"])
    given = found.scale.given
    np.testing.assert_allclose(given["x_mean"], x[trained].mean(0, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(given["x_sd"], x[trained].std(0, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(given["y_mean"], y[trained].mean(dtype=float), rtol=1e-6)
    episodes = [found.episode(int(i), 1).data for i in found.clients["train"]]
    learnt = torch.cat([shots.x for shots in episodes])
    assert learnt.dtype == torch.float32
    np.testing.assert_allclose(learnt.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(learnt.std(0, correction=0), 1, atol=1e-5)
    assert torch.cat([shots.y for shots in episodes]).std(correction=0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("part", ["validation", "test", "held out"])
def test_nothing_is_learnt_of_whom_nobody_trains_on(part: str) -> None:
    """Plant a huge value there: the scale of all others stays as it was, to the bit."""
    x, y = some()
    protocol = rules(held_out=0.25)
    before = Federation(store(x, y, 10, standardise="xy"), protocol, 1)
    if part == "held out":
        client = int(before.clients["train"][0])
        planted = before.store.offsets[client] + before._held_rows(client)
    else:
        planted = rows(before, before.clients[part])
    x, y = x.copy(), y.copy()
    x[planted] *= 1e6
    y[planted] *= 1e6
    after = Federation(store(x, y, 10, standardise="xy"), protocol, 1)
    assert after.scale.given == before.scale.given
    seen = before.episode(int(before.clients["train"][1]), 1).data.x
    assert torch.equal(after.episode(int(after.clients["train"][1]), 1).data.x, seen)


def test_a_leak_would_be_seen() -> None:
    """The planted value does change the scale where a training client learns from it."""
    x, y = some()
    before = Federation(store(x, y, 10, standardise="x"), rules(), 1).scale
    x[rows(Federation(store(x, y, 10), rules(), 1), [0, 1, 2, 3])] *= 1e6
    assert Federation(store(x, y, 10, standardise="x"), rules(), 1).scale.given != before.given


def test_what_was_not_measured_is_the_mean() -> None:
    x, y = some()
    x[::3, 0] = np.nan
    found = Federation(store(x, y, 10, standardise="x"), rules(), 1)
    trained = rows(found, found.clients["train"])
    np.testing.assert_allclose(found.scale.given["x_mean"], np.nanmean(x[trained], 0, dtype=float), rtol=1e-6)
    client = int(found.clients["test"][0])
    own = x[rows(found, [client])]
    seen = found.support_query(client, 0.5)
    values = torch.cat([shots.x for shots in seen])[:, 0]
    assert torch.isfinite(values).all()
    assert int((values == 0).sum()) == np.isnan(own[:, 0]).sum()


def test_a_number_that_never_changes_and_one_that_was_never_measured_stay() -> None:
    x = np.stack([np.full(40, 7.0), np.full(40, np.nan)], 1).astype(np.float32)
    found = Scale.of({"standardise": "x", "x_shape": [2]}, lambda: [(x, np.zeros(40))])
    np.testing.assert_array_equal(found.x(x), np.zeros((40, 2)))
    np.testing.assert_array_equal(found.x(np.array([[9.0, 3.0]], np.float32)), [[2.0, 3.0]])


@pytest.mark.parametrize(
    ("shape", "standardise", "expected"),
    [((3,), "x", (3,)), ((6, 3), "x", (3,)), ((6,), "series", ()), ((6, 3), "series", (3,)), ((2, 2, 3), "x", (3,))],
)
def test_numbers_have_their_own_scale_and_series_one_a_channel(
    shape: tuple[int, ...], standardise: str, expected: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32)
    spec = {"standardise": standardise, "x_shape": shape, "y_shape": [2]}
    found = Scale.of(spec, lambda: [(x, np.ones((20, 2)))])
    assert found.x_mean is not None
    assert found.x_mean.shape == expected


@pytest.mark.parametrize("channels", [0, 2])
def test_a_series_goes_on_in_y(channels: int) -> None:
    """Its last value is a forecast in y's units, whatever the scale: the constant answer of forecasting."""
    rng = np.random.default_rng(1)
    series = rng.normal(60, 9, (30, 6)).astype(np.float32)
    x = series[:, :4] if not channels else np.stack([series[:, :4], rng.normal(size=(30, 4))], -1).astype(np.float32)
    spec = {"standardise": "series", "x_shape": x.shape[1:], "y_shape": [2]}
    found = Scale.of(spec, lambda: [(x, series[:, 4:])])
    last = found.x(x)[:, -1] if not channels else found.x(x)[:, -1, 0]
    np.testing.assert_allclose(found.in_units(last[:, None])[:, 0], series[:, 3], rtol=1e-5)


def test_a_record_keeps_the_scale() -> None:
    x, y = some()
    found = Federation(store(x, y, 10, standardise="xy"), rules(), 1).scale
    again = Scale.from_record(json.loads(json.dumps(found.given)))
    assert again.given == found.given
    assert not Scale.from_record(None).given
    assert not Scale().given


@dataclass(frozen=True)
class Wages:
    """A number far from 0 in units of its own; clients differ in what it depends on."""

    standardise: Any = "xy"

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(2,),
        x_dtype="float32",
        classes=0,
        y_dtype="float32",
        model="logistic",
        licence="",
        homepage="",
        citation="",
        task={"name": "regression", "metrics": ["rmse", "mae", "r2"], "unit": "EUR"},
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", replace(self.spec, standardise=self.standardise))

    def clients(self, raw: Any) -> Iterator[Client]:
        rng = np.random.default_rng(0)
        for i in range(30):
            x = rng.normal([40, 3], [10, 2], (20, 2)).astype(np.float32)
            x[0, 1] = np.nan if self.standardise else 3.0
            y = 2000 + 30 * (x[:, 0] - 40) + rng.normal(0, 5, 20)
            yield Client(f"c{i}", "", x, y.astype(np.float32))


def test_scores_and_answers_are_in_the_datas_own_units() -> None:
    result = ml.run("fedavg", ml.load(Wages()), rounds=60, clients_per_round=10, test_supports=[0.5], progress=False)
    clients = result.clients
    last = clients[clients["step"] == clients["step"].max()]
    rmse = np.sqrt(last["squared_error"].sum() / last["n"].sum())
    constant = np.sqrt(last["constant_squared_error"].sum() / last["n"].sum())
    assert 200 < constant < 450, "the support's mean is off by the 300 that x moves y"
    assert rmse < 60, "a model of scaled data answers in euros"
    x, y = _support()
    np.testing.assert_allclose(result.adapt(x, y)(x), y, atol=60)


def _support() -> tuple[np.ndarray, np.ndarray]:
    x = np.array([[40, 3], [50, 3], [30, 2]], np.float32)
    return x, np.array([2000, 2300, 1700], np.float32)


def test_an_exported_model_takes_and_gives_the_datas_own_units(tmp_path: Path) -> None:
    result = ml.run("fedavg", ml.load(Wages()), rounds=60, clients_per_round=10, test_supports=[0.5], progress=False)
    _, loader = export(result.path, tmp_path / "wages.safetensors")
    model = runpy.run_path(str(loader))["model"]
    x, y = _support()
    with torch.no_grad():
        found = model(torch.from_numpy(x))[:, 0]
        unknown = model(torch.tensor([[40.0, torch.nan]]))
    np.testing.assert_allclose(found, y, atol=60)
    assert torch.isfinite(unknown).all()


def test_nan_is_for_data_that_are_standardised_only() -> None:
    @dataclass(frozen=True)
    class Bare(Wages):
        standardise: Any = ""

        def clients(self, raw: Any) -> Iterator[Client]:
            yield Client("c", "", np.array([[1, np.nan]], np.float32), np.ones(1, np.float32))

    with pytest.raises(DataError, match="client 'c' has a value that is not a finite number"):
        ml.run("fedavg", ml.load(Bare()), progress=False)
