"""A neural language model without recurrence."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metaleaf.models._model import TensorFlowModel, window_of


class CharMLP(TensorFlowModel):
    """A neural language model (Bengio et al. 2003): embeddings of 8, side by side, then 64 hidden units (tanh).

    16,144 parameters for 20 characters out of 80. For second derivatives of many copies, which an LSTM makes far
    slower; ours, not LEAF's. Takes uint8 character numbers [n, window].
    """

    def __init__(self, outputs: int, x_shape: Sequence[int], x_dtype: str) -> None:
        super().__init__()
        window = window_of(x_shape, x_dtype)
        self.embedding = nn.Embedding(outputs, 8)
        self.hidden = nn.Linear(8 * window, 64)
        self.out = nn.Linear(64, outputs)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The hidden units, [n, 64]."""
        return torch.tanh(self.hidden(self.embedding(x.long()).flatten(1)))
