"""BMAML: MAML of several models that repel each other, whose adapted versions are a sample of what the data allow.

Yoon, Kim, Dia, Kim, Bengio, Ahn (2018), arXiv 1806.03836, algorithms 1 to 3, with the chaser loss; federated as
`metaleaf.algorithms.maml` federates MAML. A client moves M particles theta_m by Stein variational gradient descent
(Liu & Wang 2016, arXiv 1608.04471), with k(a, b) = exp(-|a - b|^2 / h):

    theta_m <- theta_m + lr / (M n) sum_j [k(theta_j, theta_m) grad log p(theta_j) + grad_j k(theta_j, theta_m)]

The chaser has moved `inner_steps` steps on the support set, the leader `leader_steps` more on all the client's data.
What is sent is the gradient of sum_m |chaser_m - leader_m|^2 by the initial particles, the leader held still, through
the chaser's steps (second order). A new client, and a participant on its data, moves the particles likewise, and
predicts by their mean probability. All M models travel both ways. With one particle the inner loop is MAML's.

Deviations: p is the likelihood of the n examples alone (a flat prior; the paper learns a prior's precision, for
regression), so that log p = -n loss, and repulsion counts less the more examples there are. h is the median of the
particles' squared distances over log(M + 1), a constant to derivatives. Particles start from independent draws of the
whole model (for large networks the paper shares the layers before the last).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf.algorithm import About, Space, State
from metaleaf.gradient import grad
from metaleaf.learning import last
from metaleaf.optimizers import Adam, Optimizer
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, dot, leaves, stack, subtract, tree_map, unstack


@dataclass(frozen=True)
class BMAML:
    """Bayesian MAML by SVGD and the chaser loss. The server sends and learns all particles stacked, leaves [M, ...]."""

    title: ClassVar[str] = "BMAML"
    about: ClassVar[About] = About(
        "meta-gradient",
        "MAML of several models that repel each other and predict together",
        "Yoon et al. 2018, arXiv 1806.03836",
        order=2,
    )
    serves: ClassVar[tuple[str, ...]] = ("multiclass",)
    space: ClassVar[Space] = {
        "inner_lr": (0.03, 0.1, 0.3, 1.0),
        "leader_steps": (1, 3),
        "server_optimizer.lr": (0.0003, 0.001, 0.003),
    }

    particles: PositiveInt = 5
    inner_lr: PositiveFloat = 0.1
    """Particles that are far from each other move by a part 1 / M of it."""
    inner_steps: NonNegativeInt = 1
    leader_steps: PositiveInt = 1
    adapt_steps: NonNegativeInt | None = None
    """Steps when a client adapts; None: as many as in training."""
    server_optimizer: Optimizer = Adam(lr=0.001)

    def init(self, task: Task, params: Params) -> State:
        """Particles from independent draws of the initial parameters, and the server optimizer's state."""
        particles = stack([params, *(task.params(draw) for draw in range(1, self.particles))])
        return State(particles, self.server_optimizer.init(particles))

    def client(self, task: Task, particles: Tree, episode: Episode) -> Tree:
        """The gradient of the chaser's squared distance to the leader, by the particles before adaptation."""

        def objective(start: Tree) -> Tensor:
            chaser = last(self._moved(task, start, episode.support, self.inner_steps))
            leader = last(self._moved(task, tree_map(torch.detach, chaser), episode.data, self.leader_steps))
            behind = subtract(chaser, tree_map(torch.detach, leader))
            return dot(behind, behind)

        return grad(objective)(particles)

    def _moved(self, task: Task, particles: Tree, shots: Shots, steps: int) -> Iterator[Tree]:
        """The particles before, and after each step of SVGD."""
        examples = len(shots.y) if shots.mask is None else shots.mask.sum().clamp(min=1)
        yield particles
        for step in range(steps):
            slopes = stack([grad(task.loss)(one, shots.at(step)) for one in unstack(particles)])
            near, apart = _kernel(particles)

            def moved(p: Tensor, g: Tensor, near: Tensor = near, apart: Tensor = apart) -> Tensor:
                along = torch.tensordot(apart, p - p.mean(0), dims=1) / examples - torch.tensordot(near, g, dims=1)
                found: Tensor = p + self.inner_lr / self.particles * along
                return found

            particles = tree_map(moved, particles, slopes)
            yield particles

    def server(self, state: State, update: Tree) -> State:
        """One step of the server optimizer, over all particles."""
        return State(*self.server_optimizer.step(state.broadcast, update, state.kept))

    def adapt(self, task: Task, particles: Tree, support: Shots) -> Iterator[Tree]:
        """The chaser's steps."""
        return self._moved(task, particles, support, self.inner_steps if self.adapt_steps is None else self.adapt_steps)

    def predict(self, task: Task, particles: Tree, x: Tensor, mask: Tensor | None) -> Tensor:
        """The logarithm of the particles' mean probabilities, [n, classes]."""
        each = [task.logits(one, x, mask).log_softmax(-1) for one in unstack(particles)]
        return torch.stack(each).logsumexp(0) - math.log(self.particles)


def _kernel(particles: Tree) -> tuple[Tensor, Tensor]:
    """K [M, M] of the particles, and A with (A theta)_m = sum_j grad_j k(theta_j, theta_m); its rows sum to 0."""
    # Distances to their mean are of the size of those between them: less is lost in the difference of squares.
    centred = [(leaf - leaf.mean(0)).flatten(1) for leaf in leaves(particles)]
    products = torch.stack([leaf @ leaf.T for leaf in centred]).sum(0)
    squares = products.diagonal()[:, None] + products.diagonal() - 2 * products
    count = len(squares)
    rows, columns = torch.triu_indices(count, count, offset=1, device=squares.device)
    pairs = squares[rows, columns].detach()
    width = pairs.median() / math.log(count + 1) if count > 1 else squares.detach().sum()
    safe = torch.where(width > 0, width, 1.0)  # particles in one place do not repel each other
    near = torch.exp(-squares / safe)
    return near, 2 / safe * (torch.diag_embed(near.sum(1)) - near)
