"""FedAdam, FedYogi, FedAdagrad and FedAvgM against their papers' formulas in numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import task
from softmax_by_hand import (
    ALL,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    adapted,
    array,
    assert_models,
    assert_rounds,
    both,
    descended,
    local_sgd,
    mean,
    rounds,
    tensors,
)
from torch.func import vmap
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.algorithms.fedadagrad import FedAdagrad
from metaleaf.algorithms.fedadam import FedAdam
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.fedavgm import FedAvgM
from metaleaf.algorithms.fedyogi import FedYogi
from metaleaf.config.config import build, resolve
from metaleaf.engine.engine import Mode
from metaleaf.optimizers import SGD, Adaptive

CLASSES: dict[Any, Any] = {
    "adam": FedAdam,
    "yogi": FedYogi,
    "adagrad": FedAdagrad,
}


class NumpyFedOpt:
    """Algorithm 2 of Reddi et al. as printed: Delta is the clients' mean minus the model, and the server adds."""

    def __init__(self, rule: str, lr: float, beta1: float, beta2: float, tau: float) -> None:
        self.rule, self.lr, self.beta1, self.beta2, self.tau = rule, lr, beta1, beta2, tau
        self.delta: Any = 0.0
        self.v: Any = tau**2

    def step(self, x: Array, mean_difference: Array) -> Array:
        self.delta = self.beta1 * self.delta + (1 - self.beta1) * mean_difference
        square = mean_difference**2
        if self.rule == "adagrad":
            self.v = self.v + square
        elif self.rule == "yogi":
            self.v = self.v - (1 - self.beta2) * square * np.sign(self.v - square)
        else:
            self.v = self.beta2 * self.v + (1 - self.beta2) * square
        after: Array = x + self.lr * self.delta / (np.sqrt(self.v) + self.tau)
        return after


def trained(theta: Array) -> Array:
    return mean([local_sgd(theta, d, seed, 0.5, 2, 2) for d, seed in zip(ALL, SEEDS, strict=True)])


@both
@pytest.mark.parametrize("rule", CLASSES)
def test_three_rounds_by_the_paper(rule: str, mode: Mode) -> None:
    """tau is such that Yogi's second moment goes up in some entries and down in others."""
    numbers: dict[str, Any] = {"lr": 0.2, "beta1": 0.6, "beta2": 0.8, "tau": 0.3}
    reference, theta, expected, signs = NumpyFedOpt(rule, **numbers), THETA, [], set()
    for _ in range(3):
        difference = trained(theta) - theta
        signs |= set(np.sign(reference.v - difference**2).ravel().tolist())
        theta = reference.step(theta, difference)
        expected.append(theta)
    assert signs == {1.0, -1.0}
    server = Adaptive(rule=CLASSES[rule]().server_optimizer.rule, **numbers)
    assert server.rule == rule
    assert_rounds(CLASSES[rule](SGD(0.5), server, epochs=2, batch_size=2), mode, expected)


def test_the_rules_differ_here() -> None:
    found = [
        array(list(rounds(cls(SGD(0.5), Adaptive(0.2, rule, 0.6, 0.8, 0.3)), "sequential", 2))[1].broadcast)
        for rule, cls in CLASSES.items()
    ]
    assert min(np.abs(a - b).max() for a, b in zip(found, [found[-1], *found[:-1]], strict=True)) > 1e-3


@both
def test_fedavgm_over_two_rounds(mode: Mode) -> None:
    """v1 = d1; v2 = 0.9 v1 + d2."""
    d1 = THETA - trained(THETA)
    first = THETA - 0.3 * d1
    second = first - 0.3 * (0.9 * d1 + first - trained(first))
    assert_rounds(FedAvgM(SGD(0.5), epochs=2, batch_size=2), mode, [first, second])
    assert FedAvgM().server_optimizer == SGD(lr=0.3, momentum=0.9)


@pytest.mark.parametrize("cls", [*CLASSES.values(), FedAvgM])
def test_new_clients_fine_tune_and_only_the_model_travels(cls: Any) -> None:
    work = task("logistic")
    state, plain = (found.init(work, work.params()) for found in (cls(), FedAvg()))
    assert trees.nbytes(state.broadcast) == trees.nbytes(plain.broadcast)
    assert_models(adapted(cls(adapt_lr=0.3, adapt_steps=2), tensors(THETA), 1), descended(THETA, SUPPORTS[1], 0.3, 2))
    assert_models(adapted(cls(adapt_steps=0), tensors(THETA), 1), [THETA])


def test_adagrad_has_no_momentum_and_none_corrects_bias() -> None:
    """One step from zero moments: (1 - beta1) g / (sqrt(v) + tau)."""
    params, g = {"p": torch.tensor([1.0], dtype=torch.float64)}, {"p": torch.tensor([2.0], dtype=torch.float64)}
    for optimizer, expected in (
        (FedAdagrad().server_optimizer, 1 - 0.1 * 2 / ((1e-6 + 4) ** 0.5 + 1e-3)),
        (FedAdam().server_optimizer, 1 - 0.003 * 0.2 / ((0.99e-6 + 0.04) ** 0.5 + 1e-3)),
        (FedYogi().server_optimizer, 1 - 0.003 * 0.2 / ((1e-6 + 0.04) ** 0.5 + 1e-3)),
    ):
        after, state = optimizer.step(params, g, optimizer.init(params))
        assert after["p"].item() == pytest.approx(expected, rel=1e-12)
        assert state["v"]["p"].item() > 0.03


@pytest.mark.parametrize("rule", CLASSES)
def test_adaptive_scales_with_the_rate_keeps_dtypes_and_vectorises(rule: Any) -> None:
    rng = torch.Generator().manual_seed(0)
    params, g = ({"w": torch.randn(3, 2, generator=rng)} for _ in range(2))
    given = trees.tree_map(torch.clone, (params, g))
    optimizer, fast = Adaptive(0.1, rule), Adaptive(0.4, rule)
    state = optimizer.init(params)
    after, following = optimizer.step(params, g, state)
    assert_close(fast.step(params, g, state, 0.25)[0], after)
    assert_close(fast.step(params, g, state, torch.tensor(0.25, dtype=torch.float64))[0], after)
    assert {leaf.dtype for leaf in trees.leaves((after, following))} == {torch.float32}
    assert_close((params, g), given, rtol=0, atol=0)
    together = vmap(lambda s: optimizer.step(params, g, s))(trees.stack([state, following]))
    assert_close(trees.unstack(together)[1], optimizer.step(params, g, following))


def test_a_suite_may_choose_it() -> None:
    resolved = resolve("algorithms", "fedavg", {"server_optimizer": {"name": "adaptive", "lr": 0.5, "rule": "yogi"}})
    assert build("algorithms", "fedavg", resolved) == FedAvg(server_optimizer=Adaptive(0.5, "yogi"))
    assert build("algorithms", "fedadam", resolve("algorithms", "fedadam", {})) == FedAdam()
