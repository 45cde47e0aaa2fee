"""Small tasks, clients and reference formulas that several tests share."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from metaleaf import models, registry, trees
from metaleaf.algorithm import Algorithm, Context, Replies, State, respond, sent, step
from metaleaf.errors import ConfigError
from metaleaf.shots import Episode, Shots
from metaleaf.task import Task

SPECS: dict[str, dict[str, Any]] = {
    "logistic": {"classes": 3, "x_shape": (4,), "x_dtype": "float32"},
    "cnn": {"classes": 5, "x_shape": (8, 8), "x_dtype": "uint8"},
    "face_cnn": {"classes": 2, "x_shape": (16, 16, 3), "x_dtype": "uint8"},
    "small_cnn": {"classes": 5, "x_shape": (8, 8), "x_dtype": "uint8"},
    "lstm": {"classes": 10, "x_shape": (8,), "x_dtype": "uint8"},
}

LEARN_FROM_CLIENTS = [
    name
    for name in registry.names("algorithms")
    if getattr(registry.plugin("algorithms", name), "unit", "client") == "client"
]
"""Algorithms whose `client` gets an `Episode`; the others get a whole environment (tests/environment_cases.py)."""

RAGGED = [(2, 3), (1, 0), (4, 9), (3, 1)]
"""(support, query) examples of a cohort; the second client has a single example and nothing to be scored on."""


def task(model: str, dtype: torch.dtype = torch.float64) -> Task:
    return Task(models.build(model, SPECS[model], seed=7).to(dtype), seed=7, clients=9, cohort=len(RAGGED))


def stepped(algorithm: Algorithm, work: Task, state: State, update: Any) -> State:
    """The server's next state, with a context if it asks for one."""
    size = len(update.weights) if isinstance(update, Replies) else len(RAGGED)
    cohort = torch.arange(size), torch.full((size,), 1 / size, dtype=torch.float64)
    known = trees.to((torch.tensor(0.0), *cohort, torch.tensor(7)), work.device)
    return step(algorithm, state, update, Context(work, *known))


def serves(algorithm: Any, model: str) -> bool:
    """Whether the algorithm can work with the model, of which it may need parts that not every model has."""
    work = task(model)
    try:
        algorithm.init(work, work.params())
    except ConfigError:
        return False
    return True


def home(algorithm: Any) -> str:
    """The smallest model that the algorithm can work with."""
    return next(model for model in ("logistic", "face_cnn") if serves(algorithm, model))


ONE_OF_EACH = {
    *("fedavg", "fedavg_meta", "reptile", "fedadam", "maml", "meta_sgd", "per_fedavg", "local"),
    *("ditto", "scaffold", "fedrep", "fedbn", "knn_per", "ifca", "pfedhn", "pefll", "few_round", "learned_start"),
    *("aruba", "fedem", "fedfomo", "feddbe", "bmaml", "protonet"),
}
"""An algorithm for every part of the contract and every shape of state, memory and message."""


def others_slow(names: Iterable[str]) -> list[Any]:
    """The algorithms as parameters; those that are like one of `ONE_OF_EACH` are tested where there is time."""
    return [name if name in ONE_OF_EACH else pytest.param(name, marks=pytest.mark.slow) for name in names]


ON_LOGISTIC = [name for name in LEARN_FROM_CLIENTS if home(registry.plugin("algorithms", name)()) == "logistic"]
"""Algorithms that need no part of a model that logistic regression does not have."""


def shots(model: str, n: int, seed: int) -> Shots:
    spec, rng = SPECS[model], np.random.default_rng(seed)
    shape = (n, *spec["x_shape"])
    high = spec["classes"] if model == "lstm" else 256
    x = rng.normal(size=shape).astype(np.float32) if model == "logistic" else rng.integers(0, high, shape)
    y = rng.integers(0, spec["classes"], n)
    return Shots(torch.tensor(x, dtype=getattr(torch, spec["x_dtype"])), torch.tensor(y), torch.tensor(1000 + seed))


def episodes_of(drawn: Callable[[int, int], Shots], sizes: Sequence[tuple[int, int]]) -> list[Episode]:
    """Clients whose examples are drawn by number and seed, with that many in support and query."""
    found = []
    for seed, (support, query) in enumerate(sizes):
        data, rows = drawn(support + query, seed), torch.arange(support + query)
        held, judged = data.take(rows[:support]), data.take(rows[support:])
        found.append(Episode(held, judged, data, torch.tensor(0.0), torch.tensor(seed)))
    return found


def episode(model: str, support: int, query: int, seed: int, round_number: int = 1) -> Episode:
    data = shots(model, support + query, seed)
    rows = torch.arange(support + query)
    when, client = torch.tensor(float(round_number - 1)), torch.tensor(seed)
    return Episode(data.take(rows[:support]), data.take(rows[support:]), data, when, client)


def cohort(model: str) -> list[Episode]:
    return [episode(model, *sizes, seed=i) for i, sizes in enumerate(RAGGED)]


def handed(algorithm: Any, work: Task, state: Any, episodes: list[Episode]) -> list[Episode]:
    """The episodes as the run hands them to an algorithm: with what is sent, and a memory of one never sampled."""
    memory = algorithm.memory(work, state.broadcast) if hasattr(algorithm, "memory") else ()
    return [e._replace(memory=memory, received=sent(algorithm, work, state, e.client)) for e in episodes]


def one_round(algorithm: Any, work: Task, state: Any, one: Episode) -> tuple[Any, Any]:
    """(what the server reads, what the client keeps) of a round with a single client."""
    (one,) = handed(algorithm, work, state, [one])
    reply = respond(algorithm, work, state.broadcast, one)
    update, memory = reply if hasattr(algorithm, "memory") else (reply, ())
    if not getattr(algorithm, "each", False):
        return update, memory
    return Replies(trees.stack([update]), torch.ones(1, dtype=torch.float64, device=one.round.device)), memory


WORD = (1 << 64) - 1


def split_mix(z: int) -> int:
    """SplitMix64's finaliser on Python's integers."""
    z = (z + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def reference_order(seed: int, stream: int, n: int) -> list[int]:
    """The documented order of n rows, on Python's integers."""
    key = split_mix((seed + stream) & WORD)
    return sorted(range(n), key=lambda row: split_mix((key + row) & WORD) >> 1)


def reference_batches(seed: int, n: int, batch_size: int, epochs: int) -> list[list[int]]:
    """Rows of the batches of an algorithm's local training."""
    orders = [reference_order(seed, epoch * 1_000_003, n) for epoch in range(epochs)]
    return [order[start : start + batch_size] for order in orders for start in range(0, n, batch_size)]
