"""A perceptron with hidden layers."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metaleaf.models._model import BatchNorm, TensorFlowModel


class MLP(TensorFlowModel):
    """Hidden layers of these widths (tanh) on the flattened input: the smallest model with features that clients share.

    2,117 parameters for 60 numbers and 5 classes; ours, not LEAF's.

    norm: what each layer's units are normalised over before their tanh: the batch (`metaleaf.models.BatchNorm`), or an
    example's layer.
    """

    def __init__(
        self,
        outputs: int,
        x_shape: Sequence[int],
        hidden: tuple[PositiveInt, ...] = (32,),
        norm: Literal["none", "batch", "layer"] = "none",
    ) -> None:
        super().__init__()
        widths = [math.prod(x_shape), *hidden]
        for i, (inner, outer) in enumerate(pairwise(widths)):
            self.add_module(f"hidden{i or ''}", nn.Linear(inner, outer))
            if norm != "none":
                self.add_module(f"norm{i or ''}", BatchNorm(outer) if norm == "batch" else nn.LayerNorm(outer))
        self.layers, self.norms = len(hidden), norm
        norms = tuple(f"norm{i or ''}" for i in range(self.layers)) if norm != "none" else ()
        self.parts = {"head": ("out",), "norm": norms}  # type: ignore[misc]  # whether there are any is an option
        self.out = nn.Linear(widths[-1], outputs)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last hidden units, [n, width]."""
        h = x.to(self.out.weight.dtype).flatten(1)
        for i in range(self.layers):
            h = getattr(self, f"hidden{i or ''}")(h)
            if self.norms == "batch":
                h = getattr(self, f"norm{i or ''}")(h[:, :, None, None], mask).flatten(1)
            elif self.norms == "layer":
                h = getattr(self, f"norm{i or ''}")(h)
            h = torch.tanh(h)
        return h
