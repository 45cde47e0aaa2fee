"""Any of several labels an example."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from metaleaf.metrics import Metric
from metaleaf.shots import Shots
from metaleaf.tasks import _answers
from metaleaf.tasks._kind import Kind, Spec, Sum


@dataclass(frozen=True)
class Multilabel(Kind):
    """Logits [n, labels], cross-entropy of each label; the constant answer is how frequent each is in the support."""

    metrics: tuple[str, ...] = ("average_precision", "auc", "f1", "accuracy")

    known: ClassVar[Mapping[str, Metric]] = _answers.METRICS
    sums: ClassVar[Mapping[str, Sum]] = _answers.SUMS
    at_once: ClassVar[frozenset[str]] = _answers.AT_ONCE

    def check(self, spec: Spec) -> None:
        """See `Kind`."""
        if spec["classes"] != 2 or len(spec.get("y_shape", ())) != 1:
            self.refuse(spec, "2 classes (no, yes) of several labels, shape [labels]")

    def outputs(self, spec: Spec) -> int:
        """See `Kind`."""
        return int(spec["y_shape"][0])

    def losses(self, outputs: Tensor, y: Tensor, padded: bool = False) -> Tensor:
        """See `Kind`."""
        return F.binary_cross_entropy_with_logits(outputs, y.to(outputs.dtype), reduction="none").mean(-1)

    def answers(self, outputs: Tensor) -> Tensor:
        """See `Kind`."""
        return (outputs > 0).long()

    def constant(self, support: Shots, query: Shots) -> Tensor:
        """See `Kind`."""
        return _answers.as_logits(support.y.double().mean(0)).expand(len(query.y), -1)
