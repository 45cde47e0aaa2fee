"""LEAF's synthetic linear classification (Caldas et al. 2019, arXiv 1812.01097), drawn as LEAF draws it.

A client c belongs to one of s clusters and labels its inputs with its own linear model:

    Q ~ N(0, 1) [d + 1, C, s]                what the models of all clients have in common
    m_k ~ N(b_k, 1) [s],  b_k ~ N(0, 1)      the centre of cluster k
    u_c ~ N(m_k, 0.1) [s],  W_c = Q u_c      the client's model [d + 1, C]; its first row is the bias
    x ~ N(v_c, diag(j^-1.2)) [d],  v_c ~ N(B_c, 1) [d],  B_c ~ N(0, 1)
    y = argmax_j ((1, x) W_c + e)_j,  e ~ N(0, 0.1) [C]
    n_c = min(floor(lognormal(3, 2)) + 5, 1000)

The second number of each N is a standard deviation, except for x. With LEAF's default of s = 1 every W_c is
the same matrix times a number, so that there is nothing to adapt to; the default here is 2. LEAF takes the
argmax of a softmax over classes (over examples in its first version), which is the argmax of its argument.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from metaleaf.dataset import Client, Published, Spec
from metaleaf.errors import ConfigError

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

LEAF_SEED = 931231
LIMITS = {
    "tasks": (1, 10**7),
    "classes": (2, 256),
    "dimension": (1, 10**4),
    "clusters": (1, 10**4),
    "seed": (0, 2**32 - 1),
}
"""Least and greatest value of each option; labels are stored as uint8."""


class Task(NamedTuple):
    """One client as drawn: x float64 [n, d] without bias column, y int64 [n], weights float64 [d + 1, C]."""

    cluster: int
    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Synthetic:
    """Options of LEAF's generator. The same options always give the same data; no file is read.

    tasks: number of clients; classes: C; dimension: d, of x without a bias; clusters: s, each as likely as
    the others (LEAF's own default is 1). ConfigError for an option outside `LIMITS`.
    """

    tasks: int = 1000
    classes: int = 5
    dimension: int = 60
    clusters: int = 2
    seed: int = LEAF_SEED

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(60,),
        x_dtype="float32",
        classes=5,
        model="logistic",
        licence="BSD-2-Clause (LEAF's generator)",
        homepage="https://leaf.cmu.edu",
        citation="Caldas et al. LEAF: A Benchmark for Federated Settings. arXiv 1812.01097, 2019.",
        published=Published(1000, 107_553, 107.55, 213.22, "https://leaf.cmu.edu"),
    )
    target: ClassVar[float | None] = 0.89
    """More than training alone reaches on the mean of our seeds (0.881), so that it takes a federation."""

    def __post_init__(self) -> None:
        check_limits("synthetic", self, LIMITS)
        # Shapes are options here, so an instance has its own spec. Sizes depend on tasks and seed alone, so
        # that LEAF's published figures hold for any number of clusters.
        as_published = (self.tasks, self.seed) == (1000, LEAF_SEED)
        own = replace(
            self.spec,
            x_shape=(self.dimension,),
            classes=self.classes,
            published=self.spec.published if as_published else None,
        )
        object.__setattr__(self, "spec", own)

    def clients(self, raw: "RawFiles | None" = None) -> Iterator[Client]:
        """Yield clients "0", "1", ... in environments "cluster-<k>"; x float32 [n, d], y uint8 [n]."""
        for i, task in enumerate(self.draw()):
            x, y = task.x.astype(np.float32), task.y.astype(np.uint8)
            yield Client(str(i), f"cluster-{task.cluster}", x, y)

    def sizes(self) -> np.ndarray:
        """Examples of every client, int64 [tasks]: 5 to 1000."""
        return draw_sizes(self.tasks, self.seed)

    def draw(self) -> Iterator[Task]:
        """Yield every client with its true model, in the order of LEAF's file."""
        return draw_tasks(self.sizes(), self.classes, self.dimension, self.clusters, self.clusters, self.seed)


def check_limits(dataset: str, options: object, limits: Mapping[str, tuple[float, float]]) -> None:
    """ConfigError for an option of the dataset that is outside its limits."""
    for name, (low, high) in limits.items():
        if not low <= getattr(options, name) <= high:
            raise ConfigError(f"{dataset}: {name} is {getattr(options, name)}, not from {low} to {high}.")


def draw_sizes(tasks: int, seed: int, mean: float = 3, sd: float = 2) -> np.ndarray:
    """Examples of every client, int64 [tasks], from the lognormal distribution: 5 to 1000."""
    drawn = np.random.RandomState(seed).lognormal(mean, sd, tasks)
    return np.minimum(drawn.astype(np.int64) + 5, 1000)


def draw_tasks(
    sizes: np.ndarray, classes: int, dimension: int, clusters: int, latent: int, seed: int, *, shift: float = 1.0
) -> Iterator[Task]:
    """Yield clients of these sizes. latent: entries of u, of the centres and of Q's last axis; LEAF's has s.

    shift: what v_c, the mean of a client's inputs, is multiplied by; LEAF's is 1.
    """
    # NumPy's legacy generator, seeded anew after the sizes, and this order of draws: all are LEAF's.
    rng = np.random.RandomState(seed)
    shared = rng.normal(size=(dimension + 1, classes, latent))
    spread = np.sqrt(np.arange(1, dimension + 1) ** -1.2)
    centres = [rng.normal(rng.normal(), 1, latent) for _ in range(clusters)]
    likelihood = np.full(clusters, 1 / clusters)
    for n in sizes:
        cluster = int(rng.choice(clusters, p=likelihood))
        mean = shift * rng.normal(rng.normal(), 1, dimension)
        # What multivariate_normal computes here, without its decomposition of the same matrix every time.
        x = rng.normal(size=(n, dimension)) * spread + mean
        weights = shared @ rng.normal(centres[cluster], 0.1)
        logits = weights[0] + x @ weights[1:] + rng.normal(0, 0.1, (n, classes))
        yield Task(cluster, x, logits.argmax(axis=1), weights)
