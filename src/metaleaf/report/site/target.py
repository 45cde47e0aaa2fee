"""The track "cost to target": a row per dataset that declares a target, and algorithm."""

from collections.abc import Sequence

import pandas as pd

from metaleaf.records.records import Record
from metaleaf.report.site import table
from metaleaf.report.site.runs import run_id
from metaleaf.report.site.table import Cell, Column, Row, Track
from metaleaf.statistics.cost_to_target import cost_to_target, target_of

ABOUT = (
    "What a run had sent and computed when its validation score after adaptation first was at its dataset's "
    "target: means over the seeds that reached it, in brackets the least and the most. An evaluation takes place "
    "every few rounds (resolution), so that a run may have been there up to that many rounds earlier. Where not "
    "all seeds reached the target, the mean is over those that did, and flatters."
)
COLUMNS = (
    table.ALGORITHM,
    table.FAMILY,
    table.DATASET,
    table.SUITE,
    Column("target", "Target", "low"),
    Column("reached", "Reached"),
    Column("rounds", "Rounds", "low", axis=(0.0, 1.0)),
    Column("sent", "Sent", "low"),
    Column("flops", "FLOPs", "low"),
    Column("resolution", "Resolution", "low"),
)


TRACK = Track("cost-to-target", "Cost to target", ABOUT, COLUMNS)


def rows(records: Sequence[Record]) -> list[Row]:
    """The rows of one suite."""
    made = []
    for dataset in dict.fromkeys(record.content.dataset for record in records):
        of_dataset = [record for record in records if record.content.dataset == dataset]
        target = target_of(of_dataset[0].content.data.name)
        if target is None:
            continue
        costs = cost_to_target(of_dataset, target).assign(record=range(len(of_dataset)))
        for name, its in costs.groupby("name", sort=False):
            made.append(_row(str(name), its, of_dataset[int(its["record"].iloc[0])], target))
    return made


def _row(name: str, its: pd.DataFrame, record: Record, target: float) -> Row:
    content = record.content
    there = its[its["reached"]]
    filters = {"suite": content.suite, "dataset": content.dataset, "family": table.family(content.plugin)}
    found = {key: Cell(text) for key, text in {"algorithm": name, **filters}.items()} | {
        "target": Cell(content.metric.exact(target), target),
        "reached": Cell(f"{len(there)} of {len(its)}", len(there) / len(its)),
        "rounds": _rounds(there["rounds"].astype(float)),
        "sent": table.amount(there["bytes"].mean(), "B"),
        "flops": table.amount(there["flops"].mean(), "FLOPs"),
        "resolution": table.count(there["resolution"].max()),
    }
    return Row(filters, tuple(found[column.key] for column in COLUMNS), run_id(content))


def _rounds(rounds: pd.Series) -> Cell:
    if rounds.empty:
        return Cell("not reached")
    low, high = rounds.min(), rounds.max()
    return Cell(f"{rounds.mean():.0f}", rounds.mean(), f"[{low:.0f}, {high:.0f}]", low, high)
