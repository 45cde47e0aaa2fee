"""Multinomial logistic regression."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from metaleaf.models._model import TensorFlowModel


class Logistic(TensorFlowModel):
    """Multinomial logistic regression on the flattened input: LEAF's model for Synthetic."""

    def __init__(self, outputs: int, x_shape: Sequence[int]) -> None:
        super().__init__()
        self.out = nn.Linear(math.prod(x_shape), outputs)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The input itself, flattened."""
        return x.to(self.out.weight.dtype).flatten(1)
