"""Score clients before and after they adapt, client by client."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from metaleaf.engine import Engine
from metaleaf.federation import Federation
from metaleaf.statistics import summarise
from metaleaf.trees import Tree

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
) -> pd.DataFrame:
    """One row per client and adaptation step, with the columns of a record's clients.csv except `model`.

    Without `every_step` there are two rows per client at most: before adaptation, and (as step 1) after all of it.
    """
    shots = [federation.support_query(client, support) for client in clients]
    scores = engine.score(broadcast, shots, every_step)
    rows = []
    for client, (held, query), score in zip(clients, shots, scores, strict=True):
        majority = np.count_nonzero(query.y.numpy() == np.bincount(held.y.numpy()).argmax())
        for step, (n, correct, loss) in enumerate(score.tolist()):
            rows.append(
                {
                    "support": support,
                    "client": str(federation.store.ids[client]),
                    "environment": str(federation.store.environments[client]),
                    "n_support": len(held.y),
                    "n": int(n),
                    "step": step,
                    "correct": int(correct),
                    "loss": loss / n if n else 0.0,
                    "majority": majority,
                }
            )
    return pd.DataFrame(rows, columns=list(CLIENT_COLUMNS))


def summaries(clients: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The summaries of one model at one support fraction: before and after adaptation, and of the majority class."""
    before = clients[clients["step"] == 0].reset_index(drop=True)
    after = clients[clients["step"] == clients["step"].max()].reset_index(drop=True)
    majority = before.drop(columns="loss").assign(correct=before["majority"])
    return {
        "before": summarise(before),
        "after": summarise(after.assign(correct_before=before["correct"])),
        "majority": summarise(majority),
    }
