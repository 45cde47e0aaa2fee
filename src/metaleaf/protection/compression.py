"""Compression of updates: what the server decodes of a client's message, and how many bytes that has.

A compressor is a frozen dataclass of options, and pure: ``compressor(updates, clients, seed)`` takes the updates of k
clients (leaves [k, ...]), their numbers (int64 [k]) and an int64 scalar seed, another every round, and gives what is
decoded, in the same shapes and dtypes. What becomes of a client's update depends on that update, its number and the
seed, and not on the rest of the cohort. Server and clients share the seed, so what is drawn from it need not travel.

``compressor.nbytes(like)`` is the size of one client's message, of which only the shapes and dtypes of `like`, one
client's update, matter: codes of fixed length, packed bit by bit through the whole message, whose last byte is filled
up. There is no header, as both sides know the model and the options. Entropy coding would save more of some messages,
by an amount that depends on the values.

``feedback`` says whether a client adds to its next update what the last message left out (error feedback, Seide et al.
2014; `with_feedback`). Compressors that are biased need it; unbiased ones go without.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.func import vmap

from metaleaf.seeds import mix, normal, order_keys, uniform
from metaleaf.trees import Tree, add, leaves, subtract, tree_map

Share = Annotated[float, Field(gt=0, le=1)]

NUMBERS = 1 << 22
"""Numbers that are worked on at once, of as many clients as have them: bounds the memory of draws."""


def with_feedback(
    compressor: "Compressor", updates: Tree, lost: Tree, clients: Tensor, seed: Tensor
) -> tuple[Tree, Tree]:
    """What is decoded of the updates and of what was lost before (all [k, ...]), and what is lost now."""
    wanted = add(updates, lost)
    decoded = compressor(wanted, clients, seed)
    return decoded, subtract(wanted, decoded)


@dataclass(frozen=True)
class Compressor:
    """What all compressors have."""

    name: ClassVar[str]
    feedback: bool = False

    def __call__(self, updates: Tree, clients: Tensor, seed: Tensor) -> Tree:
        """What is decoded of updates [k, ...] of the clients of these numbers, int64 [k]."""
        if not leaves(updates):
            return updates
        keys = mix(mix(clients) ^ seed).to(leaves(updates)[0].device)
        k = max(NUMBERS * len(clients) // max(_numbers(updates), 1), 1)
        starts = range(0, len(clients), k)
        parts = [self.decoded(_between(updates, start, start + k), keys[start : start + k]) for start in starts]
        return parts[0] if len(parts) == 1 else tree_map(lambda *xs: torch.cat(xs), *parts)

    def decoded(self, updates: Tree, keys: Tensor) -> Tree:
        """What is decoded of some clients' updates [k, ...]; keys: int64 [k], a seed of each one's own."""
        raise NotImplementedError

    def nbytes(self, like: Tree) -> int:
        """Bytes of one client's message."""
        raise NotImplementedError


@dataclass(frozen=True)
class Sparse(Compressor):
    """Sends a share of all the update's numbers, rounded up, and at least one."""

    share: Share = 0.01

    def kept(self, n: int) -> int:
        """How many of n numbers are sent."""
        return min(max(math.ceil(self.share * n - 1e-9), 1), n)  # 0.1 * 30 is a little more than 3


@dataclass(frozen=True)
class TopK(Sparse):
    """The numbers of the greatest size, as they are, of the whole update (Stich et al. 2018, arXiv 1809.07599).

    Each takes the bytes of its dtype. Their places take ceil(log2 n) bits each or, if that is less, one bit for each of
    the n numbers; none if all are sent.
    """

    feedback: bool = True

    name: ClassVar[str] = "top_k"

    def decoded(self, updates: Tree, keys: Tensor) -> Tree:
        """See `Compressor`."""
        whole = _flat(updates)
        places = whole.abs().topk(self.kept(whole.shape[1]), dim=1, sorted=False).indices
        return _with_only(whole, places, 1.0, updates)

    def nbytes(self, like: Tree) -> int:
        """See `Compressor`."""
        n = _numbers(like)
        kept = self.kept(n)
        places = min(kept * (n - 1).bit_length(), n) if kept < n else 0
        return kept * _width(like) + _bytes(places)


