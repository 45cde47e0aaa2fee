"""What the gate compares of a run: counts that must stay as they are, and measures that vary with the seed."""

import math
from dataclasses import dataclass

from metaleaf.metrics import ACCURACY, Metric
from metaleaf.records.records import Content, Scores

ACCURACIES = ("accuracy", "client_mean")
"""Measures by the end of their name (before the support fraction) that are shares of right answers."""

MORE, LESS = " (more is better)", " (less is better)"
"""Ends of the names of measures of other metrics."""


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
    return (change > 0) == measure.partition("@")[0].endswith((*ACCURACIES, MORE))


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
        counts |= {f"clients@{support}": scores.after.clients, f"points@{support}": scores.after.points}
        own_counts, own = _of_metric(content.metric, scores)
        counts |= {f"{name}@{support}": value for name, value in own_counts.items()}
        losses = {"before_loss": _number(scores.before.loss), "after_loss": _number(scores.after.loss)}
        measures |= {f"{name}@{support}": value for name, value in (own | losses).items()}
    data, reason = content.data, content.reason if content.status == "diverged" else None
    hashes = {"configuration": content.config_hash, "data": data.data_hash, "split": data.split_hash}
    return Found(content.seed, hashes, counts, measures, reason)


def _of_metric(metric: Metric, scores: Scores) -> tuple[dict[str, int], dict[str, float]]:
    """Counts and measures.

    What the constant predictor reaches depends on the data and its split alone, so a wrong label or split shows there,
    whatever is learnt.
    """
    if metric == ACCURACY:
        counts = {"majority_correct": round(scores.majority.pooled * scores.majority.points)}
        measures = {"before_accuracy": scores.before.pooled, "after_accuracy": scores.after.pooled}
        return counts, {**measures, "after_client_mean": scores.after.client_mean}
    end = MORE if metric.higher_is_better else LESS
    found = {
        "constant": scores.majority.pooled,
        "before": scores.before.pooled,
        "after": scores.after.pooled,
        "after, mean over clients,": scores.after.client_mean,
    }
    return {}, {f"{metric.name} {name}{end}": value for name, value in found.items()}


def _number(loss: float | None) -> float:
    """A loss that is not finite is null in a record."""
    return math.nan if loss is None else loss


def text(measure: str, value: float) -> str:
    """The value as it is shown: accuracies in %."""
    name = measure.partition("@")[0]
    if name.endswith(ACCURACIES):
        return f"{100 * value:.2f} %"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
