"""A convolutional network over time."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metaleaf.models._model import Model
from metaleaf.models._sequence import channels_of


class CNN1d(Model):
    """Convolutions over time (ReLU), averaged over all of it: a fully convolutional network (Wang et al. 2017).

    10,661 parameters for sequences of single numbers and 5 classes; ours, not LEAF's. No normalisation: the level of a
    series may matter. It starts as torch's layers do. Takes numbers [n, length] or [n, length, channels] (float).

    width: channels of a layer. kernel: steps of time that a convolution sees.
    """

    def __init__(
        self,
        outputs: int,
        x_shape: Sequence[int],
        x_dtype: str,
        width: PositiveInt = 32,
        layers: PositiveInt = 3,
        kernel: PositiveInt = 5,
    ) -> None:
        super().__init__()
        channels = channels_of(x_shape, x_dtype)
        if not channels:
            raise ValueError("it needs sequences of numbers, float [length] or [length, channels].")
        widths = [channels] + layers * [width]
        self.convs = nn.ModuleList(nn.Conv1d(a, b, kernel, padding="same") for a, b in pairwise(widths))
        self.out = nn.Linear(width, outputs)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last layer's mean over time, [n, width]."""
        x = x.to(self.out.weight.dtype)
        h = x.transpose(1, 2) if x.dim() == 3 else x.unsqueeze(1)
        for conv in self.convs:
            h = F.relu(conv(h))
        return h.mean(2)
