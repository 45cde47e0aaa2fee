"""Few-Round Learning: initial parameters from which a new group of clients is good after a few rounds of FedAvg.

Park, Han, Choi, Moon, "Few-Round Learning for Federated Learning", NeurIPS 2021. An episode is a group of clients: R
rounds of federated averaging among the participants, then the loss of the averaged model on other clients; its gradient
by the initial parameters goes back through all rounds and all local steps (full second order).

Deviations: the loss is that of the model on other clients' own examples (Park et al. add a term with prototypes that
the server keeps); it is averaged over several numbers of rounds, so that one model serves them all; Adam with warm-up
and cosine instead of SGD.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from metaleaf.algorithm import About, Space, State
from metaleaf.gradient import grad
from metaleaf.optimizers import Adam, Optimizer, annealed, clipped
from metaleaf.rounds import averaged, loss, train
from metaleaf.shots import EnvironmentEpisode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class FewRound:
    """Second-order meta-training through `horizon` rounds; 0 is the first meeting, whose mean update is the start."""

    title: ClassVar[str] = "Few-Round"
    about: ClassVar[About] = About(
        "meta-gradient", "the query gradient after R rounds of FedAvg in a group", "Park et al. 2021, NeurIPS", order=2
    )
    space: ClassVar[Space] = {"optimizer.lr": (0.0003, 0.001, 0.002, 0.005), "clip": (1.0, 10.0)}
    unit: ClassVar[str] = "environment"

    optimizer: Optimizer = Adam(lr=0.001)
    horizon: tuple[int, ...] = (0, 1, 2)
    clip: PositiveFloat = 1.0

    def client_updates(self, participants: int, queries: int) -> int:
        """Every participant trains at the first meeting and in each round; every query client judges once."""
        return participants * (max(self.horizon) + 1) + queries

    def init(self, task: Task, params: Params) -> State:
        """The initial parameters; the optimizer's state, the round, and how many there will be."""
        zero = torch.zeros((), device=task.device)
        kept = {"round": zero, "rounds": zero + task.rounds}
        return State(params, {"optimizer": self.optimizer.init(params), **kept})

    def client(self, task: Task, params: Params, episode: EnvironmentEpisode) -> Tree:
        """The gradient of one environment's loss after rounds of FedAvg, by the initial parameters."""

        def objective(start: Params) -> Tensor:
            found = []
            for number in range(max(self.horizon) + 1):
                start = averaged(task, start, episode.participants, episode.weights)
                if number in self.horizon:
                    found.append(loss(task, start, episode.queries, episode.query_weights))
            return torch.stack(found).mean()

        return grad(objective)(params)

    def server(self, state: State, update: Tree) -> State:
        """One step of the optimizer along the clipped gradient."""
        kept, shorter = state.kept, clipped(update, self.clip)
        rate = annealed(kept["round"], kept["rounds"])
        params, optimizer = self.optimizer.step(state.broadcast, shorter, kept["optimizer"], rate)
        return State(params, {**kept, "optimizer": optimizer, "round": kept["round"] + 1})

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """The environments' local training."""
        return train(task, params, support)
