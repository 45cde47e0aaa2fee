"""A task: the model, its loss and its score. Algorithms learn through it and are told nothing else about the data."""

import copy
import inspect
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metaleaf import models, tasks
from metaleaf.errors import ConfigError
from metaleaf.models import Model, Seeded, Watched
from metaleaf.seeds import derive
from metaleaf.shots import Shots
from metaleaf.tasks import Kind
from metaleaf.trees import Tree

Params = dict[str, Tensor]
"""The trained parameters of a model by name."""

Predict = Callable[[Tensor, Tensor | None], Tensor]
"""Predictions [n, outputs], e.g. class scores, for x [n, *x_shape] and a mask (bool [n] or None)."""

SCORE_ROWS = 512
"""Examples per forward pass when scoring: bounds the memory of activations, does not change the result."""


class Task:
    """Learning with a torch module, as pure functions of the parameters.

    kind: what is learned, with its loss and metrics (`metaleaf.tasks`; default: one of several classes). clients and
    cohort: how many clients train, and how many of them a round. seed: of `params` beyond the first draw. rounds: how
    many there will be. local_steps and local_lr: the local training in an environment (`metaleaf.rounds`).
    """

    rounds = 1
    local_steps = 5
    local_lr = 0.1

    def __init__(
        self, model: Model, *, kind: Kind | None = None, seed: int = 0, clients: int = 1, cohort: int = 1
    ) -> None:
        models.check(model)
        self.kind = kind or tasks.build(tasks.DEFAULT)
        self.model, self.seed, self.clients, self.cohort = model, seed, clients, cohort
        self._masked = "mask" in inspect.signature(model.forward).parameters
        self._fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
        self._features = _Features(model)
        self._seeded: dict[tuple[bool, bool], bool] = {}
        """By what is computed, and whether in training mode: whether it takes `Seeded`."""

    def params(self, draw: int = 0) -> Params:
        """A copy of the model's initial parameters; other numbers than 0 give further independent draws of them."""
        drawn = models.redrawn(self.model, derive(self.seed, "draw", draw)) if draw else self.model
        numbers = dict(drawn.named_parameters())
        trained = (name for name, p in self.model.named_parameters() if p.requires_grad and name not in self._fixed)
        return {name: numbers[name].detach().clone() for name in trained}

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next(self.model.parameters()).device

    def split(self, params: Params, part: str) -> tuple[Params, Params]:
        """The parameters outside and inside a part of the model, "head" or "norm".

        ConfigError if the model has no such part; it may have nothing outside it.
        """
        inside = models.inside(self.model, part)
        others = {name: p for name, p in params.items() if name not in inside}
        return others, {name: p for name, p in params.items() if name in inside}

    def holding(self, fixed: Params) -> "Task":
        """The task of finding the other parameters while these keep their values (gradients still reach them)."""
        held = copy.copy(self)
        held._fixed = {**self._fixed, **fixed}
        return held

    def on(self, model: Model) -> "Task":
        """The same task with another copy of its model, for another thread: calling a module writes into it."""
        other = copy.copy(self)
        other.model, other._features = model, _Features(model)
        return other

    def copied_model(self) -> Model:
        """A copy of the module that shares the parameters."""
        return copy.deepcopy(self.model, {id(p): p for p in self.model.parameters()})

    def logits(self, params: Params, x: Tensor, mask: Tensor | None = None, seed: Tensor | None = None) -> Tensor:
        """Predictions [n, outputs], e.g. class scores, for x [n, *x_shape]; [n, positions, outputs] of sequences.

        The mask tells batch normalisation which rows are real.

        seed: int64 scalar, for a step of training: the model is in training mode, and dropout draws from it. None for a
        prediction: the model is in evaluation mode.
        """
        return self._passed(self.model, {**self._fixed, **params}, x, mask, seed)

    def features(self, params: Params, x: Tensor, mask: Tensor | None = None, seed: Tensor | None = None) -> Tensor:
        """What the model's head reads, [n, width]; mask and seed as in `logits`."""
        inner = {f"model.{name}": p for name, p in {**self._fixed, **params}.items()}
        return self._passed(self._features, inner, x, mask, seed)

    def _passed(self, module: nn.Module, inner: Params, x: Tensor, mask: Tensor | None, seed: Tensor | None) -> Tensor:
        """The module's result with these parameters."""
        training = seed is not None
        if self.model.training is not training:
            self.model.train(training)
        what = module is self.model, training
        if what not in self._seeded:
            self._seeded[what], out = self._watched(module, inner, x, mask, seed)
            return out
        with Seeded(seed, type(self.model).__name__) if self._seeded[what] else nullcontext():
            return self._called(module, inner, x, mask)

    def _called(self, module: nn.Module, inner: Params, x: Tensor, mask: Tensor | None) -> Tensor:
        """A module of other authors may know no mask, and not look at the type of what it is given."""
        if self._masked:
            found: Tensor = functional_call(module, inner, (x, mask))
            return found
        like = next(iter(inner.values()))
        return functional_call(module, inner, (x.to(like.dtype) if x.is_floating_point() else x,))  # type: ignore[no-any-return]

    def _watched(
        self, module: nn.Module, inner: Params, x: Tensor, mask: Tensor | None, seed: Tensor | None
    ) -> tuple[bool, Tensor]:
        """Whether the module takes `Seeded`, and its result."""
        name = type(self.model).__name__
        before = [(path, buffer, buffer._version) for path, buffer in self.model.named_buffers()]
        with Watched(seed, name) as watched:
            out = self._called(module, inner, x, mask)
        buffers = dict(self.model.named_buffers())
        for path, buffer, version in before:
            if buffers.get(path) is not buffer or buffer._version != version:
                raise ConfigError(
                    f"{name} changes its buffer {path!r} in a forward pass, which no algorithm would average or send: "
                    "make it a parameter, or leave it as it is."
                )
        return watched.needed, out

    def loss(self, params: Params, shots: Shots, training: bool = True) -> Tensor:
        """Mean loss of the task's kind over the real examples, by their weights if they have some: a scalar.

        0 if there are none, or none that counts.

        training: whether the model learns from it (dropout draws from the shots' seed: see `Shots.at`), or is judged.
        """
        losses = self.losses(params, shots, training)
        if isinstance(shots.weights, Tensor):
            return _weighted_mean(losses, shots.weights, shots.mask)
        return losses.sum() / (max(len(shots.y), 1) if shots.mask is None else shots.mask.sum().clamp(min=1))

    def losses(self, params: Params, shots: Shots, training: bool = True) -> Tensor:
        """The loss of each example, whatever it weighs, [n]; 0 on padding. training as in `loss`."""
        logits = self.logits(params, shots.x, shots.mask, shots.seed if training else None)
        if shots.mask is None:
            return self.kind.losses(logits, shots.y)
        return torch.where(shots.mask, self.kind.losses(logits, shots.y, padded=True), 0.0)

    def score(self, params: Tree, shots: Shots, predict: Predict | None = None) -> Tensor:
        """[examples, the sums of `kind.columns`, summed loss] over the real examples, float64.

        With `predict` the predictions are its own, and `params` is not looked at.
        """
        predict = predict or (lambda x, mask: self.logits(params, x, mask))
        parts = [self._part(predict, shots, start) for start in range(0, len(shots.y), SCORE_ROWS)]
        if not parts:
            return torch.zeros(2 + len(self.kind.columns), dtype=torch.float64, device=shots.y.device)
        if self.kind.needs_all:
            parts = [tuple(torch.cat(leaves) for leaves in zip(*parts, strict=True))]
        return torch.stack([self._score(*part) for part in parts]).sum(0)

    @staticmethod
    def _part(predict: Predict, shots: Shots, start: int) -> tuple[Tensor, ...]:
        """Predictions for some of the rows, what is true, and which rows are real."""
        rows = slice(start, start + SCORE_ROWS)
        mask, y = None if shots.mask is None else shots.mask[rows], shots.y[rows]
        real = torch.ones(len(y), dtype=torch.bool, device=y.device) if mask is None else mask
        return predict(shots.x[rows], mask), y, real

    def _score(self, outputs: Tensor, y: Tensor, real: Tensor) -> Tensor:
        losses = torch.where(real, self.kind.losses(outputs, y, padded=True).double(), 0.0)
        return torch.cat([real.sum().double()[None], self.kind.summed(outputs, y, real), losses.sum()[None]])


def _weighted_mean(losses: Tensor, weights: Tensor, mask: Tensor | None) -> Tensor:
    """Of losses [n], those of padding 0; 0 if no weight is another."""
    weights = weights.to(losses.dtype)
    if mask is not None:
        weights = torch.where(mask, weights, 0.0)
    total = weights.sum()
    return (weights * losses).sum() / torch.where(total == 0, 1.0, total)


class _Features(nn.Module):
    """The model's features as a module of their own: `functional_call` only calls modules."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if not hasattr(self.model, "features"):
            raise ConfigError(
                f"{type(self.model).__name__} does not say what its features are, which the algorithm asks for: make "
                "it a metaleaf.models.Model."
            )
        return self.model.features(x, mask)
