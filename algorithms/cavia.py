"""CAVIA: clients adapt a short vector, their context, on which the model's features depend; all else is shared.

Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson (2019), arXiv 1810.03642, algorithm 1; federated as
`metaleaf.algorithms.maml` federates MAML. A context phi [k] starts at 0. What the head reads, h, is modulated by it
(FiLM, as in the paper's convolutional networks),

    h' = (1 + U phi) * h + V phi,

and the inner loop descends the support loss by phi alone. The server learns the model, U and V by the query loss's
gradient, taken through the inner steps (second order). A new client, and a participant on its data, finds its phi.

Models have no input for a context. But (W h' + b) is a head of its own on h, with W (1 + U phi) for a weight and
b + W V phi for a bias: so a client's model is one of the same form, and phi travels nowhere.

Deviations: FiLM after the last hidden layer, and there only (the paper: one of the earlier layers, or the input), so
that features before it are the same for all; on a model that is only a head it modulates the input. The bias of the
FiLM layer is left out, the head has one. The head has to be one linear layer with a bias; other models are refused.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf.algorithm import About, Space, State
from metaleaf.errors import ConfigError
from metaleaf.gradient import grad
from metaleaf.learning import descend, last
from metaleaf.optimizers import Adam, Optimizer
from metaleaf.seeds import derive, uniform
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class CAVIA:
    """Second-order CAVIA. The server sends and learns {"params", "film": {"scale": U, "shift": V}}."""

    title: ClassVar[str] = "CAVIA"
    about: ClassVar[About] = About(
        "meta-gradient",
        "MAML whose inner loop adapts a short vector that modulates the features",
        "Zintgraf et al. 2019, arXiv 1810.03642",
        order=2,
    )
    space: ClassVar[Space] = {
        "inner_lr": (0.1, 0.3, 1.0),
        "context": (5, 20, 100),
        "server_optimizer.lr": (0.0003, 0.001, 0.003),
    }

    context: PositiveInt = 20
    """The context's length k."""
    inner_lr: PositiveFloat = 1.0
    inner_steps: NonNegativeInt = 2
    adapt_steps: NonNegativeInt | None = None
    """Steps when a client adapts; None: as many as in training."""
    server_optimizer: Optimizer = Adam(lr=0.001)

    def init(self, task: Task, params: Params) -> State:
        """The model, and U and V [width, k] as a linear layer starts (uniform within 1 / sqrt k)."""
        weight, _ = _linear_head(task, params)
        shape, bound = (params[weight].shape[1], self.context), 1 / math.sqrt(self.context)

        def drawn(purpose: str) -> Tensor:
            seed = torch.tensor(derive(task.seed, "cavia", purpose), device=task.device)
            return ((2 * uniform(seed, shape, dtype=torch.float64) - 1) * bound).to(params[weight].dtype)

        learned = {"params": params, "film": {"scale": drawn("scale"), "shift": drawn("shift")}}
        return State(learned, self.server_optimizer.init(learned))

    def client(self, task: Task, learned: Tree, episode: Episode) -> Tree:
        """The gradient of the query loss with the client's context, by all that the server learns."""

        def outer(start: Tree) -> Tensor:
            return task.loss(last(self._models(task, start, episode.support, self.inner_steps)), episode.query)

        return grad(outer)(learned)

    def _models(self, task: Task, learned: Tree, support: Shots, steps: int) -> Iterator[Params]:
        def slope(context: Params, shots: Shots) -> Params:
            found: Params = grad(lambda phi: task.loss(_modulated(task, learned, phi["phi"]), shots))(context)
            return found

        start = {"phi": learned["film"]["scale"].new_zeros(self.context)}
        for context in descend(task, start, support, self.inner_lr, steps, slope):
            yield _modulated(task, learned, context["phi"])

    def server(self, state: State, update: Tree) -> State:
        """One step of the server optimizer, over the model, U and V alike."""
        return State(*self.server_optimizer.step(state.broadcast, update, state.kept))

    def adapt(self, task: Task, learned: Tree, support: Shots) -> Iterator[Params]:
        """The inner loop: the model without a context, then with the client's."""
        steps = self.inner_steps if self.adapt_steps is None else self.adapt_steps
        return self._models(task, learned, support, steps)


def _modulated(task: Task, learned: Tree, phi: Tensor) -> Params:
    """The model whose head reads the modulated features, as a head of the features that there are."""
    params, film = learned["params"], learned["film"]
    weight, bias = _linear_head(task, params)
    scaled = params[weight] * (1 + film["scale"] @ phi)
    return {**params, weight: scaled, bias: params[bias] + params[weight] @ (film["shift"] @ phi)}


def _linear_head(task: Task, params: Params) -> tuple[str, str]:
    """Names of the head's weight [outputs, width] and bias [outputs]; ConfigError if it is anything else."""
    head = task.split(params, "head")[1]
    names = sorted(head, key=lambda name: -head[name].dim())
    if [head[name].dim() for name in names] != [2, 1]:
        raise ConfigError(
            f"cavia needs a head of one weight [outputs, width] and one bias; {type(task.model).__name__} has "
            f"{', '.join(head)}: make its `parts` name the last linear layer."
        )
    return names[0], names[1]
