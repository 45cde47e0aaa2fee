"""LEAF's network for CelebA."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from metaleaf.models._model import BatchNorm, TensorFlowModel


class FaceCNN(TensorFlowModel):
    """LEAF's CelebA network: four times a 3x3 convolution of 32 channels, batch normalisation and a 2x2 pool.

    31,202 parameters for 84x84 colour images of 2 classes. Takes uint8 images [n, side, side, 3].
    """

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {"head": ("out",), "norm": tuple(f"norm{i}" for i in range(4))}

    def __init__(self, outputs: int, x_shape: Sequence[int]) -> None:
        super().__init__()
        if len(x_shape) != 3 or x_shape[0] != x_shape[1]:
            raise ValueError("it needs square colour images, channels last.")
        side, _, channels = x_shape
        for i in range(4):
            self.add_module(f"conv{i}", nn.Conv2d(32 if i else channels, 32, 3, padding=1))
            self.add_module(f"norm{i}", BatchNorm(32))
            side = -(-side // 2)
        self.out = nn.Linear(32 * side**2, outputs)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last maps, [n, 32 * side^2]."""
        h = x.to(self.out.weight.dtype).movedim(-1, 1).contiguous() / 255
        for i in range(4):
            h = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(h), mask)
            h = F.relu(F.max_pool2d(h, 2, ceil_mode=True))
        return h.flatten(1)
