"""LEAF's network for Reddit."""

from collections.abc import Sequence

from torch import nn

from metaleaf.models.small_lstm import SmallLSTM


class WordLSTM(SmallLSTM):
    """LEAF's Reddit network: embedding of 256, two LSTM layers of 256, every state gives the next word.

    6,180,624 parameters for 10,000 words. It starts as LEAF's does: uniform from -0.1 to 0.1, the layers' biases at 0,
    no forget bias. Takes words' numbers, uint [n, length].
    """

    def __init__(self, outputs: int, positions: int, x_shape: Sequence[int], x_dtype: str) -> None:
        super().__init__(outputs, positions, x_shape, x_dtype, width=256, layers=2, embedding=256)

    def reset_parameters(self) -> None:
        """Draw the parameters anew from torch's generator."""
        for name, p in self.named_parameters():
            if name.startswith("lstm.bias"):
                nn.init.zeros_(p)
            else:
                nn.init.uniform_(p, -0.1, 0.1)
