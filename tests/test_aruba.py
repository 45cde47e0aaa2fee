"""ARUBA: rounds by hand, where its rates go, and what a new client does with them."""

import numpy as np
import pytest
import torch
from small_tasks import reference_batches
from softmax_by_hand import (
    ALL,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    adapted,
    array,
    as_shots,
    assert_models,
    both,
    descended,
    episodes,
    gradient,
    history,
    mean,
    rounds,
    tensors,
    tiny,
)

from metaleaf import trees
from metaleaf.algorithms.aruba import ARUBA
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD


def trained(phi: Array, rates: Array, data: Data, seed: int) -> tuple[Array, Array]:
    """The model after two epochs in batches of 2, and the sum of the squared gradients."""
    theta, squares = phi, np.zeros_like(phi)
    for rows in reference_batches(seed, len(data[1]), 2, 2):
        g = gradient(theta, (data[0][rows], data[1][rows]))
        theta, squares = theta - rates * g, squares + g**2
    return theta, squares


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    epsilon, zeta, power = 0.4 * 0.5, 0.5, 1.5
    algorithm = ARUBA(lr=0.4, zeta=zeta, power=power, server_lr=0.8, epochs=2, batch_size=2)
    phi, b, g = THETA, np.full_like(THETA, epsilon**2), np.full_like(THETA, zeta**2)
    for t, (state, _) in enumerate(history(algorithm, mode, 3), start=1):
        ends = [trained(phi, np.sqrt(b / g), data, seed) for data, seed in zip(ALL, SEEDS, strict=True)]
        b = b + epsilon**2 / (t + 1) ** power + mean([(y - phi) ** 2 / 2 for y, _ in ends])
        g = g + zeta**2 / (t + 1) ** power + mean([squares for _, squares in ends])
        phi = phi + 0.8 * (mean([y for y, _ in ends]) - phi)
        np.testing.assert_allclose(array(state.broadcast["params"]), phi, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(array(state.broadcast["rates"]), np.sqrt(b / g), rtol=1e-11)
        np.testing.assert_allclose(array(state.kept["b"]), b, rtol=1e-11)
        np.testing.assert_allclose(array(state.kept["g"]), g, rtol=1e-11)
    assert np.ptp(np.sqrt(b / g)) > 0.1, "the rates have parted"


@both
def test_the_first_round_is_fedavg(mode: Mode) -> None:
    [state] = rounds(ARUBA(lr=0.5, epochs=2, batch_size=2), mode, 1)
    [plain] = rounds(FedAvg(SGD(0.5), epochs=2, batch_size=2), mode, 1)
    torch.testing.assert_close(state.broadcast["params"], plain.broadcast, rtol=1e-12, atol=1e-14)


@both
def test_with_a_large_zeta_the_rates_stay_and_it_is_fedavg(mode: Mode) -> None:
    """What is learned counts against zeta^2."""
    [*_, state] = rounds(ARUBA(lr=0.5, zeta=1e5, batch_size=2), mode, 3)
    [*_, plain] = rounds(FedAvg(SGD(0.5), batch_size=2), mode, 3)
    torch.testing.assert_close(state.broadcast["params"], plain.broadcast, rtol=1e-6, atol=1e-8)


def test_rates_rise_where_gradients_agree_and_fall_where_they_do_not() -> None:
    """One client whose gradients all point the same way, and one whose two examples contradict each other."""
    work, x = tiny(), torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(8, 1)
    algorithm = ARUBA(lr=0.5, zeta=0.1, batch_size=1)
    state, found = algorithm.init(work, {name: torch.zeros_like(p) for name, p in work.params().items()}), []
    for y in (torch.zeros(8, dtype=torch.int64), torch.tensor([0, 1]).repeat(4)):
        shots = episodes()[0].data._replace(x=x, y=y)
        update = algorithm.client(work, state.broadcast, episodes()[0]._replace(data=shots))
        found.append(update["distances"]["out.bias"][0] / update["squares"]["out.bias"][0])
    assert found[0] > 4 * found[1]


def test_a_new_client_fine_tunes_at_the_learned_rates() -> None:
    rates = np.linspace(0.1, 0.9, THETA.size).reshape(THETA.shape)
    broadcast = {"params": tensors(THETA), "rates": tensors(rates)}
    for client in (0, 1):
        found = adapted(ARUBA(adapt_steps=3), broadcast, client)
        assert_models(found, descended(THETA, SUPPORTS[client], rates, 3))


def test_a_new_environment_starts_from_the_model_and_trains_at_the_learned_rates() -> None:
    rates = np.linspace(0.1, 0.9, THETA.size).reshape(THETA.shape)
    broadcast, work = {"params": tensors(THETA), "rates": tensors(rates)}, tiny()
    assert ARUBA().params(broadcast) is broadcast["params"]
    found = ARUBA().local(work, broadcast, tensors(-THETA), as_shots(SUPPORTS[1], SEEDS[1]))
    assert_models([array(model) for model in found], descended(-THETA, SUPPORTS[1], rates, work.local_steps))


def test_two_trees_travel_each_way() -> None:
    work, algorithm = tiny(), ARUBA()
    state = algorithm.init(work, work.params())
    update = algorithm.client(work, state.broadcast, episodes()[0])
    sent = algorithm.traffic(state.broadcast, update)
    assert trees.nbytes(sent.down) == trees.nbytes(sent.up) == 2 * trees.nbytes(work.params())


@pytest.mark.parametrize("wrong", [{"zeta": 0.0}, {"lr": -0.1}, {"power": 0.0}, {"adapt_steps": -1}])
def test_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        build("algorithms", "aruba", wrong)
