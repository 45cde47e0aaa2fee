"""FedProto: rounds by hand on a body of two units under a head, the prototypes, and predictions by them."""

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import handed
from softmax_by_hand import (
    ALL,
    BODY,
    CLASSES,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    array,
    as_shots,
    assert_models,
    body_array,
    both,
    episodes,
    hidden,
    layered,
    local_sgd,
    softmax,
)

from metaleaf.algorithms.fedproto import FedProto
from metaleaf.algorithms.local import Local
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode, engine
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD
from metaleaf.task import Params
from metaleaf.trees import Tree

CUT = BODY.size
START = np.concatenate([BODY.ravel(), THETA.ravel()])


def parts(point: Array) -> tuple[Array, Array]:
    return point[:CUT].reshape(BODY.shape), point[CUT:].reshape(THETA.shape)


def whole(model: Params) -> Array:
    return np.concatenate([body_array(model).ravel(), array(model).ravel()])


def joint_gradient(point: Array, data: Data, strength: float, prototypes: Array, known: Array) -> Array:
    body, head = parts(point)
    h, y = hidden(body, data)
    inputs, p = softmax(head, h)
    delta = (p - np.eye(CLASSES)[y]) / len(y)
    by_h = delta @ head[:, :2] + strength * known[y][:, None] * 2 / 2 * (h - prototypes[y]) / len(y)
    by_body = (by_h * (1 - h**2)).T @ np.column_stack([data[0], np.ones(len(y))])
    return np.concatenate([by_body.ravel(), (delta.T @ inputs).ravel()])


def trained(point: Array, data: Data, seed: int, lr: float, epochs: int, *rest: Any) -> Array:
    def slope(point: Array, batch: Data) -> Array:
        return joint_gradient(point, batch, *rest)

    return local_sgd(point, data, seed, lr, 2, epochs, slope=slope)


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    """Models stay apart; prototypes are the means of all examples' features, each by its client's model."""
    algorithm, work = FedProto(SGD(0.5), epochs=2, batch_size=2, decay=0.9, strength=3.0), layered()
    runner, state = engine(work, algorithm, mode), algorithm.init(work, work.params())
    prototypes, known, owns, kept = np.zeros((CLASSES, 2)), np.zeros(CLASSES), [START] * 2, None
    for number in (1, 2, 3):
        clients = handed(algorithm, work, state, episodes(number))
        if kept:
            clients = [one._replace(memory=memory) for one, memory in zip(clients, kept, strict=True)]
        update, kept = runner.gather(state.broadcast, clients, [0.5, 0.5])
        state = algorithm.server(state, update)
        rate = 0.5 * 0.9 ** (number - 1)
        owns = [trained(owns[i], ALL[i], SEEDS[i], rate, 2, 3.0, prototypes, known) for i in (0, 1)]
        features = np.vstack([hidden(parts(own)[0], data)[0] for own, data in zip(owns, ALL, strict=True)])
        labels = np.concatenate([data[1] for data in ALL])
        prototypes, known = np.stack([features[labels == c].mean(0) for c in range(CLASSES)]), np.ones(CLASSES)
        np.testing.assert_allclose(state.broadcast["prototypes"].numpy(), prototypes, rtol=1e-11, atol=1e-13)
        assert state.broadcast["known"].tolist() == known.tolist()
        for found, expected in zip(kept, owns, strict=True):
            np.testing.assert_allclose(whole(found), expected, rtol=1e-11, atol=1e-13)


def shared(known: list[float]) -> Tree:
    prototypes = torch.tensor([[0.5, 0.5], [-0.5, 0.2], [0.1, -0.8]], dtype=torch.float64)
    return {"prototypes": prototypes, "known": torch.tensor(known, dtype=torch.float64)}


def test_a_class_that_nobody_has_keeps_its_prototype() -> None:
    algorithm, work = FedProto(), layered()
    state = algorithm.init(work, work.params())._replace(broadcast=shared([1, 0, 0]))
    one = episodes()[1]
    rows = torch.tensor([1, 2])  # both of class 1
    [one] = handed(algorithm, work, state, [one._replace(data=one.data.take(rows))])
    found = algorithm.server(state, algorithm.client(work, state.broadcast, one).update).broadcast
    assert found["known"].tolist() == [1, 1, 0]
    assert torch.equal(found["prototypes"][0], shared([1, 0, 0])["prototypes"][0])
    assert not torch.equal(found["prototypes"][1], shared([1, 0, 0])["prototypes"][1])


def test_the_nearest_known_prototype_is_predicted() -> None:
    algorithm, work, x = FedProto(), layered(), torch.tensor(ALL[1][0])
    h = hidden(BODY, ALL[1])[0]
    squares = ((h[:, None] - shared([1, 1, 1])["prototypes"].numpy()) ** 2).sum(-1)
    scores = algorithm.predict(work, {"params": work.params(), **shared([1, 1, 1])}, x, None)
    np.testing.assert_allclose(scores.numpy(), -squares, rtol=1e-11)
    nearest = squares.argmin(1)
    assert len(set(nearest)) > 1
    gone = int(nearest[0])
    scores = algorithm.predict(work, {"params": work.params(), **shared([float(c != gone) for c in range(3)])}, x, None)
    squares[:, gone] = np.inf
    assert scores.argmax(1).tolist() == squares.argmin(1).tolist()


def test_a_new_client_trains_the_first_model_under_the_prototypes() -> None:
    work, algorithm = layered(), FedProto(SGD(0.5), batch_size=2, strength=3.0, adapt_epochs=3)
    given, known = shared([1, 0, 1]), np.array([1.0, 0.0, 1.0])
    for client in (0, 1):
        data, seed = SUPPORTS[client], SEEDS[client]
        rest = (3.0, given["prototypes"].numpy(), known)
        expected = [trained(START, data, seed, 0.5, epochs, *rest) for epochs in range(4)]
        assert_models([whole(m["params"]) for m in algorithm.adapt(work, given, as_shots(data, seed))], expected)


def test_without_strength_it_is_local_training() -> None:
    support = as_shots(SUPPORTS[1], SEEDS[1])
    proto = FedProto(SGD(0.5), batch_size=2, strength=0.0, adapt_epochs=3).adapt(layered(), shared([1, 1, 1]), support)
    alone = Local(SGD(0.5), batch_size=2, epochs=3).adapt(layered(), layered().params(), support)
    assert_models([whole(m["params"]) for m in proto], [whole(m) for m in alone])


def test_participants_use_the_model_they_kept() -> None:
    own = {name: p + 1 for name, p in layered().params().items()}
    found = FedProto().personal(layered(), shared([1, 1, 1]), episodes()[0]._replace(memory=own))
    assert_models([whole(m["params"]) for m in found], [START, START + 1])


@pytest.mark.parametrize("wrong", [{"strength": -1.0}, {"adapt_epochs": -1}])
def test_refuses_wrong_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build("algorithms", "fedproto", wrong)
