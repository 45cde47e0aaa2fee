"""Run an algorithm over a cohort: one client at a time, or all at once with torch.func.vmap.

Both engines compute the same thing, up to the rounding of float sums in another order.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from metaleaf import trees
from metaleaf.algorithm import Algorithm, Replies
from metaleaf.gradient import vectorising
from metaleaf.shots import EnvironmentEpisode, Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree

Mode = Literal["auto", "sequential", "vectorised"]

AnyEpisode = Episode | EnvironmentEpisode

SMALL_MODEL = 100_000
"""Parameters up to which vectorising pays on a CPU: below, Python's overhead per operation dominates; above, copies
of the parameters per client fall out of the cache (measured: benchmarks/bench_engine.py)."""
MEMORY = 2 << 30
"""Bytes that the copies of parameters and gradients of clients run at once may take."""


class Gathered(NamedTuple):
    """What a cohort's work comes to.

    update: what `Algorithm.server` reads, the mean of what the clients send or all of it (`Replies`). memories: for
    algorithms with a memory, what each client keeps.
    """

    update: Tree
    memories: list[Tree]


class Engine(Protocol):
    """Runs a plugin's `client` and `adapt` for many clients."""

    mode: str

    def gather(self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float]) -> Gathered:
        """Run `Algorithm.client` over the cohort; the mean is by these weights, which sum to 1."""
        ...

    def score(self, broadcast: Tree, clients: Sequence[tuple[Shots, Shots]], every_step: bool) -> list[Tensor]:
        """For each (support, query): query examples, correct, summed loss, as rows of 3 numbers.

        Row 0 is before adapting; then a row for each adaptation step, or only for the last.
        """
        ...


def engine(task: Task, algorithm: Algorithm, mode: Mode = "auto", device: str = "cpu") -> Engine:
    """The engine of that mode; ``auto`` vectorises on a GPU and small models on a CPU."""
    place = torch.device(device)
    if place.type == "cuda":
        _exact_cuda()
    small = trees.nbytes(task.params()) <= 4 * SMALL_MODEL
    if mode == "vectorised" or (mode == "auto" and (small or place.type == "cuda")):
        return Vectorised(task, algorithm, place)
    return Sequential(task, algorithm, place)


def _exact_cuda() -> None:
    """Full float32 (no TF32) and repeatable kernels."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


class Sequential:
    """One client after the other: the reference, and the faster one for large models on a CPU."""

    mode = "sequential"

    def __init__(self, task: Task, algorithm: Algorithm, device: torch.device) -> None:
        self.task, self.algorithm, self.device = task, algorithm, device

    def gather(self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float]) -> Gathered:
        """See `Engine`."""
        sent = _Sent(self.algorithm, weights)
        for i, episode in enumerate(episodes):
            with torch.no_grad():
                sent.one(i, self.algorithm.client(self.task, broadcast, place(episode, self.device)))
        return sent.gathered(self.device)

    def score(self, broadcast: Tree, clients: Sequence[tuple[Shots, Shots]], every_step: bool) -> list[Tensor]:
        """See `Engine`."""
        with torch.no_grad():
            placed = (place(client, self.device) for client in clients)
            return [_score(self.task, self.algorithm, broadcast, client, every_step).cpu() for client in placed]


class Vectorised:
    """Clients side by side: padded to the longest and masked, in chunks that fit the memory."""

    mode = "vectorised"

    def __init__(self, task: Task, algorithm: Algorithm, device: torch.device) -> None:
        self.task, self.algorithm, self.device = task, algorithm, device
        # Eight: parameters, gradient, two moments and the temporaries of a step.
        self.chunk = max(1, MEMORY // (8 * trees.nbytes(task.params())))

    def gather(self, broadcast: Tree, episodes: Sequence[AnyEpisode], weights: Sequence[float]) -> Gathered:
        """See `Engine`."""
        run = _vmapped(lambda episode: self.algorithm.client(self.task, broadcast, episode))
        sent = _Sent(self.algorithm, weights)
        for chosen in _chunks([_rows(episode) for episode in episodes], self.chunk):
            sent.several(chosen, run(place(_batch([episodes[i] for i in chosen]), self.device)))
        return sent.gathered(self.device)

    def score(self, broadcast: Tree, clients: Sequence[tuple[Shots, Shots]], every_step: bool) -> list[Tensor]:
        """See `Engine`."""
        run = _vmapped(lambda client: _score(self.task, self.algorithm, broadcast, client, every_step))
        sizes = [len(support.y) + len(query.y) for support, query in clients]
        found: dict[int, Tensor] = {}
        for chosen in _chunks(sizes, self.chunk):
            scores = run(place(_batch([clients[i] for i in chosen]), self.device)).cpu()
            found.update(zip(chosen, scores, strict=True))
        return [found[i] for i in range(len(clients))]


class _Sent:
    """Takes the clients' replies in any order and keeps only what is needed: their mean, or each of them."""

    def __init__(self, algorithm: Algorithm, weights: Sequence[float]) -> None:
        self.weights = weights
        self.each, self.remembers = getattr(algorithm, "each", False), hasattr(algorithm, "memory")
        self.total: Tree = None
        self.updates: dict[int, Tree] = {}
        self.memories: dict[int, Tree] = {}

    def one(self, i: int, reply: Any) -> None:
        """The reply of client i."""
        if self.remembers:
            reply, self.memories[i] = reply
        if self.each:
            self.updates[i] = reply
        else:
            self._add(trees.tree_map(lambda leaf: self.weights[i] * leaf, reply))

    def several(self, chosen: Sequence[int], replies: Any) -> None:
        """The replies of the clients `chosen`, stacked."""
        if self.remembers:
            replies, memories = replies
            self.memories.update(zip(chosen, _apart(memories, len(chosen)), strict=True))
        if self.each:
            self.updates.update(zip(chosen, _apart(replies, len(chosen)), strict=True))
            return
        weights = torch.tensor([self.weights[i] for i in chosen], dtype=torch.float64)
        self._add(trees.weighted_sum(replies, weights))

    def _add(self, part: Tree) -> None:
        self.total = part if self.total is None else trees.add(self.total, part)

    def gathered(self, device: torch.device) -> Gathered:
        """What came of it, in the cohort's order."""
        memories = [self.memories[i] for i in sorted(self.memories)]
        if not self.each:
            return Gathered(self.total, memories)
        stacked = trees.stack([self.updates[i] for i in sorted(self.updates)])
        weights = torch.tensor(self.weights, dtype=torch.float64, device=device)
        return Gathered(Replies(stacked, weights), memories)


