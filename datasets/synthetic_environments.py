"""LEAF's synthetic linear classification with many clusters, each an environment, of one small family.

The generator is that of `metaleaf.datasets.synthetic`, but for one thing: LEAF gives u, the centres and Q's last
axis as many entries as there are clusters, so that the models of a new cluster are of no family that the
others could teach. Here they have r entries, however many clusters there are:

    Q ~ N(0, 1) [d + 1, C, r],  m_k ~ N(b_k, 1) [r],  u_c ~ N(m_k, 0.1) [r],  W_c = Q u_c

so that Q, which all environments share, can be learnt from some of them, and r numbers tell another. The
clients' sizes are LEAF's unless their distribution is changed: min(floor(lognormal(mean, sd)) + 5, 1000).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from metaleaf.dataset import Spec
from metaleaf.datasets import synthetic
from metaleaf.datasets.synthetic import LEAF_SEED, Synthetic, Task, check_limits, draw_sizes, draw_tasks

LIMITS = {**synthetic.LIMITS, "latent": (1, 10**4), "size_mean": (0, 7), "size_sd": (0, 3)}
"""Least and greatest value of each option."""


@dataclass(frozen=True)
class SyntheticEnvironments(Synthetic):
    """Options of the generator. The same options always give the same data; no file is read.

    tasks, classes, dimension, clusters, seed: as `Synthetic`'s; a client's environment is its cluster. latent: r.
    size_mean, size_sd: of the logarithm of the clients' sizes. ConfigError for an option outside `LIMITS`.
    """

    tasks: int = 3000
    clusters: int = 100
    seed: int = LEAF_SEED
    latent: int = 6
    size_mean: float = 3.0
    size_sd: float = 2.0

    spec: ClassVar[Spec] = replace(Synthetic.spec, version="1.0.0", published=None)
    target: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        check_limits("synthetic_environments", self, LIMITS)
        super().__post_init__()

    def sizes(self) -> np.ndarray:
        """Examples of every client, int64 [tasks]: 5 to 1000."""
        return draw_sizes(self.tasks, self.seed, self.size_mean, self.size_sd)

    def draw(self) -> Iterator[Task]:
        """Yield every client with its true model."""
        return draw_tasks(self.sizes(), self.classes, self.dimension, self.clusters, self.latent, self.seed)
