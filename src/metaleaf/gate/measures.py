"""What the gate compares of a run: counts that must stay as they are, and measures that vary with the seed."""

import math
from dataclasses import dataclass

from metaleaf.records.records import Content

HIGHER_IS_BETTER = ("accuracy", "client_mean")
"""Measures by the end of their name (before the support fraction); of all others less is better."""


@dataclass(frozen=True)
class Found:
    """One run. counts: the same for every seed. measures: by name, e.g. ``after_accuracy@0.5``; nan if not finite.

    `hashes` are those of configuration, data and split: only runs with the same can be compared.
    """

    seed: int
    hashes: dict[str, str]
    counts: dict[str, int]
    measures: dict[str, float]
    diverged: str | None = None


def better(measure: str, change: float) -> bool:
    """Whether a measure that changed by so much has become better."""
    return (change > 0) == measure.partition("@")[0].endswith(HIGHER_IS_BETTER)


def found(content: Content) -> Found:
    """The last round's model at every support fraction (no model is chosen, which would add noise), and the cost."""
    counts = {
        "rounds": content.rounds,
        "parameters": content.parameters,
        "bytes_down": int(content.cost.bytes_down),
        "bytes_up": int(content.cost.bytes_up),
    }
    measures = {"flops": content.cost.flops}
    for support, scores in content.scores.get("final", {}).items():
        majority = scores.majority
        counts |= {
            f"clients@{support}": scores.after.clients,
            f"points@{support}": scores.after.points,
            # Depends on the data and its split alone, so a wrong label or split shows here whatever is learnt.
            f"majority_correct@{support}": round(majority.accuracy * majority.points),
        }
        measures |= {
            f"before_accuracy@{support}": scores.before.accuracy,
            f"before_loss@{support}": _number(scores.before.loss),
            f"after_accuracy@{support}": scores.after.accuracy,
            f"after_client_mean@{support}": scores.after.client_mean,
            f"after_loss@{support}": _number(scores.after.loss),
        }
    data, reason = content.data, content.reason if content.status == "diverged" else None
    hashes = {"configuration": content.config_hash, "data": data.data_hash, "split": data.split_hash}
    return Found(content.seed, hashes, counts, measures, reason)


def _number(loss: float | None) -> float:
    """A loss that is not finite is null in a record."""
    return math.nan if loss is None else loss


def text(measure: str, value: float) -> str:
    """The value as it is shown: accuracies in %."""
    name = measure.partition("@")[0]
    if name.endswith(HIGHER_IS_BETTER):
        return f"{100 * value:.2f} %"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
