"""A task: the model, its loss and its score. Algorithms learn through it and are told nothing else about the data."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metaleaf.shots import Shots

Params = dict[str, Tensor]
"""The trained parameters of a model by name."""

SCORE_ROWS = 512
"""Examples per forward pass when scoring: bounds the memory of activations, does not change the result."""


class Task:
    """Classification with a torch module, as pure functions of the parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}

    def params(self) -> Params:
        """A copy of the model's initial parameters."""
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next(self.model.parameters()).device

    def logits(self, params: Params, x: Tensor) -> Tensor:
        """Class scores [n, classes] for x [n, *x_shape]."""
        out: Tensor = functional_call(self.model, {**self._fixed, **params}, (x,))
        return out

    def loss(self, params: Params, shots: Shots) -> Tensor:
        """Mean cross-entropy over the real examples, a scalar; 0 if there are none."""
        losses = F.cross_entropy(self.logits(params, shots.x), shots.y, reduction="none")
        if shots.mask is None:
            return losses.sum() / max(len(shots.y), 1)
        return torch.where(shots.mask, losses, 0.0).sum() / shots.mask.sum().clamp(min=1)

    def score(self, params: Params, shots: Shots) -> Tensor:
        """[examples, correct, summed cross-entropy] over the real examples, float64 [3]."""
        parts = [self._score(params, shots, start) for start in range(0, len(shots.y), SCORE_ROWS)]
        return torch.stack(parts).sum(0) if parts else torch.zeros(3, dtype=torch.float64, device=shots.y.device)

    def _score(self, params: Params, shots: Shots, start: int) -> Tensor:
        rows = slice(start, start + SCORE_ROWS)
        logits, y = self.logits(params, shots.x[rows]), shots.y[rows]
        real = torch.ones_like(y, dtype=torch.bool) if shots.mask is None else shots.mask[rows]
        # A model that has become NaN answers nothing; without this, argmax would call everything class 0.
        correct = (logits.argmax(-1) == y) & logits.isfinite().all(-1) & real
        losses = torch.where(real, F.cross_entropy(logits, y, reduction="none").double(), 0.0)
        return torch.stack([real.sum().double(), correct.sum().double(), losses.sum()])
