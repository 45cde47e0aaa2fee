"""q-FFL, AFL and TERM, which weight clients by their losses: rounds by hand, whose gradient they follow, and limits."""

from collections.abc import Callable
from typing import Any

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
    Data,
    adapted,
    array,
    assert_models,
    assert_rounds,
    at_rest,
    both,
    context,
    descended,
    episodes,
    gradient,
    history,
    local_sgd,
    rounds,
    softmax,
    tensors,
    tiny,
)

from metaleaf.algorithm import Algorithm, step
from metaleaf.algorithms.afl import AFL, _projected
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.qffl import QFFL
from metaleaf.algorithms.term import TERM
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode, engine
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD


def losses(theta: Array, data: Data) -> Array:
    """The cross-entropy of each example."""
    found: Array = -np.log(softmax(theta, data[0])[1][np.arange(len(data[1])), data[1]])
    return found


def loss(theta: Array, data: Data) -> float:
    return float(losses(theta, data).mean())


def slope(f: Callable[[Array], float], theta: Array) -> Array:
    """The gradient by central differences."""
    found, eps = np.zeros_like(theta), 1e-6
    for place in np.ndindex(*theta.shape):
        moved = np.zeros_like(theta)
        moved[place] = eps
        found[place] = (f(theta + moved) - f(theta - moved)) / (2 * eps)
    return found


def along(algorithm: Algorithm, lr: float) -> Array:
    """What a round of one full-batch step of that rate follows."""
    [state] = rounds(algorithm, "sequential", 1)
    found: Array = (THETA - array(state.broadcast)) / lr
    return found


# ------------------------------------------------------------------------------------------------------------- q-FFL


def qffl_round(theta: Array, q: float, lr: float, server_lr: float = 1.0) -> Array:
    above, below = np.zeros_like(theta), 0.0
    for weight, data, seed in zip(WEIGHTS, ALL, SEEDS, strict=True):
        difference = (theta - local_sgd(theta, data, seed, lr, 2, 2)) / lr
        f = loss(theta, data)
        above += weight * f**q * difference
        below += weight * (q * f ** (q - 1) * (difference**2).sum() + f**q / lr)
    return theta - server_lr * above / below


@both
@pytest.mark.parametrize("q", [0.3, 2.0])
def test_three_rounds_of_qffl_by_hand(q: float, mode: Mode) -> None:
    theta, expected = THETA, []
    for number in range(3):
        theta = qffl_round(theta, q, 0.5 * 0.8**number, 0.7)
        expected.append(theta)
    assert_rounds(QFFL(SGD(0.5), SGD(0.7), epochs=2, batch_size=2, decay=0.8, q=q), mode, expected)


@both
def test_qffl_without_q_is_fedavg(mode: Mode) -> None:
    fair, plain = QFFL(SGD(0.5), epochs=2, batch_size=2, q=0.0), FedAvg(SGD(0.5), epochs=2, batch_size=2)
    for one, other in zip(rounds(fair, mode, 3), rounds(plain, mode, 3), strict=True):
        torch.testing.assert_close(one.broadcast, other.broadcast, rtol=1e-12, atol=1e-14)


def test_qffl_follows_the_gradient_of_its_objective() -> None:
    q = 3.0

    def objective(theta: Array) -> float:
        return float(sum(w * loss(theta, data) ** (q + 1) / (q + 1) for w, data in zip(WEIGHTS, ALL, strict=True)))

    found, expected = along(QFFL(SGD(0.5), batch_size=100, q=q), 0.5), slope(objective, THETA)
    np.testing.assert_allclose(found / np.linalg.norm(found), expected / np.linalg.norm(expected), rtol=1e-6)


