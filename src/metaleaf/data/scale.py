"""Centring and dividing by the standard deviation, both of the training clients' examples and of nobody else's.

Scaled with figures of all clients, a test client's examples would tell the model something before it has met them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Rows = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
"""The examples to take figures of, x [n, *x_shape] and y [n, *y_shape] client by client, as often as it is called."""


@dataclass(frozen=True)
class Scale:
    """Means and standard deviations, float64: of each number of x or, of series, of each channel; and of y's numbers.

    Where all values are the same, or nothing was measured, the deviation is 1. None: that side stays as it is.
    """

    x_mean: np.ndarray | None = None
    x_sd: np.ndarray | None = None
    y_mean: np.ndarray | None = None
    y_sd: np.ndarray | None = None

    @classmethod
    def of(cls, spec: Mapping[str, Any], rows: Rows) -> "Scale":
        """What a `metaleaf.dataset.Spec`'s ``standardise`` asks for, of those examples."""
        if not (wanted := spec.get("standardise")):
            return cls()
        series = wanted == "series"
        x = _figures(lambda: (x for x, _ in rows()), _axes(spec["x_shape"], series))
        if wanted == "x":
            return cls(*x)
        every = tuple(range(1 + len(spec["y_shape"]))) if series else (0,)
        y = _figures(lambda: (y for _, y in rows()), every)
        return cls(*(_first_as(x, y) if series else x), *y)

    @property
    def given(self) -> dict[str, Any]:
        """As JSON has it, for records; empty where nothing is scaled."""
        return {name: value.tolist() for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_record(cls, given: Mapping[str, Any] | None) -> "Scale":
        """Of `given`."""
        return cls(**{name: np.array(value, dtype=np.float64) for name, value in (given or {}).items()})

    def x(self, x: np.ndarray) -> np.ndarray:
        """X as models see it: scaled, 0 where it is NaN."""
        if self.x_mean is None or self.x_sd is None:
            return x
        scaled: np.ndarray = np.nan_to_num((x - self.x_mean) / self.x_sd, copy=False).astype(x.dtype)
        return scaled

    def y(self, y: np.ndarray) -> np.ndarray:
        """Y as models see it."""
        return y if self.y_mean is None or self.y_sd is None else (y - self.y_mean) / self.y_sd

    def in_units(self, outputs: np.ndarray) -> np.ndarray:
        """What a model says, [n, numbers of y], in the data's own units."""
        if self.y_mean is None or self.y_sd is None:
            return outputs
        found: np.ndarray = outputs * self.y_sd.ravel() + self.y_mean.ravel()
        return found


def _axes(shape: Iterable[int], series: bool) -> tuple[int, ...]:
    """Those that share a mean: examples and, where a number is one of a channel's, its positions."""
    dimensions = 1 + len(tuple(shape))
    if dimensions > 2:
        return tuple(range(dimensions - 1))
    return (0, 1) if series and dimensions == 2 else (0,)


def _figures(values: Callable[[], Iterable[np.ndarray]], axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (of the population) along the axes, without NaN; the deviation in a second pass."""
    count = total = squares = np.zeros(())
    for each in values():
        count = count + np.isfinite(each).sum(axes)
        total = total + np.nansum(each, axes, dtype=np.float64)
    mean = total / np.maximum(count, 1)
    for each in values():
        squares = squares + np.nansum((each - np.expand_dims(mean, axes)) ** 2, axes, dtype=np.float64)
    sd = np.sqrt(squares / np.maximum(count, 1))
    return np.asarray(mean), np.where(sd > 1e-6 * np.maximum(np.abs(mean), 1e-30), sd, 1.0)


def _first_as(x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """X's figures with those of y for the channel that y continues: then the window's last value is a forecast."""
    if x[0].ndim == 0:
        return y
    return tuple(np.concatenate([own[None], all_[1:]]) for all_, own in zip(x, y, strict=True))  # type: ignore[return-value]
