"""The optimizers against torch.optim, and against a step worked out by hand."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.testing import assert_close

from metaleaf.optimizers import SGD, Adam, Adaptive, Optimizer
from metaleaf.trees import leaves, stack

Params = dict[str, Tensor]


def start(dtype: torch.dtype = torch.float64) -> Params:
    rng = torch.Generator().manual_seed(0)
    return {"w": torch.randn(3, 2, generator=rng).to(dtype), "b": torch.randn(2, generator=rng).to(dtype)}


def gradients(steps: int) -> Iterator[Params]:
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        # Of very different sizes, and zero for some: where Adam's eps matters.
        yield {
            "w": (torch.randn(3, 2, generator=rng) * torch.tensor([1.0, 1e-7])).double(),
            "b": torch.randn(2, generator=rng).double() * torch.tensor([0.0, 100.0]),
        }


def by_torch(make: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int) -> Params:
    params = {name: p.requires_grad_() for name, p in start().items()}
    optimizer = make(list(params.values()))
    for gradient in gradients(steps):
        for name, p in params.items():
            p.grad = gradient[name]
        optimizer.step()
    return {name: p.detach() for name, p in params.items()}


def by_us(optimizer: Optimizer, steps: int) -> Params:
    params = start()
    state = optimizer.init(params)
    for gradient in gradients(steps):
        params, state = optimizer.step(params, gradient, state)
    return params


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "weight_decay": 0.01},
        {"lr": 0.3, "momentum": 0.5, "weight_decay": 0.1},
    ],
)
def test_sgd_equals_torch(options: dict[str, Any], steps: int) -> None:
    assert_close(
        by_us(SGD(**options), steps), by_torch(lambda p: torch.optim.SGD(p, **options), steps), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(("beta1", "beta2", "eps"), [(0.9, 0.999, 1e-8), (0.0, 0.99, 1e-3), (0.5, 0.5, 1e-8)])
def test_adam_equals_torch(beta1: float, beta2: float, eps: float, steps: int) -> None:
    ours = by_us(Adam(lr=0.01, beta1=beta1, beta2=beta2, eps=eps), steps)
    theirs = by_torch(lambda p: torch.optim.Adam(p, lr=0.01, betas=(beta1, beta2), eps=eps), steps)
    assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_two_adam_steps_by_hand() -> None:
    """g = 2 then -1, lr 0.1, betas 0.9 and 0.99: the first step is of size lr, whatever the gradient."""
    adam = Adam(lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8)
    params = {"p": torch.tensor([1.0], dtype=torch.float64)}
    state = adam.init(params)
    params, state = adam.step(params, {"p": torch.tensor([2.0], dtype=torch.float64)}, state)
    first = 1.0 - 0.1 * 2 / (2 + 1e-8)
    assert params["p"].item() == pytest.approx(first, rel=1e-12)
    params, state = adam.step(params, {"p": torch.tensor([-1.0], dtype=torch.float64)}, state)
    m, v = 0.9 * 0.2 - 0.1, 0.99 * 0.04 + 0.01  # m1 = 0.1 * 2, v1 = 0.01 * 4
    second = first - 0.1 * (m / (1 - 0.81)) / (math.sqrt(v / (1 - 0.9801)) + 1e-8)
    assert params["p"].item() == pytest.approx(second, rel=1e-12)
    assert state["steps"].item() == 2


def test_two_momentum_steps_by_hand() -> None:
    sgd = SGD(lr=0.1, momentum=0.5)
    params = {"p": torch.tensor([1.0], dtype=torch.float64)}
    state = sgd.init(params)
    for gradient, velocity in ((2.0, 2.0), (-4.0, -3.0)):
        before = params["p"].item()
        params, state = sgd.step(params, {"p": torch.tensor([gradient], dtype=torch.float64)}, state)
        assert params["p"].item() == pytest.approx(before - 0.1 * velocity)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(
    "make",
    [lambda lr: SGD(lr=lr), lambda lr: SGD(lr=lr, momentum=0.9, weight_decay=0.1), lambda lr: Adam(lr=lr)],
    ids=["sgd", "momentum", "adam"],
)
def test_rate_scales_the_learning_rate(make: Callable[[float], Optimizer], as_tensor: bool) -> None:
    rate: Any = torch.tensor(0.25, dtype=torch.float64) if as_tensor else 0.25
    scaled, plain = make(0.4), make(0.1)
    a, b = (start(), scaled.init(start())), (start(), plain.init(start()))
    for gradient in gradients(3):
        a = scaled.step(a[0], gradient, a[1], rate)
        b = plain.step(b[0], gradient, b[1])
    assert_close(a, b, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), SGD(lr=0.1, momentum=0.9, weight_decay=0.1), Adam(lr=0.1)])
@pytest.mark.parametrize("rate", [1.0, torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64)])
def test_keeps_float32_and_its_arguments(optimizer: Optimizer, rate: float | Tensor) -> None:
    params, gradient = start(torch.float32), start(torch.float32)
    state = optimizer.init(params)
    after, following = optimizer.step(params, gradient, state, rate)
    assert {leaf.dtype for leaf in after.values()} == {torch.float32}
    assert all(leaf.dtype == torch.float32 for leaf in leaves(following) if leaf.is_floating_point())
    assert_close((params, gradient), (start(torch.float32), start(torch.float32)), rtol=0, atol=0)
    assert_close(state, optimizer.init(params), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, momentum=0.9), Adam(lr=0.1)])
def test_vectorised_with_a_rate_per_client(optimizer: Optimizer) -> None:
    """Clients at different points of the schedule, and with different numbers of steps taken."""
    gradient = next(gradients(1))
    first = optimizer.init(start())
    second = optimizer.step(start(), gradient, first)[1]
    rates = [torch.tensor(1.0), torch.tensor(0.3)]
    apart = [optimizer.step(start(), gradient, s, r) for s, r in zip((first, second), rates, strict=True)]
    params = start()
    together = vmap(lambda s, r: optimizer.step(params, gradient, s, r))(stack([first, second]), torch.stack(rates))
    assert_close(together, stack(apart), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam(0.1), Adaptive(0.1)])
def test_nothing_to_move_has_no_state(optimizer: Any) -> None:
    """A part of a model may be empty; a count of steps would lie on no device in particular."""
    state = optimizer.init({})
    assert not leaves(state)
    assert optimizer.step({}, {}, state) == ({}, state)
