"""Small federations of every kind, prepared, and what else the tests of exchange share."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaleaf.config.config import build
from metaleaf.data import manifest, prepare
from metaleaf.data.client_store import ClientStore
from metaleaf.dataset import Client, Dataset, Spec
from metaleaf.errors import UserError
from metaleaf.raw import RawFiles

PLUGINS = {"leaf": "leaf_json", "parquet": "huggingface", "huggingface": "huggingface"}
"""What reads an export."""


@dataclass(frozen=True)
class Toy:
    """Clients that somebody has made."""

    spec: Spec
    made: tuple[Client, ...]

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        return iter(self.made)


def spec(x: np.ndarray, **of: Any) -> Spec:
    plain: dict[str, Any] = {"version": "2.1.0", "model": "mlp", "licence": "CC0", "homepage": "", "citation": ""}
    return Spec(**{**plain, "x_shape": x.shape[1:], "x_dtype": x.dtype.name, "classes": 3, **of})


def _toy(x: np.ndarray, y: np.ndarray, ids: tuple[str, ...] = ("b", "a", "c"), **of: Any) -> Toy:
    """Twelve examples, the last of the ids with most of them."""
    cuts = [2, 5]
    groups = np.arange(len(x)) // 2 if of.get("grouped") else None
    parts = [np.split(array, cuts) for array in (x, y)]
    grouped = np.split(groups, cuts) if groups is not None else [None] * 3
    places = of.pop("environments", ("", "", ""))
    clients = zip(ids, places, *parts, grouped, strict=True)
    return Toy(spec(x, **of), tuple(Client(*each) for each in clients))


def toys() -> dict[str, Toy]:
    rng = np.random.default_rng(3)
    floats, y = rng.normal(size=(12, 4)).astype(np.float32), np.arange(12, dtype=np.uint8) % 3
    images = rng.integers(0, 256, (12, 5, 5, 3), dtype=np.uint8)
    gaps = np.where(rng.random((12, 4)) < 0.3, np.nan, floats).astype(np.float32)
    numbers = rng.normal(size=12).astype(np.float32)
    return {
        "floats": _toy(floats, y),
        "float64": _toy(floats.astype(np.float64) / 3, y),
        "images": _toy(images, y, model="resnet8"),
        "symbols": _toy(rng.integers(0, 300, (12, 7), dtype=np.uint16), y, model="gru"),
        "bool": _toy(floats > 0, y),
        "regression": _toy(floats, numbers, classes=0, y_dtype="float32", task={"name": "regression", "unit": "kW"}),
        "forecast": _toy(
            rng.normal(size=(12, 6, 2)).astype(np.float32),
            rng.normal(size=(12, 3)).astype(np.float32),
            classes=0,
            y_dtype="float32",
            y_shape=(3,),
            task="forecast",
            window=4,
            standardise="series",
        ),
        "multilabel": _toy(floats, rng.integers(0, 2, (12, 3)), classes=2, y_shape=(3,), task="multilabel"),
        "sequence": _toy(
            images[:, 0, :, 0], rng.integers(-1, 9, (12, 5)), classes=9, y_shape=(5,), y_dtype="int16", task="sequence"
        ),
        "labels": _toy(floats, y, labels=("no", "ja", "vielleicht")),
        "environments": _toy(floats, y, environments=("nord", "süd", "nord")),
        "unicode": _toy(floats, y, ids=("ключ", 'a "b"\\\n', "山")),
        "grouped": _toy(floats, y, grouped=True),
        "gaps": _toy(gaps, y, standardise="x"),
        "single": _toy(floats[:, :1], y, model="logistic"),
    }


def prepared(made: Dataset, name: str = "toy") -> ClientStore:
    """What `metaleaf.data.prepare` would make of it, in memory: without its records, which take most of the time."""
    seen = prepare._Seen()
    raw = RawFiles(name, shown=False)
    clients = list(prepare._checked(name, made, raw, seen))
    arrays = {name: np.concatenate([getattr(client, name) for client in clients]) for name in ("x", "y")}
    arrays["offsets"] = np.concatenate(([0], np.cumsum(seen.counts, dtype=np.int64)))
    arrays |= {"ids": np.array(seen.ids), "environments": np.array(seen.environments)}
    if made.spec.grouped:
        arrays["groups"] = np.concatenate([client.groups for client in clients if client.groups is not None])
    about = {
        "name": name,
        "version": made.spec.version,
        "spec": json.loads(json.dumps(asdict(made.spec))),
        "clients": len(clients),
        "samples": sum(seen.counts),
        "data_hash": manifest.data_hash({f"{name}.npy": _sha256(array) for name, array in arrays.items()}),
        "raw": raw.used(),
    }
    return ClientStore(**arrays, about=about)


def _sha256(array: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, array)
    return hashlib.sha256(file.getvalue()).hexdigest()


def plugin(name: str, path: Path | str, **options: Any) -> Dataset:
    made: Dataset = build("datasets", name, {"path": str(path), **options})
    return made


def imported(name: str, path: Path | str, **options: Any) -> ClientStore:
    """What a plugin makes of a file or folder."""
    return prepared(plugin(name, path, **options), name)


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    """Cut, flipped in up to three bytes, or with some put in."""
    where = int(draw.integers(0, len(data)))
    kind = draw.integers(0, 4)
    if kind == 0:
        return data[:where]
    if kind == 1:
        return data[:where] + draw.bytes(int(draw.integers(1, 9))) + data[where:]
    changed = bytearray(data)
    for place in draw.integers(0, len(data), int(draw.integers(1, 4))):
        changed[place] ^= int(draw.integers(1, 256))
    return bytes(changed)


def outcome(name: str, path: Path, **options: Any) -> ClientStore | str:
    """The data, or the one sentence that a file is refused with; anything else that is raised fails a test."""
    try:
        return imported(name, path, **options)
    except UserError as error:
        return str(error)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data home and a current folder of one's own."""
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
