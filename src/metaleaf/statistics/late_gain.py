"""Whether runs had finished learning: how much better validation still became at their end."""

import math

from metaleaf.records.records import Record

STILL_LEARNING = 0.005
"""A late gain, of a share, above which a number says what its rounds give rather than what its method reaches."""


def late_gain(record: Record) -> float:
    """How much better validation after adaptation is in the last quarter of the rounds than in the quarter before.

    By the means over the evaluations in each, in the metric's own unit; below 0 where it became worse. nan for a run
    that diverged, or has no evaluation in one of the quarters.
    """
    evaluated = record.rounds.dropna(subset="validation_after")
    part = evaluated["round"] / max(record.content.rounds, 1)
    before, last = (
        evaluated.loc[(part > start) & (part <= start + 0.25), "validation_after"].mean() for start in (0.5, 0.75)
    )
    if record.content.status == "diverged":
        return math.nan
    gain = float(last - before)
    return gain if record.content.metric.higher_is_better else -gain
