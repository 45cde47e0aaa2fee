"""Yes or no an example."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from metaleaf.metrics import ACCURACY, Metric
from metaleaf.shots import Shots
from metaleaf.tasks import _answers
from metaleaf.tasks._kind import Kind, Spec, Sum


def _of_one(total: Sum) -> Sum:
    """The sum for y [n] and outputs [n, 1]."""
    return lambda outputs, y, real: total(outputs, y.unsqueeze(-1), real)


@dataclass(frozen=True)
class Binary(Kind):
    """One logit, [n, 1], and cross-entropy; the constant answer is how frequent yes is in the support."""

    metrics: tuple[str, ...] = ("accuracy", "auc", "f1", "average_precision")

    known: ClassVar[Mapping[str, Metric]] = {**_answers.METRICS, "accuracy": ACCURACY}
    sums: ClassVar[Mapping[str, Any]] = {column: _of_one(total) for column, total in _answers.SUMS.items()}
    at_once: ClassVar[frozenset[str]] = _answers.AT_ONCE

    def check(self, spec: Spec) -> None:
        """See `Kind`."""
        if spec["classes"] != 2 or spec.get("y_shape"):
            self.refuse(spec, "2 classes (no, yes)")

    def outputs(self, spec: Spec) -> int:
        """See `Kind`."""
        return 1

    def losses(self, outputs: Tensor, y: Tensor, padded: bool = False) -> Tensor:
        """See `Kind`."""
        return F.binary_cross_entropy_with_logits(outputs.squeeze(-1), y.to(outputs.dtype), reduction="none")

    def answers(self, outputs: Tensor) -> Tensor:
        """See `Kind`."""
        return (outputs.squeeze(-1) > 0).long()

    def constant(self, support: Shots, query: Shots) -> Tensor:
        """See `Kind`."""
        return _answers.as_logits(support.y.double().mean()).expand(len(query.y), 1)
