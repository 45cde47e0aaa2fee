"""APFL: every client mixes the global model with one of its own, and learns by how much.

Deng, Kamani, Mahdavi (2020), arXiv 2003.13461, algorithm 1 with the adaptive alpha of its section on it: a client's
model is alpha * v + (1 - alpha) * w. The shared w is trained and averaged as in FedAvg; beside it v follows the
gradient of the mixture's loss by v, alpha times that at the mixture of v with the w of the same local step; and alpha
that by alpha, the inner product of v - w with the gradient at the mixture, once a round, on its first batch before
anything else moves, as the authors' code does. v and alpha stay with the client.

Deviations: alpha's rate is a hyper-parameter (the paper takes that of the models); alpha is kept within 0 and 1 (the
authors' code does so; their further pull of alpha towards 0 is left out). v starts at the w of the round in which the
client is first sampled. The final mixture takes v as its last round left it (the paper's theory: averages over the
steps). Means are weighted as the protocol says.

A participant mixes its v with the global model by its alpha (before: the global model). A new client, which the paper
does not have, starts v at the global model, which it leaves as it is, and trains v on its support set by the mixture's
gradient with the first alpha, whose slope is 0 where v is w.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor

from metaleaf.algorithm import About, Reply, Space
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.gradient import grad
from metaleaf.learning import fit_epochs, where_real
from metaleaf.shots import Episode, Shots, minibatches
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, dot, leaves, subtract, tree_map

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class APFL(FedAvg):
    """FedAvg, beside which clients train own models to be mixed with the global one; `alpha` is where theirs start."""

    title: ClassVar[str] = "APFL"
    about: ClassVar[About] = About(
        "personalised",
        "own models, mixed with the global one by a learned share",
        "Deng et al. 2020, arXiv 2003.13461",
    )
    space: ClassVar[Space] = {**FedAvg.space, "alpha": (0.25, 0.5, 0.75), "alpha_lr": (0.0, 0.01, 0.1)}

    alpha: Share = 0.5
    alpha_lr: NonNegativeFloat = 0.1
    """0 leaves alpha as it is."""
    adapt_epochs: NonNegativeInt = 5

    def memory(self, task: Task, params: Params) -> Tree:
        """The client's v and its alpha."""
        return {"own": params, "alpha": torch.full_like(leaves(params)[0].sum(), self.alpha)}

    def client(self, task: Task, params: Params, episode: Episode) -> Reply:
        """FedAvg's update; alpha and v are trained and kept."""
        alpha = self._alpha(task, params, episode.memory, episode.data)
        slope = grad(task.loss)

        def gradient(models: Tree, batch: Shots) -> Tree:
            shared = slope(models["shared"], batch)
            return {"shared": shared, "own": _by_own(task, models["shared"], models["own"], alpha, batch)}

        start: Tree = {"shared": params, "own": episode.memory["own"]}
        trained = self.trained(task, start, episode.data, episode.round, gradient)
        return Reply(subtract(params, trained["shared"]), {"own": trained["own"], "alpha": alpha})

    def _alpha(self, task: Task, params: Params, memory: Tree, data: Shots) -> Tensor:
        """Alpha after a step on the first batch."""
        own, alpha = memory["own"], memory["alpha"]
        batch = next(minibatches(data, self.batch_size))
        at_mixture = grad(task.loss)(_mixed(params, own, alpha), batch)
        moved = alpha - self.alpha_lr * dot(subtract(own, params), at_mixture)
        found: Tensor = where_real(batch, moved.clamp(0, 1), alpha)
        return found

    def personal(self, task: Task, params: Params, episode: Episode) -> Iterator[Params]:
        """The global model, then its mixture with the client's own."""
        yield params
        yield _mixed(params, episode.memory["own"], episode.memory["alpha"])

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """Mixtures with an own model in training on the support set, an epoch a step."""
        fresh = self.memory(task, params)
        alpha, optimizer = fresh["alpha"], self.client_optimizer
        every = fit_epochs(
            task,
            fresh["own"],
            support,
            optimizer,
            epochs=self.adapt_epochs,
            batch_size=self.batch_size,
            gradient=lambda own, batch: _by_own(task, params, own, alpha, batch),
        )
        return (_mixed(params, own, alpha) for own in every)

    def report_client(self, task: Task, params: Params, client: Shots | Episode) -> Mapping[str, Tensor]:
        """The share of its own model."""
        kept = client.memory if isinstance(client, Episode) else self.memory(task, params)
        return {"alpha": kept["alpha"]}


def _mixed(shared: Params, own: Params, alpha: Tensor) -> Params:
    mixed: Params = tree_map(lambda w, v: alpha * v + (1 - alpha) * w, shared, own)
    return mixed


def _by_own(task: Task, shared: Params, own: Params, alpha: Tensor, batch: Shots) -> Params:
    """The gradient of the mixture's loss by the own model."""
    found: Params = grad(lambda own: task.loss(_mixed(shared, own, alpha), batch))(own)
    return found
