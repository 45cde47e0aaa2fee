"""LEAF's network for Sent140."""

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn

from metaleaf.models.small_lstm import SmallLSTM


class TweetLSTM(SmallLSTM):
    """LEAF's Sent140 network: embedding of 100, two LSTM layers of 100, the last state through a linear layer of 128.

    583,557 parameters for 4,097 tokens and one score; 40,174,086 for GloVe's 400,000 words, one number for all others,
    and two scores, as in LEAF. It starts as in TensorFlow, the embedding too: LEAF takes GloVe's list of words, not its
    vectors. Takes tokens' numbers, uint [n, length].

    symbols: how many numbers there are.
    """

    def __init__(self, outputs: int, x_shape: Sequence[int], x_dtype: str, symbols: PositiveInt = 4097) -> None:
        super().__init__(outputs, 0, x_shape, x_dtype, width=100, layers=2, embedding=100, symbols=symbols)
        self.hidden = nn.Linear(100, 128)  # LEAF's has no activation
        self.out = nn.Linear(128, outputs)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the linear layer makes of the last state, [n, 128]."""
        found: Tensor = self.hidden(super().features(x, mask))
        return found
