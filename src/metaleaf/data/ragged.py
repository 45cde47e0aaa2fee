"""The rows of clients of different sizes: as one tensor, padded when it is needed, or as a table of all of them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from metaleaf.data.deferred import Deferred, tensor
from metaleaf.shots import Shots


class Ragged:
    """Clients of these sizes with so many rows each, the last of which are padding."""

    def __init__(self, sizes: Sequence[int], rows: int, device: torch.device) -> None:
        self.sizes, self.rows, self.device = sizes, rows, device

    @cached_property
    def mask(self) -> Tensor:
        """Bool [clients, rows]: what is no padding."""
        return torch.arange(self.rows) < torch.tensor(self.sizes)[:, None]

    @cached_property
    def numbers(self) -> Tensor:
        """The number of each row among all clients' one after the other and one of zeros, int64 [clients * rows]."""
        sizes = torch.tensor(self.sizes)
        ends = sizes.cumsum(0)
        numbers = torch.arange(self.rows) + (ends - sizes)[:, None]
        return torch.where(self.mask, numbers, ends[-1]).view(-1).to(self.device)


class Padded(Deferred):
    """The clients' x, y or weights [clients, rows, ...], zeros where there are none."""

    def __init__(self, clients: Sequence[Shots], field: Literal["x", "y", "weights"], ragged: Ragged) -> None:
        first: Tensor = getattr(clients[0], field)
        super().__init__((len(clients), ragged.rows, *first.shape[1:]), first.dtype, ragged.device, self._filled)
        self.clients, self.field, self.ragged = clients, field, ragged

    def table(self) -> Tensor:
        """All clients' rows one after the other, and one of zeros: `Ragged.numbers` are rows of this."""
        parts = [tensor(getattr(shots, self.field)) for shots in self.clients]
        return torch.cat([*parts, parts[0].new_zeros((1, *parts[0].shape[1:]))]).to(self.device)

    def _filled(self) -> Tensor:
        # Not client by client, as copying one takes longer to start.
        return self.table().index_select(0, self.ragged.numbers).view(self.shape)