@pytest.mark.parametrize("q", [0.0, 0.5, 2.0])
def test_qffl_of_clients_without_a_loss_stays_finite(q: float) -> None:
    """Examples that the model is sure of: the loss is 0 to rounding, and so is the gradient."""
    work = tiny()
    sure = {name: 1e4 * p for name, p in work.params().items()}
    x = torch.tensor([[3.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    y = work.logits(sure, x).argmax(1)
    [one, *_] = [e._replace(data=e.data._replace(x=x, y=y)) for e in episodes()]
    update = QFFL(SGD(0.5), q=q).client(work, sure, one)
    assert all(leaf.isfinite().all() for leaf in (*update["gradient"].values(), update["bound"]))


# --------------------------------------------------------------------------------------------------------------- AFL


def simplex(v: Array) -> Array:
    """The nearest point of the simplex, by bisection."""
    low, high = v.min() - 1, v.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(v - middle, 0).sum() > 1 else (low, middle)
    found: Array = np.maximum(v - low, 0)
    return found


@both
@pytest.mark.parametrize("ascent", ["projected", "exponentiated"])
def test_three_rounds_of_afl_by_hand(ascent: Any, mode: Mode) -> None:
    """Two of five clients take part; the protocol's weights do not count."""
    algorithm = AFL(SGD(0.5), SGD(0.7), epochs=2, batch_size=2, decay=0.8, ascent_lr=0.9, ascent=ascent)
    theta, weights = THETA, np.full(5, 1 / 5)
    for number, (state, _) in enumerate(history(algorithm, mode, 3, tiny(clients=5, cohort=2))):
        rate, shares = 0.5 * 0.8**number, weights[:2] / weights[:2].sum()
        ends = [local_sgd(theta, data, seed, rate, 2, 2) for data, seed in zip(ALL, SEEDS, strict=True)]
        step = np.array([*(0.9 / 5 * 5 / 2 * loss(theta, data) for data in ALL), 0, 0, 0])
        theta = theta - 0.7 * (theta - shares[0] * ends[0] - shares[1] * ends[1])
        weights = simplex(weights + step) if ascent == "projected" else weights * np.exp(5 * step)
        weights = weights / weights.sum()
        np.testing.assert_allclose(array(state.broadcast), theta, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(state.kept["weights"].numpy(), weights, rtol=1e-11, atol=1e-13)
        reported = algorithm.report(tiny(), state)
        assert float(reported["largest_weight"]) == pytest.approx(weights.max())
        assert float(reported["counted"]) == pytest.approx(1 / (weights**2).sum())
    if ascent == "projected":
        assert (weights[2:] == 0).all(), "so large a step has to leave the simplex"


def test_projection_onto_the_simplex() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 50):
        for spread in (0.01, 1.0, 30.0):
            v = spread * rng.normal(size=n)
            np.testing.assert_allclose(_projected(torch.tensor(v)).numpy(), simplex(v), atol=1e-12)
    assert _projected(torch.tensor([0.5, 0.5, 0.5])).tolist() == pytest.approx([1 / 3] * 3)


@both
def test_afl_with_weights_that_stay_is_uniform_fedavg(mode: Mode) -> None:
    algorithm = AFL(SGD(0.5), batch_size=2, ascent_lr=0.0)
    [*_, (state, _)] = history(algorithm, mode, 2, tiny(clients=2, cohort=2))
    theta = THETA
    for _ in range(2):
        theta = np.mean([local_sgd(theta, data, seed, 0.5, 2, 1) for data, seed in zip(ALL, SEEDS, strict=True)], 0)
    np.testing.assert_allclose(array(state.broadcast), theta, rtol=1e-11, atol=1e-13)


def test_afl_leaves_the_model_where_a_cohort_weighs_nothing() -> None:
    work = tiny(clients=5, cohort=2)
    algorithm: Any = AFL(SGD(0.5))
    state = algorithm.init(work, work.params())
    weights = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    state = state._replace(kept={**state.kept, "weights": weights})
    replies = engine(work, algorithm, "sequential").gather(state.broadcast, episodes(), WEIGHTS).update
    after = step(algorithm, state, replies, context(work, 1, WEIGHTS))
    torch.testing.assert_close(after.broadcast, state.broadcast, rtol=0, atol=0)
    assert (after.kept["weights"][:2] > 0).all()


def test_afl_finds_the_model_of_least_worst_loss() -> None:
    """Of two clients: where their losses are equal."""
    theta = array(at_rest(AFL(SGD(1.0), batch_size=100, ascent_lr=0.2), 60))
    first, second = (loss(theta, data) for data in NOISY)
    plain = array(at_rest(FedAvg(SGD(1.0), batch_size=100), 60))
    apart = abs(loss(plain, NOISY[0]) - loss(plain, NOISY[1]))
    assert abs(first - second) < 0.1 * apart
    assert max(first, second) < max(loss(plain, data) for data in NOISY) - 0.4 * apart


# -------------------------------------------------------------------------------------------------------------- TERM


def tilted(values: Array, tilt: float, weights: Array) -> float:
    """1 / t log of the mean of exp(t value)."""
    if tilt == 0:
        return float((weights * values).sum())
    return float(np.log((weights * np.exp(tilt * values)).sum()) / tilt)


def risk(theta: Array, data: Data, tau: float) -> float:
    return tilted(losses(theta, data), tau, np.full(len(data[1]), 1 / len(data[1])))


def risk_gradient(theta: Array, data: Data, tau: float) -> Array:
    weights = np.exp(tau * losses(theta, data))
    parts = [gradient(theta, (data[0][[i]], data[1][[i]])) for i in range(len(weights))]
    found: Array = np.average(parts, axis=0, weights=weights)
    return found


TILTS = [(0.0, 0.0), (2.0, 0.0), (0.0, 1.5), (3.0, -1.0), (-2.0, 1.0)]


@both
@pytest.mark.parametrize(("t", "tau"), TILTS)
def test_three_rounds_of_term_by_hand(t: float, tau: float, mode: Mode) -> None:
    theta, expected = THETA, []
    for number in range(3):
        rate = 0.5 * 0.8**number
        weights = np.array(WEIGHTS) * np.exp([t * risk(theta, data, tau) for data in ALL])
        ends = [
            local_sgd(theta, data, seed, rate, 2, 2, slope=lambda v, batch: risk_gradient(v, batch, tau))
            for data, seed in zip(ALL, SEEDS, strict=True)
        ]
        theta = theta + 0.7 * (np.average(ends, axis=0, weights=weights) - theta)
        expected.append(theta)
    algorithm = TERM(SGD(0.5), SGD(0.7), epochs=2, batch_size=2, decay=0.8, tilt=t, example_tilt=tau)
    assert_rounds(algorithm, mode, expected)


@pytest.mark.parametrize(("t", "tau"), TILTS)
def test_term_follows_the_gradient_of_its_objective(t: float, tau: float) -> None:
    def objective(theta: Array) -> float:
        return tilted(np.array([risk(theta, data, tau) for data in ALL]), t, np.array(WEIGHTS))

    found = along(TERM(SGD(0.5), batch_size=100, tilt=t, example_tilt=tau), 0.5)
    np.testing.assert_allclose(found, slope(objective, THETA), rtol=1e-6, atol=1e-9)


@both
def test_term_without_tilts_is_fedavg(mode: Mode) -> None:
    fair, plain = TERM(SGD(0.5), epochs=2, batch_size=2, tilt=0.0), FedAvg(SGD(0.5), epochs=2, batch_size=2)
    for one, other in zip(rounds(fair, mode, 3), rounds(plain, mode, 3), strict=True):
        torch.testing.assert_close(one.broadcast, other.broadcast, rtol=1e-12, atol=1e-14)


@both
def test_a_very_tilted_term_is_the_worst_clients_training(mode: Mode) -> None:
    """And does not overflow on the way."""
    worst = int(np.argmax([loss(THETA, data) for data in ALL]))
    for tilt, client in ((1e4, worst), (-1e4, 1 - worst)):
        expected = local_sgd(THETA, ALL[client], SEEDS[client], 0.5, 2, 1)
        assert_rounds(TERM(SGD(0.5), batch_size=2, tilt=tilt), mode, [expected])


# --------------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("cls", [QFFL, AFL, TERM])
def test_a_new_client_fine_tunes_by_its_plain_loss(cls: type[Any]) -> None:
    for client in (0, 1):
        found = adapted(cls(adapt_lr=0.3, adapt_steps=3), tensors(THETA), client)
        assert_models(found, descended(THETA, SUPPORTS[client], 0.3, 3))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("qffl", {"q": -0.1}),
        ("qffl", {"q": np.nan}),
        ("afl", {"ascent_lr": -1.0}),
        ("afl", {"ascent": "mirror"}),
        ("afl", {"weighting": "samples"}),
        ("term", {"tilt": np.inf}),
        ("term", {"example_tilt": np.nan}),
    ],
)
def test_refuses(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build("algorithms", name, wrong)
