"""Many of numpy's seeded permutations at once: a cohort of clients that are seen for the first time needs one each.

Nearly all the time of ``np.random.default_rng(seed).permutation(n)`` is seeding. So the seeds are hashed together here,
by the algorithm of numpy's SeedSequence, whose numbers are the same on all machines and in all of numpy's versions.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_Words = NDArray[np.uint32]

_POOL = 4
_BITS = (1 << 32) - 1
_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
"""Of PCG64, whose state and increment are numbers of 128 bits."""


def permutations(seeds: Sequence[int], sizes: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """``np.random.default_rng(seed).permutation(size)`` for each; seeds are below 2**64."""
    bits = np.random.PCG64(0)
    generator, state = np.random.Generator(bits), bits.state
    for (high, low, high_step, low_step), size in zip(_seeded(seeds).tolist(), sizes, strict=True):
        step = (high_step << 65 | low_step << 1 | 1) & (1 << 128) - 1
        begun = ((high << 64 | low) + step) * _MULTIPLIER + step
        bits.state = {**state, "state": {"state": begun & (1 << 128) - 1, "inc": step}}
        yield generator.permutation(size)


def _seeded(seeds: Sequence[int]) -> NDArray[np.uint64]:
    """``np.random.SeedSequence(seed).generate_state(4, np.uint64)`` for each."""
    whole = np.array(seeds, dtype=np.uint64)
    nothing = np.zeros(len(whole), dtype=np.uint32)
    entropy = [(whole & np.uint64(_BITS)).astype(np.uint32), (whole >> np.uint64(32)).astype(np.uint32)]
    hashed = _Hash(0x43B0D7E5, 0x931E8875)
    pool = [hashed(word) for word in (*entropy, nothing, nothing)]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                mixed = pool[target] * np.uint32(0xCA01F9DD) - hashed(pool[source]) * np.uint32(0x4973F715)
                pool[target] = mixed ^ mixed >> np.uint32(16)
    hashed = _Hash(0x8B51F9DD, 0x58F38DED)
    words = [hashed(pool[i % _POOL]).astype(np.uint64) for i in range(2 * _POOL)]
    return np.stack([low | high << np.uint64(32) for low, high in zip(words[::2], words[1::2], strict=True)], axis=1)


class _Hash:
    """SeedSequence's hash, which is another one every time."""

    def __init__(self, start: int, factor: int) -> None:
        self.constant, self.factor = start, factor

    def __call__(self, words: _Words) -> _Words:
        mixed = words ^ np.uint32(self.constant)
        self.constant = self.constant * self.factor & _BITS
        mixed = mixed * np.uint32(self.constant)
        return mixed ^ mixed >> np.uint32(16)
