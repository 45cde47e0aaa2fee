"""Made-up records of the track of new environments whose means are known, to test reports on."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from metaleaf.statistics.statistics import summarise

ROUNDS = (0, 1, 2, 5, 10)
EXAMPLES = 1000
"""Of a client: accuracies are exact to three digits."""

Score = Callable[[int, int], tuple[float, float]]
"""(environment, rounds) -> accuracy before and after local adaptation."""


def level(before: float, after: float) -> Score:
    """The same everywhere and at all times."""
    return lambda environment, rounds: (before, after)


def write_record(
    folder: Path,
    label: str,
    seed: int,
    score: Score,
    *,
    dataset: str = "shifts",
    plugin: str | None = None,
    title: str | None = None,
    environments: Sequence[int] = range(4),
    entry: tuple[int, int] = (4000, 2000),
    **changes: Any,
) -> Path:
    """Write one record with its two tables; `changes` overwrite keys of the JSON. Returns the JSON's path."""
    clients = _clients(seed, score, environments)
    record: dict[str, Any] = {
        "schema": 1,
        "suite": folder.name,
        "dataset": dataset,
        "algorithm": label,
        "title": title or label,
        "seed": seed,
        "config_hash": sha256(f"{dataset} {label}".encode()).hexdigest()[:12],
        "status": "finished",
        "reason": None,
        "config": {
            "algorithm": {"name": plugin or label, "hyperparameters": {}},
            "protocol": {
                "environments": {"participants": 5, "scored": 2, "draws": 2, "budget": 60_000, "local_steps": 5}
            },
        },
        "tuning": None,
        "data": {
            "name": dataset,
            "data_hash": f"data{seed}",
            "split_hash": f"split{seed}",
            "clients": {"train": 600, "validation": 200, "test": 200},
            "environments": {"train": 60, "validation": 20, "test": len(environments)},
            "classes": 10,
        },
        "parameters": 100,
        "rounds": 50,
        "selected_round": 50,
        "cost": {"bytes_down": 10**6, "bytes_up": 10**6, "flops": 10**9, "client_updates": 59_980},
        "scores": _scores(clients, entry),
    }
    path: Path = folder / dataset / label / record["config_hash"] / f"seed-{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    clients.to_csv(path.with_suffix(".clients.csv"), index=False)
    rounds = pd.DataFrame({"round": [0, 50], "validation_before": 0.5, "validation_after": 0.5})
    rounds.to_csv(path.with_suffix(".rounds.csv"), index=False)
    path.write_text(json.dumps(record | changes, indent=1))
    return path


def _clients(seed: int, score: Score, environments: Sequence[int]) -> pd.DataFrame:
    """Two draws of two clients, one above and one below the environment's score."""
    rows = []
    for environment in environments:
        for rounds in ROUNDS:
            before, after = score(environment, rounds)
            for draw, client, shift in ((0, "a", 0.02), (0, "b", -0.02), (1, "a", 0.01), (1, "b", -0.01)):
                where = {"model": "selected", "environment": f"e{environment}", "draw": draw, "rounds": rounds}
                correct, adapted = (round(EXAMPLES * (value + shift)) for value in (before, after))
                found = {"client": f"{seed}{client}", "n": EXAMPLES, "correct": correct, "loss": 1.0}
                rows.append(where | found | {"correct_after": adapted, "loss_after": 0.9})
    return pd.DataFrame(rows)


def _scores(clients: pd.DataFrame, entry: tuple[int, int]) -> dict[str, Any]:
    selected = {}
    for rounds, rows in clients.groupby("rounds"):
        after = rows.assign(correct=rows["correct_after"], loss=rows["loss_after"])
        selected[str(rounds)] = {"before": summarise(rows), "after": summarise(after)}
    return {"selected": selected, "entry": dict(zip(("first", "round"), entry, strict=True))}
