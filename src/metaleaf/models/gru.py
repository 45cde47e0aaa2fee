"""A recurrent network of gated units."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metaleaf.models._model import Model
from metaleaf.models._sequence import channels_of, vectors


class GRU(Model):
    """Layers of gated recurrent units (Cho et al. 2014), in torch's form; the last state makes the prediction.

    20,048 parameters for 80 symbols, 13,189 for sequences of single numbers and 5 classes; ours, not LEAF's. It starts
    as torch's layers do. Takes symbols' numbers [n, length] (uint; embedded) or numbers [n, length] or [n, length,
    channels] (float).

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
        self.gru = nn.GRU(channels or embedding, width, layers)
        self.out = nn.Linear(width, outputs)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last layer's last state, [n, width]; with positions all its states, [n, positions, width]."""
        h = vectors(x, self.embedding, self.out.weight.dtype).transpose(0, 1)
        for weights in self.gru.all_weights:
            h = _states(h, *weights)
        return h.transpose(0, 1) if self.positions else h[-1]


def _states(x: Tensor, inputs: Tensor, recurrent: Tensor, input_bias: Tensor, bias: Tensor) -> Tensor:
    """All states [length, n, width] of a layer that starts at zero and reads x [length, n, inner].

    torch.func.vmap has no rule for torch's layer, and on a GPU that has no second derivatives.
    """
    width = recurrent.shape[1]
    of_inputs = F.linear(x, inputs, input_bias)
    h, states = torch.zeros_like(of_inputs[0, :, :width]), []
    for p in of_inputs:
        q = F.linear(h, recurrent, bias)
        reset, update = (p[:, : 2 * width] + q[:, : 2 * width]).sigmoid().chunk(2, 1)
        new = torch.tanh(p[:, 2 * width :] + reset * q[:, 2 * width :])
        h = new + update * (h - new)
        states.append(h)
    return torch.stack(states)
