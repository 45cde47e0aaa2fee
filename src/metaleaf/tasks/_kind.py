"""What is asked of a model: what y is, the loss, the metrics, and the constant answer that any method has to beat."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from metaleaf.errors import ConfigError, refuse_unknown
from metaleaf.metrics import Metric
from metaleaf.shots import Shots

Spec = Mapping[str, Any]
"""A `metaleaf.dataset.Spec` as a dict."""

Sum = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From outputs, y and which rows are real (bool [n]) to a sum over these, a float64 scalar."""


@dataclass(frozen=True)
class Kind:
    """A kind of task. Options are dataclass fields; `metrics` names those that are reported, the main one first.

    A subclass says what it knows: the metrics, the sums that they are ratios of by column, and which of these need all
    examples of a client at once.
    """

    metrics: tuple[str, ...] = ()

    known: ClassVar[Mapping[str, Metric]] = {}
    sums: ClassVar[Mapping[str, Sum]] = {}
    at_once: ClassVar[frozenset[str]] = frozenset()
    y_dtype: ClassVar[str] = "int64"
    """Of `Shots.y`."""

    def __post_init__(self) -> None:
        refuse_unknown(f"metric of {self.name.lower()}", self.metrics, self.known)
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(f"metrics = {list(self.metrics)} of {self.name.lower()}: name one or more, each once.")

    @property
    def name(self) -> str:
        """As suites have it, if `metaleaf.tasks.build` made it by a name; else of its class."""
        return str(getattr(self, "_named", type(self).__name__))

    @property
    def measured(self) -> tuple[Metric, ...]:
        """The metrics, the main one first."""
        return tuple(self.known[name] for name in self.metrics)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the sums that the metrics need, beside the number of examples."""
        named = (column for metric in self.measured for column in (metric.total, metric.weight))
        return tuple(dict.fromkeys(column for column in named if column != "n"))

    @property
    def needs_all(self) -> bool:
        """Whether some sum needs all examples of a client at once."""
        return not self.at_once.isdisjoint(self.columns)

    def scaled(self, mean: np.ndarray | None, sd: np.ndarray | None) -> "Kind":
        """This kind where y was centred and divided (`metaleaf.data.scale`): losses are so, metrics in y's own unit."""
        if mean is None or sd is None:
            return self
        other = copy.copy(self)
        object.__setattr__(other, "_scale", (torch.from_numpy(mean), torch.from_numpy(sd)))
        return other

    def summed(self, outputs: Tensor, y: Tensor, real: Tensor) -> Tensor:
        """The sums of `columns` over the real rows, float64 [len(columns)]."""
        if scale := getattr(self, "_scale", None):
            mean, sd = (leaf.to(y.device) for leaf in scale)
            outputs, y = outputs.double() * sd.flatten() + mean.flatten(), y.double() * sd + mean
        return torch.stack([self.sums[column](outputs, y, real) for column in self.columns])

    def check(self, spec: Spec) -> None:
        """ConfigError unless the data's y is what this kind of task needs."""
        raise NotImplementedError

    def refuse(self, spec: Spec, needed: str) -> None:
        """ConfigError: the data's y is something else."""
        shape = list(spec.get("y_shape", ()))
        found = f"{spec['classes']} classes" if spec.get("classes") else "numbers"
        raise ConfigError(f"task {self.name!r} needs {needed}; the data have y of {found}, shape {shape} an example.")

    def outputs(self, spec: Spec) -> int:
        """Numbers that make a prediction."""
        raise NotImplementedError

    def positions(self, spec: Spec) -> int:
        """Predictions an example where there is one at each position; 0 where there is one an example."""
        return 0

    def losses(self, outputs: Tensor, y: Tensor, padded: bool = False) -> Tensor:
        """Of each example, [n]. padded: some rows may not be real, and clients may be side by side."""
        raise NotImplementedError

    def answers(self, outputs: Tensor) -> Tensor:
        """What the outputs say, as y would say it: the likeliest class, or the numbers; here the outputs themselves."""
        return outputs

    def answer_shape(self, spec: Spec) -> tuple[int, ...]:
        """Of the answer for one example: that of y."""
        return tuple(spec.get("y_shape", ()))

    def constant(self, support: Shots, query: Shots) -> Tensor:
        """What the constant predictor that the support suggests would output for the query."""
        raise NotImplementedError


def over(real: Tensor, values: Tensor) -> Tensor:
    """The sum over the real rows of values [n, ...], float64."""
    kept = real.view(-1, *[1] * (values.dim() - 1))
    return torch.where(kept, values.double(), 0.0).sum()


def finite(outputs: Tensor) -> Tensor:
    """Which rows hold finite numbers only: a model that has become NaN answers nothing."""
    return outputs.flatten(1).abs().amax(-1) < torch.inf
