"""Sums behind the metrics of yes-or-no answers: scores [n, labels], above 0 for yes; y of 0 and 1 in the same shape.

AUC compares the examples of a client with one another, and so does average precision. Ties count as in scikit-learn.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from metaleaf.metrics import Metric
from metaleaf.tasks._kind import Sum, finite, over

METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("accuracy", "correct", "answers"),
    "f1": Metric("F1", "f1_total", "f1_weight", undefined=0.0),
    "auc": Metric("AUC", "auc_total", "auc_weight"),
    "average_precision": Metric("average precision", "precision_total", "precision_weight"),
    "brier": Metric("Brier score", "squared_error", "answers", higher_is_better=False, unit=""),
}
"""F1 over all labels (micro). AUC: pairs of a positive and a negative example that are in order, of all such pairs of a
client; over several clients or labels all their pairs count. Average precision: its mean over labels that occur.
Brier score: squared distance of the probability, the scores being its logits, from what is true; 1 of no number."""


def as_logits(rate: Tensor) -> Tensor:
    """The scores that say how often yes is true."""
    return rate.logit(eps=1e-6)


def _rows(real: Tensor, y: Tensor) -> Tensor:
    return real.unsqueeze(-1).expand_as(y)


def _correct(scores: Tensor, y: Tensor, real: Tensor) -> Tensor:
    return over(real & finite(scores), (scores > 0) == (y > 0))


def _answers(scores: Tensor, y: Tensor, real: Tensor) -> Tensor:
    return over(real, torch.ones_like(scores))


def _squared_error(scores: Tensor, y: Tensor, real: Tensor) -> Tensor:
    off = scores.double().sigmoid() - (y > 0).double()
    return over(real, torch.where(finite(scores).unsqueeze(-1), off**2, 1.0))


def _f1_total(scores: Tensor, y: Tensor, real: Tensor) -> Tensor:
    return 2 * over(real & finite(scores), (scores > 0) & (y > 0))


def _f1_weight(scores: Tensor, y: Tensor, real: Tensor) -> Tensor:
    return over(real & finite(scores), scores > 0) + over(real, y > 0)


def _auc_total(scores: Tensor, y: Tensor, real: Tensor) -> Tensor:
    """Pairs in order, ties counting half."""
    usable = _rows(real & finite(scores), y)
    positive, negative, first, last = _sorted(scores, y, usable)
    until = negative.cumsum(0)
    below = (until - negative).gather(0, first)
    return (positive * (below + until.gather(0, last)) / 2).sum()


def _auc_weight(scores: Tensor, y: Tensor, real: Tensor) -> Tensor:
    rows = _rows(real, y)
    return ((rows & (y > 0)).double().sum(0) * (rows & (y <= 0)).double().sum(0)).sum()


def _precision_total(scores: Tensor, y: Tensor, real: Tensor) -> Tensor:
    """Over labels, the mean over their positives of the precision among all that score as high or higher."""
    usable = _rows(real & finite(scores), y)
    positive, negative, _, last = _sorted(-scores, y, usable)
    hits = positive.cumsum(0)
    precision = (hits / (hits + negative.cumsum(0)).clamp(min=1)).gather(0, last)
    wanted = (_rows(real, y) & (y > 0)).double().sum(0)
    return ((positive * precision).sum(0) / wanted.clamp(min=1)).sum()


def _precision_weight(scores: Tensor, y: Tensor, real: Tensor) -> Tensor:
    return (_rows(real, y) & (y > 0)).any(0).double().sum()


def _sorted(scores: Tensor, y: Tensor, usable: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By rising score: who is positive, who negative, and in which row the first and the last of the same score stands.

    float64; who is not usable is neither.
    """
    order = torch.where(usable, scores, torch.inf).argsort(0)
    ordered, kept, wanted = scores.gather(0, order), usable.gather(0, order), (y > 0).gather(0, order)
    place = torch.arange(len(scores), device=scores.device).unsqueeze(-1).expand_as(order)
    other = ordered[1:] != ordered[:-1]
    edge = torch.ones_like(ordered[:1], dtype=torch.bool)
    first = torch.where(torch.cat([edge, other]), place, 0).cummax(0).values
    last = torch.where(torch.cat([other, edge]), place, len(scores) - 1).flip(0).cummin(0).values.flip(0)
    return (wanted & kept).double(), (~wanted & kept).double(), first, last


SUMS: Mapping[str, Sum] = {
    "correct": _correct,
    "answers": _answers,
    "squared_error": _squared_error,
    "f1_total": _f1_total,
    "f1_weight": _f1_weight,
    "auc_total": _auc_total,
    "auc_weight": _auc_weight,
    "precision_total": _precision_total,
    "precision_weight": _precision_weight,
}

AT_ONCE = frozenset({"auc_total", "auc_weight", "precision_total", "precision_weight"})
