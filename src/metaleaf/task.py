"""A task: the model, its loss and its score. Algorithms learn through it and are told nothing else about the data."""

import copy
import math
import threading
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metaleaf.models import Model, initialise
from metaleaf.seeds import derive
from metaleaf.shots import Shots
from metaleaf.trees import Tree

Params = dict[str, Tensor]
"""The trained parameters of a model by name."""

Predict = Callable[[Tensor, Tensor | None], Tensor]
"""Class scores [n, classes] for x [n, *x_shape] and a mask (bool [n] or None)."""

_DRAWING = threading.Lock()

SCORE_ROWS = 512
"""Examples per forward pass when scoring: bounds the memory of activations, does not change the result."""


class Task:
    """Classification with a torch module, as pure functions of the parameters.

    clients and cohort: how many clients train, and how many of them a round. seed: of `params` beyond the first draw.
    rounds: how many there will be. local_steps and local_lr: the local training in an environment (`metaleaf.rounds`).
    """

    rounds = 1
    local_steps = 5
    local_lr = 0.1

    def __init__(self, model: Model, *, seed: int = 0, clients: int = 1, cohort: int = 1) -> None:
        self.model, self.seed, self.clients, self.cohort = model, seed, clients, cohort
        self._fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
        self._features = _Features(model)

    def params(self, draw: int = 0) -> Params:
        """A copy of the model's initial parameters; other numbers than 0 give further independent draws of them."""
        model = self.model
        if draw:
            model = copy.deepcopy(model)
            # The generator is the process's, and clients may run on several threads.
            with _DRAWING, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                torch.manual_seed(derive(self.seed, "draw", draw))
                initialise(model)
        named = model.named_parameters()
        return {name: p.detach().clone() for name, p in named if p.requires_grad and name not in self._fixed}

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next(self.model.parameters()).device

    def split(self, params: Params, part: str) -> tuple[Params, Params]:
        """The parameters outside and inside a part of the model, "head" or "norm"; the part may be empty."""
        roots = self.model.parts[part]
        inside = {name: p for name, p in params.items() if name.split(".")[0] in roots}
        return {name: p for name, p in params.items() if name not in inside}, inside

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

    def logits(self, params: Params, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class scores [n, classes] for x [n, *x_shape]; the mask tells batch normalisation which rows are real."""
        out: Tensor = functional_call(self.model, {**self._fixed, **params}, (x, mask))
        return out

    def features(self, params: Params, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the model's head reads, [n, width]."""
        inner = {f"model.{name}": p for name, p in {**self._fixed, **params}.items()}
        out: Tensor = functional_call(self._features, inner, (x, mask))
        return out

    def loss(self, params: Params, shots: Shots) -> Tensor:
        """Mean cross-entropy over the real examples, a scalar; 0 if there are none."""
        logits = self.logits(params, shots.x, shots.mask)
        if shots.mask is None:
            return F.cross_entropy(logits, shots.y, reduction="none").sum() / max(len(shots.y), 1)
        return torch.where(shots.mask, _cross_entropies(logits, shots.y), 0.0).sum() / shots.mask.sum().clamp(min=1)

    def score(self, params: Tree, shots: Shots, predict: Predict | None = None) -> Tensor:
        """[examples, correct, summed cross-entropy] over the real examples, float64 [3].

        With `predict` the class scores are its own, and `params` is not looked at.
        """
        predict = predict or (lambda x, mask: self.logits(params, x, mask))
        parts = [self._score(predict, shots, start) for start in range(0, len(shots.y), SCORE_ROWS)]
        return torch.stack(parts).sum(0) if parts else torch.zeros(3, dtype=torch.float64, device=shots.y.device)

    def _score(self, predict: Predict, shots: Shots, start: int) -> Tensor:
        rows = slice(start, start + SCORE_ROWS)
        mask, y = None if shots.mask is None else shots.mask[rows], shots.y[rows]
        logits = predict(shots.x[rows], mask)
        real = torch.ones_like(y, dtype=torch.bool) if mask is None else mask
        # A model that has become NaN answers nothing; without this, argmax would call everything class 0.
        correct = (logits.argmax(-1) == y) & (logits.abs().amax(-1) < math.inf) & real
        losses = torch.where(real, _cross_entropies(logits, y).double(), 0.0)
        return torch.stack([real.sum().double(), correct.sum().double(), losses.sum()])


def _cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Of each row [n]. Written so that many clients' together are few and fast operators.

    F.cross_entropy also looks for labels that are to be ignored, and imports sympy to check its arguments: half a
    second of a process's start. And with few classes, a softmax along the last dimension takes six times as long.
    """
    return -logits.t().log_softmax(0).gather(0, y.unsqueeze(0)).squeeze(0)


class _Features(nn.Module):
    """The model's features as a module of their own: `functional_call` only calls modules."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.model.features(x, mask)
