"""Meta-gradients measured: the meta-objective along random directions, computed without the package's own loss."""

import torch
from torch import Tensor
from torch.func import functional_call

from metaleaf import trees
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task


def query_loss(work: Task, params: Params, rates: Params, whole: Episode, steps: int) -> float:
    """The meta-objective, with inner gradients by torch's autograd and a loss of our own."""

    def loss(p: Params, data: Shots) -> Tensor:
        logits = functional_call(work.model, p, (data.x,))
        chosen: Tensor = logits.log_softmax(-1)[torch.arange(len(data.y)), data.y]
        return -chosen.mean()

    for _ in range(steps):
        p = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
        found = torch.autograd.grad(loss(p, whole.support), list(p.values()))
        params = {name: params[name] - rates[name] * g for name, g in zip(p, found, strict=True)}
    return float(loss(params, whole.query).detach())


def direction(params: Params, seed: int) -> Params:
    """A random one of length 1: longer steps would cross kinks of ReLU, where the inner gradient jumps."""
    rng = torch.Generator().manual_seed(seed)
    v = {name: torch.randn(p.shape, generator=rng, dtype=p.dtype) for name, p in params.items()}
    return step_along(trees.zeros_like(v), v, 1 / trees.length(v))


def slope_along(v: Params, g: Params) -> float:
    return sum(float((v[name] * g[name]).sum()) for name in v)


def step_along(p: Params, v: Params, size: float) -> Params:
    return {name: p[name] + size * v[name] for name in p}
