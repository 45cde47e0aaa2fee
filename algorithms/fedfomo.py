"""FedFomo: a client is sent some other clients' models, and moves towards each by how much better that fits its data.

Zhang, Sapra, Fidler, Yeung, Alvarez (2021), arXiv 2012.08565, algorithm 1. A client weighs each model that it receives
by (the loss of its own last model - the loss of that model) / the distance between both, on examples that it holds out,
moves towards those with positive weights in proportion to these, and then trains on its other examples. It sends its
model and the weights. The server adds these to the client's row of affinities, by which it picks the `received` models
that the client is sent next, but random ones with the probability `explore`.

The server keeps the `pool` models that came last, of different clients, and the affinities of all pairs of clients: its
memory grows with the square of their number, and a round sends `received` models down for one up. This is a method for
dozens of clients, not for thousands: with few rounds a client, most affinities stay at zero.

Deviations: the paper's server keeps a model of every client (here: `pool` of them, the older ones forgotten); its
`explore` falls with the rounds. Ties, such as where nothing is known, fall at random. The examples that a client holds
out are the same in all rounds, and its model is never trained on them.

All models start at the same random numbers. A participant uses the model that its last round left it (before: the mean
of the pool). New clients, which the paper does not have, start at the mean of the pool, of which they are sent all
models; they move once as above, by the losses on their whole support set, and then train on it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf.algorithm import About, Context, Replies, Reply, Space, State
from metaleaf.learning import fit, fit_epochs
from metaleaf.optimizers import SGD, Optimizer
from metaleaf.seeds import mix, uniform
from metaleaf.shots import Episode, Shots, permutation
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, add, leaves, norm, stack, subtract, take, tree_map, unstack, weighted_sum

_HELD_OUT = 7_000_000_057
"""The stream that orders a client's examples before some are held out."""


