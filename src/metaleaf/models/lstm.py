"""LEAF's network for Shakespeare."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaleaf.gradient import order
from metaleaf.models._model import TensorFlowModel, window_of
from metaleaf.models._recurrence import recurrence


class LSTM(TensorFlowModel):
    """LEAF's Shakespeare network: embedding of 8, two LSTM layers of 256, the last state gives the next character.

    817,872 parameters for 80 characters, as in TensorFlow: torch's second bias vector is not trained but holds
    TensorFlow's constant forget bias of 1. Takes uint8 character numbers [n, 80].
    """

    recurrent: ClassVar[bool] = True

    def __init__(self, outputs: int, x_shape: Sequence[int], x_dtype: str) -> None:
        super().__init__()
        window_of(x_shape, x_dtype)
        self.embedding = nn.Embedding(outputs, 8)
        self.lstm = nn.LSTM(8, 256, num_layers=2, batch_first=True)
        self.out = nn.Linear(256, outputs)
        for name, bias in self.lstm.named_parameters():
            if name.startswith("bias_hh"):
                bias.requires_grad_(False)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The second layer's last state, [n, 256]."""
        if order() == 2:
            return self._twice_differentiable(x)
        embedded = self.embedding(x.long())
        # Zeros made from the input, not by the module: vmap has to see one initial state per client.
        zeros = torch.zeros_like(embedded[:, 0, :1]).expand(self.lstm.num_layers, -1, self.lstm.hidden_size)
        states, _ = self.lstm(embedded, (zeros.contiguous(), zeros.contiguous()))
        final: Tensor = states[:, -1]
        return final

    def _twice_differentiable(self, x: Tensor) -> Tensor:
        """The same by `_recurrence.py`."""
        (first, recurrent, *biases), (second, *others) = self.lstm.all_weights
        # The first layer's product is taken once a character of the vocabulary, not of the text.
        table = F.linear(self.embedding.weight, first, biases[0] + biases[1])
        states = recurrence(F.embedding(x.t().long(), table), recurrent)
        return recurrence(F.linear(states, second, others[1] + others[2]), others[0])[-1]
