"""Scores of every client under every seed, side by side: what intervals and paired comparisons are made from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from metaleaf.errors import DataError
from metaleaf.metrics import ACCURACY, Metric, Values, constant
from metaleaf.records.records import Model, Record, Who, tidy

Counts = npt.NDArray[np.int64]
Sums = npt.NDArray[np.int64] | npt.NDArray[np.float64]
Side = Literal["before", "after", "majority"]
SIDES: tuple[Side, ...] = ("before", "after", "majority")


class Setting(NamedTuple):
    """Where numbers may be compared; the support of participants is what they did not hold out."""

    dataset: str
    support: float
    who: Who = "new"

    def of(self, frame: pd.DataFrame) -> "pd.Series[bool]":
        """Which rows of a table with the columns `dataset`, `support` and `who` are here."""
        return (frame[list(self._fields)] == list(self)).all(axis=1)


@dataclass(frozen=True)
class ClientScores:
    """One algorithm at one setting. All tables are [seeds, clients], of clients that have a score.

    `n` query examples; the metric's first sum `before` adaptation, `after` all of it, and of the constant predictor
    (`majority`, the most frequent class where there are classes); `weights`: its second sums in that order, where they
    are not n.
    """

    name: str
    seeds: tuple[int, ...]
    clients: tuple[str, ...]
    n: Counts
    before: Sums
    after: Sums
    majority: Sums
    weights: tuple[Values, Values, Values] | None = None
    metric: Metric = ACCURACY

    def total(self, side: str) -> Values:
        """The metric's first sum of every client; `side` is before, after or majority."""
        found: Sums = getattr(self, side)
        return found.astype(float)

    def weight(self, side: str) -> Values:
        """The metric's second sum of every client."""
        return self.n.astype(float) if self.weights is None else self.weights[SIDES.index(cast(Side, side))]

    def scores(self, side: str = "after") -> Values:
        """Of every client, [seeds, clients]."""
        return self.metric.score(self.total(side), self.weight(side))

    def of(self, seeds: Sequence[int]) -> "ClientScores":
        """The same under some of the seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        tables = {name: getattr(self, name)[rows] for name in ("n", *SIDES)}
        weights = self.weights
        if weights is not None:
            before, after, majority = weights
            weights = before[rows], after[rows], majority[rows]
        return replace(self, seeds=tuple(seeds), weights=weights, **tables)

    def constant(self, name: str) -> "ClientScores":
        """The constant predictor as an algorithm of that name."""
        weights = None if self.weights is None else (self.weights[2], self.weights[2], self.weights[2])
        return replace(self, name=name, before=self.majority, after=self.majority, weights=weights)


def client_scores(records: Sequence[Record], model: Model = "selected") -> dict[Setting, dict[str, ClientScores]]:
    """Scores by setting and by the algorithm's name, in the order of the records; without runs that diverged.

    Raises DataError if two seeds of an algorithm scored different clients, or a client has two scores or none.
    """
    frame = tidy(records)
    frame = frame[(frame["status"] == "finished") & (frame["model"] == model)]
    found: dict[Setting, dict[str, ClientScores]] = {}
    keys = frame[["dataset", "support", "who", "name"]]
    for dataset, support, who, name in keys.drop_duplicates().values.tolist():
        setting = Setting(dataset, support, who)
        same = setting.of(keys) & (keys["name"] == name)
        runs = {records[i].content.seed: _by_client(records[i], model, setting) for i in frame["record"][same]}
        first = next(records[i].content.metric for i in frame["record"][same])
        found.setdefault(setting, {})[name] = _side_by_side(name, runs, setting, first)
    return dict(sorted(found.items(), key=lambda item: (item[0].who, item[0].support)))


def _by_client(record: Record, model: Model, setting: Setting) -> pd.DataFrame:
    """A row per client that has a score: n, and the metric's two sums of every side."""
    metric = record.content.metric
    rows = record.scores_of(setting.who)
    rows = rows[(rows["model"] == model) & (rows["support"] == setting.support) & (rows["n"] > 0)]
    before, after = (rows[rows["step"] == step].set_index("client") for step in (0, rows["step"].max()))
    for side in (before, after):
        if repeated := [client for client, times in Counter(side.index).items() if times > 1]:
            raise DataError(f"{record.path} scores the client {repeated[0]} twice; run this cell again")
    if after.empty or set(before.index) != set(after.index):
        raise DataError(f"{record.path} lacks clients' scores before or after adaptation; run this cell again")
    sums = {
        "before": (before, metric.total, metric.weight),
        "after": (after, metric.total, metric.weight),
        "majority": (after, constant(metric.total), "n" if metric.weight == "n" else constant(metric.weight)),
    }
    columns: dict[str, pd.Series[Any]] = {"n": after["n"]}
    for name, (table, total, weight) in sums.items():
        columns |= {name: table[total], f"{name}_weight": table[weight]}
    found = pd.DataFrame(columns).sort_index()
    if found.isna().any(axis=None):
        raise DataError(f"{record.path} has a client without a number of {metric.total}; run this cell again")
    weights = [f"{name}_weight" for name in SIDES]
    return found.iloc[np.flatnonzero(metric.defined(found[weights].to_numpy()).all(axis=1))]


def _side_by_side(name: str, runs: dict[int, pd.DataFrame], setting: Setting, metric: Metric) -> ClientScores:
    seeds = tuple(sorted(runs))
    clients = tuple(runs[seeds[0]].index)
    for seed in seeds:
        if tuple(runs[seed].index) != clients:
            raise DataError(
                f"the seeds {seeds[0]} and {seed} of {name} on {setting.dataset} scored different clients; "
                "run the older one again"
            )

    def table(column: str) -> Values:
        return np.stack([runs[seed][column].to_numpy(dtype=float) for seed in seeds])

    before, after, majority = (table(side) for side in SIDES)
    weights = None
    if metric.weight != "n":
        weights = table("before_weight"), table("after_weight"), table("majority_weight")
    n = table("n").astype(np.int64)
    return ClientScores(name, seeds, clients, n, before, after, majority, weights, metric)
