"""iMAML: its gradient against that of the inner problem's exact solution, and two rounds of what is not exact."""

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import episode, task
from softmax_by_hand import (
    FEATURES,
    QUERIES,
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
    layered,
    mean,
    softmax,
    tensors,
    tiny,
)
from torch import Tensor
from torch.testing import assert_close

from metaleaf.algorithms.imaml import IMAML, conjugate_gradient
from metaleaf.algorithms.maml import MAML
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.gradient import grad
from metaleaf.models.logistic import Logistic
from metaleaf.optimizers import SGD
from metaleaf.shots import Episode, Shots
from metaleaf.task import Task
from metaleaf.tasks.regression import Regression
from metaleaf.trees import Tree, dot


def loss(theta: Array, data: Data) -> float:
    return float(-np.log(softmax(theta, data[0])[1][np.arange(len(data[1])), data[1]]).mean())


def matrix(theta: Array, data: Data, strength: float) -> Array:
    """I + H / strength."""
    units = np.eye(theta.size)
    columns = [hessian_product(theta, data, unit.reshape(theta.shape)).ravel() for unit in units]
    return np.asarray(units + np.array(columns).T / strength)


def path(theta: Array, data: Data, strength: float, rate: float, steps: int) -> list[Array]:
    points = [theta]
    for _ in range(steps):
        phi = points[-1]
        points.append(phi - rate * (gradient(phi, data) + strength * (phi - theta)))
    return points


def solution(theta: Array, data: Data, strength: float) -> Array:
    """Of the inner problem, by Newton's method."""
    phi = theta
    for _ in range(30):
        slope = gradient(phi, data) + strength * (phi - theta)
        phi = phi - np.linalg.solve(strength * matrix(phi, data, strength), slope.ravel()).reshape(phi.shape)
    return phi


def krylov(a: Array, b: Array, steps: int) -> Array:
    """Where conjugate gradient is after so many steps: the best point of what A's powers make of b, in energy."""
    powers = np.array([np.linalg.matrix_power(a, k) @ b for k in range(steps)]).T
    basis = np.linalg.qr(powers)[0]
    return np.asarray(basis @ np.linalg.solve(basis.T @ a @ basis, basis.T @ b))


def test_is_the_gradient_of_the_query_loss_at_the_exact_solution() -> None:
    """By finite differences of it; the inner problem is convex here."""
    algorithm, eps = IMAML(0.3, inner_steps=300, strength=0.4, cg_steps=9), 1e-5
    for i, whole in enumerate(episodes()):
        found = array(algorithm.client(tiny(), tensors(THETA), whole))
        for place in np.ndindex(*THETA.shape):
            ends = []
            for sign in (1, -1):
                moved = THETA.copy()
                moved[place] += sign * eps
                ends.append(loss(solution(moved, SUPPORTS[i], 0.4), QUERIES[i]))
            assert found[place] == pytest.approx((ends[0] - ends[1]) / (2 * eps), abs=1e-9)
        first = IMAML(0.3, inner_steps=300, strength=0.4, first_order=True).client(tiny(), tensors(THETA), whole)
        assert np.abs(array(first) - found).max() > 0.05, "the curvature matters"


def test_is_mamls_gradient_through_a_long_path_to_the_solution() -> None:
    """Through the same inner problem by automatic differentiation."""
    work, whole, algorithm = tiny(), episodes()[1], IMAML(0.3, inner_steps=200, strength=0.4, cg_steps=9)
    through = grad(lambda start: work.loss(algorithm._adapted(work, start, whole), whole.query))(tensors(THETA))
    assert_close(algorithm.client(work, tensors(THETA), whole), through, rtol=1e-9, atol=1e-12)


def line(x: Array, y: Array) -> tuple[Array, Array]:
    """Hessian and minus the gradient at 0 of the mean squared error of a line with a bias."""
    ones = np.column_stack([x, np.ones(len(x))])
    return 2 / len(y) * ones.T @ ones, 2 / len(y) * ones.T @ y


@pytest.mark.parametrize("damping", [0.0, 1.5])
def test_of_linear_regression_it_is_the_closed_form(damping: float) -> None:
    """Phi = (H + strength)^-1 (strength theta + b), whatever theta is: without damping the system is its derivative."""
    rng = np.random.default_rng(3)
    data = [(rng.normal(size=(n, FEATURES)), rng.normal(size=n)) for n in (4, 5)]
    (h, b), (h_query, b_query) = (line(*part) for part in data)
    theta, eye, strength = rng.normal(size=FEATURES + 1), np.eye(FEATURES + 1), 0.4
    g = h_query @ np.linalg.solve(h + strength * eye, strength * theta + b) - b_query
    support, query = (Shots(torch.tensor(x), torch.tensor(y), torch.tensor(1)) for x, y in data)
    whole = Episode(support, query, support, torch.tensor(0.0), torch.tensor(0))
    work = Task(Logistic(1, (FEATURES,)).double(), kind=Regression())
    algorithm = IMAML(0.2, inner_steps=600, strength=strength, damping=damping, cg_steps=3)
    found = array(algorithm.client(work, tensors(theta[None]), whole))[0]
    np.testing.assert_allclose(found, np.linalg.solve(eye + h / (strength + damping), g), rtol=1e-9)


