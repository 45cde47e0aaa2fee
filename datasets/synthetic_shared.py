"""LEAF's synthetic linear classification, changed so that clients have something to learn from one another.

On LEAF's own data (`metaleaf.datasets.synthetic`) most of a client's examples are of one class, because its inputs lie
around a point v_c far from the origin; answering that class is as good as any method, and gradients are so large that
rounding errors grow. The generator here is LEAF's but for three things:

    v_c = 0                     inputs are centred, so that a client has examples of all classes
    u, m_k of r entries         as in `metaleaf.datasets.synthetic_environments`, r = 3 with 5 clusters
    n_c of lognormal(4, 0.5)    sizes are alike (LEAF: lognormal(3, 2)): about 68, a fifth of which are few shots

A client's model is W_c = Q u_c. What all clients share is Q: it takes each of the d + 1 inputs to C x r numbers, and
the client's own three numbers u_c weigh these. So one model for all is wrong for most, a client alone has far too few
examples for its d C weights, and who has learnt Q from others needs few.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from metaleaf.dataset import Spec
from metaleaf.datasets.synthetic import Synthetic, Task, check_limits, draw_tasks
from metaleaf.datasets.synthetic_environments import LIMITS, SyntheticEnvironments


@dataclass(frozen=True)
class SyntheticShared(SyntheticEnvironments):
    """Options of the generator, as `SyntheticEnvironments`'. The same options always give the same data."""

    tasks: int = 600
    clusters: int = 5
    latent: int = 3
    size_mean: float = 4.0
    size_sd: float = 0.5

    spec: ClassVar[Spec] = replace(Synthetic.spec, version="1.0.0", published=None, model="mlp")

    def __post_init__(self) -> None:
        check_limits("synthetic_shared", self, LIMITS)
        super().__post_init__()

    def draw(self) -> Iterator[Task]:
        """Yield every client with its true model."""
        return draw_tasks(self.sizes(), self.classes, self.dimension, self.clusters, self.latent, self.seed, shift=0.0)
