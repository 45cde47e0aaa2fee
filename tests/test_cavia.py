"""CAVIA: two rounds by finite differences of its objective in numpy, and a new head as a modulation of features."""

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import task
from softmax_by_hand import (
    BODY,
    CLASSES,
    QUERIES,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    Layered,
    array,
    as_shots,
    body_array,
    body_tensors,
    both,
    episodes,
    hidden,
    history,
    layered,
    mean,
    tensors,
)
from torch.testing import assert_close

from metaleaf.algorithms.cavia import CAVIA
from metaleaf.algorithms.maml import MAML
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD
from metaleaf.task import Task

LENGTH = 3
Learned = dict[str, Array]
"""body, head, scale, shift."""


def probabilities(learned: Learned, phi: Array, h: Array) -> Array:
    """Of features h [n, 2], modulated."""
    modulated = (1 + learned["scale"] @ phi) * h + learned["shift"] @ phi
    z = np.exp(modulated @ learned["head"][:, :2].T + learned["head"][:, 2])
    return np.asarray(z / z.sum(1, keepdims=True))


def contexts(learned: Learned, data: Data, rate: float, steps: int) -> list[Array]:
    """Before, and after each step of the inner loop."""
    h, y = hidden(learned["body"], data)
    found = [np.zeros(LENGTH)]
    for _ in range(steps):
        by_logits = (probabilities(learned, found[-1], h) - np.eye(CLASSES)[y]) / len(y)
        by_features = by_logits @ learned["head"][:, :2]
        slope = learned["scale"].T @ (by_features * h).sum(0) + learned["shift"].T @ by_features.sum(0)
        found.append(found[-1] - rate * slope)
    return found


def objective(learned: Learned, client: int, rate: float, steps: int) -> float:
    """The query loss with the context that the support suggests."""
    phi = contexts(learned, SUPPORTS[client], rate, steps)[-1]
    h, y = hidden(learned["body"], QUERIES[client])
    return float(-np.log(probabilities(learned, phi, h)[np.arange(len(y)), y]).mean())


def slopes(learned: Learned, client: int, rate: float, steps: int) -> Learned:
    """Of the objective, by central differences."""
    found, eps = {}, 1e-5
    for name, values in learned.items():
        found[name] = np.zeros_like(values)
        for place in np.ndindex(*values.shape):
            unit = np.zeros_like(values)
            unit[place] = eps
            ends = [objective({**learned, name: values + s * unit}, client, rate, steps) for s in (1, -1)]
            found[name][place] = (ends[0] - ends[1]) / (2 * eps)
    return found


def read(broadcast: Any) -> Learned:
    film = {name: leaf.numpy() for name, leaf in broadcast["film"].items()}
    return {"body": body_array(broadcast["params"]), "head": array(broadcast["params"]), **film}


def start(algorithm: CAVIA) -> Learned:
    return read(algorithm.init(layered(), layered().params()).broadcast)


@both
@pytest.mark.parametrize("steps", [1, 3])
def test_two_rounds_by_finite_differences(steps: int, mode: Mode) -> None:
    algorithm = CAVIA(LENGTH, inner_lr=1.5, inner_steps=steps, server_optimizer=SGD(0.5))
    expected = start(algorithm)
    np.testing.assert_array_equal(expected["body"], BODY)
    for state, _ in history(algorithm, mode, 2, layered()):
        found = [slopes(expected, i, 1.5, steps) for i in (0, 1)]
        expected = {name: values - 0.5 * mean([one[name] for one in found]) for name, values in expected.items()}
        for name, values in read(state.broadcast).items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-7, atol=1e-9, err_msg=name)
            assert np.abs(mean([one[name] for one in found])).max() > 1e-3, "all of it is learned"


def test_a_new_clients_head_modulates_the_features() -> None:
    work, algorithm, x = layered(), CAVIA(LENGTH, inner_lr=1.5, adapt_steps=3), np.array([[0.4, -1.3], [2.0, 0.7]])
    learned = start(algorithm)
    broadcast = algorithm.init(work, work.params()).broadcast
    h, _ = hidden(BODY, (x, np.zeros(2)))
    for data, seed in zip(SUPPORTS, SEEDS, strict=True):
        models = list(algorithm.adapt(work, broadcast, as_shots(data, seed)))
        assert len(models) == 4
        for model, phi in zip(models, contexts(learned, data, 1.5, 3), strict=True):
            found = work.logits(model, torch.tensor(x)).softmax(-1)
            np.testing.assert_allclose(found.numpy(), probabilities(learned, phi, h), rtol=1e-11)
            np.testing.assert_array_equal(body_array(model), BODY)
    assert np.abs(phi).max() > 0.1


def test_without_a_step_it_is_maml_without_one() -> None:
    work, whole, algorithm = layered(), episodes()[1], CAVIA(LENGTH, inner_steps=0)
    found = algorithm.client(work, algorithm.init(work, work.params()).broadcast, whole)
    assert_close(found["params"], MAML(inner_steps=0).client(work, work.params(), whole), rtol=1e-12, atol=1e-14)
    assert all(not leaf.any() for leaf in found["film"].values())


@pytest.mark.parametrize("model", ["logistic", "cnn", "lstm"])
def test_starts_as_a_linear_layer_does(model: str) -> None:
    work, algorithm = task(model), CAVIA(16)
    film = algorithm.init(work, work.params()).broadcast["film"]
    width = work.params()["out.weight"].shape[1]
    assert film["scale"].shape == film["shift"].shape == (width, 16)
    assert not torch.equal(film["scale"], film["shift"])
    for leaf in film.values():
        assert 0.2 < leaf.abs().max() <= 0.25
        assert leaf.min() < -0.1 < 0.1 < leaf.max()


def test_refuses_a_head_that_is_not_one_linear_layer() -> None:
    class Deep(Layered):
        parts = {"head": ("body", "out")}

    model = Deep().double()
    model.load_state_dict({**body_tensors(BODY), **tensors(THETA)})
    work = Task(model)
    with pytest.raises(ConfigError, match="last linear layer"):
        CAVIA().init(work, work.params())


@pytest.mark.parametrize("given", [{"context": 0}, {"inner_lr": 0.0}, {"inner_steps": -1}])
def test_refuses_wrong_values(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        build("algorithms", "cavia", given)
