"""Meta-MinibatchProx: rounds by hand, that its step is a gradient, and that it is Reptile without its strength."""

import numpy as np
import pytest
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
    assert_rounds,
    both,
    episodes,
    gradient,
    hessian_product,
    history,
    local_sgd,
    mean,
    softmax,
    tensors,
    tiny,
)
from torch.testing import assert_close

from metaleaf.algorithms.meta_minibatch_prox import MetaMinibatchProx
from metaleaf.algorithms.reptile import Reptile
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD


def near(w: Array, data: Data, seed: int, lr: float, epochs: int, strength: float) -> Array:
    """Minibatch SGD in batches of 2 on the loss plus strength / 2 ||v - w||^2."""

    def slope(v: Array, batch: Data) -> Array:
        found: Array = gradient(v, batch) + strength * (v - w)
        return found

    return local_sgd(w, data, seed, lr, 2, epochs, slope=slope)


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    w, expected = THETA, []
    for number in range(3):
        ends = [near(w, data, seed, 0.5 * 0.6**number, 2, 0.7) for data, seed in zip(ALL, SEEDS, strict=True)]
        w = w + 0.4 * (mean(ends) - w)
        expected.append(w)
    algorithm = MetaMinibatchProx(SGD(0.5), SGD(0.4), epochs=2, batch_size=2, decay=0.6, strength=0.7)
    assert_rounds(algorithm, mode, expected)


@both
def test_without_strength_it_is_reptile_to_the_bit(mode: Mode) -> None:
    prox = MetaMinibatchProx(SGD(0.5), SGD(0.4), epochs=2, strength=0.0, adapt_epochs=4)
    plain = Reptile(SGD(0.5), SGD(0.4), epochs=2, adapt_epochs=4)
    for (one, _), (other, _) in zip(history(prox, mode, 3), history(plain, mode, 3), strict=True):
        assert_close(one.broadcast, other.broadcast, rtol=0, atol=0)
    for client in (0, 1):
        models = [adapted(algorithm, tensors(THETA), client) for algorithm in (prox, plain)]
        np.testing.assert_array_equal(models[0], models[1])


def envelope(w: Array, data: Data, strength: float) -> float:
    """The least loss plus strength / 2 ||v - w||^2, found by Newton's method."""
    v, units = w, np.eye(w.size)
    for _ in range(30):
        columns = [hessian_product(v, data, unit.reshape(w.shape)).ravel() for unit in units]
        slope = gradient(v, data) + strength * (v - w)
        v = v - np.linalg.solve(np.array(columns) + strength * units, slope.ravel()).reshape(w.shape)
    p = softmax(v, data[0])[1][np.arange(len(data[1])), data[1]]
    return float(-np.log(p).mean() + strength / 2 * ((v - w) ** 2).sum())


def test_strength_times_the_step_is_the_envelopes_gradient() -> None:
    """Trained to the end, on all examples at once; by finite differences."""
    algorithm, eps = MetaMinibatchProx(SGD(0.5), epochs=200, batch_size=100, strength=0.7), 1e-5
    for whole, data in zip(episodes(), ALL, strict=True):
        found = 0.7 * array(algorithm.client(tiny(), tensors(THETA), whole))
        for place in np.ndindex(*THETA.shape):
            unit = np.zeros_like(THETA)
            unit[place] = eps
            ends = [envelope(THETA + sign * unit, data, 0.7) for sign in (1, -1)]
            assert found[place] == pytest.approx((ends[0] - ends[1]) / (2 * eps), abs=1e-8)


def test_a_new_client_stays_near_the_global_model() -> None:
    algorithm = MetaMinibatchProx(SGD(0.5), batch_size=2, strength=0.7, adapt_epochs=3)
    for client in (0, 1):
        steps = [near(THETA, SUPPORTS[client], SEEDS[client], 0.5, epochs, 0.7) for epochs in range(4)]
        assert_models(adapted(algorithm, tensors(THETA), client), steps)


def test_refuses_a_negative_strength() -> None:
    with pytest.raises(ConfigError, match="strength"):
        build("algorithms", "meta_minibatch_prox", {"strength": -0.1})
