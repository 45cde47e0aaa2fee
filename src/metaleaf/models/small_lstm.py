"""A small recurrent network of long short-term memory."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metaleaf.gradient import order
from metaleaf.models._model import TensorFlowModel
from metaleaf.models._recurrence import recurrence
from metaleaf.models._sequence import channels_of, vectors


class SmallLSTM(TensorFlowModel):
    """LEAF's Shakespeare network, small enough to run many copies side by side: one LSTM layer of 64.

    24,528 parameters for 80 symbols, 17,221 for sequences of single numbers and 5 classes; ours, not LEAF's. It starts
    as in TensorFlow: Glorot uniform, and torch's second bias vector holds the constant forget bias of 1, untrained.
    Takes symbols' numbers [n, length] (uint; embedded) or numbers [n, length] or [n, length, channels] (float).

    width: units of a layer. embedding: numbers that stand for a symbol. symbols: how many there are; None: as many as
    outputs, as where the next symbol is predicted. With positions, every state makes a prediction.
    """

    recurrent: ClassVar[bool] = True

    def __init__(
        self,
        outputs: int,
        positions: int,
        x_shape: Sequence[int],
        x_dtype: str,
        width: PositiveInt = 64,
        layers: PositiveInt = 1,
        embedding: PositiveInt = 8,
        symbols: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        channels = channels_of(x_shape, x_dtype, positions)
        self.positions = positions
        self.embedding = nn.Identity() if channels else nn.Embedding(symbols or outputs, embedding)
        self.lstm = nn.LSTM(channels or embedding, width, layers)
        self.out = nn.Linear(width, outputs)
        for name, bias in self.lstm.named_parameters():
            if name.startswith("bias_hh"):
                bias.requires_grad_(False)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last layer's last state, [n, width]; with positions all its states, [n, positions, width]."""
        states = recurrence if order() == 2 else _states
        h = vectors(x, self.embedding, self.out.weight.dtype).transpose(0, 1)
        for inputs, recurrent, bias, forget in self.lstm.all_weights:
            h = states(F.linear(h, inputs, bias + forget).contiguous(), recurrent)
        return h.transpose(0, 1) if self.positions else h[-1]


def _states(p: Tensor, recurrent: Tensor) -> Tensor:
    """The same as `recurrence`, for any number of derivatives; torch.func.vmap has no rule for torch's layer."""
    h = c = torch.zeros_like(p[0, :, : recurrent.shape[1]])
    states = []
    for p_t in p:
        i, f, g, o = (p_t + F.linear(h, recurrent)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states)
