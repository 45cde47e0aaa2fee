"""From scores per client to the numbers in tables: a summary over clients, then mean and sd over seeds."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from metaleaf.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, Any]
"""A table: arrays or lists of one length by name. A run makes no more of it: importing pandas takes half a second."""


def summarise(clients: "Columns | pd.DataFrame") -> dict[str, float]:
    """Summarise the scores of one model, one row per test client.

    `clients` has the columns `n` (query examples) and `correct` (of those n), and optionally `loss` (mean
    over those n) and `correct_before` (of those n, before adaptation). Clients without a query example have
    no accuracy and are left out everywhere. Accuracies are fractions in [0, 1].

    Returns `clients`, `points` (sum of n), `accuracy` over all points, and over clients, each client counting
    once: `client_mean`, `client_sd` (population, ddof=0: the test clients are all there are), `p10`, `p50`,
    `p90` (linear interpolation), `bottom10` (mean of the worst tenth, rounded down, at least one client).
    With `loss` given also `loss` over all points; with `correct_before` also `hurt`, the share of clients
    whose accuracy fell.

    Raises DataError when no client has a query example.
    """
    names = [name for name in ("n", "correct", "loss", "correct_before") if name in clients]
    columns = {name: np.asarray(clients[name], dtype=float) for name in names}
    scored = {name: column[columns["n"] > 0] for name, column in columns.items()}
    n, correct = scored["n"], scored["correct"]
    if not n.size:
        raise DataError("no client has a query example to be scored on: raise min_examples")
    accuracy = np.sort(correct / n)
    p10, p50, p90 = np.percentile(accuracy, [10, 50, 90])
    summary = {
        "clients": len(n),
        "points": int(n.sum()),
        "accuracy": float(correct.sum() / n.sum()),
        "client_mean": float(accuracy.mean()),
        "client_sd": float(accuracy.std()),
        "p10": float(p10),
        "p50": float(p50),
        "p90": float(p90),
        "bottom10": float(accuracy[: max(1, len(accuracy) // 10)].mean()),
    }
    if "loss" in scored:
        summary["loss"] = float((scored["loss"] * n).sum() / n.sum())
    if "correct_before" in scored:
        summary["hurt"] = float((correct < scored["correct_before"]).mean())
    return summary


def over_seeds(values: Iterable[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof=1) over seeds; the sd is nan for fewer than two seeds."""
    array = np.asarray(list(values), dtype=float)
    if array.size == 0:
        return math.nan, math.nan
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else math.nan
