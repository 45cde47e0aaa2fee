"""The few large centres of a study as clients, or each dealt out into several."""

from collections.abc import Iterator

import numpy as np

from metaleaf.dataset import Client
from metaleaf.seeds import derive


def dealt(dataset: str, centre: str, x: np.ndarray, y: np.ndarray, clients: int, seed: int) -> Iterator[Client]:
    """The centre's examples in so many clients "<centre>-<number>" of about one size, drawn by the seed.

    Examples keep their order. One client is the centre itself, and called so. The environment is the centre.
    """
    drawn = np.random.default_rng(derive(seed, dataset, centre)).permutation(len(y))
    for number, part in enumerate(np.array_split(drawn, clients), 1):
        rows = np.sort(part)
        yield Client(f"{centre}-{number:02d}" if clients > 1 else centre, centre, x[rows], y[rows])
