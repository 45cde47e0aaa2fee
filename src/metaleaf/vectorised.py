"""Clients side by side with torch.func.vmap: the engine for small models and for GPUs."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from metaleaf import trees
from metaleaf.algorithm import Algorithm
from metaleaf.gradient import over
from metaleaf.replies import Gathered, Sent
from metaleaf.scoring import score
from metaleaf.shots import AnyEpisode, Episode, Shots, rows
from metaleaf.task import Task
from metaleaf.traced import Traced
from metaleaf.trees import Tree

MEMORY = 2 << 30
"""Bytes that the copies of parameters and gradients of clients run at once may take."""
CUTS = (1 / 2, 7 / 8)
"""Where a cohort, ordered by size, is cut into groups that are padded to lengths of their own."""
OVERHEAD = 12_000
"""Python's time for a step of a group, as parameters whose arithmetic takes as long, on a CPU (measured roughly)."""


class Vectorised:
    """Clients are padded to the longest of their group and masked, in groups that fit the memory.

    replay: whether recorded operators replace the algorithm's functions where possible (`metaleaf.traced`).
    """

    mode = "vectorised"

    def __init__(self, task: Task, algorithm: Algorithm, device: torch.device, *, replay: bool = True) -> None:
        self.task, self.algorithm, self.device = task, algorithm, device
        params = trees.leaves(task.params())
        # Eight: parameters, gradient, two moments and the temporaries of a step.
        self.chunk = max(1, MEMORY // (8 * trees.nbytes(params)))
        # A GPU works on a small group no faster than on a large one.
        self.overhead = OVERHEAD / sum(p.numel() for p in params) if device.type == "cpu" else math.inf
        name = type(algorithm).__name__
        traced = Traced if replay else lambda function, name: function
        self.client = traced(_side_by_side(self._client), f"{name}.client")
        self.scores = {
            every: traced(_side_by_side(partial(self._score, every)), f"{name}.adapt") for every in (False, True)
        }

    def gather(self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float]) -> Gathered:
        """See `Engine`."""
        sent = Sent(self.algorithm, weights)
        for chosen in self._groups([rows(episode) for episode in episodes]):
            replies = self.client(broadcast, self._batch([episodes[i] for i in chosen]))
            sent.add(sent.stacked_part(chosen, replies))
        return sent.gathered(self.device)

    def score(self, broadcast: Tree, clients: Sequence[tuple[Shots, Shots]], every_step: bool) -> list[Tensor]:
        """See `Engine`."""
        found: dict[int, Tensor] = {}
        for chosen in self._groups([support.y.shape[0] + query.y.shape[0] for support, query in clients]):
            scores = self.scores[every_step](broadcast, self._batch([clients[i] for i in chosen])).cpu()
            found.update(zip(chosen, scores, strict=True))
        return [found[i] for i in range(len(clients))]

    def _client(self, broadcast: Tree, episode: AnyEpisode) -> Tree:
        return self.algorithm.client(self.task, broadcast, cast(Episode, episode))

    def _score(self, every_step: bool, broadcast: Tree, client: tuple[Shots, Shots]) -> Tensor:
        return score(self.task, self.algorithm, broadcast, client, every_step)

    def _batch(self, clients: Sequence[Tree]) -> Tree:
        return trees.to(batch(clients), self.device)

    def _groups(self, sizes: Sequence[int]) -> Iterator[list[int]]:
        """Positions in groups of similar size, of at most `chunk`.

        Always cut at the same places, where it pays at all: then cohorts of one number make groups of the same shapes.
        """
        order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
        ends = [0, *(round(cut * len(order)) for cut in CUTS), len(order)]
        groups = [order[a:b] for a, b in pairwise(ends) if a < b]
        cost = [sum((self.overhead + len(group)) * sizes[group[-1]] for group in some) for some in (groups, [order])]
        for group in groups if cost[0] < cost[1] else [order]:
            for start in range(0, len(group), self.chunk):
                yield group[start : start + self.chunk]


def _side_by_side(f: Callable[[Tree, Tree], Tree]) -> Callable[[Tree, Tree], Tree]:
    """f(broadcast, argument) over the first dimension of the argument's leaves."""

    def run(broadcast: Tree, arguments: Tree) -> Tree:
        with torch.no_grad():
            return over(partial(f, broadcast))(arguments)

    return run


def batch(clients: Sequence[Tree]) -> Tree:
    """Trees stacked along a new first dimension; Shots without a mask are padded to one length and get one.

    Lengths are rounded up, in all parts of a client by the same factor, so that few different ones occur.
    """
    longest = _longest(clients)
    return _stacked(clients, longest, _round_up(longest, 4))


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


def _stacked(clients: Sequence[Tree], longest: int, rows: int) -> Tree:
    first = clients[0]
    if isinstance(first, Shots) and first.mask is None:
        part = max(shots.y.shape[0] for shots in clients)
        return _padded(clients, _round_up(-(-part * rows // longest), 8) if part else 0)
    if isinstance(first, tuple) and not isinstance(first, Shots):
        parts = [_stacked(column, longest, rows) for column in _columns(clients)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    if isinstance(first, dict):
        return dict(zip(first, (_stacked(column, longest, rows) for column in _columns(clients)), strict=True))
    return torch.stack(list(clients)) if isinstance(first, Tensor) else trees.stack(clients)


def _round_up(rows: int, steps: int) -> int:
    """The next number of the form m * 2^k with m below 2 * steps."""
    step = 1 << max(0, (rows - 1).bit_length() - steps.bit_length())
    return -(-rows // step) * step


def _padded(clients: Sequence[Shots], rows: int) -> Shots:
    xs, ys = [shots.x for shots in clients], [shots.y for shots in clients]
    counts = torch.tensor([each.shape[0] for each in ys], device=ys[0].device)
    mask = torch.arange(rows, device=ys[0].device) < counts[:, None]
    return Shots(_joined(xs, rows), _joined(ys, rows), torch.stack([shots.seed for shots in clients]), mask)


def _joined(parts: list[Tensor], rows: int) -> Tensor:
    # The last part is only there for its length.
    longest = parts[0].new_zeros((1, *parts[0].shape[1:])).expand(rows, *parts[0].shape[1:])
    return pad_sequence([*parts, longest], batch_first=True)[:-1]


def pad(shots: Shots, rows: int) -> Shots:
    """The examples with padding up to so many rows, which a mask marks."""
    missing = rows - len(shots.y)
    mask = torch.arange(rows) < len(shots.y)
    x = F.pad(shots.x, [0, 0] * (shots.x.dim() - 1) + [0, missing])
    return Shots(x, F.pad(shots.y, [0, missing]), shots.seed, mask)
