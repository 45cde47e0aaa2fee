"""Score clients before and after they adapt, client by client."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from metaleaf.engine import Engine
from metaleaf.errors import DataError
from metaleaf.federation import Federation
from metaleaf.shots import Shots
from metaleaf.statistics import Columns, summarise
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
    """One row per client and adaptation step, with the columns of a record's clients.csv except `model`.

    Without `every_step` there are two rows per client at most: before adaptation, and (as step 1) after all of it.
    """
    shots = federation.support_queries(clients, support)
    scores = torch.stack(engine.score(broadcast, shots, every_step)).numpy()
    n, correct, loss = scores.reshape(-1, 3).T
    steps, store = scores.shape[1], federation.store
    by_client = {
        "client": store.ids[np.asarray(clients)].tolist(),
        "environment": store.environments[np.asarray(clients)].tolist(),
        "n_support": [len(held.y) for held, _ in shots],
        "majority": [_majority(held, query) for held, query in shots],
    }
    by_row = {
        "support": np.full(len(n), support),
        **{name: [value for value in values for _ in range(steps)] for name, values in by_client.items()},
        "n": n.astype(np.int64),
        "step": np.tile(np.arange(steps), len(shots)),
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
