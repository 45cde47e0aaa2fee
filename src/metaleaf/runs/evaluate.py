"""Score clients before and after they adapt, client by client: new ones, and participants on what they held out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from metaleaf.data.federation import Federation
from metaleaf.engine.engine import Engine
from metaleaf.errors import DataError
from metaleaf.shots import Episode, Scored, Shots, examples
from metaleaf.statistics.statistics import Columns, summarise
from metaleaf.trees import Tree

if TYPE_CHECKING:
    import pandas as pd

CLIENT_COLUMNS = ("support", "client", "environment", "n_support", "n", "step", "correct", "loss", "majority")
"""Columns of a record's clients.csv after `model`."""


def score_clients(
    engine: Engine,
    federation: Federation,
    broadcast: Tree,
    clients: Sequence[int],
    support: float,
    *,
    every_step: bool = True,
) -> Columns:
    """New clients' rows, one per client and step, with the columns of a record's clients.csv except `model`.

    Without `every_step` there are two rows per client at most: before adaptation, and (as step 1) after all of it.
    """
    pairs = federation.support_queries(clients, support)
    return _table(engine, federation, broadcast, clients, support, pairs, every_step)


def score_participants(
    engine: Engine, federation: Federation, broadcast: Tree, clients: Sequence[int], episodes: Sequence[Episode]
) -> Columns:
    """The same of training clients with these episodes, scored on what they held out; support is what they kept."""
    pairs = list(zip(episodes, federation.held_out(clients), strict=True))
    return _table(engine, federation, broadcast, clients, federation.protocol.kept, pairs, every_step=True)


def _table(
    engine: Engine,
    federation: Federation,
    broadcast: Tree,
    clients: Sequence[int],
    support: float,
    pairs: Sequence[Scored],
    every_step: bool,
) -> Columns:
    scores = torch.stack(engine.score(broadcast, pairs, every_step)).numpy()
    n, correct, loss = scores.reshape(-1, 3).T
    steps, store = scores.shape[1], federation.store
    known = [(examples(own), query) for own, query in pairs]
    by_client = {
        "client": store.ids[np.asarray(clients)].tolist(),
        "environment": store.environments[np.asarray(clients)].tolist(),
        "n_support": [len(own.y) for own, _ in known],
        "majority": [_majority(own, query) for own, query in known],
    }
    by_row = {
        "support": np.full(len(n), support),
        **{name: [value for value in values for _ in range(steps)] for name, values in by_client.items()},
        "n": n.astype(np.int64),
        "step": np.tile(np.arange(steps), len(known)),
        "correct": correct.astype(np.int64),
        "loss": loss / np.maximum(n, 1),
    }
    return {name: by_row[name] for name in CLIENT_COLUMNS}


def _majority(support: Shots, query: Shots) -> int:
    """Query examples of the class that most support examples have."""
    return int(np.count_nonzero(query.y.numpy() == np.bincount(support.y.numpy()).argmax()))


def summaries(clients: "Columns | pd.DataFrame") -> dict[str, dict[str, float]]:
    """The summaries of one model at one support fraction: before and after adaptation, and of the majority class."""
    columns = {name: np.asarray(clients[name]) for name in ("n", "step", "correct", "loss", "majority")}
    steps = columns.pop("step")
    before, after = ({name: column[steps == step] for name, column in columns.items()} for step in (0, steps.max()))
    if len(before["n"]) != len(after["n"]):
        raise DataError("some clients lack their scores before or after adaptation")
    return {
        "before": summarise({name: before[name] for name in ("n", "correct", "loss")}),
        "after": summarise({**after, "correct_before": before["correct"]}),
        "majority": summarise({"n": before["n"], "correct": before["majority"]}),
    }
