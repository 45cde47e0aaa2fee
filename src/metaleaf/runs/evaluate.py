"""Score clients before and after they adapt, client by client: new ones, and participants on what they held out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from metaleaf.algorithm import Algorithm
from metaleaf.data.federation import Federation
from metaleaf.engine.engine import Engine
from metaleaf.metrics import Values, constant
from metaleaf.runs.reported import of_clients
from metaleaf.shots import Episode, Scored, Shots, examples
from metaleaf.statistics.statistics import Columns
from metaleaf.tasks import Kind
from metaleaf.trees import Tree


def client_columns(sums: Sequence[str]) -> tuple[str, ...]:
    """Columns of a record's clients.csv after `model`, with these sums; last those of the constant predictor."""
    whose = ("support", "client", "environment", "n_support", "n", "step")
    return (*whose, *sums, "loss", *map(constant, sums))


def score_clients(
    engine: Engine,
    federation: Federation,
    broadcast: Tree,
    clients: Sequence[int],
    support: float,
    *,
    every_step: bool = True,
    reports: Algorithm | None = None,
) -> Columns:
    """New clients' rows, one per client and step, with the columns of a record's clients.csv except `model`.

    Without `every_step` there are two rows per client at most: before adaptation, and (as step 1) after all of it.
    reports: the algorithm, if it is to report of each client, too (`metaleaf.runs.reported`).
    """
    pairs = federation.support_queries(clients, support)
    return _table(engine, federation, broadcast, clients, support, pairs, every_step, reports)


def score_participants(
    engine: Engine,
    federation: Federation,
    broadcast: Tree,
    clients: Sequence[int],
    episodes: Sequence[Episode],
    reports: Algorithm | None = None,
) -> Columns:
    """The same of training clients with these episodes, scored on what they held out; support is what they kept."""
    pairs = list(zip(episodes, federation.held_out(clients), strict=True))
    return _table(engine, federation, broadcast, clients, federation.protocol.kept, pairs, True, reports)


def _table(
    engine: Engine,
    federation: Federation,
    broadcast: Tree,
    clients: Sequence[int],
    support: float,
    pairs: Sequence[Scored],
    every_step: bool,
    reports: Algorithm | None,
) -> Columns:
    scores = torch.stack(engine.score(broadcast, pairs, every_step)).numpy()
    steps, store, kind = scores.shape[1], federation.store, engine.task.kind
    n, *sums, loss = scores.reshape(-1, scores.shape[-1]).T
    known = [(examples(own), query) for own, query in pairs]
    answers = np.array([_constant(kind, own, query) for own, query in known]).reshape(len(known), -1)
    reported = of_clients(engine.task, reports, broadcast, [own for own, _ in pairs]) if reports else {}
    by_client = {
        "client": store.ids[np.asarray(clients)].tolist(),
        "environment": store.environments[np.asarray(clients)].tolist(),
        "n_support": [len(own.y) for own, _ in known],
        **{constant(name): counts(column) for name, column in zip(kind.columns, answers.T, strict=True)},
        **{name: counts(np.array(numbers)).tolist() for name, numbers in reported.items()},
    }
    by_row = {
        "support": np.full(len(n), support),
        **{name: [value for value in values for _ in range(steps)] for name, values in by_client.items()},
        "n": n.astype(np.int64),
        "step": np.tile(np.arange(steps), len(known)),
        **{name: counts(column) for name, column in zip(kind.columns, sums, strict=True)},
        "loss": loss / np.maximum(n, 1),
    }
    return {name: by_row[name] for name in (*client_columns(kind.columns), *reported)}


def counts(sums: Values) -> Any:
    """Sums that are whole numbers as such."""
    whole = np.isfinite(sums).all() and (sums == np.floor(sums)).all()
    return sums.astype(np.int64) if whole else sums


def _constant(kind: Kind, support: Shots, query: Shots) -> list[float]:
    """The sums of the metrics for the constant predictor's answers."""
    if not len(query.y):
        return [0.0] * len(kind.columns)
    real = torch.ones(len(query.y), dtype=torch.bool)
    found: list[float] = kind.summed(kind.constant(support, query), query.y, real).tolist()
    return found
