"""One root seed, split by purpose, so that two algorithms see the same clients, cohorts and batches; and draws from it.

Draws are functions of a seed, not of a generator's state: hashes (SplitMix64) of the seed, the stream and the place. So
a client may take them under torch.func.vmap, every engine and device has the same, and a resumed run goes on with them.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_DRAWS = 0x9FB21C651E98DF25
"""Sets draws apart from the orders of batches, which are made from the same seeds."""
_SECOND = 0x5851F42D4C957F2D
"""Sets the second number of a pair apart from the first."""


def derive(root: int, *purpose: str | int) -> int:
    """A seed in [0, 2**62) for a purpose, e.g. ``derive(1, "cohort", 17)``; independent for different purposes."""
    text = "/".join(str(part) for part in (root, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def uniform(seed: Tensor, shape: Sequence[int], stream: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers from [0, 1), of that shape.

    seed: int64 scalar, such as ``episode.data.seed``, which is another for every client and round. Other streams give
    independent numbers. The first 24 bits of a hash, or 53 where dtype is float64.
    """
    digits = 53 if dtype == torch.float64 else 24
    return _shift(_keys(seed, shape, stream), 64 - digits).to(dtype) * 2.0**-digits


def normal(seed: Tensor, shape: Sequence[int], stream: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers (Box & Muller 1958); parameters as in `uniform`."""
    keys = _keys(seed, shape, stream)
    length, angle = (_shift(key, 11).to(torch.float64) * 2.0**-53 for key in (keys, mix(keys ^ _signed(_SECOND))))
    return ((-2 * (1 - length).log()).sqrt() * (2 * math.pi * angle).cos()).to(dtype)


def integers(seed: Tensor, shape: Sequence[int], low: int, high: int, stream: int = 0) -> Tensor:
    """Whole numbers from low to below high, int64 of that shape; seed and stream as in `uniform`."""
    if not low < high:
        raise ValueError(f"there is no whole number from {low} to below {high}.")
    return low + _shift(_keys(seed, shape, stream), 1) % (high - low)


def choice(seed: Tensor, n: int, k: int, stream: int = 0) -> Tensor:
    """k different ones of the numbers from 0 to below n, in random order, int64 [k]; as in `uniform`."""
    if not 0 <= k <= n:
        raise ValueError(f"there are no {k} different numbers from 0 to below {n}.")
    return torch.argsort(_shift(_keys(seed, (n,), stream), 1))[:k]


def order_keys(seed: Tensor, n: int, stream: int = 0) -> Tensor:
    """Non-negative int64 [n]; what is sorted by them is in random order."""
    return _shift(_hashes(seed + stream, n), 1)


def _keys(seed: Tensor, shape: Sequence[int], stream: int) -> Tensor:
    """A hash for each place of a draw, int64 of that shape."""
    return _hashes(mix(seed ^ _signed(_DRAWS)) + stream, math.prod(shape)).reshape(tuple(shape))


def _hashes(seed: Tensor, n: int) -> Tensor:
    return mix(mix(seed) + torch.arange(n, device=seed.device))


def mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014) on int64 tensors, whose arithmetic wraps around."""
    z = z + _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def step_seed(seed: Tensor, step: int) -> Tensor:
    """A seed of that step's own (from 0)."""
    return seed + _signed((step + 1) * _STEP % (1 << 64))


_STEP = 0xD1B54A32D192ED03
"""Between the seeds of two steps; odd, so that they differ (Steele & Vigna 2021)."""


def _shift(z: Tensor, bits: int) -> Tensor:
    """A right shift that moves in zeros; torch's own repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word
