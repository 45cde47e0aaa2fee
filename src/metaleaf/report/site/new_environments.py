"""The track of new environments: a row per dataset, algorithm and rounds in an environment nobody has seen."""

import math
from collections.abc import Sequence

import pandas as pd

from metaleaf.metrics import Metric
from metaleaf.records.environments import EnvironmentRecord, runs
from metaleaf.report.site import table
from metaleaf.report.site.runs import run_id
from metaleaf.report.site.table import Cell, Column, Row, Track
from metaleaf.report.tables.environments import comparison
from metaleaf.statistics.intervals import Estimate

ABOUT = (
    "Scores in environments nobody has seen, R rounds after the first meeting, over clients who take no "
    "part: of the environment's parameters (before) and after the client's local adaptation (after); in brackets "
    "and as a bar: mean ± two standard errors over pairs of environment and seed. Gain: difference before "
    "adaptation from Few-Round in the same environments, in points, with the 95 % interval of a bootstrap over "
    "seeds and environments. Sent: by all participants in one environment up to round R. Client updates: in "
    "training. Rounding: points by which a score moves when only rounding differs, at most. Compare algorithms "
    "at one R of one suite."
)
COLUMNS = (
    table.ALGORITHM,
    table.FAMILY,
    table.DATASET,
    table.SUITE,
    table.METRIC,
    Column("R", "R", "low"),
    Column("before", "Before", axis=table.PERCENT),
    Column("after", "After", axis=table.PERCENT),
    Column("gain", "Gain", axis=(-1.0, 1.0)),
    Column("pairs", "Pairs"),
    Column("seeds", "Seeds"),
    Column("rounding", "Rounding", "low"),
    Column("sent", "Sent", "low"),
    Column("updates", "Client updates", "low"),
)


TRACK = Track("new-environments", "New environments", ABOUT, COLUMNS)


def rows(records: Sequence[EnvironmentRecord]) -> list[Row]:
    """The rows of one suite. Raises DataError where runs that are to be paired cannot be."""
    first = runs(records).drop_duplicates(["dataset", "name"]).set_index(["dataset", "name"])["record"]
    numbers = comparison(records)
    return [_row(row, records[int(first[row["dataset"], row["algorithm"]])]) for _, row in numbers.iterrows()]


def _row(row: pd.Series, record: EnvironmentRecord) -> Row:
    content = record.content
    rounds, finished = row["rounds"], row["seeds"]
    filters = {"suite": content.suite, "dataset": content.dataset, "family": table.family(content.plugin)}
    scores = {side: _around(row[f"{side}_mean"], row[f"{side}_errors"], content.metric) for side in ("before", "after")}
    found = {key: Cell(text) for key, text in {"algorithm": row["algorithm"], **filters}.items()} | {
        "metric": Cell(content.metric.name),
        "R": table.count(rounds),
        **(scores if finished else {"before": Cell("diverged"), "after": Cell("diverged")}),
        "gain": table.score(_gain(row), content.metric, signed=True),
        "pairs": table.count(row["pairs"]),
        "seeds": table.seeds(int(finished), int(row["diverged"])),
        "rounding": table.points(row["rounding"]),
        "sent": table.amount(row["bytes"], "B"),
        "updates": table.count(row["client_updates"]),
    }
    filters |= {} if math.isnan(rounds) else {"R": f"{rounds:.0f}"}
    return Row(filters, tuple(found[column.key] for column in COLUMNS), run_id(content))


def _around(mean: float, errors: float, metric: Metric) -> Cell:
    return table.score(Estimate(mean, mean - errors, mean + errors), metric)


def _gain(row: pd.Series) -> Estimate:
    return Estimate(*(float(row.get(f"before_{key}", math.nan)) for key in ("difference", "low", "high")))
