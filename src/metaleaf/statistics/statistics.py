"""From scores per client to the numbers in tables: a summary over clients, then mean and sd over seeds."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from metaleaf.errors import DataError
from metaleaf.metrics import ACCURACY, Metric, Values, constant

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, Any]
"""A table: arrays or lists of one length by name. A run makes no more of it: importing pandas takes half a second."""


def summarise(
    clients: "Columns | pd.DataFrame", metric: Metric = ACCURACY, before: Values | None = None
) -> dict[str, float]:
    """Summarise the scores of one model, one row per test client.

    `clients` has the columns `n` (query examples) and those of the metric's two sums, and optionally `loss` (mean over
    those n); `before`: the clients' scores before adaptation. Clients without a query example, or for whom the metric
    has no value (AUC with one class), have no score and are left out everywhere.

    Returns `clients`, `points` (sum of n), `pooled`, the score of all points together (the ratio of all clients' sums),
    and over clients, each client counting once: `client_mean`, `client_sd` (population, ddof=0: the test clients are
    all there are), `p10`, `p50`, `p90` (linear interpolation), `bottom10` (mean of the worst tenth, rounded down, at
    least one client). With `loss` given also `loss` over all points; with `before` also `hurt`, the share of clients
    whom adaptation made worse. Shares are fractions in [0, 1].

    Raises DataError when no client has a score.
    """
    n, total, weight = (np.asarray(clients[name], dtype=float) for name in ("n", metric.total, metric.weight))
    every = metric.score(total, weight)
    scored = (n > 0) & metric.defined(weight)
    if not scored.any():
        raise DataError(_nobody(metric, bool((n > 0).any())))
    scores, points = every[scored], n[scored]
    p10, p50, p90 = np.percentile(scores, [10, 50, 90])
    summary = {
        "clients": len(scores),
        "points": int(points.sum()),
        "pooled": float(metric.score(total[scored].sum(), weight[scored].sum())),
        "client_mean": float(np.sort(scores).mean()),
        "client_sd": float(np.sort(scores).std()),
        "p10": float(p10),
        "p50": float(p50),
        "p90": float(p90),
        "bottom10": float(worst_tenth(scores, metric)),
    }
    if "loss" in clients:
        summary["loss"] = float((np.asarray(clients["loss"], dtype=float)[scored] * points).sum() / points.sum())
    if before is not None:
        summary["hurt"] = float(metric.better(before[scored], scores).mean())
    return summary


def summaries(clients: "Columns | pd.DataFrame", metric: Metric) -> dict[str, dict[str, float]]:
    """The summaries of one model at one support fraction, and of the constant predictor."""
    names = {"n", "step", "loss", metric.total, metric.weight} | {constant(metric.total), constant(metric.weight)}
    columns = {name: np.asarray(clients[name]) for name in names & set(clients)}
    steps = columns.pop("step")
    before, after = ({name: column[steps == step] for name, column in columns.items()} for step in (0, steps.max()))
    if len(before["n"]) != len(after["n"]):
        raise DataError("some clients lack their scores before or after adaptation")
    own = {"n": before["n"], metric.total: before[constant(metric.total)]}
    if metric.weight != "n":
        own[metric.weight] = before[constant(metric.weight)]
    return {
        "before": summarise(before, metric),
        "after": summarise(after, metric, metric.score(before[metric.total], before[metric.weight])),
        "majority": summarise(own, metric),
    }


def worst_tenth(scores: Values, metric: Metric) -> Values:
    """Mean of the worst tenth along the last axis, rounded down, at least one."""
    count = max(1, scores.shape[-1] // 10)
    falling = np.partition(scores if metric.higher_is_better else -scores, count - 1, axis=-1)
    found: Values = np.sort(falling[..., :count], axis=-1).mean(-1)
    return found if metric.higher_is_better else -found


def _nobody(metric: Metric, examples: bool) -> str:
    if not examples:
        return "no client has a query example to be scored on: raise min_examples"
    return f"no client's query examples give a value of {metric.name}: choose another metric, or raise min_examples"


def over_seeds(values: Iterable[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof=1) over seeds; the sd is nan for fewer than two seeds."""
    array = np.asarray(list(values), dtype=float)
    if array.size == 0:
        return math.nan, math.nan
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else math.nan
