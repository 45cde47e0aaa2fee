"""FedL2P: a network reads a client's statistics and says how fast each of the model's tensors is to be fine-tuned.

Lee, Kim, Li, Qiu, Hospedales, Huszar, Lane (2023), arXiv 2310.02420, its LRNet. Clients train the global model by
FedAvg. They also fine-tune it on their support set by gradient descent, with a rate for each tensor that the network
made of their statistics, and send the query loss's gradient by the network, whose mean the server follows. A new client
fine-tunes so on its support set, and a participant on its data. The network starts at rates of `adapt_lr` for all, as
in FedAvg(Meta).

Deviations: the statistics are mean and standard deviation of the features that the head reads and of the predictions
(the paper: of every layer's input); there is no BNNet, as batch normalisation keeps no statistics here that one could
mix. The network is trained along with the global model, not after it, and by the gradient through the steps (second
order), not by the implicit one. Rates are adapt_lr * exp(output), between 1/1000 and 1000 times adapt_lr, instead of
clamped outputs times learned numbers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf import hypernetwork
from metaleaf.algorithm import About, Space, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.gradient import grad
from metaleaf.learning import descend, last
from metaleaf.optimizers import Adam, Optimizer
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, zeros_like

STATISTICS = 4
"""Mean and standard deviation of features and predictions."""


@dataclass(frozen=True)
class FedL2P(FedAvg):
    """FedAvg beside a network of learning rates. The server sends {"params", "net"}."""

    title: ClassVar[str] = "FedL2P"
    about: ClassVar[About] = About(
        "meta-gradient",
        "FedAvg beside a network that makes fine-tuning's rates of a client's statistics",
        "Lee et al. 2023, arXiv 2310.02420",
        order=2,
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
        "net_optimizer.lr": (0.0003, 0.001, 0.003),
    }

    adapt_lr: PositiveFloat = 0.03
    adapt_steps: NonNegativeInt = 5
    hidden: PositiveInt = 100
    net_optimizer: Optimizer = Adam(lr=0.001)

    def init(self, task: Task, params: Params) -> State:
        """The global model and the network, whose last layer is 0, and the state of an optimizer for each."""
        *layers, final = hypernetwork.perceptron(task, "rates", [STATISTICS, self.hidden, len(params)])
        net = (*layers, zeros_like(final))
        kept = {"params": self.server_optimizer.init(params), "net": self.net_optimizer.init(net)}
        return State({"params": params, "net": net}, kept)

    def client(self, task: Task, broadcast: Tree, episode: Episode) -> Tree:
        """FedAvg's update of the model, and the gradient of the fine-tuned one's query loss by the network."""

        def outer(net: Tree) -> Tensor:
            return task.loss(last(self._tuned(task, broadcast["params"], net, episode.support)), episode.query)

        return {"params": super().client(task, broadcast["params"], episode), "net": grad(outer)(broadcast["net"])}

    def _tuned(self, task: Task, params: Params, net: Tree, support: Shots) -> Iterator[Params]:
        outputs = hypernetwork.run(net, _statistics(task, params, support)).clamp(-math.log(1000), math.log(1000))
        rates = dict(zip(params, self.adapt_lr * outputs.exp(), strict=True))
        return descend(task, params, support, rates, self.adapt_steps)

    def server(self, state: State, update: Tree) -> State:
        """FedAvg's step by the model, and one of the other optimizer by the network."""
        found = {
            name: optimizer.step(state.broadcast[name], update[name], state.kept[name])
            for name, optimizer in (("params", self.server_optimizer), ("net", self.net_optimizer))
        }
        return State({name: new for name, (new, _) in found.items()}, {name: kept for name, (_, kept) in found.items()})

    def adapt(self, task: Task, broadcast: Tree, support: Shots) -> Iterator[Params]:
        """Gradient descent on the support set with the network's rates."""
        return self._tuned(task, broadcast["params"], broadcast["net"], support)


def _statistics(task: Task, params: Params, shots: Shots) -> Tensor:
    """Mean and standard deviation of what the head reads and of what it says, over examples and units, [4]."""
    everything = torch.ones(len(shots.y), dtype=torch.bool, device=shots.y.device)
    real = everything if shots.mask is None else shots.mask
    found = []
    for values in (task.features(params, shots.x, shots.mask), task.logits(params, shots.x, shots.mask)):
        each = values.flatten(1)
        share = real.to(each.dtype) / real.sum().clamp(min=1)
        mean = share @ each.mean(1)
        found += [mean, (share @ (each - mean).square().mean(1)).sqrt()]
    return torch.stack(found)
