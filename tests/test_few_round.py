"""Few-Round Learning: the objective by hand, its gradient by finite differences, and the server's steps."""

from typing import Any

import numpy as np
import pytest
import torch
from small_environments import JUDGE_SHARES, JUDGES, PARTICIPANTS, SHARES, by_hand
from softmax_by_hand import THETA, Array, NumpyAdam, array, descended, gradient, hessian_product, softmax, tensors, tiny

from metaleaf.algorithm import State
from metaleaf.algorithms.few_round import FewRound
from metaleaf.engine.engine import Mode, engine
from metaleaf.environments.newcomers import Newcomer, advance, enter
from metaleaf.optimizers import SGD
from metaleaf.rounds import loss
from metaleaf.task import Task

RATE, STEPS = 0.8, 2
both = pytest.mark.parametrize("mode", ["sequential", "vectorised"])


def work() -> Task:
    task = tiny()
    task.local_lr, task.local_steps, task.rounds = RATE, STEPS, 40
    return task


def round_of(theta: Array) -> Array:
    """One round of federated averaging."""
    models = [descended(theta, data, RATE, STEPS)[-1] for data in PARTICIPANTS]
    found: Array = sum((w * m for w, m in zip(SHARES, models, strict=True)), start=np.zeros_like(theta))
    return found


def judged(theta: Array) -> float:
    each = [-np.log(softmax(theta, x)[1][np.arange(len(y)), y]).mean() for x, y in JUDGES]
    return float(np.dot(JUDGE_SHARES, each))


def objective(theta: Array, horizon: tuple[int, ...]) -> float:
    """The mean of the judges' losses after these numbers of rounds; 0 is after the first meeting."""
    found = []
    for number in range(max(horizon) + 1):
        theta = round_of(theta)
        if number in horizon:
            found.append(judged(theta))
    return float(np.mean(found))


def meta_gradient(horizon: tuple[int, ...], mode: Mode) -> Array:
    task = work()
    algorithm: Any = FewRound(horizon=horizon)
    update, _ = engine(task, algorithm, mode).gather(tensors(THETA), [by_hand(3, 6, 4, junk=2.0)], [1.0])
    return array(update)


@both
@pytest.mark.parametrize("horizon", [(0,), (2,), (0, 1, 2), (1, 3)])
def test_meta_gradients_by_finite_differences(horizon: tuple[int, ...], mode: Mode) -> None:
    found, eps = meta_gradient(horizon, mode), 1e-5
    for i in np.ndindex(THETA.shape):
        step = np.zeros_like(THETA)
        step[i] = eps
        measured = (objective(THETA + step, horizon) - objective(THETA - step, horizon)) / (2 * eps)
        assert found[i] == pytest.approx(measured, rel=1e-6, abs=1e-9)


@both
def test_one_round_in_closed_form(mode: Mode) -> None:
    """Through every local step: (I - rate * H) g, back from the judges' gradient at the mean model."""
    end = round_of(THETA)
    slope: Array = sum((w * gradient(end, d) for w, d in zip(JUDGE_SHARES, JUDGES, strict=True)), np.zeros((3, 3)))
    expected = np.zeros_like(THETA)
    for weight, data in zip(SHARES, PARTICIPANTS, strict=True):
        back = slope
        for point in reversed(descended(THETA, data, RATE, STEPS)[:-1]):
            back = back - RATE * hessian_product(point, data, back)
        expected += weight * back
    np.testing.assert_allclose(meta_gradient((0,), mode), expected, rtol=1e-10)
    assert np.abs(expected - slope).max() > 0.05 * np.abs(slope).max(), "first order would be something else"


def test_a_horizon_is_the_mean_of_its_rounds() -> None:
    apart = [meta_gradient((number,), "sequential") for number in (0, 1, 2)]
    np.testing.assert_allclose(meta_gradient((0, 1, 2), "sequential"), np.mean(apart, axis=0), rtol=1e-10)
    np.testing.assert_allclose(meta_gradient((0, 2), "sequential"), (apart[0] + apart[2]) / 2, rtol=1e-10)
    assert not np.allclose(apart[0], apart[2], rtol=0.05)


def test_what_it_trains_for_is_what_happens_in_a_new_environment() -> None:
    task, episode = work(), by_hand()
    algorithm: Any = FewRound()
    newcomer = Newcomer(task, algorithm, tensors(THETA))
    session, found = enter(newcomer, episode.participants, episode.weights), []
    for number in range(3):
        if number:
            session = advance(newcomer, session, episode.participants, episode.weights)
        params: Any = session["params"]
        found.append(float(loss(task, params, episode.queries, episode.query_weights)))
    assert np.mean(found) == pytest.approx(objective(THETA, (0, 1, 2)), rel=1e-12)


def factor(number: int, rounds: int) -> float:
    """The schedule by its formula."""
    rise = (number + 1) / max(0.05 * rounds, 1)
    fall = (1 + np.cos(np.pi * min(max(number / rounds - 0.05, 0), 1) / 0.95)) / 2
    return float(min(rise, 1) * fall)


def test_server_steps_by_hand() -> None:
    """Clipped, scheduled Adam; its state and the round outlive the round."""
    task = work()
    algorithm: Any = FewRound(horizon=(0, 1), clip=0.1)
    state: State = algorithm.init(task, task.params())
    theta, adam = THETA, NumpyAdam(0.001)
    for number in range(5):
        update, _ = engine(task, algorithm, "sequential").gather(state.broadcast, [by_hand()], [1.0])
        g = array(update)
        norm = np.linalg.norm(g)
        assert norm > 0.1, "the bound is felt"
        adam.lr = 0.001 * factor(number, 40)
        theta = adam.step(theta, g * 0.1 / norm)
        state = algorithm.server(state, update)
        np.testing.assert_allclose(array(state.broadcast), theta, rtol=1e-6, atol=1e-8)  # the schedule is in float32
    assert state.kept["round"] == 5


def test_environments_count_alike() -> None:
    task = work()
    algorithm: Any = FewRound(horizon=(0,), optimizer=SGD(1.0), clip=100.0)
    other = by_hand()._replace(queries=by_hand().participants, query_weights=by_hand().weights)
    apart = [algorithm.client(task, tensors(THETA), e) for e in (by_hand(), other)]
    update, _ = engine(task, algorithm, "vectorised").gather(tensors(THETA), [by_hand(), other], [0.5, 0.5])
    np.testing.assert_allclose(array(update), (array(apart[0]) + array(apart[1])) / 2, rtol=1e-11)
    assert not torch.allclose(apart[0]["out.bias"], apart[1]["out.bias"])
