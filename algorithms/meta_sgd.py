"""FedMeta with Meta-SGD: MAML that learns, besides the initial parameters, a step size for each of them.

Li, Zhou, Chen, Li (2017), arXiv 1707.09835; federated by Chen et al. (2018), arXiv 1802.07876. The rates have their own
meta-gradient: for one inner step it is minus the support gradient times the query gradient at the adapted
parameters, element by element.

Deviation: all rates start at `inner_lr` (Li et al. draw them from an interval), as in Chen et al.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeInt, PositiveFloat

from metaleaf.algorithm import About, Space, State
from metaleaf.gradient import grad
from metaleaf.learning import descend, last
from metaleaf.optimizers import Adam, Optimizer
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, tree_map


@dataclass(frozen=True)
class MetaSGD:
    """Second-order Meta-SGD. The server sends and learns {"params", "rates"}: twice MAML's bytes."""

    title: ClassVar[str] = "Meta-SGD"
    about: ClassVar[About] = About(
        "meta-gradient",
        "MAML with a learned step size for each parameter",
        "Li et al. 2017, arXiv 1707.09835; Chen et al. 2018, arXiv 1802.07876",
        order=2,
    )
    space: ClassVar[Space] = {
        "inner_lr": (0.003, 0.01, 0.03, 0.1),
        "server_optimizer.lr": (0.0003, 0.001, 0.003),
    }

    inner_lr: PositiveFloat = 0.03
    inner_steps: NonNegativeInt = 1
    adapt_steps: NonNegativeInt | None = None
    """Steps when a client adapts; None: as many as in training."""
    server_optimizer: Optimizer = Adam(lr=0.001)

    def init(self, task: Task, params: Params) -> State:
        """Initial parameters and constant rates, and the server optimizer's state over both."""
        learned = {"params": params, "rates": tree_map(lambda p: torch.full_like(p, self.inner_lr), params)}
        return State(learned, self.server_optimizer.init(learned))

    def client(self, task: Task, learned: Tree, episode: Episode) -> Tree:
        """The gradient of the query loss after adaptation, by initial parameters and rates."""

        def outer(start: Tree) -> Tree:
            steps = descend(task, start["params"], episode.support, start["rates"], self.inner_steps)
            return task.loss(last(steps), episode.query)

        return grad(outer)(learned)

    def server(self, state: State, update: Tree) -> State:
        """One step of the server optimizer, over parameters and rates alike."""
        return State(*self.server_optimizer.step(state.broadcast, update, state.kept))

    def params(self, learned: Tree) -> Params:
        """The initial parameters: what a new environment starts from (`metaleaf.environments.newcomers`)."""
        initial: Params = learned["params"]
        return initial

    def local(self, task: Task, learned: Tree, params: Params, shots: Shots) -> Iterator[Params]:
        """Local training in a new environment: with the learned rates."""
        return descend(task, params, shots, learned["rates"], task.local_steps)

    def adapt(self, task: Task, learned: Tree, support: Shots) -> Iterator[Params]:
        """The inner loop with the learned rates."""
        steps = self.inner_steps if self.adapt_steps is None else self.adapt_steps
        return descend(task, learned["params"], support, learned["rates"], steps)
