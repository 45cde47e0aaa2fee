"""MOON: rounds by hand on a body of two units, the term's gradient, and when it is FedAvg."""

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import reference_batches, shots, task
from softmax_by_hand import (
    ALL,
    BODY,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    adapted,
    array,
    assert_models,
    body_array,
    body_gradient,
    both,
    descended,
    gradient,
    hidden,
    history,
    layered,
    mean,
    tensors,
)

from metaleaf import trees
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.moon import MOON
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.gradient import grad
from metaleaf.optimizers import SGD

Model = tuple[Array, Array]
"""Body and head."""


def cosines(a: Array, b: Array) -> Array:
    found: Array = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def contrast(body: Array, towards: Array, away: Array, data: Data, temperature: float) -> float:
    z, near, far = (hidden(one, data)[0] for one in (body, towards, away))
    positive, negative = np.exp(cosines(z, near) / temperature), np.exp(cosines(z, far) / temperature)
    return float(-np.log(positive / (positive + negative)).mean())


def contrast_gradient(body: Array, towards: Array, away: Array, data: Data, temperature: float) -> Array:
    """By central differences."""
    found, eps = np.zeros_like(body), 1e-5
    for place in np.ndindex(*body.shape):
        ends = []
        for sign in (1, -1):
            moved = body.copy()
            moved[place] += sign * eps
            ends.append(contrast(moved, towards, away, data, temperature))
        found[place] = (ends[0] - ends[1]) / (2 * eps)
    return found


def client(w: Model, v: Array, data: Data, seed: int, rate: float, mu: float, temperature: float) -> Model:
    """Two epochs in batches of 2 from w, away from the body v."""
    body, head = w
    for rows in reference_batches(seed, len(data[1]), 2, 2):
        batch = data[0][rows], data[1][rows]
        slope = body_gradient(body, head, batch) + mu * contrast_gradient(body, w[0], v, batch, temperature)
        head = head - rate * gradient(head, hidden(body, batch))
        body = body - rate * slope
    return body, head


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    """To the accuracy of the differences, against which the term itself is large."""
    mu, temperature = 2.0, 0.3
    algorithm = MOON(SGD(0.5), epochs=2, batch_size=2, decay=0.8, mu=mu, temperature=temperature)
    plain = FedAvg(SGD(0.5), epochs=2, batch_size=2, decay=0.8)
    w, last = (BODY, THETA), [BODY, BODY]
    for number, (state, memories) in enumerate(history(algorithm, mode, 3, layered())):
        rate = 0.5 * 0.8**number
        ends = [client(w, last[i], ALL[i], SEEDS[i], rate, mu, temperature) for i in (0, 1)]
        w, last = (mean([end[0] for end in ends]), mean([end[1] for end in ends])), [end[0] for end in ends]
        np.testing.assert_allclose(body_array(state.broadcast), w[0], rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(array(state.broadcast), w[1], rtol=1e-7, atol=1e-8)
        for found, (body, head) in zip(memories, ends, strict=True):
            np.testing.assert_allclose(body_array(found), body, rtol=1e-7, atol=1e-8)
            np.testing.assert_allclose(array(found), head, rtol=1e-7, atol=1e-8)
    [*_, (other, _)] = history(plain, mode, 3, layered())
    assert np.abs(body_array(other.broadcast) - w[0]).max() > 0.01


@both
def test_without_the_term_it_is_fedavg(mode: Mode) -> None:
    moon, plain = MOON(SGD(0.5), epochs=2, mu=0.0), FedAvg(SGD(0.5), epochs=2)
    for (one, _), (other, _) in zip(history(moon, mode, 3, layered()), history(plain, mode, 3, layered()), strict=True):
        torch.testing.assert_close(one.broadcast, other.broadcast, rtol=1e-12, atol=1e-14)


@both
def test_the_first_round_of_a_client_is_fedavg(mode: Mode) -> None:
    """Its last model is the one that it received: what draws it and what repels it cancel."""
    [(one, _)] = history(MOON(SGD(0.5), epochs=3, batch_size=2, mu=5.0), mode, 1, layered())
    [(other, _)] = history(FedAvg(SGD(0.5), epochs=3, batch_size=2), mode, 1, layered())
    torch.testing.assert_close(one.broadcast, other.broadcast, rtol=1e-12, atol=1e-14)


@both
def test_without_features_to_train_it_is_fedavg(mode: Mode) -> None:
    [*_, (one, _)] = history(MOON(SGD(0.5), batch_size=2, mu=5.0), mode, 3)
    [*_, (other, _)] = history(FedAvg(SGD(0.5), batch_size=2), mode, 3)
    torch.testing.assert_close(one.broadcast, other.broadcast, rtol=1e-12, atol=1e-14)


def test_the_term_draws_to_the_global_model_and_away_from_the_last_one() -> None:
    work, one = task("cnn"), shots("cnn", 12, seed=1)
    towards, away = work.params(1), work.params(2)
    start: Any = trees.tree_map(lambda a, b: (a + b) / 2, towards, away)
    gradient = grad(lambda p: MOON()._contrast(work, p, towards, away, one))(start)
    end = trees.add(start, gradient, -1.0)

    def near(p: Any, other: Any) -> float:
        return float(torch.cosine_similarity(work.features(p, one.x), work.features(other, one.x)).mean())

    assert near(end, towards) > near(start, towards)
    assert near(end, away) < near(start, away)


def test_features_that_are_all_zero_have_a_finite_gradient() -> None:
    work, one = task("cnn"), shots("cnn", 4, seed=1)
    dead: Any = {name: torch.zeros_like(p) for name, p in work.params().items()}
    assert not work.features(dead, one.x).any()
    for mask in (None, torch.tensor([True, True, False, False]), torch.zeros(4, dtype=torch.bool)):
        masked = one._replace(mask=mask)
        gradient = grad(lambda p, batch: MOON()._contrast(work, p, work.params(), dead, batch))(dead, masked)
        assert all(leaf.isfinite().all() for leaf in gradient.values())


def test_a_new_client_fine_tunes_by_its_plain_loss() -> None:
    for i in (0, 1):
        found = adapted(MOON(mu=9.0, adapt_lr=0.3, adapt_steps=3), tensors(THETA), i)
        assert_models(found, descended(THETA, SUPPORTS[i], 0.3, 3))


@pytest.mark.parametrize("wrong", [{"mu": -1.0}, {"temperature": 0.0}, {"temperature": np.nan}])
def test_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        build("algorithms", "moon", wrong)
