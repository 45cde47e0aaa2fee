"""The numbers behind the tables of new clients: each algorithm by itself, and every two on the same clients."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from metaleaf.metrics import ACCURACY, Metric
from metaleaf.records.client_scores import ClientScores, Setting
from metaleaf.records.records import Model, Record, tidy
from metaleaf.statistics.intervals import Estimate, estimate
from metaleaf.statistics.late_gain import late_gain
from metaleaf.statistics.paired import Comparison, all_pairs
from metaleaf.statistics.statistics import over_seeds

MAJORITY, CONSTANT = "Majority class", "Constant answer"
"""Names of the baseline row, of accuracies and of other metrics: the answer that the client's own support suggests, the
same for every query example (of classes the most frequent one, of numbers their mean, of a series its last value)."""

CONSTANTS = (MAJORITY, CONSTANT)


def constant_of(metric: Metric) -> str:
    """The name of the baseline row."""
    return MAJORITY if metric.name == ACCURACY.name else CONSTANT


METRICS = (
    "before_pooled",
    "after_pooled",
    "after_client_mean",
    "after_bottom10",
    "after_p10",
    "after_p50",
    "after_p90",
    "after_hurt",
)
WITH_INTERVAL = METRICS[:4]

Scores = Mapping[Setting, Mapping[str, ClientScores]]
"""As `metaleaf.records.client_scores.client_scores` has them."""

_NONE = Estimate(math.nan, math.nan, math.nan)


def comparison(records: Sequence[Record], scores: Scores, model: Model = "selected") -> pd.DataFrame:
    """The numbers behind the tables: a row per setting (`Setting`) and algorithm, as `records` come.

    The first row of each setting is the constant predictor; its scores stand in the `after` columns. Columns:
    `dataset`, `support`, `who`, `model`, `label`, `algorithm` (its name), `diverged` (seeds), `seeds` (finished);
    `<metric>_mean` and `<metric>_sd` over finished seeds (shares as fractions; nan where there are none, sd nan for one
    seed), for some metrics `<metric>_low` and `<metric>_high`, the 95 % interval of
    `metaleaf.statistics.intervals.estimate`; `rounds`, `bytes` and `flops` (means over seeds, for the whole run);
    `rounding` (how far it moves a score of the worst seed; nan where it was not measured); `late_gain`
    (`metaleaf.statistics.late_gain`, mean over seeds). `scores` are those of the same model.
    """
    frame = tidy(records)
    rows = []
    for dataset, runs in frame.groupby("dataset", sort=False):
        diverged = runs[runs["status"] == "diverged"].groupby("name")["seed"].nunique()
        for setting in _settings(str(dataset), runs):
            cells = runs[setting.of(runs) & (runs["model"] == model)]
            known = scores.get(setting, {})
            start = {**setting._asdict(), "model": model}
            # every algorithm of a seed sees the same clients and splits, so any one of them has the baseline
            baseline = _means(cells.drop_duplicates("seed"), majority(known) if known else None, "majority")
            metric = records[int(runs["record"].iloc[0])].content.metric
            rows.append(start | {"label": "", "algorithm": constant_of(metric), "diverged": 0} | baseline)
            for name in runs["name"].unique():
                each = runs[runs["name"] == name].drop_duplicates("record")
                costs = {key: each[key].mean() for key in ("rounds", "bytes", "flops")}
                costs["rounding"] = each["rounding"].max()
                costs["late_gain"] = each["record"].map(lambda place: late_gain(records[place])).mean()
                row = {"label": each["algorithm"].iloc[0], "algorithm": name, "diverged": diverged.get(name, 0)}
                rows.append(start | row | _means(cells[cells["name"] == name], known.get(name), "after") | costs)
    return pd.DataFrame(rows)


def _settings(dataset: str, runs: pd.DataFrame) -> list[Setting]:
    """Those of a dataset's rows of `tidy`, new clients first; one without a support where every run diverged."""
    scored = runs.dropna(subset="support").drop_duplicates(["who", "support"]).sort_values(["who", "support"])
    found = [Setting(dataset, row["support"], row["who"]) for _, row in scored.iterrows()]
    return found or [Setting(dataset, math.nan)]


def pairs(scores: Scores, model: Model = "selected") -> pd.DataFrame:
    """Every two algorithms on the same clients under the same seeds, before and after adaptation.

    After adaptation the constant predictor is one of them. Columns: `dataset`, `support`, `who`, `model`, `side`
    (before, after), and those of `metaleaf.statistics.paired.Comparison`, the difference as `difference`, `low` and
    `high`; `p_holm` is corrected for all pairs of a setting and side.
    """
    rows = [
        {**setting._asdict(), "model": model, "side": side} | _pair(pair, p_holm)
        for setting, algorithms in scores.items()
        for side in ("before", "after")
        for pair, p_holm in all_pairs(compared(algorithms, side), side)
    ]
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def compared(algorithms: Mapping[str, ClientScores], side: str = "after") -> list[ClientScores]:
    """What is paired at a setting: its algorithms, and after adaptation the constant predictor before them."""
    return [*([majority(algorithms)] if side == "after" else []), *algorithms.values()]


def majority(algorithms: Mapping[str, ClientScores]) -> ClientScores:
    """The constant predictor as an algorithm, under all seeds of the one that has most: it is the same for all."""
    most = max(algorithms.values(), key=lambda scores: len(scores.seeds))
    return most.constant(constant_of(most.metric))


PAIR_COLUMNS = [
    *("dataset", "support", "who", "model", "side", "name", "other"),
    *("difference", "low", "high", "improvement", "p", "p_holm", "seeds"),
]


def _pair(pair: Comparison, p_holm: float) -> dict[str, Any]:
    difference, low, high = pair.difference
    found = {"name": pair.name, "other": pair.other, "difference": difference, "low": low, "high": high}
    return found | {"improvement": pair.improvement, "p": pair.p, "p_holm": p_holm, "seeds": pair.seeds}


def _means(runs: pd.DataFrame, scores: ClientScores | None, side: str) -> dict[str, float]:
    """Means, sds and intervals; with side `majority` its scores take the place of those after adaptation."""
    row: dict[str, float] = {"seeds": len(runs)}
    for metric in METRICS:
        source = metric.replace("after", side)
        known = source in runs and not (side == "majority" and metric.startswith("before"))
        row[f"{metric}_mean"], row[f"{metric}_sd"] = over_seeds(runs[source].dropna() if known else [])
        if metric in WITH_INTERVAL:
            _, low, high = estimate(scores, source) if known and scores else _NONE
            row[f"{metric}_low"], row[f"{metric}_high"] = low, high
    return row
