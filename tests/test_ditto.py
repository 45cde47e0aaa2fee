"""Ditto: two rounds by hand, what its strength means, and what a new client does."""

import numpy as np
import torch
from softmax_by_hand import (
    ALL,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    adapted,
    array,
    assert_models,
    both,
    gradient,
    history,
    local_sgd,
    mean,
    tensors,
)

from metaleaf import trees
from metaleaf.algorithms.ditto import Ditto
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.local import Local
from metaleaf.engine.engine import Mode
from metaleaf.optimizers import SGD


def own_sgd(v: Array, w: Array, data: Data, seed: int, lr: float, epochs: int, strength: float) -> Array:
    """Of the loss plus strength / 2 ||v - w||^2, in batches of 2."""

    def slope(v: Array, batch: Data) -> Array:
        found: Array = gradient(v, batch) + strength * (v - w)
        return found

    return local_sgd(v, data, seed, lr, 2, epochs, slope=slope)


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    """The own models are held near the global model that was received, not the one trained meanwhile."""
    algorithm = Ditto(SGD(0.5), epochs=2, batch_size=2, decay=0.6, strength=0.7)
    w, own = THETA, [THETA, THETA]
    for number, (state, memories) in enumerate(history(algorithm, mode, 3)):
        rate = 0.5 * 0.6**number
        own = [own_sgd(own[i], w, ALL[i], SEEDS[i], rate, 2, 0.7) for i in (0, 1)]
        w = mean([local_sgd(w, data, seed, rate, 2, 2) for data, seed in zip(ALL, SEEDS, strict=True)])
        np.testing.assert_allclose(array(state.broadcast), w, rtol=1e-11, atol=1e-13)
        for found, expected in zip(memories, own, strict=True):
            np.testing.assert_allclose(array(found), expected, rtol=1e-11, atol=1e-13)


@both
def test_the_global_model_is_fedavgs_to_the_bit(mode: Mode) -> None:
    ditto, plain = Ditto(SGD(0.5, momentum=0.9), epochs=2), FedAvg(SGD(0.5, momentum=0.9), epochs=2)
    for (one, _), (other, _) in zip(history(ditto, mode, 3), history(plain, mode, 3), strict=True):
        torch.testing.assert_close(one.broadcast, other.broadcast, rtol=0, atol=0)


def test_strength_lies_between_local_training_and_the_global_model() -> None:
    distances = []
    for strength in (0.0, 0.5, 5.0):
        [*_, (state, memories)] = history(Ditto(SGD(0.1), strength=strength, epochs=5), "sequential", 10)
        distances.append(sum(trees.length(trees.subtract(own, state.broadcast)) for own in memories))
    assert distances[0] > 2 * distances[1] > 4 * distances[2] > 0
    found = adapted(Ditto(SGD(0.5), strength=0.0, batch_size=2, adapt_epochs=4), tensors(THETA), 1)
    assert_models(found, adapted(Local(SGD(0.5), batch_size=2, epochs=4), tensors(THETA), 1))


def test_a_new_client_trains_an_own_model_from_the_global_one() -> None:
    algorithm = Ditto(SGD(0.5), batch_size=2, strength=0.7, adapt_epochs=3)
    for client in (0, 1):
        data, seed = SUPPORTS[client], SEEDS[client]
        steps = [own_sgd(THETA, THETA, data, seed, 0.5, epochs, 0.7) for epochs in range(4)]
        assert_models(adapted(algorithm, tensors(THETA), client), steps)
