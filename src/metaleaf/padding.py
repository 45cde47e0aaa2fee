"""Clients of different sizes as one tree: padded to one length, masked and stacked.

What nobody reads is never made (`metaleaf.deferred`): an algorithm that learns from all that a client has does not look
at its support and query.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metaleaf import trees
from metaleaf.deferred import Deferred
from metaleaf.shots import Shots
from metaleaf.trees import Tree

LONG = 512
"""Rows beyond which lengths are rounded up more coarsely."""


def batch(clients: Sequence[Tree], device: torch.device) -> Tree:
    """Trees stacked along a new first dimension, on the device, with `Deferred` leaves.

    Shots without a mask are padded to one length and get one. Lengths are rounded up, in all parts of a client by the
    same factor, so that few different ones occur: coarsely where they are long, and to record another takes longest.
    """
    longest = _longest(clients)
    return _stacked(clients, longest, _round_up(longest, 4 if longest <= LONG else 2), device)


def _longest(clients: Sequence[Tree]) -> int:
    """Rows of the longest part that has to be padded."""
    first = clients[0]
    if isinstance(first, Shots):
        return max(shots.y.shape[0] for shots in clients) if first.mask is None else 0
    if isinstance(first, (tuple, dict)):
        return max((_longest(column) for column in _columns(clients)), default=0)
    return 0


def _columns(clients: Sequence[Tree]) -> Iterator[Sequence[Tree]]:
    """The clients' first parts, their second parts, and so on."""
    if isinstance(clients[0], dict):
        return ([client[key] for client in clients] for key in clients[0])
    return zip(*clients, strict=True)


def _stacked(clients: Sequence[Tree], longest: int, rows: int, device: torch.device) -> Tree:
    first = clients[0]
    if isinstance(first, Shots) and first.mask is None:
        part = max(shots.y.shape[0] for shots in clients)
        return _padded(clients, _round_up(-(-part * rows // longest), 8) if part else 0, device)
    if isinstance(first, tuple) and not isinstance(first, Shots):
        parts = [_stacked(column, longest, rows, device) for column in _columns(clients)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    if isinstance(first, dict):
        parts = [_stacked(column, longest, rows, device) for column in _columns(clients)]
        return dict(zip(first, parts, strict=True))
    if isinstance(first, Tensor):
        return _side_by_side(clients, device)
    return trees.tree_map(lambda *leaves: _side_by_side(leaves, device), *clients)


def _side_by_side(leaves: Sequence[Tensor], device: torch.device) -> Deferred:
    shape = (len(leaves), *leaves[0].shape)
    return Deferred(shape, leaves[0].dtype, device, lambda: torch.stack(list(leaves)))


def _round_up(rows: int, steps: int) -> int:
    """The next number of the form m * 2^k with m below 2 * steps."""
    step = 1 << max(0, (rows - 1).bit_length() - steps.bit_length())
    return -(-rows // step) * step


def _padded(clients: Sequence[Shots], rows: int, device: torch.device) -> Shots:
    table = _Table([shots.y.shape[0] for shots in clients], rows)

    def joined(parts: Sequence[Tensor]) -> Any:
        shape = (len(parts), rows, *parts[0].shape[1:])
        return Deferred(shape, parts[0].dtype, device, partial(table.filled, parts))

    mask: Any = Deferred((len(clients), rows), torch.bool, device, lambda: table.mask)
    seeds: Any = _side_by_side([shots.seed for shots in clients], device)
    return Shots(joined([shots.x for shots in clients]), joined([shots.y for shots in clients]), seeds, mask)


class _Table:
    """Clients of these sizes with so many rows each, the last of which are padding."""

    def __init__(self, sizes: Sequence[int], rows: int) -> None:
        self.sizes, self.rows = torch.tensor(sizes), rows

    @cached_property
    def mask(self) -> Tensor:
        """Bool [clients, rows]: what is no padding."""
        return torch.arange(self.rows) < self.sizes[:, None]

    @cached_property
    def _numbers(self) -> Tensor:
        """The number of each row, int64 [clients * rows], among all clients' one after the other and one of zeros."""
        ends = self.sizes.cumsum(0)
        numbers = torch.arange(self.rows) + (ends - self.sizes)[:, None]
        return torch.where(self.mask, numbers, ends[-1]).view(-1)

    def filled(self, parts: Sequence[Tensor]) -> Tensor:
        """The clients' rows, zeros where there are none: not client by client, as copying one takes longer to start."""
        joined = torch.cat([*parts, parts[0].new_zeros((1, *parts[0].shape[1:]))])
        return joined.index_select(0, self._numbers.to(joined.device)).view(len(parts), self.rows, *joined.shape[1:])


def pad(shots: Shots, rows: int) -> Shots:
    """The examples with padding up to so many rows, which a mask marks."""
    missing = rows - len(shots.y)
    mask = torch.arange(rows) < len(shots.y)
    x = F.pad(shots.x, [0, 0] * (shots.x.dim() - 1) + [0, missing])
    return Shots(x, F.pad(shots.y, [0, missing]), shots.seed, mask)
