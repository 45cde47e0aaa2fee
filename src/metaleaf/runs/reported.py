"""Numbers that an algorithm reports of its server and of its clients, as columns of a run's tables."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithm import Algorithm, State
from metaleaf.data.deferred import made
from metaleaf.errors import ConfigError
from metaleaf.metrics import REPORTED
from metaleaf.shots import Episode, Shots
from metaleaf.task import Task
from metaleaf.trees import Tree

LONGEST = 40
"""Characters of a name, at most."""
MOST = 50
"""Numbers that are reported, at most: readers refuse tables of many more columns."""


def of_server(task: Task, algorithm: Algorithm, state: State) -> dict[str, float]:
    """Columns of an evaluated round; none where there is no `report`. ConfigError on what is no number with a name."""
    if not hasattr(algorithm, "report"):
        return {}
    with torch.no_grad():
        return _columns(f"{type(algorithm).__name__}.report", algorithm.report(task, state))


def of_clients(
    task: Task, algorithm: Algorithm, broadcast: Tree, clients: Sequence[Shots | Episode]
) -> dict[str, list[float]]:
    """Columns with a number for each client; none where there is no `report_client`. Errors as of `of_server`."""
    if not hasattr(algorithm, "report_client"):
        return {}
    who, rows = f"{type(algorithm).__name__}.report_client", []
    with torch.no_grad():
        for client in clients:
            own = trees.to(made(client), task.device)
            rows.append(_columns(who, algorithm.report_client(task, broadcast, own)))
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ConfigError(f"{who} has to report the same names for every client.")
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _columns(who: str, numbers: Mapping[str, Tensor]) -> dict[str, float]:
    if len(numbers) > MOST:
        raise ConfigError(f"{who} reports {len(numbers)} numbers: {MOST} is the most.")
    return {f"{REPORTED}{_named(who, name)}": _number(who, name, value) for name, value in numbers.items()}


def _named(who: str, name: str) -> str:
    if not (name.isascii() and name.isidentifier() and len(name) <= LONGEST):
        raise ConfigError(
            f"{who} reports a number called {name!r}: use letters, digits and _, no digit first, {LONGEST} at most."
        )
    return name


def _number(who: str, name: str, value: Tensor) -> float:
    """Not finite is no number."""
    if value.dim():
        raise ConfigError(f"{who}: {name} must be a scalar, not of shape {list(value.shape)}.")
    return float(value) if math.isfinite(value) else math.nan
