"""Made-up records that look like real ones, written exactly as docs/records.md says, to test reports on."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metaleaf.statistics.statistics import summarise

SUPPORTS = (0.2, 0.5, 0.9)
STEPS = 5
ROUNDS = 100

# label -> title, accuracy before and after adaptation, rounds to get there, FLOPs (0: sends nothing either)
ALGORITHMS: dict[str, tuple[str, float, float, float, float]] = {
    "fedavg": ("FedAvg", 0.715, 0.72, 22, 1.0),
    "fedavg-meta": ("FedAvg(Meta)", 0.715, 0.778, 22, 1.0),
    "fomaml": ("FOMAML", 0.52, 0.815, 16, 1.6),
    "local": ("Local", 0.02, 0.44, 1, 0.0),
    "maml": ("MAML", 0.50, 0.825, 18, 2.4),
    "metasgd": ("Meta-SGD", 0.46, 0.85, 15, 2.5),
    "reptile": ("Reptile", 0.64, 0.79, 25, 1.1),
}
DATASETS = {"femnist": (62, 0.0), "shakespeare": (80, -0.25), "sent140": (2, 0.03)}


def write_suite(
    folder: Path,
    datasets: Sequence[str] = ("femnist",),
    algorithms: Sequence[str] = tuple(ALGORITHMS),
    seeds: int = 3,
    clients: int = 100,
    held_out: float = 0.0,
) -> Path:
    """Write one record per dataset, algorithm and seed below `folder`, a suite's folder, and return it."""
    for dataset in datasets:
        for algorithm in algorithms:
            for seed in range(seeds):
                write_record(folder, dataset, algorithm, seed, clients=clients, held_out=held_out)
    return folder


def write_record(
    folder: Path,
    dataset: str,
    algorithm: str,
    seed: int,
    *,
    clients: int = 100,
    held_out: float = 0.0,
    **changes: Any,
) -> Path:
    """Write one record with its tables; `changes` overwrite keys of the JSON. Returns the JSON's path."""
    title, low, high, speed, effort = ALGORITHMS[algorithm]
    classes, shift = DATASETS[dataset]
    # the same clients and splits for every algorithm; only the noise of training differs
    shared = np.random.default_rng([seed, classes])
    noise = np.random.default_rng([seed, classes, list(ALGORITHMS).index(algorithm)])
    before, after = (float(np.clip(x + shift + noise.normal(0, 0.006), 0.01, 0.99)) for x in (low, high))

    rounds = _rounds(noise, before, after, speed, effort)
    per_client = _clients(shared, noise, clients, before, after, classes, SUPPORTS)
    evaluated = rounds.dropna(subset="validation_after")
    record: dict[str, Any] = {
        "schema": 1,
        "suite": folder.name,
        "dataset": dataset,
        "algorithm": algorithm,
        "seed": seed,
        "config_hash": sha256(f"{dataset} {algorithm}".encode()).hexdigest()[:12],
        "title": title,
        "status": "finished",
        "reason": None,
        "config": {
            "dataset": {"name": dataset, "options": {}},
            "model": "cnn",
            "algorithm": {"name": algorithm, "hyperparameters": {"inner_lr": 0.01, "steps": STEPS}},
            "protocol": {
                "rounds": ROUNDS,
                "clients_per_round": 10,
                "support": list(SUPPORTS),
                "steps": STEPS,
            },
        },
        "tuning": {
            "trials": 10,
            "rounds": 50,
            "seed": 0,
            "support": 0.2,
            "score": high,
            "chosen": {"lr": 0.01},
        },
        "data": {
            "name": dataset,
            "version": "1.0.0",
            "data_hash": "d" * 16,
            "split_hash": "5" * 16,
            "clients": {"train": 8 * clients, "validation": clients, "test": clients},
            "examples": {"train": 800 * clients, "validation": 100 * clients, "test": 100 * clients},
            "classes": classes,
        },
        "parameters": 6_603_710,
        "rounds": ROUNDS,
        "selected_round": int(evaluated["round"].to_numpy()[evaluated["validation_after"].to_numpy().argmax()]),
        "cost": {key: float(rounds[key].iloc[-1]) for key in ("bytes_down", "bytes_up", "flops")},
        "scores": _scores(per_client),
        "versions": {"metaleaf": "0.1.0"},
        "git": {"revision": "0" * 40, "dirty": False},
        "device": "cpu",
        "engine": {"mode": "vectorised", "threads": 2},
        "timing": {"started": "2025-01-01T00:00:00+00:00", "seconds_train": 60.0, "seconds_evaluate": 5.0},
    }
    path: Path = folder / dataset / algorithm / record["config_hash"] / f"seed-{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if held_out:
        kept = round(1 - held_out, 12)
        participants = _clients(shared, noise, 8 * clients, before, after, classes, (kept,))
        participants.to_csv(path.with_suffix(".participants.csv"), index=False)
        record["config"]["protocol"]["held_out"] = held_out
        record["participants"] = {model: sides[str(kept)] for model, sides in _scores(participants).items()}
    per_client.to_csv(path.with_suffix(".clients.csv"), index=False)
    rounds.to_csv(path.with_suffix(".rounds.csv"), index=False)
    path.write_text(json.dumps(record | changes, indent=1))
    return path


