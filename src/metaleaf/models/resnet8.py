"""A small residual network."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metaleaf.errors import ConfigError
from metaleaf.models._model import Model, side_of


class ResNet8(Model):
    """A residual network of eight layers (He et al. 2016), normalised in groups of channels (Wu and He 2018).

    77,850 parameters for 32x32 colour images of 10 classes; ours, not LEAF's. It starts as torch's layers do. Takes
    images [n, side, side] or [n, side, side, channels], uint8 (divided by 255) or float (as they are).

    width: channels of the first block; the others have twice and four times as many. groups: of a layer's channels.
    """

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "head": ("out",),
        "norm": ("norm", *(f"blocks.{i}.norm{j}" for i in range(3) for j in (1, 2))),
    }

    def __init__(
        self,
        outputs: int,
        x_shape: Sequence[int],
        x_dtype: str,
        width: PositiveInt = 16,
        groups: PositiveInt = 4,
    ) -> None:
        super().__init__()
        if width % groups:
            raise ConfigError(f"model resnet8: width = {width} is no multiple of groups = {groups}: change either.")
        self.divisor = _divisor_of(x_shape, x_dtype)
        widths = [width, width, 2 * width, 4 * width]
        self.stem = nn.Conv2d(x_shape[2] if len(x_shape) == 3 else 1, width, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, width)
        self.blocks = nn.Sequential(*(_Block(a, b, groups) for a, b in pairwise(widths)))
        self.out = nn.Linear(widths[-1], outputs)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last maps' means, [n, 4 * width]."""
        x = x.to(self.out.weight.dtype) / self.divisor
        x = x.movedim(3, 1).contiguous() if x.dim() == 4 else x.unsqueeze(1)
        found: Tensor = self.blocks(F.relu(self.norm(self.stem(x))))
        return found.mean((2, 3))


class _Block(nn.Module):
    """Two convolutions and a way round them; one that widens halves the sides, too."""

    def __init__(self, inner: int, outer: int, groups: int) -> None:
        super().__init__()
        stride = 1 if inner == outer else 2
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outer)
        self.shortcut = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """X [n, inner, side, side] as [n, outer, side, side] with sides of its own."""
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(x))


def _divisor_of(x_shape: Sequence[int], x_dtype: str) -> int:
    """By what pixels are divided; ValueError for other examples than square images, bytes or floats."""
    if len(x_shape) not in (2, 3) or not (str(x_dtype) == "uint8" or str(x_dtype).startswith("float")):
        raise ValueError("it needs images, uint8 or float, [side, side] or [side, side, channels].")
    side_of(x_shape[:2])
    return 255 if str(x_dtype) == "uint8" else 1
