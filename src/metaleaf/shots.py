"""A client's examples as algorithms see them, and passes over them in random order."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metaleaf.seeds import order_keys, step_seed

_FAR = torch.iinfo(torch.int64).max


class Shots(NamedTuple):
    """Examples of one client.

    x: [n, *x_shape] in the store's dtype; y: int64 (classes) or float32 (numbers) [n, *y_shape]; seed: int64 scalar
    that orders passes over them, and from which dropout draws; mask: bool [n], False on rows that only pad the client
    to its cohort's length, or None where every row is real. weights: float [n], not negative, how each example counts
    in `Task.loss` (those of padding do not), or () where all count alike.
    """

    x: Tensor
    y: Tensor
    seed: Tensor
    mask: Tensor | None = None
    weights: Any = ()

    def take(self, rows: Tensor) -> "Shots":
        """The examples at those row numbers (int64 [k])."""
        return Shots(
            _taken(self.x, rows),
            _taken(self.y, rows),
            self.seed,
            None if self.mask is None else _taken(self.mask, rows),
            _taken(self.weights, rows) if isinstance(self.weights, Tensor) else (),
        )

    def between(self, start: int, end: int) -> "Shots":
        """The examples from one row number up to another, as views."""
        mask = None if self.mask is None else self.mask[start:end]
        return Shots(self.x[start:end], self.y[start:end], self.seed, mask, self.weights[start:end])

    def at(self, step: int) -> "Shots":
        """The same examples with a seed of this step's own (from 0): dropout drops other units in every step."""
        return self._replace(seed=step_seed(self.seed, step))


class Episode(NamedTuple):
    """What one client works with in one round.

    support and query are disjoint; data is everything the client has (for windows of text also the gap between
    support and query). round counts from 0 and is a float scalar, for schedules. client is the client's number among
    the training clients, an int64 scalar. memory is what the client kept since it was last sampled: a tree, empty for
    algorithms without memory. received: what the server sent to this client alone, of algorithms with `send`, which are
    given it in place of the broadcast.
    """

    support: Shots
    query: Shots
    data: Shots
    round: Tensor
    client: Tensor = torch.zeros((), dtype=torch.int64)
    memory: Any = ()
    received: Any = ()


class EnvironmentEpisode(NamedTuple):
    """What an algorithm that learns from whole environments works with: some clients of one of them.

    participants: their examples, stacked, padded and masked, x [k, n, *x_shape]; weights: float [k], which sum to 1, 0
    for a participant who only pads. queries and query_weights: the same of other clients [q, n, ...], on whom the
    environment's model is judged. round as in `Episode`. first: for algorithms that keep them, the participants' first
    updates, leaves [k, ...].
    """

    participants: Shots
    weights: Tensor
    queries: Shots
    query_weights: Tensor
    round: Tensor
    first: Any = ()


AnyEpisode = Episode | EnvironmentEpisode

Scored = tuple[Shots | Episode, Shots]
"""Whose model is scored, on which examples: a new client's, from its support, or a participant's, from its episode."""


def rows(client: AnyEpisode | Shots) -> int:
    """A client's size, by which a cohort is ordered; environments are of one size."""
    if isinstance(client, EnvironmentEpisode):
        return 0
    return int(examples(client).y.shape[0])


def examples(client: Episode | Shots) -> Shots:
    """What a client that is scored makes its model from: a new client its support, a participant its data."""
    return client.data if isinstance(client, Episode) else client


def _taken(values: Tensor, rows: Tensor) -> Tensor:
    """values[rows]. Vectorised, torch copies whole rows for an embedding, and one element at a time for an index."""
    found = F.embedding(rows, values.reshape(len(values), math.prod(values.shape[1:])))
    return found.view(*rows.shape, *values.shape[1:])


def minibatches(shots: Shots, batch_size: int, epochs: int = 1, stream: int = 0) -> Iterator[Shots]:
    """Batches of `epochs` passes, each pass in a fresh random order; the last batch of a pass may be smaller.

    Padding rows come last in every pass, so a padded client sees the same batches as an unpadded one, followed
    by batches without a real example. Different `stream` numbers give independent orders. Every batch has a seed of its
    own (`Shots.at`).
    """
    for epoch in range(epochs):
        number = stream * 1_000_003 + epoch
        # All are put in order at once: then a batch is a view.
        ordered = shots.take(permutation(shots, number))
        for i, start in enumerate(range(0, len(shots.y), batch_size)):
            yield ordered.between(start, start + batch_size).at((number << 32) + i)


def permutation(shots: Shots, stream: int) -> Tensor:
    """A random order of the rows, int64 [n], real rows before padding.

    Sorting by hashed keys instead of drawing from a generator: a pure function of (seed, stream, row), so it is the
    same on every device, in a vectorised cohort and after a resume.
    """
    keys = order_keys(shots.seed, len(shots.y), stream)
    if shots.mask is not None:
        keys = torch.where(shots.mask, keys, _FAR)
    return torch.argsort(keys)