def _rounds(noise: np.random.Generator, before: float, after: float, speed: float, effort: float) -> pd.DataFrame:
    rounds = np.arange(ROUNDS + 1)
    frame = pd.DataFrame({"round": rounds})
    frame["bytes_down"] = rounds * 10 * 26_000_000 * (effort > 0)
    frame["bytes_up"] = frame["bytes_down"]
    frame["flops"] = rounds * 4e11 * effort
    frame["update_norm"] = 1.0
    frame["seconds"] = rounds * 0.5
    evaluated = rounds % 10 == 0
    rise = 1 - np.exp(-rounds / speed)
    for column, end in (("before", before), ("after", after)):
        curve = 0.02 + (end - 0.02) * rise + noise.normal(0, 0.008, len(rounds))
        frame[f"validation_{column}"] = np.where(evaluated, np.clip(curve, 0, 1), np.nan)
    frame["validation_client_mean"] = frame["validation_after"] - 0.01
    frame["validation_loss"] = 3 - 2 * frame["validation_after"]
    return frame


def _clients(
    shared: np.random.Generator,
    noise: np.random.Generator,
    clients: int,
    before: float,
    after: float,
    classes: int,
    supports: Sequence[float],
) -> pd.DataFrame:
    examples = shared.lognormal(4.5, 0.6, clients).astype(int) + 10
    skill = shared.normal(0, 0.09, clients)
    frames = []
    for model, bonus in (("final", 0.0), ("selected", 0.004)):
        for support in supports:
            n_support = np.maximum(1, (examples * support).astype(int))
            n = examples - n_support
            majority = shared.binomial(n, min(0.9, 1.3 / classes + 0.03))
            for step in range(STEPS + 1):
                level = before + (after + 0.08 * (support - 0.2) - before) * (1 - 0.3**step) + bonus
                p = np.clip(level + skill + noise.normal(0, 0.02, clients), 0.005, 0.995)
                correct = noise.binomial(n, p)
                columns = {
                    "model": model,
                    "support": support,
                    "client": [f"f{i:04d}" for i in range(clients)],
                }
                columns |= {"environment": "hsf_0", "n_support": n_support, "n": n, "step": step}
                columns |= {"correct": correct, "loss": 2 - 1.9 * p, "majority": majority}
                frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _scores(per_client: pd.DataFrame) -> dict[str, dict[str, Any]]:
    scores: dict[str, dict[str, Any]] = {"final": {}, "selected": {}}
    for (model, support), rows in per_client.groupby(["model", "support"]):
        first = rows[rows["step"] == 0].reset_index(drop=True)
        last = rows[rows["step"] == STEPS].reset_index(drop=True)
        scores[str(model)][str(support)] = {
            "before": summarise(first),
            "after": summarise(last, before=(first["correct"] / first["n"]).to_numpy()),
            "majority": summarise(first.assign(correct=first["majority"]).drop(columns="loss")),
        }
    return scores
