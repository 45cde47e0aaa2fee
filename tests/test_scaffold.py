"""SCAFFOLD: two rounds by hand, what the control variates add up to, and that they end the drift of local training."""

from typing import Any

import coins
import numpy as np
import pytest
import torch
from small_tasks import SPECS, episode, task
from softmax_by_hand import (
    ALL,
    NOISY,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    adapted,
    array,
    assert_models,
    at_rest,
    both,
    descended,
    gradient,
    history,
    local_sgd,
    mean,
    tensors,
    tiny,
)

from metaleaf import trees
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.scaffold import SCAFFOLD
from metaleaf.engine.cost import ClientFlops
from metaleaf.engine.engine import Mode
from metaleaf.learning import count_steps
from metaleaf.optimizers import SGD
from metaleaf.runs.run import Run


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    """Of 3 and 5 examples in batches of 2: a client takes 4 steps, the other 6, also beside each other."""
    lr, size, epochs, server_lr, sampled = 0.5, 2, 2, 0.8, 2 / 5
    algorithm = SCAFFOLD(lr, server_lr, epochs, size, decay=0.7)
    x, c, own = THETA, np.zeros_like(THETA), [np.zeros_like(THETA)] * 2
    for number, (state, memories) in enumerate(history(algorithm, mode, 3, tiny(clients=5, cohort=2))):
        rate, moves, changes = lr * 0.7**number, [], []
        for i, steps in enumerate((4, 6)):

            def corrected(y: Array, batch: Data, c: Array = c, mine: Array = own[i]) -> Array:
                found: Array = gradient(y, batch) - mine + c
                return found

            y = local_sgd(x, ALL[i], SEEDS[i], rate, size, epochs, slope=corrected)
            new = own[i] - c + (x - y) / (steps * rate)
            moves.append(y - x)
            changes.append(new - own[i])
            own[i] = new
        x, c = x + server_lr * mean(moves), c + sampled * mean(changes)
        np.testing.assert_allclose(array(state.broadcast["params"]), x, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(array(state.broadcast["control"]), c, rtol=1e-11, atol=1e-13)
        for found, expected in zip(memories, own, strict=True):
            np.testing.assert_allclose(array(found), expected, rtol=1e-11, atol=1e-13)


@both
def test_the_first_round_is_fedavg(mode: Mode) -> None:
    """As long as nothing is known of the clients, nothing is corrected."""
    [(state, _)] = history(SCAFFOLD(0.5, epochs=3, batch_size=2), mode, 1)
    [(plain, _)] = history(FedAvg(SGD(0.5), epochs=3, batch_size=2), mode, 1)
    torch.testing.assert_close(state.broadcast["params"], plain.broadcast, rtol=1e-13, atol=1e-15)


@both
def test_steps_are_counted_without_padding(mode: Mode) -> None:
    """c_i of the first round is the mean gradient along the way: for one full batch the gradient itself."""
    [(_, memories)] = history(SCAFFOLD(0.5, batch_size=100), mode, 1)
    for found, data in zip(memories, ALL, strict=True):
        np.testing.assert_allclose(array(found), gradient(THETA, data), rtol=1e-12)


@pytest.mark.parametrize(
    ("n", "size", "epochs", "steps"), [(1, 10, 1, 1), (10, 10, 1, 1), (11, 10, 3, 6), (7, 2, 2, 8)]
)
def test_count_steps(n: int, size: int, epochs: int, steps: int) -> None:
    data = episode("logistic", n, 0, seed=0).data
    assert count_steps(data, size, epochs) == steps
    padded = data._replace(x=torch.cat([data.x, data.x]), y=torch.cat([data.y, data.y]), mask=torch.arange(2 * n) < n)
    assert count_steps(padded, size, epochs) == steps


def test_the_control_variate_is_the_clients_mean_when_all_take_part() -> None:
    """Weighted as the protocol weights clients; rounding apart, after any number of rounds."""
    both_take_part = tiny(clients=2, cohort=2)
    for state, memories in history(SCAFFOLD(0.5, epochs=3, batch_size=2), "sequential", 5, both_take_part):
        expected = mean([array(memory) for memory in memories])
        np.testing.assert_allclose(array(state.broadcast["control"]), expected, rtol=1e-12, atol=1e-15)


def test_the_control_variate_is_the_clients_mean_when_some_take_part() -> None:
    """Over all clients that train, with zero for those who were never sampled; uniform weights, as in the paper."""
    run = Run(coins.config("scaffold", weighting="uniform"), coins.store())
    progress = run.train()
    total = trees.zeros_like(progress.state.broadcast["control"])
    for client, number in progress.memories.items():
        total = trees.add(total, run.memories.get(client, number, total))
    assert 5 < len(progress.memories) < run.task.clients, "some twice or more, some never"
    expected = trees.tree_map(lambda leaf: leaf / run.task.clients, total)
    assert trees.length(expected) > 0.01
    torch.testing.assert_close(progress.state.broadcast["control"], expected, rtol=1e-5, atol=1e-6)


def test_ends_the_drift_of_many_local_steps() -> None:
    """Five full-batch steps a round: SCAFFOLD comes to rest at the optimum of the mean loss, FedAvg beside it."""

    def slope(theta: Array) -> float:
        return float(np.linalg.norm(0.4 * gradient(theta, NOISY[0]) + 0.6 * gradient(theta, NOISY[1])))

    drifted = array(at_rest(FedAvg(SGD(2.0), epochs=5, batch_size=100), 150))
    corrected = array(at_rest(SCAFFOLD(2.0, epochs=5, batch_size=100), 150)["params"])
    assert slope(drifted) > 0.1
    assert slope(corrected) < 1e-5
    assert np.linalg.norm(gradient(corrected, NOISY[0])) > 0.05, "the clients' own optima are elsewhere"


def test_a_new_client_fine_tunes_the_global_model_without_correction() -> None:
    broadcast = {"params": tensors(THETA), "control": tensors(np.full_like(THETA, 7.0))}
    algorithm = SCAFFOLD(adapt_lr=0.3, adapt_steps=3)
    for client in (0, 1):
        assert_models(adapted(algorithm, broadcast, client), descended(THETA, SUPPORTS[client], 0.3, 3))
    assert_models(adapted(SCAFFOLD(adapt_steps=0), broadcast, 1), [THETA])


def test_sends_two_models_each_way() -> None:
    work = tiny(clients=5, cohort=2)
    state = SCAFFOLD().init(work, work.params())
    assert trees.nbytes(state.broadcast) == 2 * trees.nbytes(work.params())


def test_costs_as_many_flops_as_fedavg() -> None:
    work, one = task("cnn", torch.float32), episode("cnn", 3, 20, seed=0)
    methods: tuple[Any, Any] = (SCAFFOLD(), FedAvg())
    found = [
        ClientFlops(work, algorithm, algorithm.init(work, work.params()).broadcast, SPECS["cnn"])(one)
        for algorithm in methods
    ]
    assert found[0] == found[1]
