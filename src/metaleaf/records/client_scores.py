"""Scores of every client under every seed, side by side: what intervals and paired comparisons are made from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from metaleaf.errors import DataError
from metaleaf.records.records import Model, Record, Who, tidy

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


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
    """One algorithm at one setting. All tables are [seeds, clients], of clients with a query example.

    `n` query examples, of which `before` were right before adaptation, `after` after all of it, and `majority` by the
    most frequent class of the client's support.
    """

    name: str
    seeds: tuple[int, ...]
    clients: tuple[str, ...]
    n: Counts
    before: Counts
    after: Counts
    majority: Counts

    def accuracy(self, side: str = "after") -> Values:
        """Of every client, [seeds, clients]; `side` is before, after or majority."""
        correct: Counts = getattr(self, side)
        return correct / self.n

    def of(self, seeds: Sequence[int]) -> "ClientScores":
        """The same under some of the seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        tables = (table[rows] for table in (self.n, self.before, self.after, self.majority))
        return ClientScores(self.name, tuple(seeds), self.clients, *tables)


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
        found.setdefault(setting, {})[name] = _side_by_side(name, runs, setting)
    return dict(sorted(found.items(), key=lambda item: (item[0].who, item[0].support)))


def _by_client(record: Record, model: Model, setting: Setting) -> pd.DataFrame:
    """A row per client with a query example: n, before, after, majority."""
    rows = record.scores_of(setting.who)
    rows = rows[(rows["model"] == model) & (rows["support"] == setting.support) & (rows["n"] > 0)]
    before, after = (rows[rows["step"] == step].set_index("client") for step in (0, rows["step"].max()))
    for side in (before, after):
        if repeated := [client for client, times in Counter(side.index).items() if times > 1]:
            raise DataError(f"{record.path} scores the client {repeated[0]} twice; run this cell again")
    if after.empty or set(before.index) != set(after.index):
        raise DataError(f"{record.path} lacks clients' scores before or after adaptation; run this cell again")
    columns = {"n": after["n"], "before": before["correct"], "after": after["correct"], "majority": after["majority"]}
    found = pd.DataFrame(columns).sort_index()
    if found.isna().any(axis=None):
        raise DataError(f"{record.path} has a client without a number of correct answers; run this cell again")
    return found


def _side_by_side(name: str, runs: dict[int, pd.DataFrame], setting: Setting) -> ClientScores:
    seeds = tuple(sorted(runs))
    clients = tuple(runs[seeds[0]].index)
    for seed in seeds:
        if tuple(runs[seed].index) != clients:
            raise DataError(
                f"the seeds {seeds[0]} and {seed} of {name} on {setting.dataset} scored different clients; "
                "run the older one again"
            )
    tables = (np.stack([runs[seed][column].to_numpy(dtype=np.int64) for seed in seeds]) for column in _TABLES)
    return ClientScores(name, seeds, clients, *tables)


_TABLES = ("n", "before", "after", "majority")
