"""FedEM: every client is a mixture of the same few models, in shares of its own.

Marfoq, Neglia, Bellet, Kameni, Vidal (2021), arXiv 2108.10252, algorithm 1. In a round a client weighs the components
for each of its examples, q_m in proportion to share_m * exp(-loss of component m) (E-step), takes the mean q as its
shares (M-step), and trains each component by SGD on the loss that counts each example q_m times, divided by the number
of examples, not by their weight. The server averages each component over the clients by their examples; shares stay
with the client. Prediction mixes the components' probabilities by the shares.

The components start from independent random draws: from the same one they would stay the same. All travel both ways, so
a round costs `components` times FedAvg's.

A new client finds its shares by E- and M-steps on its support set with the components as they are, which is what the
paper does with clients that were not there in training (the authors' code takes one such step whenever it scores); it
starts at equal shares (before adaptation). A participant starts at equal shares, too (before), and goes on from those
of its last round by such steps on its data, for they belonged to older components.

Deviation: training has the cohort's members only, and the weights of the server's means are the protocol's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf.algorithm import About, Reply, Space, State
from metaleaf.gradient import grad
from metaleaf.learning import fit, mean_over, where_real
from metaleaf.optimizers import SGD, Optimizer
from metaleaf.shots import Episode, Shots, examples
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, leaves, stack, subtract, unstack


@dataclass(frozen=True)
class FedEM:
    """A model is {"components", "shares"}: leaves [components, ...], and shares, [components]."""

    title: ClassVar[str] = "FedEM"
    about: ClassVar[About] = About(
        "clustered",
        "clients are mixtures of the same few models, found by expectation maximisation",
        "Marfoq et al. 2021, arXiv 2108.10252",
    )
    serves: ClassVar[tuple[str, ...]] = ("multiclass",)
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "decay": (1.0, 0.99),
        "components": (2, 3),
    }

    components: PositiveInt = 3
    client_optimizer: Optimizer = SGD(lr=0.03)
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    decay: PositiveFloat = 1.0
    adapt_steps: NonNegativeInt = 5
    """E- and M-steps."""

    def init(self, task: Task, params: Params) -> State:
        """The components."""
        return State(stack([params, *(task.params(draw) for draw in range(1, self.components))]))

    def memory(self, task: Task, components: Tree) -> Tree:
        """A client's shares of the components, [components]: equal ones."""
        one = leaves(components)[0]
        return one.new_full((self.components,), 1 / self.components)

    def client(self, task: Task, components: Tree, episode: Episode) -> Reply:
        """E-step, M-step, and how each component's training for this client moves it."""
        data, models = episode.data, unstack(components)
        q = _responsibilities(_losses(task, components, data), episode.memory)
        gradient = grad(lambda params, batch: _weighted_loss(task, params, batch))
        trained = [
            fit(
                task,
                model,
                data._replace(weights=weights),
                self.client_optimizer,
                epochs=self.epochs,
                batch_size=self.batch_size,
                rate=self.decay**episode.round,
                gradient=gradient,
            )
            for model, weights in zip(models, list(q), strict=True)
        ]
        return Reply(subtract(components, stack(trained)), _shares(q, data, episode.memory))

    def server(self, state: State, update: Tree) -> State:
        """The mean of every component."""
        return State(subtract(state.broadcast, update))

    def personal(self, task: Task, components: Tree, episode: Episode) -> Iterator[Tree]:
        """Equal shares, then those of its last round, then after each step on its data."""
        yield {"components": components, "shares": self.memory(task, components)}
        yield from self._mixtures(task, components, episode.memory, episode.data)

    def adapt(self, task: Task, components: Tree, support: Shots) -> Iterator[Tree]:
        """Equal shares, then those after each step on the support set."""
        return self._mixtures(task, components, self.memory(task, components), support)

    def _mixtures(self, task: Task, components: Tree, shares: Tensor, shots: Shots) -> Iterator[Tree]:
        """The mixture before, and after each of the E- and M-steps that find its shares."""
        losses = _losses(task, components, shots)
        yield {"components": components, "shares": shares}
        for _ in range(self.adapt_steps):
            shares = _shares(_responsibilities(losses, shares), shots, shares)
            yield {"components": components, "shares": shares}

    def predict(self, task: Task, model: Tree, x: Tensor, mask: Tensor | None) -> Tensor:
        """Log-probabilities of the mixture."""
        each = [task.logits(params, x, mask).log_softmax(-1) for params in unstack(model["components"])]
        return torch.logsumexp(torch.stack(each) + model["shares"].log()[:, None, None], 0)

    def report_client(self, task: Task, components: Tree, client: Shots | Episode) -> Mapping[str, Tensor]:
        """The largest of its shares, in the end."""
        kept = self.memory(task, components) if isinstance(client, Shots) else client.memory
        *_, found = self._mixtures(task, components, kept, examples(client))
        return {"largest_share": found["shares"].max()}


def _losses(task: Task, components: Tree, shots: Shots) -> Tensor:
    """Of each example by each component, [components, n]."""
    return torch.stack([task.losses(params, shots, training=False) for params in unstack(components)])


def _responsibilities(losses: Tensor, shares: Tensor) -> Tensor:
    """How likely each example is each component's, [components, n]: the E-step."""
    return (shares.log()[:, None] - losses).softmax(0)


def _shares(q: Tensor, shots: Shots, before: Tensor) -> Tensor:
    """The mean over the real examples, [components]: the M-step. As before where there are none."""
    return where_real(shots, mean_over(shots, q.T), before) if len(shots.y) else before


def _weighted_loss(task: Task, params: Params, batch: Shots) -> Tensor:
    """The sum of the losses by their weights, divided by the number of examples."""
    return mean_over(batch, batch.weights * task.losses(params, batch))