def _apart(stacked: Tree, count: int) -> list[Tree]:
    """The clients' trees; those of a part that the model does not have are empty."""
    return trees.unstack(stacked) if trees.leaves(stacked) else [stacked] * count


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


def _score(task: Task, algorithm: Algorithm, broadcast: Tree, client: tuple[Shots, Shots], every_step: bool) -> Tensor:
    support, query = client
    models = algorithm.adapt(task, broadcast, support)
    if not every_step:
        models = _ends(models)
    predict = partial(algorithm.predict, task) if hasattr(algorithm, "predict") else task.logits
    return torch.stack([task.score(model, query, partial(predict, model)) for model in models])


def _ends(models: Iterator[Params]) -> Iterator[Params]:
    """The first and, if there is another, the last."""
    yield next(models)
    yield from deque(models, maxlen=1)


def _chunks(sizes: Sequence[int], chunk: int) -> Iterator[list[int]]:
    """Positions in groups of at most `chunk`, of similar size so that little is padded."""
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
    for start in range(0, len(order), chunk):
        yield order[start : start + chunk]


def _rows(episode: AnyEpisode) -> int:
    """A client's size, by which the cohort is put into groups; environments are of one size."""
    return len(episode.data.y) if isinstance(episode, Episode) else 0


def _batch(clients: Sequence[Tree]) -> Tree:
    """Trees stacked along a new first dimension; Shots without a mask are padded to the longest and get one."""
    first = clients[0]
    if isinstance(first, Shots) and first.mask is None:
        rows = max(len(shots.y) for shots in clients)
        return trees.stack([_pad(shots, rows) for shots in clients])
    if isinstance(first, dict):
        return {key: _batch([client[key] for client in clients]) for key in first}
    if isinstance(first, tuple) and not isinstance(first, Shots):
        parts = [_batch(part) for part in zip(*clients, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    return trees.stack(clients)


def _pad(shots: Shots, rows: int) -> Shots:
    missing = rows - len(shots.y)
    mask = torch.arange(rows) < len(shots.y)
    x = F.pad(shots.x, [0, 0] * (shots.x.dim() - 1) + [0, missing])
    return Shots(x, F.pad(shots.y, [0, missing]), shots.seed, mask)


def place(tree: Tree, device: torch.device) -> Tree:
    """The tree on a device; it may have None for leaves."""
    return trees.tree_map(lambda leaf: leaf if leaf is None else leaf.to(device), tree)
