"""What clients do with their examples: the primitives that algorithms are written from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from metaleaf import trees
from metaleaf.errors import ConfigError
from metaleaf.gradient import grad
from metaleaf.optimizers import Optimizer
from metaleaf.shots import Shots, minibatches, permutation
from metaleaf.task import Params, Task
from metaleaf.trees import Tree

Gradient = Callable[[Params, Shots], Params]
"""What local training follows: the gradient at these parameters, on this batch."""


def fit(
    task: Task,
    params: Params,
    shots: Shots,
    optimizer: Optimizer,
    *,
    epochs: int = 1,
    batch_size: int = 10,
    rate: float | Tensor = 1.0,
    gradient: Gradient | None = None,
) -> Params:
    """Train on the examples by minibatches from a fresh optimizer state; the parameters after the last epoch.

    gradient: None for that of the task's loss; `proximal` makes another.
    """
    every = fit_epochs(
        task, params, shots, optimizer, epochs=epochs, batch_size=batch_size, rate=rate, gradient=gradient
    )
    return last(every)


def fit_epochs(
    task: Task,
    params: Params,
    shots: Shots,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch_size: int,
    rate: float | Tensor = 1.0,
    gradient: Gradient | None = None,
) -> Iterator[Params]:
    """Like `fit`, yielding the parameters before training and after every epoch."""
    state, slope = optimizer.init(params), gradient or grad(task.loss)
    yield params
    for epoch in range(epochs):
        for batch in minibatches(shots, batch_size, stream=epoch):
            params, state = _step(optimizer, params, slope(params, batch), state, rate, batch)
        yield params


def passes(shots: Shots, batch_size: int, epochs: int = 1) -> Iterator[Shots]:
    """The batches that `fit` takes, for loops of one's own (`where_real`)."""
    for epoch in range(epochs):
        yield from minibatches(shots, batch_size, stream=epoch)


def some(shots: Shots, share: float, stream: int) -> Shots:
    """A random part of the real examples, rounded up; the others are masked like padding.

    stream: different ones give independent parts. Those of `minibatches` are numbers of its own streams.
    """
    real = len(shots.y) if shots.mask is None else shots.mask.sum().double()  # in Python's precision
    rank = torch.arange(len(shots.y), device=shots.y.device)
    return shots.take(permutation(shots, stream))._replace(mask=rank < share * real)


def _step(
    optimizer: Optimizer, params: Params, gradient: Params, state: Tree, rate: float | Tensor, batch: Shots
) -> tuple[Params, Tree]:
    """The optimizer's step, or none if the batch is padding only."""
    if batch.mask is not None and not trees.leaves(state):  # a rate of zero stops all there is
        rate = rate * batch.mask.any().to(rate.dtype if isinstance(rate, Tensor) else torch.float64)
        return optimizer.step(params, gradient, state, rate)
    stepped: tuple[Params, Tree] = where_real(batch, optimizer.step(params, gradient, state, rate), (params, state))
    return stepped


def where_real(batch: Shots, new: Tree, old: Tree) -> Tree:
    """What a step has made of the old tree, or the old one if the batch is padding only.

    For loops of one's own over `minibatches`: padded to the length of a longer client, a client has batches without a
    real example, and must end as it would alone. The loss of such a batch is 0, but an optimizer's moments, a weight
    decay or a count of steps would go on.
    """
    return new if batch.mask is None else trees.where(batch.mask.any(), new, old)


def count_steps(shots: Shots, batch_size: int, epochs: int = 1) -> int | Tensor:
    """Steps that `fit` takes on these examples: batches of padding only are none."""
    real = len(shots.y) if shots.mask is None else shots.mask.sum()
    return epochs * ((real + batch_size - 1) // batch_size)


def mean_over(shots: Shots, values: Tensor) -> Tensor:
    """The mean over the real examples of values [n, ...]; zeros where there are none."""
    if shots.mask is None:
        return values.sum(0) / max(len(values), 1)
    real = shots.mask.view(-1, *[1] * (values.dim() - 1))
    return torch.where(real, values, 0.0).sum(0) / shots.mask.sum().clamp(min=1)


def linear_head(task: Task, params: Params) -> tuple[Tensor, Tensor]:
    """Weight [outputs, width] and bias [outputs] of the head; ConfigError if that is not a linear layer `out`.

    For what changes features on their way to the head: ``F.linear(changed, weight, bias)``.
    """
    head = task.split(params, "head")[1]
    if head.keys() != {"out.weight", "out.bias"}:
        raise ConfigError("the algorithm needs a model whose head is a linear layer `out` with a bias.")
    return head["out.weight"], head["out.bias"]


def proximal(task: Task, anchor: Params, strength: float) -> Gradient:
    """The gradient of the loss plus strength / 2 times the squared distance from the anchor."""
    slope = grad(task.loss)

    def gradient(params: Params, batch: Shots) -> Params:
        pull = trees.subtract(params, anchor)
        return cast(Params, trees.add(slope(params, batch), pull, strength))

    return gradient


def descend(
    task: Task,
    params: Params,
    shots: Shots,
    rates: float | Tree,
    steps: int,
    gradient: Gradient | None = None,
) -> Iterator[Params]:
    """Gradient descent on all examples at once: yields the parameters before, and after each of the steps.

    rates: one number, or a tree like the parameters (Meta-SGD). gradient: as in `fit`. Differentiable through every
    step.
    """
    slope = gradient or grad(task.loss)
    yield params
    for step in range(steps):
        found = slope(params, shots.at(step))
        if isinstance(rates, dict):
            params = trees.tree_map(lambda p, r, g: p - r * g, params, rates, found)
        else:
            params = trees.add(params, found, -rates)
        yield params


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """A base of algorithms whose clients fine-tune a model, as in FedAvg(Meta); it stands before the others."""

    adapt_lr: PositiveFloat = 0.03
    adapt_steps: NonNegativeInt = 5

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """Gradient descent on the support set."""
        return descend(task, params, support, self.adapt_lr, self.adapt_steps)


def shared_and_own(update: Params, own: Params) -> tuple[Params, Params]:
    """Where some parameters stay with their client: the others' part of its update, which it sends, and its own moved.

    update: of all parameters, a gradient to descend (before training minus after it). own: before training.
    """
    shared = {name: change for name, change in update.items() if name not in own}
    return shared, trees.subtract(own, {name: update[name] for name in own})


def last(params: Iterator[Params]) -> Params:
    """The parameters at the end of an adaptation."""
    *_, final = params
    return final
