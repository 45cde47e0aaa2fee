"""FedMeta with MAML: clients send the gradient of their query loss after adapting on their support set.

Finn, Abbeel, Levine (2017), arXiv 1703.03400; federated by Chen et al. (2018), arXiv 1802.07876. The gradient is taken
through the inner steps (second order). The server follows the mean meta-gradient with Adam, as Chen et al. do.

Chen et al. state neither the number of inner steps nor a batch size: here each step uses the whole support set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeInt, PositiveFloat

from metaleaf.algorithm import About, Space, State
from metaleaf.gradient import grad
from metaleaf.learning import descend, last
from metaleaf.optimizers import Adam, Optimizer
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class MAML:
    """Second-order MAML; `first_order` gives FOMAML."""

    title: ClassVar[str] = "MAML"
    about: ClassVar[About] = About(
        "meta-gradient",
        "the query gradient after adaptation, taken through the inner steps",
        "Finn et al. 2017, arXiv 1703.03400; Chen et al. 2018, arXiv 1802.07876",
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
    first_order: bool = False

    def init(self, task: Task, params: Params) -> State:
        """The initial parameters that are to be learned, and the server optimizer's state."""
        return State(params, self.server_optimizer.init(params))

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """The gradient of the query loss after adaptation, by the parameters before it (first order: after it)."""
        if self.first_order:
            return grad(task.loss)(self._adapted(task, params, episode), episode.query)
        return grad(lambda start: task.loss(self._adapted(task, start, episode), episode.query))(params)

    def _adapted(self, task: Task, params: Params, episode: Episode) -> Params:
        return last(descend(task, params, episode.support, self.inner_lr, self.inner_steps))

    def server(self, state: State, update: Tree) -> State:
        """One step of the server optimizer."""
        return State(*self.server_optimizer.step(state.broadcast, update, state.kept))

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """The inner loop."""
        steps = self.inner_steps if self.adapt_steps is None else self.adapt_steps
        return descend(task, params, support, self.inner_lr, steps)
