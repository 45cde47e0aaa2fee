"""A perceptron with hidden layers."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metaleaf.models._model import BatchNorm, TensorFlowModel


class MLP(TensorFlowModel):
    """Hidden layers of these widths (tanh) on the flattened input: the smallest model with features that clients share.

    2,117 parameters for 60 numbers and 5 classes; ours, not LEAF's.

    batch_norm: whether each layer's units are normalised (`metaleaf.models.BatchNorm`) before their tanh.
    """

    def __init__(
        self,
        outputs: int,
        x_shape: Sequence[int],
        hidden: tuple[PositiveInt, ...] = (32,),
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        widths = [math.prod(x_shape), *hidden]
        for i, (inner, outer) in enumerate(pairwise(widths)):
            self.add_module(f"hidden{i or ''}", nn.Linear(inner, outer))
            if batch_norm:
                self.add_module(f"norm{i or ''}", BatchNorm(outer))
        self.layers, self.batch_norm = len(hidden), batch_norm
        norms = tuple(f"norm{i or ''}" for i in range(self.layers)) if batch_norm else ()
        self.parts = {"head": ("out",), "norm": norms}  # type: ignore[misc]  # whether there are any is an option
        self.out = nn.Linear(widths[-1], outputs)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last hidden units, [n, width]."""
        h = x.to(self.out.weight.dtype).flatten(1)
        for i in range(self.layers):
            h = getattr(self, f"hidden{i or ''}")(h)
            if self.batch_norm:
                h = getattr(self, f"norm{i or ''}")(h[:, :, None, None], mask).flatten(1)
            h = torch.tanh(h)
        return h
