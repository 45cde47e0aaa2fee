"""A class at every position of an example."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor

from metaleaf.metrics import Metric
from metaleaf.shots import Shots
from metaleaf.tasks._kind import Kind, Spec, Sum, over
from metaleaf.tasks.multiclass import most_frequent

IGNORED = -1
"""The label of a position that is not judged."""


def _correct(logits: Tensor, y: Tensor, real: Tensor) -> Tensor:
    known = logits.abs().amax(-1) < torch.inf
    return over(real, (logits.argmax(-1) == y) & known & (y != IGNORED))


def _predictions(logits: Tensor, y: Tensor, real: Tensor) -> Tensor:
    return over(real, y != IGNORED)


@dataclass(frozen=True)
class Sequence(Kind):
    """Class scores [n, positions, classes]; y [n, positions], -1 where a position is not judged.

    The loss of an example is the mean over its judged positions. The constant answer is the support's most frequent
    class.

    unanswerable: classes that no answer is right for, such as the one of all unknown words: judged, and always wrong.
    """

    metrics: tuple[str, ...] = ("accuracy",)
    unanswerable: tuple[NonNegativeInt, ...] = ()

    known: ClassVar[Mapping[str, Metric]] = {"accuracy": Metric("accuracy", "correct", "predictions")}
    sums: ClassVar[Mapping[str, Sum]] = {"correct": _correct, "predictions": _predictions}

    def check(self, spec: Spec) -> None:
        """See `Kind`."""
        if not spec["classes"] or len(spec.get("y_shape", ())) != 1:
            self.refuse(spec, "a class at every position, shape [positions]")

    def outputs(self, spec: Spec) -> int:
        """See `Kind`."""
        return int(spec["classes"])

    def positions(self, spec: Spec) -> int:
        """See `Kind`."""
        return int(spec["y_shape"][0])

    def losses(self, outputs: Tensor, y: Tensor, padded: bool = False) -> Tensor:
        """See `Kind`."""
        judged = y != IGNORED
        each = -outputs.log_softmax(-1).gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return torch.where(judged, each, 0.0).sum(-1) / judged.sum(-1).clamp(min=1)

    def answers(self, outputs: Tensor) -> Tensor:
        """See `Kind`."""
        return outputs.argmax(-1)

    def summed(self, outputs: Tensor, y: Tensor, real: Tensor) -> Tensor:
        """See `Kind`."""
        seen = {"correct": self._answerable(y)}
        return torch.stack([self.sums[column](outputs, seen.get(column, y), real) for column in self.columns])

    def _answerable(self, y: Tensor) -> Tensor:
        """The same, without what no answer is right for."""
        for label in self.unanswerable:
            y = torch.where(y == label, IGNORED, y)
        return y

    def constant(self, support: Shots, query: Shots) -> Tensor:
        """See `Kind`."""
        labels = self._answerable(support.y)
        judged = labels[labels != IGNORED]
        classes = int(max(support.y.max(), query.y.max() if len(query.y) else 0, 0)) + 1
        answer = F.one_hot(torch.tensor(most_frequent(judged) if len(judged) else 0), classes)
        return answer.double().expand(*query.y.shape, -1)
