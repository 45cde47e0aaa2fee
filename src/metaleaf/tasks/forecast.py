"""The next values of a series, from a window of it."""

from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeInt
from torch import Tensor

from metaleaf.shots import Shots
from metaleaf.tasks._kind import Spec
from metaleaf.tasks.regression import Regression


@dataclass(frozen=True)
class Forecast(Regression):
    """As regression, but the constant answer is persistence: the last value of the window, for all of the horizon.

    x [n, window] or [n, window, channels], y [n] or [n, horizon]. channel: which one is forecast.
    """

    channel: NonNegativeInt = 0

    def check(self, spec: Spec) -> None:
        """See `Kind`."""
        super().check(spec)
        shape: Any = spec["x_shape"]
        if len(shape) > 2 or len(spec.get("y_shape", ())) > 1 or (len(shape) == 2 and self.channel >= shape[1]):
            self.refuse(spec, f"windows of one or more channels, number {self.channel} among them, and a horizon")

    def constant(self, support: Shots, query: Shots) -> Tensor:
        """See `Kind`."""
        last = query.x[:, -1] if query.x.dim() == 2 else query.x[:, -1, self.channel]
        return last.double().unsqueeze(-1).expand(-1, query.y[:1].numel() or 1)
