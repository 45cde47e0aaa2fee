"""What is not a rate: start-up, memory, loading, and rounds as the federation grows."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from metaleaf.bench.compare import Contender, Ratio, interleaved, stopwatch, warm_up
from metaleaf.bench.contenders import Metaleaf
from metaleaf.bench.pfl import Pfl
from metaleaf.bench.rates import workloads
from metaleaf.bench.rows import Row, Settings, in_seconds
from metaleaf.bench.workloads import Workload
from metaleaf.config.config import Protocol
from metaleaf.data.client_store import ClientStore
from metaleaf.data.federation import Federation
from metaleaf.errors import UserError

ALTERNATING = 30
"""Rounds of each federation in a turn of `growth`."""


def start(settings: Settings) -> list[Row]:
    """Seconds of a whole ``metaleaf run`` of one round on prepared data: start, round, evaluation, record."""
    run = ("run", "--dataset", "synthetic", "--algorithm", "fedavg", "--threads", str(settings.threads))
    few = ("--options", "tasks=100", "--protocol", "rounds=1", "--protocol", "test_supports=[0.2]")
    with tempfile.TemporaryDirectory() as folder:

        def measure(number: int) -> float:
            begun = time.perf_counter()
            # Compiled modules are part of what is prepared.
            prepared = {"METALEAF_DATA": folder, "PYTHONDONTWRITEBYTECODE": ""}
            _child("metaleaf.cli", *run, *few, "--results", f"{folder}/{number}", **prepared)
            return time.perf_counter() - begun

        measure(0)  # prepares the data
        seconds = [measure(number) for number in range(1, settings.repeats + 1)]
    return [Row("start", "s", median(seconds), at_most=(3, 1), seconds={"metaleaf": seconds})]


def memory(settings: Settings) -> list[Row]:
    """Peak memory in MiB of a round with 50 clients of the CNN, of the process (pfl: of all of its own)."""
    name = "fedavg-cnn-50"
    ours = float(_child("metaleaf.bench.peak", name, str(settings.threads), str(settings.quick)))
    if settings.pfl is None:
        return [Row("memory", "MiB", ours)]
    with Pfl(settings.pfl, workloads(replace(settings, device="cpu"))[name], settings.threads) as pfl:
        pfl()
        theirs = pfl.peak()
    ratio = Ratio(theirs / ours, theirs / ours, theirs / ours)
    return [Row("memory", "MiB", ours, "pfl", theirs, ratio, goal=(1, 2))]


def growth(settings: Settings) -> list[Row]:
    """Rounds of 100 small clients out of 100,000 against 1,000: sampling, reading and training."""
    few, many = (200, 2_000) if settings.quick else (1_000, 100_000)
    work = replace(workloads(settings)["fedavg-logistic"], clients=100, shape={"x_dtype": "uint8"})
    with tempfile.TemporaryDirectory() as folder:
        rounds = {n: Rounds(work, n, 10, Path(folder, str(n)), settings.device) for n in (few, many)}
        contenders = {n: stopwatch(one, settings.device, least=0) for n, one in rounds.items()}
        for run in contenders.values():
            warm_up(run)
        turns = [_alternating(contenders) for _ in range(settings.repeats)]
    ours, theirs = ([turn[n] for turn in turns] for n in (many, few))
    return [in_seconds("growth", ours, f"{few:,} clients", theirs, 0.95)]


def _alternating(contenders: Mapping[int, Contender]) -> dict[int, float]:
    """The median of each one's rounds, which take turns one by one: a difference of a few per cent is looked for."""
    turns = [{n: run() for n, run in contenders.items()} for _ in range(ALTERNATING)]
    return {n: median(turn[n] for turn in turns) for n in contenders}


def loading(settings: Settings) -> list[Row]:
    """Assembling a cohort from the memory-mapped store, against the rest of its round."""
    rows = []
    for name in ("fedavg-cnn-10", "fedavg-logistic"):
        work = workloads(replace(settings, device="cpu"))[name]
        with tempfile.TemporaryDirectory() as folder:
            rounds = Rounds(work, 3 * work.clients, work.mean, Path(folder), settings.device)
            parts = {"loading": rounds.assemble, "rest": rounds.train}
            timers = {part: stopwatch(run, settings.device) for part, run in parts.items()}
            seconds = interleaved(timers, settings.repeats)
        rows.append(in_seconds(f"loading-{work.model}", seconds["loading"], "its round", seconds["rest"], None))
    return rows


class Rounds:
    """Rounds of a workload whose cohorts are sampled from a memory-mapped store of so many clients of one size."""

    def __init__(self, work: Workload, clients: int, size: int, folder: Path, device: str) -> None:
        store = generated_store(work.spec, clients, size, folder)
        self.federation = Federation(store, Protocol.model_validate({"clients_per_round": work.clients}), seed=1)
        self.metaleaf = Metaleaf(work, device)
        self.numbers = count(1)

    def assemble(self) -> None:
        """Read the next round's cohort."""
        number = next(self.numbers)
        cohort = self.federation.cohort(number)
        self.metaleaf.cohort = self.federation.episodes(cohort, number)
        self.metaleaf.weights = self.federation.weights(cohort)

    def train(self) -> None:
        """A round with the cohort that is there."""
        self.metaleaf()

    def __call__(self) -> None:
        """A whole round."""
        self.assemble()
        self.train()


def generated_store(spec: Mapping[str, Any], clients: int, size: int, folder: Path) -> ClientStore:
    """A store of random examples, `size` a client, memory-mapped from the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, n = np.random.default_rng(5), clients * size
    shape, dtype = (n, *spec["x_shape"]), np.dtype(spec["x_dtype"])
    x = rng.integers(0, spec["classes"], shape, dtype) if dtype.kind == "u" else rng.standard_normal(shape, dtype)
    ids = np.array([f"client-{i}" for i in range(clients)])
    arrays = {
        "x": x,
        "y": rng.integers(0, spec["classes"], n),
        "offsets": np.arange(clients + 1) * size,
        "ids": ids,
        "environments": np.full(clients, "generated"),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in arrays}
    return ClientStore(**mapped, about={"name": "generated", "spec": {**spec, "window": 0}})


def _child(module: str, *words: str, **environment: str) -> str:
    """What a module prints in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    if done.returncode != 0:
        raise UserError(f"{module} stopped, and said last: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


FOOTPRINT: Mapping[str, Callable[[Settings], list[Row]]] = {
    "start": start,
    "memory": memory,
    "growth": growth,
    "loading": loading,
}
"""By name on the command line."""
