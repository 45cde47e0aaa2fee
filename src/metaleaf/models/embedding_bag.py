"""A bag of words."""

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metaleaf.models._model import TensorFlowModel, window_of

PADDING = 0


class EmbeddingBag(TensorFlowModel):
    """The sum of a text's words, each of them a vector, and a linear head: whatever their order (Joulin et al. 2016).

    65,569 parameters for 4,097 tokens and one score; ours, not LEAF's. It starts as in TensorFlow. Takes tokens'
    numbers, uint [n, length], of which 0 is padding and adds nothing.

    symbols: how many numbers there are. width: of a word's vector.
    """

    def __init__(
        self,
        outputs: int,
        x_shape: Sequence[int],
        x_dtype: str,
        symbols: PositiveInt = 4097,
        width: PositiveInt = 16,
    ) -> None:
        super().__init__()
        window_of(x_shape, x_dtype)
        self.embedding = nn.Embedding(symbols, width)
        self.out = nn.Linear(width, outputs)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The sum, [n, width]."""
        x = x.long()
        return torch.where((x != PADDING).unsqueeze(-1), self.embedding(x), 0.0).sum(1)
