"""Clients of different sizes as one tree: padded to one length, masked and stacked.

What nobody reads is never made (`metaleaf.data.deferred`): an algorithm that learns from all that a client has does not
look at its support and query.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metaleaf import trees
from metaleaf.data.deferred import Deferred
from metaleaf.data.ragged import Padded, Ragged
from metaleaf.shots import Shots
from metaleaf.trees import Tree

LONG = 512
"""Rows beyond which lengths are rounded up more coarsely."""


def batch(clients: Sequence[Tree], device: torch.device) -> Tree:
    """Trees stacked along a new first dimension, on the device, with `Deferred` leaves.

    Shots without a mask are padded to one length and get one. Lengths are rounded up, in all parts of a client by the
    same factor, so that few different ones occur: coarsely where they are long, and to record another takes longest.
    """
    sizes = list(_sizes(clients))
    longest = max((max(part) for part in sizes), default=0)
    return _Batch(iter(sizes), longest, _round_up(longest, 4 if longest <= LONG else 2), device).of(clients)


def _sizes(clients: Sequence[Tree]) -> Iterator[list[int]]:
    """The clients' rows, for each of their Shots that have to be padded."""
    first = clients[0]
    if isinstance(first, Shots):
        if first.mask is None:
            yield [shots.y.shape[0] for shots in clients]
    elif isinstance(first, (tuple, dict)):
        for column in _columns(clients):
            yield from _sizes(column)


def _columns(clients: Sequence[Tree]) -> Iterator[Sequence[Tree]]:
    """The clients' first parts, their second parts, and so on."""
    if isinstance(clients[0], dict):
        return ([client[key] for client in clients] for key in clients[0])
    return zip(*clients, strict=True)


def _round_up(rows: int, steps: int) -> int:
    """The next number of the form m * 2^k with m below 2 * steps."""
    step = 1 << max(0, (rows - 1).bit_length() - steps.bit_length())
    return -(-rows // step) * step


class _Batch(NamedTuple):
    """What makes one tree of clients whose `_sizes` are given, and whose longest part gets so many rows."""

    sizes: Iterator[list[int]]
    longest: int
    rows: int
    device: torch.device

    def of(self, clients: Sequence[Tree]) -> Tree:
        """The tree, or a part of it."""
        first = clients[0]
        if isinstance(first, Shots) and first.mask is None:
            return self._padded(clients, next(self.sizes))
        if isinstance(first, tuple):
            parts = map(self.of, _columns(clients))
            return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
        if isinstance(first, dict):
            return dict(zip(first, map(self.of, _columns(clients)), strict=True))
        if isinstance(first, Tensor):
            return self._stacked(clients)
        return trees.tree_map(lambda *leaves: self._stacked(leaves), *clients)

    def _stacked(self, leaves: Sequence[Tensor]) -> Deferred:
        shape = (len(leaves), *leaves[0].shape)
        return Deferred(shape, leaves[0].dtype, self.device, partial(_side_by_side, leaves))

    def _padded(self, clients: Sequence[Shots], sizes: list[int]) -> Shots:
        longest = max(sizes)
        rows = _round_up(-(-longest * self.rows // self.longest), 8) if longest else 0
        ragged = Ragged(sizes, rows, self.device)
        seeds: Any = self._stacked([shots.seed for shots in clients])
        mask: Any = Deferred((len(clients), rows), torch.bool, self.device, lambda: ragged.mask)
        x: Any = Padded(clients, "x", ragged)
        y: Any = Padded(clients, "y", ragged)
        weights: Any = Padded(clients, "weights", ragged) if isinstance(clients[0].weights, Tensor) else ()
        return Shots(x, y, seeds, mask, weights)


def _side_by_side(leaves: Sequence[Tensor]) -> Tensor:
    if leaves[0].dim() or leaves[0].device.type != "cpu":
        return torch.stack(list(leaves))
    return torch.tensor([leaf.item() for leaf in leaves], dtype=leaves[0].dtype)  # five times as fast


def pad(shots: Shots, rows: int) -> Shots:
    """The examples with padding up to so many rows, which a mask marks."""
    missing = rows - len(shots.y)
    mask = torch.arange(rows) < len(shots.y)

    def padded(leaf: Tensor) -> Tensor:
        return F.pad(leaf, [0, 0] * (leaf.dim() - 1) + [0, missing])

    x, y, weights = trees.tree_map(padded, (shots.x, shots.y, shots.weights))
    return Shots(x, y, shots.seed, mask, weights)
