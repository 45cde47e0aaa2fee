"""FedNova: rounds by hand with clients of unequal numbers of steps, when it is FedAvg, and what it ends."""

import numpy as np
import pytest
import torch
from softmax_by_hand import (
    ALL,
    NOISY,
    SEEDS,
    SUPPORTS,
    THETA,
    WEIGHTS,
    Array,
    adapted,
    array,
    assert_models,
    assert_rounds,
    at_rest,
    both,
    descended,
    gradient,
    local_sgd,
    mean,
    rounds,
    tensors,
)

from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.fednova import FedNova
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD

STEPS = 4, 6
"""Of 3 and 5 examples in batches of 2, two epochs."""


def coefficients(steps: int, momentum: float) -> float:
    """The sum of the weights of the gradients: what each of them moves the model by until the end, of rate 1."""
    total, velocities = 0.0, np.zeros(steps)
    for step in range(steps):
        velocities *= momentum
        velocities[step] += 1
        total += velocities.sum()
    return total


@both
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_three_rounds_by_hand(momentum: float, mode: Mode) -> None:
    x, expected, sizes = THETA, [], [coefficients(steps, momentum) for steps in STEPS]
    for number in range(3):
        rate = 0.3 * 0.7**number
        ends = [local_sgd(x, ALL[i], SEEDS[i], rate, 2, 2, momentum) for i in (0, 1)]
        effective = sum(w * size for w, size in zip(WEIGHTS, sizes, strict=True))
        x = x - 0.8 * effective * mean([(x - y) / size for y, size in zip(ends, sizes, strict=True)])
        expected.append(x)
    algorithm = FedNova(0.3, momentum, 0.8, epochs=2, batch_size=2, decay=0.7)
    assert_rounds(algorithm, mode, expected)


@both
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_clients_with_equal_numbers_of_steps_make_it_fedavg(momentum: float, mode: Mode) -> None:
    nova = FedNova(0.5, momentum, epochs=3, batch_size=5, decay=0.9)
    plain = FedAvg(SGD(0.5, momentum), epochs=3, batch_size=5, decay=0.9)
    for one, other in zip(rounds(nova, mode, 3), rounds(plain, mode, 3), strict=True):
        torch.testing.assert_close(one.broadcast, other.broadcast, rtol=1e-12, atol=1e-14)


def test_unequal_numbers_of_steps_do_not_shift_the_optimum() -> None:
    """2 and 3 steps: FedAvg counts the second client 3 / 2 times too often; the rate shifts both a little."""

    def weights(theta: Array) -> float:
        """The weight of the first client's loss, of which this is the optimum."""
        first, second = (gradient(theta, data) for data in NOISY)
        apart = second - first
        return float((second * apart).sum() / (apart**2).sum())

    lr, count = 0.06, 200
    assert weights(array(at_rest(FedNova(lr, batch_size=2), count))) == pytest.approx(0.4, abs=0.03)
    biased = 0.4 * 2 / (0.4 * 2 + 0.6 * 3)
    assert weights(array(at_rest(FedAvg(SGD(lr), batch_size=2), count))) == pytest.approx(biased, abs=0.03)


def test_a_new_client_fine_tunes() -> None:
    for client in (0, 1):
        found = adapted(FedNova(adapt_lr=0.3, adapt_steps=3), tensors(THETA), client)
        assert_models(found, descended(THETA, SUPPORTS[client], 0.3, 3))


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"momentum": -0.1}, {"lr": 0.0}, {"server_lr": 0.0}])
def test_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        build("algorithms", "fednova", wrong)
