"""A dataset small enough for the tests to run suites on in a moment, and prepared stores of it."""

from pathlib import Path
from typing import Any

import numpy as np

from metaleaf.config.config import Protocol, RunConfig, resolve
from metaleaf.data.client_store import ClientStore

SPEC = {"version": "1.0.0", "x_shape": [4], "x_dtype": "float32", "classes": 3, "window": 0}


def store(clients: int = 30, seed: int = 0, sizes: list[int] | None = None) -> ClientStore:
    """Clients of two kinds whose labels need opposite models, so that adapting pays."""
    rng = np.random.default_rng(seed)
    counts = np.array(sizes) if sizes else rng.integers(10, 40, clients)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    x = rng.normal(size=(offsets[-1], 4)).astype(np.float32)
    weights = rng.normal(size=(4, 3)) * 3
    y = np.empty(offsets[-1], np.uint8)
    for i in range(len(counts)):
        rows = slice(offsets[i], offsets[i + 1])
        y[rows] = (x[rows] @ (weights if i % 2 else -weights)).argmax(1)
    ids = np.array([f"client-{i:03d}" for i in range(len(counts))])
    about: dict[str, Any] = {"name": "coins", "spec": SPEC, "data_hash": "0" * 64}
    return ClientStore(x, y, offsets, ids, np.array(["mint"] * len(counts)), about)


def config(
    algorithm: str, seed: int = 1, *, hyperparameters: dict[str, Any] | None = None, **protocol: Any
) -> RunConfig:
    """A run of 6 rounds on the coins; the dataset's name only labels it."""
    values = {"rounds": 6, "clients_per_round": 5, "evaluate_every": 2, "test_supports": (0.2, 0.5), **protocol}
    return RunConfig(
        suite="coins",
        dataset_label="coins",
        algorithm_label=algorithm,
        title=algorithm,
        dataset="synthetic",
        dataset_options={},
        model="logistic",
        algorithm=algorithm,
        hyperparameters=resolve("algorithms", algorithm, hyperparameters or {}),
        protocol=Protocol(**values),
        seed=seed,
    )


def read_all(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
