"""pFedMe: rounds by hand, the gradient of the Moreau envelope that it follows, and what a new client does."""

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
    assert_rounds,
    both,
    episodes,
    gradient,
    mean,
    softmax,
    tensors,
    tiny,
)

from metaleaf.algorithms.pfedme import PFedMe
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError


def near(w: Array, theta: Array, data: Data, rate: float, strength: float, steps: int) -> list[Array]:
    points = [theta]
    for _ in range(steps):
        theta = theta - rate * (gradient(theta, data) + strength * (theta - w))
        points.append(theta)
    return points


def local(w: Array, data: Data, seed: int) -> Array:
    theta = w
    for rows in reference_batches(seed, len(data[1]), 2, 2):
        theta = near(w, theta, (data[0][rows], data[1][rows]), 0.2, 0.9, 3)[-1]
        w = w - 0.4 * 0.9 * (w - theta)
    return w


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    """Of 3 and 5 examples in batches of 2, side by side with padding; beta is not 1."""
    algorithm = PFedMe(lr=0.4, personal_lr=0.2, strength=0.9, steps=3, beta=1.5, epochs=2, batch_size=2)
    w, expected = THETA, []
    for _ in range(3):
        w = w + 1.5 * (mean([local(w, data, seed) for data, seed in zip(ALL, SEEDS, strict=True)]) - w)
        expected.append(w)
    assert_rounds(algorithm, mode, expected)


def envelope(w: Array, data: Data, strength: float) -> float:
    """The least loss + strength / 2 |theta - w|^2, by Newton's way of many small steps."""
    theta = near(w, w, data, 0.5 / (1 + strength), strength, 400)[-1]
    p = softmax(theta, data[0])[1][np.arange(len(data[1])), data[1]]
    return float(-np.log(p).mean() + strength / 2 * ((theta - w) ** 2).sum())


@pytest.mark.parametrize("strength", [0.5, 5.0])
def test_a_solved_batch_is_a_step_on_the_envelope(strength: float) -> None:
    """With one batch and an inner problem that is solved, the update is -lr times the envelope's measured gradient."""
    algorithm = PFedMe(lr=0.3, personal_lr=0.5 / (1 + strength), strength=strength, steps=400, batch_size=100, epochs=1)
    moved = array(algorithm.client(tiny(), tensors(THETA), episodes()[1]))
    rng, eps = np.random.default_rng(0), 1e-5
    for _ in range(3):
        v = rng.normal(size=THETA.shape)
        ends = [envelope(THETA + sign * eps * v, ALL[1], strength) for sign in (1, -1)]
        assert (moved * v).sum() == pytest.approx(-0.3 * (ends[0] - ends[1]) / (2 * eps), rel=1e-5)


def test_a_new_client_finds_its_model_near_the_global_one() -> None:
    algorithm = PFedMe(personal_lr=0.3, strength=0.7, adapt_steps=3)
    for client in (0, 1):
        expected = near(THETA, THETA, SUPPORTS[client], 0.3, 0.7, 3)
        assert_models(adapted(algorithm, tensors(THETA), client), expected)


def test_a_stronger_pull_holds_the_own_model_nearer() -> None:
    support, distances = as_shots(SUPPORTS[1], SEEDS[1]), []
    for strength in (0.1, 1.0, 10.0):
        *_, own = PFedMe(personal_lr=0.05, strength=strength, adapt_steps=300).adapt(tiny(), tensors(THETA), support)
        distances.append(float(np.linalg.norm(array(own) - THETA)))
    assert distances[0] > 2 * distances[1] > 4 * distances[2] > 0


def test_sends_no_more_than_a_model() -> None:
    update = PFedMe().client(tiny(), tensors(THETA), episodes()[0])
    assert {name: p.shape for name, p in update.items()} == {name: p.shape for name, p in tensors(THETA).items()}
    assert not torch.equal(update["out.weight"], torch.zeros(3, 2))


@pytest.mark.parametrize("wrong", ["strength", "lr", "personal_lr", "beta", "steps"])
def test_refuses_wrong_values(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        build("algorithms", "pfedme", {wrong: 0})