@dataclass(frozen=True)
class FedFomo:
    """The broadcast is the pool, leaves [pool, ...], which only new clients receive; `received` is the paper's M."""

    title: ClassVar[str] = "FedFomo"
    about: ClassVar[About] = About(
        "personalised",
        "clients move towards those others' models that fit them better than their own",
        "Zhang et al. 2021, arXiv 2012.08565",
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "received": (2, 5, 10),
        "explore": (0.1, 0.3),
    }
    each: ClassVar[bool] = True

    client_optimizer: Optimizer = SGD(lr=0.03)
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    decay: PositiveFloat = 1.0
    received: PositiveInt = 5
    pool: PositiveInt = 20
    explore: Annotated[float, Field(ge=0, le=1)] = 0.3
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Part of a client's examples that it holds out, rounded down."""
    adapt_epochs: NonNegativeInt = 5

    def init(self, task: Task, params: Params) -> State:
        """A pool of initial models, which are nobody's (-1); nothing is known of anybody."""
        one = leaves(params)[0]
        number = torch.zeros((), dtype=torch.int64, device=one.device)
        owners = torch.full((self.pool,), -1, dtype=torch.int64, device=one.device)
        affinity = one.new_zeros(task.clients, task.clients)
        kept = {"owners": owners, "affinity": affinity, "round": number, "next": number.clone()}
        return State(stack([params] * self.pool), kept)

    def send(self, task: Task, state: State, client: Tensor) -> Tree:
        """Models of others, and whose they are: -1 for one that is nobody's."""
        kept, count = state.kept, min(self.received, self.pool)
        drawn = uniform(mix(mix(kept["round"]) + client), (self.pool + 1,), dtype=torch.float64)
        known = take(kept["affinity"], client)[kept["owners"].clamp(min=0)].double()
        rank = torch.where(drawn[-1] < self.explore, drawn[:-1], known + 1e-12 * drawn[:-1])
        others = (kept["owners"] >= 0) & (kept["owners"] != client)
        slots = torch.where(others, rank, -torch.inf).topk(count).indices
        owners = torch.where(others, kept["owners"], -1)[slots]
        return {"models": tree_map(lambda leaf: leaf[slots], state.broadcast), "owners": owners}

    def memory(self, task: Task, pool: Tree) -> Tree:
        """The client's model."""
        return task.params()

    def client(self, task: Task, sent: Tree, episode: Episode) -> Reply:
        """Weigh the received models, move towards the better ones, train; send model and weights."""
        training, held_out = _parts(episode.data, self.validation, episode.client)
        weights = _weights(task, episode.memory, sent["models"], held_out) * (sent["owners"] >= 0)
        own = fit(
            task,
            _moved(episode.memory, sent["models"], weights),
            training,
            self.client_optimizer,
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=self.decay**episode.round,
        )
        return Reply({"model": own, "weights": weights, "owners": sent["owners"]}, own)

    def server(self, state: State, replies: Replies, context: Context) -> State:
        """The new models take the places of the oldest, and of what their clients sent before."""
        found, kept, cohort = replies.updates, state.kept, context.cohort
        rows, columns = cohort[:, None].expand_as(found["owners"]), found["owners"].clamp(min=0)
        affinity = kept["affinity"].index_put((rows, columns), found["weights"], accumulate=True)
        count = min(len(cohort), self.pool)
        slots = (kept["next"] + torch.arange(count, device=cohort.device)) % self.pool
        models = tree_map(lambda pool, new: pool.index_copy(0, slots, new[:count]), state.broadcast, found["model"])
        owners = torch.where((kept["owners"][:, None] == cohort[:count]).any(1), -1, kept["owners"])
        owners = owners.index_copy(0, slots, cohort[:count])
        following = (kept["next"] + count) % self.pool
        return State(models, {"owners": owners, "affinity": affinity, "round": kept["round"] + 1, "next": following})

    def personal(self, task: Task, pool: Tree, episode: Episode) -> Iterator[Params]:
        """The mean of the pool, then the client's own model."""
        yield _mean(pool)
        yield episode.memory

    def adapt(self, task: Task, pool: Tree, support: Shots) -> Iterator[Params]:
        """The mean of the pool; moved towards what fits the support set; then after each epoch of training on it."""
        start = _mean(pool)
        yield start
        moved = _moved(start, pool, _weights(task, start, pool, support))
        optimizer, epochs, size = self.client_optimizer, self.adapt_epochs, self.batch_size
        yield from fit_epochs(task, moved, support, optimizer, epochs=epochs, batch_size=size)


def _parts(data: Shots, share: float, client: Tensor) -> tuple[Shots, Shots]:
    """(for training, held out), each with the other masked like padding; by the client's number alone."""
    ordered = data.take(permutation(data._replace(seed=client), _HELD_OUT))
    rank = torch.arange(len(data.y), device=data.y.device)
    real = len(data.y) if data.mask is None else data.mask.sum().double()
    held_out = rank + 1 <= share * real
    return ordered._replace(mask=~held_out & (rank < real)), ordered._replace(mask=held_out)


def _weights(task: Task, own: Params, models: Tree, shots: Shots) -> Tensor:
    """How much better each model fits, by its distance, [models]; 0 for the own one's equal."""
    loss, found = task.loss(own, shots, training=False), []
    for model in unstack(models):
        distance = norm(subtract(model, own))
        gain = (loss - task.loss(model, shots, training=False)) / torch.where(distance > 0, distance, 1.0)
        found.append(torch.where(distance > 0, gain, 0.0))
    return torch.stack(found)


def _moved(own: Params, models: Tree, weights: Tensor) -> Params:
    """The model moved towards those of positive weights, in proportion."""
    positive = weights.clamp(min=0)
    total = positive.sum()
    shares = positive / torch.where(total > 0, total, 1.0)
    moved: Params = add(own, tree_map(lambda all, mine: torch.tensordot(shares, all - mine, 1), models, own))
    return moved


def _mean(pool: Tree) -> Params:
    count = len(leaves(pool)[0])
    mean: Params = weighted_sum(pool, leaves(pool)[0].new_full((count,), 1 / count))
    return mean