def test_damping_solves_where_negative_curvature_stops() -> None:
    """On a network, whose inner problem is not convex; with far more of it the gradient is the first-order one."""
    work, whole, strength = layered(), episodes()[1], 0.01
    params, slope = work.params(), grad(work.loss)
    phi = IMAML(0.3, strength=strength)._adapted(work, params, whole)
    sizes = [p.numel() for p in params.values()]

    def tree(v: Tensor) -> Tree:
        return {name: part.view_as(params[name]) for name, part in zip(params, torch.split(v, sizes), strict=True)}

    def flat(found: Tree) -> Tensor:
        return torch.cat([found[name].flatten() for name in params])

    def product(v: Tensor) -> Tensor:
        return flat(grad(lambda at: dot(slope(at, whole.support), tree(v)))(phi))

    def client(damping: float) -> Tensor:
        return flat(IMAML(0.3, strength=strength, damping=damping, cg_steps=60).client(work, params, whole))

    eye, g = torch.eye(sum(sizes), dtype=torch.float64), flat(slope(phi, whole.query))
    h = torch.stack([product(unit) for unit in eye])
    lowest = float(torch.linalg.eigvalsh(h)[0])
    assert lowest < -strength
    assert (client(0.0) - torch.linalg.solve(eye + h / strength, g)).norm() > 0.1 * g.norm()
    damping = -2 * lowest
    assert_close(client(damping), torch.linalg.solve(eye + h / (strength + damping), g), rtol=1e-6, atol=1e-9)
    assert_close(client(1e9), g, rtol=1e-6, atol=1e-9)


@both
@pytest.mark.parametrize(("steps", "cg_steps", "damping"), [(2, 1, 0.0), (3, 2, 0.0), (1, 4, 0.0), (3, 2, 1.5)])
def test_two_rounds_by_hand(steps: int, cg_steps: int, damping: float, mode: Mode) -> None:
    """Neither the inner problem nor the system is solved to the end."""
    theta, expected = THETA, []
    for _ in range(2):
        found = []
        for support, query in zip(SUPPORTS, QUERIES, strict=True):
            phi = path(theta, support, 0.7, 0.5, steps)[-1]
            x = krylov(matrix(phi, support, 0.7 + damping), gradient(phi, query).ravel(), cg_steps)
            found.append(x.reshape(theta.shape))
        theta = theta - 0.5 * mean(found)
        expected.append(theta)
    algorithm = IMAML(
        0.5, inner_steps=steps, strength=0.7, damping=damping, cg_steps=cg_steps, server_optimizer=SGD(0.5)
    )
    assert_rounds(algorithm, mode, expected)


def test_adapts_by_descent_on_the_inner_problem() -> None:
    for client in (0, 1):
        for algorithm, steps in ((IMAML(0.5, 3, strength=0.7), 3), (IMAML(0.5, adapt_steps=4, strength=0.7), 4)):
            found = adapted(algorithm, tensors(THETA), client)
            assert_models(found, path(THETA, SUPPORTS[client], 0.7, 0.5, steps))


def test_held_fast_it_is_first_order_maml_at_the_start() -> None:
    """A strength that lets nothing move: the query gradient of the initial parameters."""
    whole = episodes()[1]
    found = IMAML(1e-9, strength=1e8).client(tiny(), tensors(THETA), whole)
    still = MAML(inner_steps=0).client(tiny(), tensors(THETA), whole)
    assert_close(found, still, rtol=1e-7, atol=1e-9)


def solved(a: Array, b: Array, steps: int) -> Array:
    tensor = torch.tensor(a)
    found = conjugate_gradient(lambda v: {"x": tensor @ v["x"]}, {"x": torch.tensor(b)}, steps)
    return np.asarray(found["x"].numpy())


def test_conjugate_gradient_solves_in_as_many_steps_as_there_are_unknowns_and_then_stays() -> None:
    rng = np.random.default_rng(0)
    root, b = rng.normal(size=(5, 5)), rng.normal(size=5)
    a = root @ root.T + np.eye(5)
    for steps in (1, 3, 4):
        np.testing.assert_allclose(solved(a, b, steps), krylov(a, b, steps), rtol=1e-8)
    for steps in (5, 8, 100):
        np.testing.assert_allclose(solved(a, b, steps), np.linalg.solve(a, b), rtol=1e-8)
    np.testing.assert_array_equal(solved(np.eye(3), np.array([1.0, 2.0, 3.0]), 9), [1, 2, 3])
    np.testing.assert_array_equal(solved(a, np.zeros(5), 3), np.zeros(5))


def test_conjugate_gradient_stops_at_negative_curvature() -> None:
    b = np.array([1.0, 0.5, 0.0])
    for steps in (1, 4):
        np.testing.assert_array_equal(solved(-np.eye(3), b, steps), b)
    saddle = np.diag([2.0, -0.5, 1.0])  # b itself has positive curvature, the direction after it has not
    for steps in (2, 5):
        np.testing.assert_allclose(solved(saddle, b, steps), solved(saddle, b, 1), rtol=1e-15)
    assert not np.array_equal(solved(saddle, b, 1), b)


def test_a_networks_gradient_is_near_the_one_through_the_path() -> None:
    """Not convex any more, but smooth; a strength at which the inner problem is convex."""
    work, whole = task("lstm"), episode("lstm", 4, 6, seed=1)
    algorithm = IMAML(0.05, inner_steps=40, strength=10.0, cg_steps=8)
    params = work.params()
    through = grad(lambda start: work.loss(algorithm._adapted(work, start, whole), whole.query))(params)
    assert_close(algorithm.client(work, params, whole), through, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("given", [{"strength": 0.0}, {"damping": -1.0}, {"cg_steps": 0}, {"inner_lr": -1.0}])
def test_refuses_wrong_values(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        build("algorithms", "imaml", given)
