"""A small Transformer."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from metaleaf.errors import ConfigError
from metaleaf.models._model import Model
from metaleaf.models._sequence import channels_of, vectors


class Transformer(Model):
    """A Transformer encoder (Vaswani et al. 2017) of two blocks, normalised before attention (Xiong et al. 2020).

    31,312 parameters for 20 symbols out of 80; ours, not LEAF's. Places are learned. It starts as torch's layers do.
    Takes symbols' numbers [n, length] (uint; embedded) or numbers [n, length] or [n, length, channels] (float; through
    a linear layer).

    width: of a position's vector. heads: of attention. layers: blocks. dropout: of what a block adds, and of its first
    input. pooling: whether the mean over positions makes the prediction or the last one, which suits a next symbol.
    symbols: how many there are; None: as many as outputs, as where the next symbol is predicted. With positions, every
    one makes a prediction, and sees itself and those before.
    """

    def __init__(
        self,
        outputs: int,
        positions: int,
        x_shape: Sequence[int],
        x_dtype: str,
        width: PositiveInt = 32,
        heads: PositiveInt = 4,
        layers: PositiveInt = 2,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        pooling: Literal["mean", "last"] = "mean",
        symbols: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"model transformer: width = {width} is no multiple of heads = {heads}: change either.")
        channels = channels_of(x_shape, x_dtype, positions)
        self.positions, self.pooling = positions, pooling
        self.embedding = nn.Linear(channels, width) if channels else nn.Embedding(symbols or outputs, width)
        self.places = nn.Embedding(x_shape[0], width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, outputs)
        norms = (f"blocks.{i}.norm{j}" for i in range(layers) for j in (1, 2))
        self.parts = {"head": ("out",), "norm": (*norms, "norm")}  # type: ignore[misc]  # how many is an option

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The vectors' mean, or the last, [n, width]; with positions all vectors, [n, positions, width]."""
        h: Tensor = self.dropout(vectors(x, self.embedding, self.out.weight.dtype) + self.places.weight)
        for block in self.blocks:
            h = block(h, bool(self.positions))
        h = self.norm(h)
        if self.positions:
            return h
        return h.mean(1) if self.pooling == "mean" else h[:, -1]


class _Block(nn.Module):
    """Attention, then two dense layers at each position; both are added to their input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """X [n, length, width] as the same; causal: no position sees later ones."""
        x = x + self.dropout(self.out_proj(self._attended(self.norm1(x), causal)))
        return x + self.dropout(self.linear2(F.relu(self.linear1(self.norm2(x)))))  # type: ignore[no-any-return]

    def _attended(self, x: Tensor, causal: bool) -> Tensor:
        """Written out: torch's own forms have no second derivatives, and no rule for torch.func.vmap."""
        n, length, width = x.shape
        parts = self.in_proj(x).view(n, length, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        scores = queries @ keys.transpose(2, 3) / math.sqrt(width // self.heads)
        if causal:
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        found: Tensor = (scores.softmax(3) @ values).transpose(1, 2).reshape(n, length, width)
        return found