@dataclass(frozen=True)
class RandomK(Sparse):
    """Numbers at random places of the whole update (Konečný et al. 2016, arXiv 1610.05492).

    The places follow from the seed and do not travel. Without feedback they are multiplied by n / kept, so that what is
    decoded is unbiased; with it they stay as they are, as an error that grows from round to round would be fed back
    otherwise (Stich et al. 2018).
    """

    name: ClassVar[str] = "random_k"

    def decoded(self, updates: Tree, keys: Tensor) -> Tree:
        """See `Compressor`."""
        whole = _flat(updates)
        n = whole.shape[1]
        kept = self.kept(n)
        drawn = vmap(lambda key: order_keys(key, n))(keys)
        places = drawn.topk(kept, dim=1, largest=False, sorted=False).indices  # no need to sort them all
        return _with_only(whole, places, 1.0 if self.feedback else n / max(kept, 1), updates)

    def nbytes(self, like: Tree) -> int:
        """See `Compressor`."""
        return self.kept(_numbers(like)) * _width(like)


@dataclass(frozen=True)
class Qsgd(Compressor):
    """Each number rounded at random to one of 2 levels + 1 steps between -length and length, without bias.

    Alistarh et al. 2017 (arXiv 1610.02132). length: of its bucket, so many numbers of a leaf in a row (0: the whole
    leaf); smaller buckets cost more and round less. A number takes ceil(log2(2 levels + 1)) bits, a length the bytes
    of its dtype. The paper's Elias codes, of no fixed length, would be shorter where most numbers become 0.
    """

    levels: PositiveInt = 127
    bucket: NonNegativeInt = 512

    name: ClassVar[str] = "qsgd"

    def decoded(self, updates: Tree, keys: Tensor) -> Tree:
        """See `Compressor`."""
        return _by_leaf(updates, lambda leaf, stream: self._rounded(leaf, keys, stream))

    def _rounded(self, leaf: Tensor, keys: Tensor, stream: int) -> Tensor:
        k, n = len(leaf), leaf[0].numel()
        width = self._in_a_bucket(n)
        buckets = F.pad(leaf.reshape(k, n), (0, -n % width)).view(k, -(-n // width), width)
        lengths = torch.linalg.vector_norm(buckets, dim=2, keepdim=True, dtype=torch.float64).to(leaf.dtype)
        steps = torch.where(lengths == 0, 0.0, self.levels * (buckets.abs() / lengths))
        drawn = vmap(lambda key: uniform(key, buckets.shape[1:], stream, leaf.dtype))(keys)
        level = (steps.floor() + (drawn < steps - steps.floor())).clamp(max=self.levels)
        found: Tensor = (buckets.sign() * (level / self.levels) * lengths).view(k, -1)[:, :n].reshape(leaf.shape)
        return found

    def nbytes(self, like: Tree) -> int:
        """See `Compressor`."""
        buckets = ((-(-leaf.numel() // self._in_a_bucket(leaf.numel())), leaf.element_size()) for leaf in leaves(like))
        lengths: int = sum(count * size for count, size in buckets)
        return lengths + _bytes(_numbers(like) * (2 * self.levels).bit_length())

    def _in_a_bucket(self, n: int) -> int:
        """Numbers in a bucket of a leaf that has n."""
        return max(min(self.bucket or n, n), 1)


@dataclass(frozen=True)
class Sign(Compressor):
    """The sign of each number, times the leaf's mean size (Karimireddy et al. 2019, arXiv 1901.09847).

    A number takes one bit, so 0 counts as positive; each leaf with numbers also takes its mean, in its dtype.
    """

    feedback: bool = True

    name: ClassVar[str] = "sign"

    def decoded(self, updates: Tree, keys: Tensor) -> Tree:
        """See `Compressor`."""
        return tree_map(_signs, updates)

    def nbytes(self, like: Tree) -> int:
        """See `Compressor`."""
        sizes: int = sum(leaf.element_size() for leaf in leaves(like) if leaf.numel())
        return sizes + _bytes(_numbers(like))


@dataclass(frozen=True)
class LowRank(Compressor):
    """Each matrix [n, m] as a product [n, rank] @ [rank, m], by one power iteration (Vogels et al. 2019).

    PowerSGD, arXiv 1905.13727; here each client's matrices are approximated by themselves, from a start that is drawn
    from the seed in every round, as clients are rarely sampled twice in a row. A leaf of more dimensions is a matrix of
    its first and all others, as in layers of convolutions. Both factors travel. Leaves for which they would have no
    fewer numbers than the leaf, such as vectors, travel as they are.
    """

    feedback: bool = True
    rank: PositiveInt = 2

    name: ClassVar[str] = "low_rank"

    def decoded(self, updates: Tree, keys: Tensor) -> Tree:
        """See `Compressor`."""
        # One by one: products of several matrices at once may be rounded otherwise than of one.
        return _by_leaf(
            updates,
            lambda leaf, stream: torch.stack([self._product(*own, stream) for own in zip(leaf, keys, strict=True)]),
        )

    def _product(self, leaf: Tensor, key: Tensor, stream: int) -> Tensor:
        if self._sent(leaf) == leaf.numel():
            return leaf
        matrix = leaf.reshape(len(leaf), -1)
        start = normal(key, (matrix.shape[1], self.rank), stream, leaf.dtype)
        left: Tensor = torch.linalg.qr(matrix @ start).Q
        return (left @ (left.T @ matrix)).view_as(leaf)

    def _sent(self, leaf: Tensor) -> int:
        """Numbers that travel."""
        n = leaf.numel()
        return min(self.rank * (len(leaf) + n // len(leaf)), n) if leaf.dim() > 1 and n else n

    def nbytes(self, like: Tree) -> int:
        """See `Compressor`."""
        return sum(self._sent(leaf) * leaf.element_size() for leaf in leaves(like))


_ALL: tuple[type[Compressor], ...] = (TopK, RandomK, Qsgd, Sign, LowRank)

COMPRESSORS: Mapping[str, type[Compressor]] = {compressor.name: compressor for compressor in _ALL}
"""The compressors by name."""


def _between(updates: Tree, start: int, end: int) -> Tree:
    """The updates of some clients."""
    return tree_map(lambda x: x[start:end], updates)


def _flat(updates: Tree) -> Tensor:
    """Each client's leaves in one vector, [k, n]."""
    return torch.cat([leaf.reshape(len(leaf), leaf[0].numel()) for leaf in leaves(updates)], 1)


def _with_only(whole: Tensor, places: Tensor, factor: float, like: Tree) -> Tree:
    """The tree of vectors' numbers [k, n] at places [k, kept], times the factor, and zeros elsewhere."""
    found = torch.zeros_like(whole).scatter(1, places, factor * whole.gather(1, places))
    pieces = iter(torch.split(found, [leaf[0].numel() for leaf in leaves(like)], 1))
    return tree_map(lambda leaf: next(pieces).reshape(leaf.shape).to(leaf.dtype), like)


def _signs(leaf: Tensor) -> Tensor:
    """Of a leaf [k, ...], with each client's own size."""
    if not leaf.numel():
        return leaf
    rows = leaf.reshape(len(leaf), -1)
    size = rows.abs().mean(1, keepdim=True, dtype=torch.float64).to(leaf.dtype)
    return torch.where(rows < 0, -size, size).view_as(leaf)


def _by_leaf(updates: Tree, f: Callable[[Tensor, int], Tensor]) -> Tree:
    """f(leaf, its number) of each leaf."""
    streams = iter(range(len(leaves(updates))))
    return tree_map(lambda leaf: f(leaf, next(streams)), updates)


def _numbers(like: Tree) -> int:
    return sum(leaf.numel() for leaf in leaves(like))


def _width(like: Tree) -> int:
    """Bytes of a number of the leaves together."""
    dtypes = [leaf.dtype for leaf in leaves(like)]
    return reduce(torch.promote_types, dtypes).itemsize if dtypes else 0


def _bytes(bits: int) -> int:
    return -(-bits // 8)
