"""Clients side by side with torch.func.vmap: the engine for small models and for GPUs."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from metaleaf import trees
from metaleaf.algorithm import Algorithm
from metaleaf.gradient import vectorising
from metaleaf.replies import Gathered, Sent
from metaleaf.scoring import score
from metaleaf.shots import AnyEpisode, Shots, rows
from metaleaf.task import Task
from metaleaf.trees import Tree

MEMORY = 2 << 30
"""Bytes that the copies of parameters and gradients of clients run at once may take."""


class Vectorised:
    """Clients are padded to the longest and masked, in chunks that fit the memory."""

    mode = "vectorised"

    def __init__(self, task: Task, algorithm: Algorithm, device: torch.device) -> None:
        self.task, self.algorithm, self.device = task, algorithm, device
        # Eight: parameters, gradient, two moments and the temporaries of a step.
        self.chunk = max(1, MEMORY // (8 * trees.nbytes(task.params())))

    def gather(self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float]) -> Gathered:
        """See `Engine`."""
        run = _vmapped(lambda episode: self.algorithm.client(self.task, broadcast, episode))
        sent = Sent(self.algorithm, weights)
        for chosen in _chunks([rows(episode) for episode in episodes], self.chunk):
            sent.several(chosen, run(trees.to(_batch([episodes[i] for i in chosen]), self.device)))
        return sent.gathered(self.device)

    def score(self, broadcast: Tree, clients: Sequence[tuple[Shots, Shots]], every_step: bool) -> list[Tensor]:
        """See `Engine`."""
        run = _vmapped(lambda client: score(self.task, self.algorithm, broadcast, client, every_step))
        sizes = [len(support.y) + len(query.y) for support, query in clients]
        found: dict[int, Tensor] = {}
        for chosen in _chunks(sizes, self.chunk):
            scores = run(trees.to(_batch([clients[i] for i in chosen]), self.device)).cpu()
            found.update(zip(chosen, scores, strict=True))
        return [found[i] for i in range(len(clients))]


def _vmapped(f: Callable[[Tree], Tree]) -> Callable[[Tree], Tree]:
    """f over the first dimension of its argument's leaves."""

    def decomposed(argument: Tree) -> Tree:
        # Some operators (a whole LSTM) have no batching rule; inside a gradient, here one by a number that nobody
        # uses, torch takes them apart into operators that have one.
        _, result = torch.func.grad(lambda unused: (unused, f(argument)), has_aux=True)(torch.zeros(()))
        return result

    def run(arguments: Tree) -> Tree:
        with vectorising(), torch.no_grad():
            return vmap(decomposed)(arguments)

    return run


def _chunks(sizes: Sequence[int], chunk: int) -> Iterator[list[int]]:
    """Positions in groups of at most `chunk`, of similar size so that little is padded."""
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
    for start in range(0, len(order), chunk):
        yield order[start : start + chunk]


def _batch(clients: Sequence[Tree]) -> Tree:
    """Trees stacked along a new first dimension; Shots without a mask are padded to the longest and get one."""
    first = clients[0]
    if isinstance(first, Shots) and first.mask is None:
        rows = max(len(shots.y) for shots in clients)
        return trees.stack([pad(shots, rows) for shots in clients])
    if isinstance(first, dict):
        return {key: _batch([client[key] for client in clients]) for key in first}
    if isinstance(first, tuple) and not isinstance(first, Shots):
        parts = [_batch(part) for part in zip(*clients, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    return trees.stack(clients)


def pad(shots: Shots, rows: int) -> Shots:
    """The examples with padding up to so many rows, which a mask marks."""
    missing = rows - len(shots.y)
    mask = torch.arange(rows) < len(shots.y)
    x = F.pad(shots.x, [0, 0] * (shots.x.dim() - 1) + [0, missing])
    return Shots(x, F.pad(shots.y, [0, missing]), shots.seed, mask)
