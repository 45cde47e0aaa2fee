"""Small federations of every kind of task, whose clients need models of their own."""

from functools import partial
from typing import Any

import coins
import numpy as np
import torch
from small_tasks import episodes_of
from torch import Tensor, nn

from metaleaf import models, tasks
from metaleaf.config.config import RunConfig
from metaleaf.data.client_store import ClientStore
from metaleaf.shots import Episode, Shots
from metaleaf.task import Task

STEPS, SYMBOLS = 6, 5
SPECS: dict[str, dict[str, Any]] = {
    "multiclass": {"x_shape": [4], "x_dtype": "float32", "classes": 3},
    "binary": {"x_shape": [4], "x_dtype": "float32", "classes": 2},
    "multilabel": {"x_shape": [4], "x_dtype": "float32", "classes": 2, "y_shape": [3], "y_dtype": "uint8"},
    "regression": {"x_shape": [4], "x_dtype": "float32", "classes": 0, "y_dtype": "float32"},
    "forecast": {"x_shape": [STEPS], "x_dtype": "float32", "classes": 0, "y_shape": [2], "y_dtype": "float32"},
    "survival": {"x_shape": [4], "x_dtype": "float32", "classes": 0, "y_shape": [2], "y_dtype": "float32"},
    "sequence": {"x_shape": [STEPS], "x_dtype": "uint8", "classes": SYMBOLS, "y_shape": [STEPS], "y_dtype": "int8"},
}
MODELS = dict.fromkeys(SPECS, "logistic") | {"sequence": "positions"}


class Positions(models.Model):
    """A class at every position, from the symbol there."""

    def __init__(self, outputs: int, positions: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(outputs, 8)
        self.out = nn.Linear(8, outputs)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[n, positions, 8]."""
        found: Tensor = self.embedding(x.long())
        return found


def spec(kind: str) -> dict[str, Any]:
    """As a prepared dataset has it."""
    return {"version": "1.0.0", "window": 0, "task": kind, **SPECS[kind]}


def drawn(kind: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One client's examples."""
    if kind == "sequence":
        x = rng.integers(0, SYMBOLS, (n, STEPS)).astype(np.uint8)
        y = (x.astype(np.int64) + rng.integers(1, 3)) % SYMBOLS
        return x, np.where(rng.random(y.shape) < 0.2, -1, y).astype(np.int8)
    if kind == "forecast":
        times = rng.uniform(0, 50, (n, 1)) + np.arange(STEPS + 2) * rng.uniform(0.2, 0.6)
        series = np.sin(times) + rng.normal(0, 0.05, times.shape)
        return series[:, :STEPS].astype(np.float32), series[:, STEPS:].astype(np.float32)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    logits = x @ rng.normal(size=(4, 3)) + rng.normal(size=3)
    if kind == "multiclass":
        return x, logits.argmax(1).astype(np.uint8)
    if kind == "multilabel":
        return x, (logits > 0).astype(np.uint8)
    if kind == "survival":
        times, seen = rng.exponential(np.exp(-logits[:, 0])), rng.exponential(2, n)
        return x, np.stack([np.minimum(times, seen), times <= seen], 1).astype(np.float32)
    value = logits[:, 0] + rng.normal(0, 0.1, n)
    return (x, value.astype(np.float32)) if kind == "regression" else (x, (value > 0).astype(np.uint8))


def store(kind: str, clients: int = 60) -> ClientStore:
    """A prepared dataset."""
    rng = np.random.default_rng(0)
    counts = rng.integers(12, 40, clients)
    parts = [drawn(kind, n, rng) for n in counts]
    x, y = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    about: dict[str, Any] = {"name": kind, "spec": spec(kind), "data_hash": "3" * 64}
    ids = np.array([f"client-{i:03d}" for i in range(clients)])
    return ClientStore(x, y, np.concatenate([[0], np.cumsum(counts)]), ids, np.array(["here"] * clients), about)


def config(kind: str, algorithm: str = "fedavg_meta", task: Any = None, seed: int = 1, **protocol: Any) -> RunConfig:
    """A run of a few rounds."""
    rate = 0.03 if kind in ("regression", "forecast") else 0.3
    hyperparameters = {"adapt_lr": rate, "adapt_steps": 20} if algorithm == "fedavg_meta" else {}
    found = coins.config(algorithm, seed, hyperparameters=hyperparameters, **protocol)
    return found.model_copy(update={"dataset_label": kind, "model": MODELS[kind], "task": task})


def shots(kind: str, n: int, seed: int) -> Shots:
    """As algorithms see a client's examples."""
    x, y = drawn(kind, n, np.random.default_rng(seed))
    y_dtype = tasks.of(spec(kind)).y_dtype
    return Shots(torch.from_numpy(x), torch.from_numpy(y.astype(y_dtype)), torch.tensor(1000 + seed))


def cohort(kind: str) -> list[Episode]:
    """Clients of several sizes."""
    return episodes_of(partial(shots, kind), [(3, 4), (2, 2), (6, 9), (4, 3)])


def task(kind: str, dtype: torch.dtype = torch.float64) -> Task:
    """With the kind's small model."""
    own = tasks.of(spec(kind))
    if kind == "sequence":
        model: models.Model = Positions(SYMBOLS, STEPS)
    else:
        model = models.build("logistic", spec(kind), 7, own)
    return Task(model.to(dtype), kind=own, seed=7, clients=9, cohort=4)
