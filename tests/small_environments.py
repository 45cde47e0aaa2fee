"""Stores of a few small environments, and runs on them, that several tests share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from softmax_by_hand import ALL, QUERIES, SUPPORTS, Array, Data
from torch import Tensor

from metaleaf.config.config import NewEnvironments, Protocol, RunConfig, Start, resolve
from metaleaf.data.client_store import ClientStore
from metaleaf.shots import EnvironmentEpisode, Shots

SPEC = {"version": "1.0.0", "x_shape": [2], "x_dtype": "float32", "classes": 3, "window": 0}

RULES: dict[str, Any] = {
    "budget": 200,
    "environments_per_round": 2,
    "participants": 3,
    "train_participants": (2, 4),
    "queries": 2,
    "members": 6,
    "rounds": (0, 1, 3),
    "validation_rounds": (0, 1),
    "scored": 3,
    "draws": 2,
    "local_steps": 2,
    "local_lr": 0.5,
}


def store(environments: int | Mapping[str, Sequence[int]] = 12, *, seed: int = 0, data_hash: str = "e") -> ClientStore:
    """Environments by name with their clients' sizes; a number: so many, of 8 clients with 4 to 12 examples.

    Every environment turns the inputs by an angle of its own before the same model labels them.
    """
    rng = np.random.default_rng(seed)
    if isinstance(environments, int):
        environments = {f"env-{i:02d}": rng.integers(4, 13, 8).tolist() for i in range(environments)}
    model, names, counts, xs, ys = rng.normal(size=(2, 3)) * 3, [], [], [], []
    for name, sizes in environments.items():
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        for n in sizes:
            x = rng.normal(size=(n, 2))
            names.append(name)
            counts.append(n)
            xs.append(x.astype(np.float32))
            ys.append((x @ turn @ model).argmax(1).astype(np.uint8))
    # Clients of one environment are not neighbours in a store.
    order = rng.permutation(len(names))
    return ClientStore(
        x=np.concatenate([xs[i] for i in order]),
        y=np.concatenate([ys[i] for i in order]),
        offsets=np.concatenate([[0], np.cumsum([counts[i] for i in order])]).astype(np.int64),
        ids=np.array([f"client-{i:03d}" for i in range(len(names))]),
        environments=np.array([names[i] for i in order]),
        about={"name": "turned", "spec": SPEC, "data_hash": data_hash},
    )


def rules(**changes: Any) -> NewEnvironments:
    return NewEnvironments(**{**RULES, **changes})


def config(
    algorithm: str,
    seed: int = 1,
    *,
    hyperparameters: dict[str, Any] | None = None,
    start: dict[str, Any] | None = None,
    protocol: dict[str, Any] | None = None,
    **environments: Any,
) -> RunConfig:
    """A run on the store above."""
    values = {"clients_per_round": 5, "evaluate_every": 2, "support": 0.5, **(protocol or {})}
    given = Start(**start) if start else None
    if given:
        whole = resolve("algorithms", given.name, given.hyperparameters)
        given = given.model_copy(update={"hyperparameters": whole})
    return RunConfig(
        suite="turned",
        dataset_label="turned",
        algorithm_label=algorithm,
        title=algorithm,
        dataset="synthetic",
        dataset_options={},
        model="logistic",
        algorithm=algorithm,
        hyperparameters=resolve("algorithms", algorithm, hyperparameters or {}),
        protocol=Protocol(**values, environments=rules(**environments)),
        seed=seed,
        start=given,
    )


# ------------------------------------------------------------------- an environment of the clients of softmax_by_hand

PARTICIPANTS = ALL
SHARES = [3 / 8, 5 / 8]
JUDGES = [SUPPORTS[1], QUERIES[0]]
JUDGE_SHARES = [0.6, 0.4]


def padded(clients: Sequence[Data], size: int, rows: int, junk: float = 0.0) -> Shots:
    """Clients stacked, padded to `size` clients and `rows` rows; what only pads is full of junk."""
    x, y = np.full((size, rows, 2), junk), np.zeros((size, rows), np.int64)
    mask = np.zeros((size, rows), bool)
    for i, (features, labels) in enumerate(clients):
        n = len(labels)
        x[i, :n], y[i, :n], mask[i, :n] = features, labels, True
    return Shots(torch.tensor(x), torch.tensor(y), torch.arange(size), torch.tensor(mask))


def shares(values: Sequence[float], size: int) -> Tensor:
    return torch.tensor([*values, *[0.0] * (size - len(values))], dtype=torch.float64)


def by_hand(size: int = 2, rows: int = 5, judges: int = 2, junk: float = 0.0) -> EnvironmentEpisode:
    """Two participants of 3 and 5 examples and two judges; padded to these numbers."""
    return EnvironmentEpisode(
        padded(PARTICIPANTS, size, rows, junk),
        shares(SHARES, size),
        padded(JUDGES, judges, rows, junk),
        shares(JUDGE_SHARES, judges),
        torch.tensor(0.0),
    )


def stacked_data(clients: Sequence[Data]) -> tuple[Array, Array]:
    return np.vstack([x for x, _ in clients]), np.concatenate([y for _, y in clients])
