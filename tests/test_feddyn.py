"""FedDyn: rounds by hand, what a client keeps, and that it ends the drift of local training."""

import coins
import numpy as np
import pytest
import torch
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
from metaleaf.algorithms.feddyn import FedDyn
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD
from metaleaf.runs.run import Run


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    """Two of five clients take part; momentum on the clients."""
    alpha, part = 0.7, 2 / 5
    algorithm = FedDyn(alpha, SGD(0.3, momentum=0.4), epochs=2, batch_size=2, decay=0.8)
    w, h, own = THETA, np.zeros_like(THETA), [np.zeros_like(THETA)] * 2
    for number, (state, memories) in enumerate(history(algorithm, mode, 3, tiny(clients=5, cohort=2))):
        ends = []
        for i in (0, 1):

            def slope(y: Array, batch: Data, w: Array = w, mine: Array = own[i]) -> Array:
                found: Array = gradient(y, batch) - mine + alpha * (y - w)
                return found

            ends.append(local_sgd(w, ALL[i], SEEDS[i], 0.3 * 0.8**number, 2, 2, 0.4, slope=slope))
            own[i] = own[i] - alpha * (ends[i] - w)
        h = h - alpha * part * mean([y - w for y in ends])
        w = mean(ends) - h / alpha
        np.testing.assert_allclose(array(state.broadcast), w, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(array(state.kept), h, rtol=1e-11, atol=1e-13)
        for found, expected in zip(memories, own, strict=True):
            np.testing.assert_allclose(array(found), expected, rtol=1e-11, atol=1e-13)


def test_after_exact_minimisation_clients_keep_the_gradient_at_their_model() -> None:
    """Of the plain loss, at the minimum of what was minimised, which is where the regularised gradient is 0."""
    w, own = THETA, [np.zeros_like(THETA)] * 2
    algorithm = FedDyn(1.0, SGD(0.3), epochs=60, batch_size=100)
    for state, memories in history(algorithm, "sequential", 3, tiny(clients=2, cohort=2)):
        for i, found in enumerate(memories):
            end = w - (array(found) - own[i])  # alpha is 1
            np.testing.assert_allclose(array(found), gradient(end, ALL[i]), rtol=1e-6, atol=1e-9)
        w, own = array(state.broadcast), [array(memory) for memory in memories]


def test_h_is_the_clients_mean_when_some_take_part() -> None:
    """Over all clients that train, with zero for those who were never sampled; uniform weights, as in the paper."""
    run = Run(coins.config("feddyn", weighting="uniform"), coins.store())
    progress = run.train()
    total = trees.zeros_like(progress.state.kept)
    for client, number in progress.memories.items():
        total = trees.add(total, run.memories.get(client, number, total))
    assert 5 < len(progress.memories) < run.task.clients, "some twice or more, some never"
    expected = trees.tree_map(lambda leaf: leaf / run.task.clients, total)
    assert trees.length(expected) > 0.001
    torch.testing.assert_close(progress.state.kept, expected, rtol=1e-5, atol=1e-7)


def test_ends_the_drift_of_many_local_steps() -> None:
    """Five full-batch steps a round: FedDyn comes to rest at the optimum of the mean loss, FedAvg beside it."""

    def slope(theta: Array) -> float:
        return float(np.linalg.norm(0.4 * gradient(theta, NOISY[0]) + 0.6 * gradient(theta, NOISY[1])))

    drifted = array(at_rest(FedAvg(SGD(2.0), epochs=5, batch_size=100), 150))
    corrected = array(at_rest(FedDyn(0.1, SGD(2.0), epochs=5, batch_size=100), 150))
    assert slope(drifted) > 0.1
    assert slope(corrected) < 1e-5


def test_a_new_client_fine_tunes_by_its_plain_loss() -> None:
    for client in (0, 1):
        found = adapted(FedDyn(3.0, adapt_lr=0.3, adapt_steps=3), tensors(THETA), client)
        assert_models(found, descended(THETA, SUPPORTS[client], 0.3, 3))


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": -1.0}, {"epochs": 0}])
def test_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        build("algorithms", "feddyn", wrong)
