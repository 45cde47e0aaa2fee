"""iMAML: MAML whose inner problem is held near its start, so that the meta-gradient needs its solution, not its path.

Rajeswaran, Finn, Kakade, Levine (2019), arXiv 1909.04630, algorithms 1 and 2; federated as `metaleaf.algorithms.maml`
federates MAML. A client looks for phi, the minimum of its support loss plus strength / 2 ||phi - theta||^2, by gradient
descent from theta. If phi is the minimum, the query loss at phi has by theta the gradient x that solves

    (I + H / strength) x = g,

H the Hessian of the support loss and g the query gradient, both at phi. It is found by `cg_steps` steps of conjugate
gradient from 0, each of one Hessian-vector product, so that neither memory nor derivatives grow with `inner_steps`. A
new client, and a participant on its data, solves the inner problem.

Deviations: neural networks have directions of negative curvature, on which conjugate gradient is not defined. It stops
at the first one with what it has, which at the very first is g, the first-order gradient (as truncated Newton methods
do). `damping` is added to the strength in this matrix, and nowhere else: 0 is the paper's rule, and the more, the less
curvature counts, until x is g; from minus the least eigenvalue of H on, none is negative. (The authors' code solves
((1 + c) I + H / (strength + d)) x = g with c = 1, d = 10 and a strength of 1: half the x of `damping` 21 here.)
`strength` is tuned; the paper can also learn it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from metaleaf.algorithm import About, Space
from metaleaf.algorithms.maml import MAML
from metaleaf.gradient import grad
from metaleaf.learning import descend, last, proximal
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, add, dot, zeros_like


@dataclass(frozen=True)
class IMAML(MAML):
    """Implicit MAML; `strength` is the paper's lambda, and `first_order` leaves the curvature out."""

    title: ClassVar[str] = "iMAML"
    about: ClassVar[About] = About(
        "meta-gradient",
        "MAML by implicit gradients of an inner problem that is held near its start",
        "Rajeswaran et al. 2019, arXiv 1909.04630",
        order=2,
    )
    space: ClassVar[Space] = {**MAML.space, "strength": (0.5, 2.0, 10.0), "damping": (0.0, 20.0)}

    inner_steps: NonNegativeInt = 10
    strength: PositiveFloat = 2.0
    damping: NonNegativeFloat = 0.0
    cg_steps: PositiveInt = 5

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """The gradient of the query loss at the solution, by the parameters that it is held near."""
        if self.first_order:
            return super().client(task, params, episode)
        solution = self._adapted(task, params, episode)
        slope = grad(task.loss)

        def product(v: Tree) -> Tree:
            curved = grad(lambda phi: dot(slope(phi, episode.support), v))(solution)
            return add(v, curved, 1 / (self.strength + self.damping))

        return conjugate_gradient(product, slope(solution, episode.query), self.cg_steps)

    def _adapted(self, task: Task, params: Params, episode: Episode) -> Params:
        return last(self._descended(task, params, episode.support, self.inner_steps))

    def _descended(self, task: Task, params: Params, support: Shots, steps: int) -> Iterator[Params]:
        return descend(task, params, support, self.inner_lr, steps, proximal(task, params, self.strength))

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """Gradient descent on the inner problem."""
        steps = self.inner_steps if self.adapt_steps is None else self.adapt_steps
        return self._descended(task, params, support, steps)


def conjugate_gradient(product: Callable[[Tree], Tree], b: Tree, steps: int) -> Tree:
    """x with A x nearly b, from 0, where product(v) = A v and A is symmetric (Hestenes & Stiefel 1952).

    Once the residual is 0, or a direction p has not p'Ap > 0, x stays as it is; if that is the first one, x is b.
    """
    x, residual, direction, length = zeros_like(b), b, b, dot(b, b)
    going = length > 0
    for step in range(steps):
        curved = product(direction)
        curvature = dot(direction, curved)
        going = going & (curvature > 0)
        size = torch.where(going, length / torch.where(going, curvature, 1.0), float(step == 0))
        x, residual = add(x, direction, size), add(residual, curved, -size)
        before, length = length, dot(residual, residual)
        going = going & (length > 0)
        direction = add(residual, direction, torch.where(going, length / torch.where(going, before, 1.0), 0.0))
    return x
