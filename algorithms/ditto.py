"""Ditto: FedAvg, beside which every client trains a model of its own that is held near the global one.

Li, Hu, Beirami, Smith (2021), arXiv 2012.04221, algorithm 1. A client's own model v minimises its loss plus
strength / 2 ||v - w||^2, where w is the global model that it received; v never travels and w does not depend on it.

Deviations: v starts at the global model of the round in which the client is first sampled (the paper leaves the start
open), and takes as many local steps as w, at the same rate. The strength is one for all clients (the paper can also
choose each client's by its validation set). New clients, which the paper does not have, start v at the global model
and train it on their support set in the same way.

A participant uses v as its last round left it (before: w); one that was never sampled has none but w.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeFloat, NonNegativeInt

from metaleaf.algorithm import About, Reply, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.learning import fit_epochs, proximal
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class Ditto(FedAvg):
    """FedAvg and personal models; `strength` is the paper's lambda."""

    title: ClassVar[str] = "Ditto"
    about: ClassVar[About] = About(
        "personalised", "FedAvg beside own models that are held near the global one", "Li et al. 2021, arXiv 2012.04221"
    )
    space: ClassVar[Space] = {**FedAvg.space, "strength": (0.1, 1.0), "adapt_epochs": (5, 10)}

    strength: NonNegativeFloat = 1.0
    adapt_epochs: NonNegativeInt = 5

    def memory(self, task: Task, params: Params) -> Tree:
        """The client's own model."""
        return params

    def client(self, task: Task, params: Params, episode: Episode) -> Reply:
        """FedAvg's update; the own model is trained and kept."""
        own = self.trained(task, episode.memory, episode.data, episode.round, proximal(task, params, self.strength))
        return Reply(super().client(task, params, episode), own)

    def personal(self, task: Task, params: Params, episode: Episode) -> Iterator[Params]:
        """The global model, then the own one."""
        yield params
        yield episode.memory

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """Training of an own model on the support set, an epoch a step."""
        return fit_epochs(
            task,
            params,
            support,
            self.client_optimizer,
            epochs=self.adapt_epochs,
            batch_size=self.batch_size,
            gradient=proximal(task, params, self.strength),
        )
