"""What sequence models read: rows of symbols' numbers, or sequences of numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def channels_of(x_shape: Sequence[int], x_dtype: str, positions: int = 0) -> int:
    """How many numbers a position has: sequences, float [length] or [length, channels]; 0: symbols, uint [length].

    ValueError for other examples, and where predictions are wanted at other positions than a sequence has.
    """
    of_symbols = str(x_dtype).startswith("uint")
    dimensions = (1,) if of_symbols else (1, 2)
    if len(x_shape) not in dimensions or min(x_shape) < 1 or not (of_symbols or str(x_dtype).startswith("float")):
        raise ValueError(
            "it needs rows of symbols' numbers, uint [length], or sequences of numbers, float [length] or [length, "
            "channels]."
        )
    if positions not in (0, x_shape[0]):
        raise ValueError(f"it predicts at all {x_shape[0]} positions of a sequence, and the data ask for {positions}.")
    if of_symbols:
        return 0
    return int(x_shape[1]) if len(x_shape) == 2 else 1


def vectors(x: Tensor, layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """The layer's [n, length, width] of symbols [n, length], or of numbers [n, length(, channels)] in that type."""
    if not x.is_floating_point():
        x = x.long()
    else:
        x = (x if x.dim() == 3 else x.unsqueeze(-1)).to(dtype)
    found: Tensor = layer(x)
    return found
