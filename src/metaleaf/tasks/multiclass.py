"""One of several classes an example."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metaleaf.metrics import ACCURACY, Metric
from metaleaf.shots import Shots
from metaleaf.tasks._kind import Kind, Spec, Sum, finite


def cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Of each row [n]. Written so that many clients' together are few and fast operators.

    F.cross_entropy also looks for labels that are to be ignored, and imports sympy to check its arguments: half a
    second of a process's start. And with few classes, a softmax along the last dimension takes six times as long.
    """
    return -logits.t().log_softmax(0).gather(0, y.unsqueeze(0)).squeeze(0)


def _correct(logits: Tensor, y: Tensor, real: Tensor) -> Tensor:
    # Without the test, argmax would call everything class 0.
    return ((logits.argmax(-1) == y) & finite(logits) & real).sum().double()


def most_frequent(labels: Tensor) -> int:
    """The class that most labels name, the smallest of several."""
    return int(np.bincount(labels.numpy()).argmax())


@dataclass(frozen=True)
class Multiclass(Kind):
    """Class scores [n, classes], cross-entropy, accuracy; the constant answer is the support's most frequent class."""

    metrics: tuple[str, ...] = ("accuracy",)

    known: ClassVar[Mapping[str, Metric]] = {"accuracy": ACCURACY}
    sums: ClassVar[Mapping[str, Sum]] = {"correct": _correct}

    def check(self, spec: Spec) -> None:
        """See `Kind`."""
        if not spec["classes"] or spec.get("y_shape"):
            self.refuse(spec, "one class an example")

    def outputs(self, spec: Spec) -> int:
        """See `Kind`."""
        return int(spec["classes"])

    def losses(self, outputs: Tensor, y: Tensor, padded: bool = False) -> Tensor:
        """See `Kind`."""
        return cross_entropies(outputs, y) if padded else F.cross_entropy(outputs, y, reduction="none")

    def answers(self, outputs: Tensor) -> Tensor:
        """See `Kind`."""
        return outputs.argmax(-1)

    def constant(self, support: Shots, query: Shots) -> Tensor:
        """See `Kind`."""
        labels = int(max(support.y.max(), query.y.max() if len(query.y) else 0)) + 1
        answer = F.one_hot(torch.tensor(most_frequent(support.y)), labels)
        return answer.double().expand(len(query.y), -1)
