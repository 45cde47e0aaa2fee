"""Permutations that are seeded together, against numpy's own."""

import numpy as np

from metaleaf.data.permutations import permutations
from metaleaf.seeds import derive


def test_they_are_those_of_numpys_generators() -> None:
    edges = [0, 1, 2**32 - 1, 2**32, 2**62 - 1, 2**64 - 1]
    seeds = edges + [derive(3, "examples", str(i)) for i in range(300)]
    sizes = [0, 1, 2, 3, 10, 1000] + [i % 97 for i in range(300)]
    for seed, size, found in zip(seeds, sizes, permutations(seeds, sizes), strict=True):
        assert found.tolist() == np.random.default_rng(seed).permutation(size).tolist()


def test_none() -> None:
    assert list(permutations([], [])) == []
