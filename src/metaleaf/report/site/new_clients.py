"""The tracks of new clients and of participants: a row per dataset, support fraction and algorithm."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from metaleaf.records.client_scores import ClientScores, Setting, client_scores
from metaleaf.records.records import Record, Who, tidy
from metaleaf.report.site import table
from metaleaf.report.site.runs import run_id
from metaleaf.report.site.table import BASELINE, Cell, Column, Row, Track
from metaleaf.statistics.comparison import constant_of
from metaleaf.statistics.intervals import Estimate, estimate
from metaleaf.statistics.late_gain import late_gain

ABOUT = (
    "Scores over the query examples of test clients nobody has trained on, before and after each adapts "
    "on a fraction of its examples (support), of the model that validation selected. In brackets and as a bar: "
    "95 % interval of a bootstrap over seeds and clients. Worst 10 %: mean of the worst tenth of the clients. "
    "Hurt: share of clients whom adapting made worse. Metric: accuracy in %, or what the dataset's task asks for. "
    "Sent and FLOPs: of the whole training. Rounding: "
    "points by which a score moves when only rounding differs, at most. Late gain: how much better validation is in "
    "the last quarter of the rounds than in the quarter before; above half a point an algorithm is still learning. "
    "Majority class answers with the most "
    "frequent class of a client's own support; constant answer is its like for other tasks. Compare algorithms at "
    "one support fraction of one suite."
)
COLUMNS = (
    table.ALGORITHM,
    table.FAMILY,
    table.DATASET,
    table.SUITE,
    table.METRIC,
    Column("support", "Support", "low"),
    Column("before", "Before", axis=table.PERCENT),
    Column("after", "After", axis=table.PERCENT),
    Column("worst", "Worst 10 %", axis=table.PERCENT),
    Column("hurt", "Hurt", "low"),
    Column("seeds", "Seeds"),
    Column("rounding", "Rounding", "low"),
    Column("late_gain", "Late gain", "low"),
    Column("rounds", "Rounds", "low"),
    Column("sent", "Sent", "low"),
    Column("flops", "FLOPs", "low"),
)


PARTICIPANTS_ABOUT = (
    "Scores of the clients that trained, over examples that each of them held out of training, tuning and "
    "selection, with the model that it would use after training, what it keeps to itself included (after), and without "
    "anything of its own (before). Kept: the share of its examples that it did not hold out. All else as for new "
    "clients; majority class answers with the most frequent class of what a client kept."
)

TRACK = Track("new-clients", "New clients", ABOUT, COLUMNS)
PARTICIPANTS = Track(
    "participants",
    "Participants",
    PARTICIPANTS_ABOUT,
    tuple(Column("support", "Kept", "low") if column.key == "support" else column for column in COLUMNS),
)


def rows(records: Sequence[Record]) -> list[Row]:
    """New clients' rows of one suite. Raises DataError where two seeds of an algorithm scored different clients."""
    return _rows(records, "new")


def participants(records: Sequence[Record]) -> list[Row]:
    """The same of participants, of datasets that scored them."""
    return _rows([record for record in records if record.content.held_out], "participants")


def _rows(records: Sequence[Record], who: Who) -> list[Row]:
    if not records:
        return []
    frame, scores = tidy(records), client_scores(records)
    made = []
    for dataset, runs in frame.groupby("dataset", sort=False):
        settings = [setting for setting in scores if (setting.dataset, setting.who) == (dataset, who)]
        for setting in settings or [Setting(str(dataset), float("nan"), who)]:
            found = scores.get(setting, {})
            if found:
                made.append(_majority(max(found.values(), key=lambda each: len(each.seeds)), setting, records))
            for name, its in runs.drop_duplicates("record").groupby("name", sort=False):
                made.append(_row(str(name), its, found.get(str(name)), setting, records))
    return made


def _majority(scores: ClientScores, setting: Setting, records: Sequence[Record]) -> Row:
    """Every algorithm of a seed sees the same clients and splits, so any one of them has the baseline."""
    metric = scores.metric
    cells = {
        "metric": Cell(metric.name),
        "after": table.score(estimate(scores, "majority_pooled"), metric),
        "worst": table.score(estimate(scores, "majority_bottom10"), metric),
        "seeds": table.seeds(len(scores.seeds), 0),
    }
    return _laid_out(constant_of(metric), BASELINE, setting, records[0].content.suite, cells)


def _row(name: str, its: pd.DataFrame, scores: ClientScores | None, setting: Setting, records: Sequence[Record]) -> Row:
    content = records[int(its["record"].iloc[0])].content
    diverged = int((its["status"] == "diverged").sum())
    metric = content.metric
    gains = its["record"].map(lambda place: late_gain(records[place]))
    cells = {
        "metric": Cell(metric.name),
        "seeds": table.seeds(len(its) - diverged, diverged),
        "rounding": table.points(its["rounding"].max()),
        "late_gain": table.score(Estimate(gains.mean(), math.nan, math.nan), metric, signed=True),
        "rounds": table.count(its["rounds"].mean()),
        "sent": table.amount(its["bytes"].mean(), "B"),
        "flops": table.amount(its["flops"].mean(), "FLOPs"),
    }
    if scores:
        cells |= {
            "before": table.score(estimate(scores, "before_pooled"), metric),
            "after": table.score(estimate(scores, "after_pooled"), metric),
            "worst": table.score(estimate(scores, "after_bottom10"), metric),
            "hurt": table.percent(estimate(scores, "after_hurt")._replace(low=float("nan"))),
        }
    else:
        cells["after"] = Cell("diverged")
    return _laid_out(name, table.family(content.plugin), setting, content.suite, cells, run_id(content))


def _laid_out(
    name: str, family: str, setting: Setting, suite: str, cells: dict[str, Cell], run: str | None = None
) -> Row:
    known = setting.support == setting.support
    filters: dict[str, Any] = {"suite": suite, "dataset": setting.dataset, "family": family}
    texts = {"algorithm": name, **filters}
    support = Cell(f"{100 * setting.support:g} %", setting.support) if known else table.UNKNOWN
    found = {key: Cell(text) for key, text in texts.items()} | {"support": support} | cells
    filters |= {"support": f"{setting.support:g}"} if known and setting.who == "new" else {}
    return Row(filters, tuple(found.get(column.key, table.UNKNOWN) for column in COLUMNS), run)
