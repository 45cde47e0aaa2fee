"""FedProx: rounds by hand, what mu means, and what a new client does."""

import numpy as np
import pytest
import torch
from softmax_by_hand import (
    ALL,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    adapted,
    assert_models,
    assert_rounds,
    both,
    descended,
    gradient,
    history,
    local_sgd,
    mean,
    rounds,
    tensors,
)

from metaleaf import trees
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.fedprox import FedProx
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    """The anchor is the model of the round, also after the first step, and the pull is in the momentum."""
    w, expected = THETA, []
    for number in range(3):

        def slope(y: Array, batch: Data, w: Array = w) -> Array:
            found: Array = gradient(y, batch) + 0.7 * (y - w)
            return found

        rate = 0.5 * 0.6**number
        w = mean([local_sgd(w, ALL[i], SEEDS[i], rate, 2, 3, 0.4, slope=slope) for i in (0, 1)])
        expected.append(w)
    assert_rounds(FedProx(SGD(0.5, momentum=0.4), epochs=3, batch_size=2, decay=0.6, mu=0.7), mode, expected)


@both
def test_without_the_proximal_term_it_is_fedavg_to_the_bit(mode: Mode) -> None:
    prox, plain = FedProx(SGD(0.5, momentum=0.9), epochs=2, mu=0.0), FedAvg(SGD(0.5, momentum=0.9), epochs=2)
    for (one, _), (other, _) in zip(history(prox, mode, 3), history(plain, mode, 3), strict=True):
        torch.testing.assert_close(one.broadcast, other.broadcast, rtol=0, atol=0)


@both
def test_the_first_step_of_a_round_feels_no_pull(mode: Mode) -> None:
    [state] = rounds(FedProx(SGD(0.5), batch_size=100, mu=100.0), mode, 1)
    [plain] = rounds(FedAvg(SGD(0.5), batch_size=100), mode, 1)
    torch.testing.assert_close(state.broadcast, plain.broadcast, rtol=1e-14, atol=0)


def test_a_larger_mu_keeps_clients_nearer() -> None:
    moved = []
    for mu in (0.0, 1.0, 5.0):
        [state] = rounds(FedProx(SGD(0.1), epochs=50, batch_size=100, mu=mu), "sequential", 1)
        moved.append(trees.length(trees.subtract(state.broadcast, tensors(THETA))))
    assert moved[0] > 1.5 * moved[1] > 3 * moved[2] > 0


def test_a_new_client_fine_tunes_without_a_pull() -> None:
    algorithm = FedProx(mu=10.0, adapt_lr=0.3, adapt_steps=3)
    for client in (0, 1):
        assert_models(adapted(algorithm, tensors(THETA), client), descended(THETA, SUPPORTS[client], 0.3, 3))


@pytest.mark.parametrize("wrong", [{"mu": -0.1}, {"mu": np.nan}, {"adapt_lr": 0.0}, {"epochs": 0}])
def test_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        build("algorithms", "fedprox", wrong)
