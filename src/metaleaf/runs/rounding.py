"""Computing the same run with other rounding errors: in another precision, or from a start that is one bit away."""

import copy
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from metaleaf.models import Model

Dtype = Literal["float32", "float64"]


class Rounding(NamedTuple):
    """How a run rounds.

    dtype: of parameters and all that is computed from them. nudge: 0, or the number of a draw by which every initial
    parameter moves up or down by one unit in the last place.
    """

    dtype: Dtype = "float32"
    nudge: int = 0

    def applied(self, model: "Model") -> "Model":
        """The model with its parameters moved, in this precision."""
        if self.nudge:
            model = copy.deepcopy(model)
            generator = torch.Generator().manual_seed(self.nudge)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.copy_(_nudged(parameter, generator))
        return model if self.dtype == "float32" else model.to(getattr(torch, self.dtype))

    def said(self) -> dict[str, Any]:
        """What is not as ever, by name."""
        return {name: value for name, value in self._asdict().items() if value != Rounding._field_defaults[name]}


AS_EVER = Rounding()


def _nudged(values: Tensor, generator: torch.Generator) -> Tensor:
    ups = torch.rand(values.shape, generator=generator) < 0.5
    return torch.nextafter(values, torch.where(ups, math.inf, -math.inf).to(values))
