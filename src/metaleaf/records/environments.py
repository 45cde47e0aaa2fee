"""Records of the track of new environments, and the score of every test environment that they hold."""

from collections.abc import Hashable, Iterator, Sequence
from typing import Annotated

import pandas as pd
from pydantic import BeforeValidator, Field, NonNegativeInt, model_validator

from metaleaf.errors import DataError
from metaleaf.metrics import Values
from metaleaf.records.records import (
    Cost,
    Counts,
    Data,
    Head,
    Part,
    Stored,
    Summary,
    about_run,
    sums_of,
    with_distinct_names,
)

SIDES = ("before", "after")
"""Scores of the environment's parameters, and of those that every client has adapted to itself."""

BYTES = 4
"""Of one parameter."""


class EnvironmentCost(Cost):
    """Also in this track's unit: one client's local work in one round."""

    client_updates: NonNegativeInt


class EnvironmentData(Data):
    """Also the numbers of environments."""

    environments: Counts


class Entry(Part):
    """Bytes in a new environment, both ways, all participants: of the first meeting, and of each later round."""

    first: NonNegativeInt
    round: NonNegativeInt


class Sides(Part):
    """All clients of all test environments, before and after local adaptation."""

    before: Summary
    after: Summary


def _empty_is_none(scores: object) -> object:
    return scores or None


class EnvironmentScores(Part):
    """What the selected model reached, by rounds in the new environment, and what that took."""

    selected: dict[NonNegativeInt, Sides] = Field(min_length=1)
    entry: Entry


TRAINING = (
    *("budget", "environments_per_round", "train_participants", "queries", "members"),
    "validation_rounds",
)
"""Rules of `metaleaf.config.config.NewEnvironments` that are of training only."""


class EnvironmentContent(Head):
    """The JSON file of a record on the track of new environments."""

    new_environments = True

    data: EnvironmentData
    cost: EnvironmentCost
    scores: Annotated[EnvironmentScores | None, BeforeValidator(_empty_is_none)]

    def summaries(self) -> Iterator[Summary]:
        """See `Head`."""
        for sides in self.scores.selected.values() if self.scores else ():
            yield from (sides.before, sides.after)

    @property
    def judged(self) -> dict[str, Hashable]:
        """Also the rules of what happens in a new environment."""
        rules = {key: str(value) for key, value in (self.environments or {}).items() if key not in TRAINING}
        return {**super().judged, "other rules in new environments": frozenset(rules.items())}

    @property
    def comparable(self) -> tuple[Hashable, ...]:
        """Every seed may be another draw of the data."""
        return self.dataset, self.seed

    @model_validator(mode="after")
    def _whole(self) -> "EnvironmentContent":
        if self.status == "finished" and self.scores is None:
            raise ValueError("is finished but lacks its scores; run this cell again")
        return self


class EnvironmentRecord(Stored[EnvironmentContent]):
    """One row of `clients` per test environment, draw, rounds in it, and client who is scored."""

    schema = EnvironmentContent

    @property
    def columns(self) -> list[str]:
        """See `Stored`."""
        sums = sums_of(self.content.metrics)
        after = [f"{name}_after" for name in (*sums, "loss")]
        return ["model", "environment", "draw", "rounds", "client", "n", *sums, "loss", *after]


def runs(records: Sequence[EnvironmentRecord]) -> pd.DataFrame:
    """One row per record: the columns of `metaleaf.records.records.tidy` that say which run it is, and what it took.

    Also `plugin`, `metric` (the main one), `model_bytes`, `client_updates`, and bytes in a new environment: `first`,
    `each` (later round).
    """
    rows = []
    for position, record in enumerate(records):
        content = record.content
        entry = content.scores.entry if content.scores else None
        rows.append(
            about_run(position, record)
            | {
                "plugin": content.plugin,
                "metric": content.metric,
                "model_bytes": BYTES * content.parameters,
                "client_updates": content.cost.client_updates,
                "first": entry.first if entry else float("nan"),
                "each": entry.round if entry else float("nan"),
            }
        )
    return with_distinct_names(pd.DataFrame(rows))


def visited(records: Sequence[EnvironmentRecord]) -> pd.DataFrame:
    """Scores in every test environment: a row per finished run, environment and `rounds` in it.

    The columns of `runs` (but `rounds`), `environment`, `rounds`, and `before` and `after`: means over
    clients, then over draws, so that every client of a draw and every draw of an environment counts once.
    """
    each = runs(records).drop(columns="rounds")
    found = [_environments(record).assign(record=i) for i, record in enumerate(records) if record.content.scores]
    if not found:
        return pd.DataFrame(columns=[*each.columns, "environment", "rounds", *SIDES])
    return each.merge(pd.concat(found), on="record")


def _environments(record: EnvironmentRecord) -> pd.DataFrame:
    clients = record.clients
    scored = clients[(clients["n"] > 0) & (clients["model"] == "selected")]
    each = scored.assign(before=_of_clients(record, scored, ""), after=_of_clients(record, scored, "_after"))
    draws = each.groupby(["environment", "rounds", "draw"])[list(SIDES)].mean()
    found = draws.groupby(["environment", "rounds"]).mean().reset_index()
    rounds = set(record.content.scores.selected if record.content.scores else ())
    if set(found["rounds"]) != rounds or len(found) != len(rounds) * found["environment"].nunique():
        path = record.path.with_suffix(".clients.csv")
        raise DataError(f"{path} lacks clients that its record summarises; run this cell again")
    return found


def _of_clients(record: EnvironmentRecord, scored: pd.DataFrame, suffix: str) -> Values:
    """Every client's score before (no suffix) or after local adaptation."""
    metric = record.content.metric
    weight = "n" if metric.weight == "n" else f"{metric.weight}{suffix}"
    return metric.score(scored[f"{metric.total}{suffix}"], scored[weight])
