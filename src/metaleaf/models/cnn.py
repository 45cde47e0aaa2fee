"""LEAF's network for FEMNIST."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaleaf.gradient import is_vectorising
from metaleaf.models._model import TensorFlowModel, side_of


class CNN(TensorFlowModel):
    """LEAF's FEMNIST network: two 5x5 convolutions (32, 64), each with a 2x2 pool, then 2,048 hidden units.

    6,603,710 parameters for 28x28 images of 62 classes. Takes uint8 images [n, 28, 28], 255 = white paper.
    """

    def __init__(self, outputs: int, x_shape: Sequence[int]) -> None:
        super().__init__()
        side = side_of(x_shape)
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.hidden = nn.Linear(64 * (side // 4) ** 2, 2048)
        self.out = nn.Linear(2048, outputs)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The hidden units, [n, 2048]."""
        h = _of_patches(x.to(self.out.weight.dtype) / 255, self.conv1)
        h = _pooled(h).contiguous()
        h = _pooled(self.conv2(h))
        return F.relu(self.hidden(h.flatten(1)))


def _of_patches(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The convolution of images [n, height, width] of one channel, as one product with all their patches.

    Libraries' convolutions are made for many channels: on a CPU this one's gradient is several times as fast.
    """
    weight, (rows, columns) = conv.weight.flatten(1), conv.kernel_size
    down, right = rows // 2, columns // 2
    patches = F.pad(x, (right, right, down, down)).unfold(1, rows, 1).unfold(2, columns, 1)
    return F.linear(patches.flatten(-2), weight, conv.bias).movedim(-1, 1)


def _pooled(h: Tensor) -> Tensor:
    """relu, then a 2x2 pool. They commute: this way round, and with channels last, it is several times as fast."""
    # torch.func.vmap has no second derivatives of channels last.
    layout = torch.contiguous_format if is_vectorising() else torch.channels_last
    return F.relu(F.max_pool2d(h.contiguous(memory_format=layout), 2))
