"""The track "cost to target": what a run had sent and computed when it first was as good as its dataset asks.

The target is a validation score after adaptation, over points; the dataset declares it (`target`). A run is
validated every `evaluate_every` rounds, so that it may have reached the target up to that many rounds earlier; all
methods of a suite share this resolution. Validation itself costs nothing here, as everywhere (docs/protocol.md).
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from metaleaf import registry
from metaleaf.errors import ConfigError
from metaleaf.records.records import Record, tidy


def target_of(dataset: str) -> float | None:
    """The target of the dataset plugin of that name; None where it declares none, or there is no such plugin here.

    An option of this name may be something else: it is no number.
    """
    try:
        found = getattr(registry.plugin("datasets", dataset), "target", None)
    except ConfigError:
        return None
    return float(found) if isinstance(found, int | float) else None


def cost_to_target(records: Sequence[Record], target: float) -> pd.DataFrame:
    """What each run took to the validation score `target` (of shares a fraction); one row per record, in their order.

    Columns: `dataset`, `name` (of the algorithm, as in `metaleaf.records.records.tidy`), `seed`, `reached`, and, at the
    first evaluated round that is as good as the target, `rounds`, `bytes` (down and up) and `flops` since the start,
    and `resolution`, the rounds since the evaluation before it. These four are nan where the target was never reached;
    a run that diverged never does. Raises DataError on a table of rounds that cannot be read.
    """
    columns = ["dataset", "name", "seed", "reached", "rounds", "bytes", "flops", "resolution"]
    if not records:
        return pd.DataFrame(columns=columns)
    names = tidy(records).drop_duplicates("record")["name"]
    rows = [
        {"dataset": record.content.dataset, "name": name, "seed": record.content.seed, **_reached(record, target)}
        for record, name in zip(records, names, strict=True)
    ]
    return pd.DataFrame(rows, columns=columns)


def _reached(record: Record, target: float) -> dict[str, Any]:
    never = {"reached": False, **dict.fromkeys(("rounds", "bytes", "flops", "resolution"), math.nan)}
    if record.content.status == "diverged":
        return never
    evaluated = record.rounds.dropna(subset="validation_after")
    score, metric = evaluated["validation_after"], record.content.metric
    enough = score >= target if metric.higher_is_better else score <= target
    if not enough.any():
        return never
    first = evaluated[enough].iloc[0]
    earlier = evaluated.loc[evaluated["round"] < first["round"], "round"]
    return {
        "reached": True,
        "rounds": float(first["round"]),
        "bytes": float(first["bytes_down"] + first["bytes_up"]),
        "flops": float(first["flops"]),
        "resolution": float(first["round"] - earlier.max()) if len(earlier) else float(first["round"]),
    }
