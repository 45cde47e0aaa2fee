"""Numbers to be predicted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from metaleaf.errors import ConfigError
from metaleaf.metrics import Metric
from metaleaf.shots import Shots
from metaleaf.tasks._kind import Kind, Spec, Sum, over

_OFF: dict[str, Any] = {"higher_is_better": False, "high": None}


def _errors(outputs: Tensor, y: Tensor) -> Tensor:
    """Prediction minus truth, float64, in y's shape."""
    return outputs.double().view(y.shape) - y.double()


def _squared(outputs: Tensor, y: Tensor, real: Tensor) -> Tensor:
    return over(real, _errors(outputs, y).flatten(1 if y.dim() > 1 else 0) ** 2) / math.prod(y.shape[1:])


def _absolute(outputs: Tensor, y: Tensor, real: Tensor) -> Tensor:
    return over(real, _errors(outputs, y).abs()) / math.prod(y.shape[1:])


def _deviation(outputs: Tensor, y: Tensor, real: Tensor) -> Tensor:
    """Squares around the client's own mean."""
    kept = real.view(-1, *[1] * (y.dim() - 1))
    mean = torch.where(kept, y.double(), 0.0).sum(0) / real.sum().clamp(min=1)
    return over(real, (y.double() - mean) ** 2) / math.prod(y.shape[1:])


def _nasa(outputs: Tensor, y: Tensor, real: Tensor) -> Tensor:
    errors = _errors(outputs, y)
    return over(real, torch.expm1(torch.where(errors < 0, -errors / 13, errors / 10))) / math.prod(y.shape[1:])


@dataclass(frozen=True)
class Regression(Kind):
    """Numbers of y's shape; the constant answer is the support's mean.

    loss: squared error, absolute error, or Huber's with its bend at 1. unit: of y, for tables. Metrics: RMSE; MAE; R2,
    the share of the squares around each client's own mean that is explained; NASA's score for remaining lives (Saxena
    et al. 2008, PHM), whose late predictions cost more, as a mean over examples.
    """

    metrics: tuple[str, ...] = ("rmse", "mae", "r2")
    loss: Literal["squared", "absolute", "huber"] = "squared"
    unit: str = ""

    known: ClassVar[Mapping[str, Metric]] = {
        "rmse": Metric("RMSE", "squared_error", form="root", **_OFF),
        "mae": Metric("MAE", "absolute_error", **_OFF),
        "r2": Metric("R²", "squared_error", "squared_deviation", form="complement", low=None, unit=""),
        "nasa": Metric("NASA score", "nasa_score", **{**_OFF, "unit": ""}),
    }
    sums: ClassVar[Mapping[str, Sum]] = {
        "squared_error": _squared,
        "absolute_error": _absolute,
        "squared_deviation": _deviation,
        "nasa_score": _nasa,
    }
    at_once: ClassVar[frozenset[str]] = frozenset({"squared_deviation"})
    y_dtype: ClassVar[str] = "float32"

    @property
    def measured(self) -> tuple[Metric, ...]:
        """See `Kind`; errors have y's unit."""
        found = (self.known[name] for name in self.metrics)
        return tuple(replace(metric, unit=self.unit) if metric.unit == "%" else metric for metric in found)

    def check(self, spec: Spec) -> None:
        """See `Kind`: any numbers will do, but no names of classes."""
        if labels := spec.get("labels"):
            raise ConfigError(
                f"task {self.name!r} needs numbers; the data's y are classes called {labels[0]}, {labels[1]}, ...: "
                "where these are numbers, say so to the dataset (target_type = 'numbers')."
            )

    def outputs(self, spec: Spec) -> int:
        """See `Kind`."""
        return math.prod(spec.get("y_shape", ()))

    def losses(self, outputs: Tensor, y: Tensor, padded: bool = False) -> Tensor:
        """See `Kind`: the mean over the numbers of an example."""
        predicted, wanted = outputs.flatten(1), y.to(outputs.dtype).view(outputs.shape[0], -1)
        if self.loss == "squared":
            return ((predicted - wanted) ** 2).mean(-1)
        if self.loss == "absolute":
            return (predicted - wanted).abs().mean(-1)
        return F.huber_loss(predicted, wanted, reduction="none").mean(-1)

    def constant(self, support: Shots, query: Shots) -> Tensor:
        """See `Kind`."""
        return support.y.double().mean(0).flatten().expand(len(query.y), -1)
