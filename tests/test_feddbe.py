"""FedDBE: rounds by hand on a body of two units under a head, the consensus, and what clients use."""

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
    WEIGHTS,
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
    mean,
    softmax,
)

from metaleaf.algorithms.feddbe import FedDBE
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode, engine
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD
from metaleaf.task import Params

CUT = BODY.size
START = np.concatenate([BODY.ravel(), THETA.ravel(), np.zeros(2)])
"""Body, head and vector."""


def parts(point: Array) -> tuple[Array, Array, Array]:
    return point[:CUT].reshape(BODY.shape), point[CUT:-2].reshape(THETA.shape), point[-2:]


def joint_gradient(point: Array, data: Data, strength: float, consensus: Array) -> Array:
    """By body, head and vector: the chain rule written out."""
    body, head, bias = parts(point)
    h, y = hidden(body, data)
    inputs, p = softmax(head, h + bias)
    delta = (p - np.eye(CLASSES)[y]) / len(y)
    back = delta @ head[:, :2]
    by_h = back + strength * 2 / 2 * (h.mean(0) - consensus) / len(y)
    by_body = (by_h * (1 - h**2)).T @ np.column_stack([data[0], np.ones(len(y))])
    return np.concatenate([by_body.ravel(), (delta.T @ inputs).ravel(), back.sum(0)])


def trained(point: Array, data: Data, seed: int, lr: float, epochs: int, strength: float, consensus: Array) -> Array:
    def slope(point: Array, batch: Data) -> Array:
        return joint_gradient(point, batch, strength, consensus)

    return local_sgd(point, data, seed, lr, 2, epochs, slope=slope)


def whole(model: Params) -> Array:
    return np.concatenate([body_array(model).ravel(), array(model).ravel()])


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    """The first has no regulariser; from then on means are pulled to the consensus of the first."""
    algorithm, work = FedDBE(SGD(0.5), epochs=2, batch_size=2, decay=0.9, strength=3.0), layered()
    runner, state = engine(work, algorithm, mode), algorithm.init(work, work.params())
    consensus = mean([hidden(BODY, data)[0].mean(0) for data in ALL])
    point, owns, kept = START[:-2], [np.zeros(2)] * 2, None
    for number in (1, 2, 3):
        clients = handed(algorithm, work, state, episodes(number))
        if kept:
            clients = [one._replace(memory=memory) for one, memory in zip(clients, kept, strict=True)]
        update, kept = runner.gather(state.broadcast, clients, WEIGHTS)
        state = algorithm.server(state, update)
        strength = 3.0 if number > 1 else 0.0
        starts = [np.concatenate([point, own]) for own in owns]
        rate = 0.5 * 0.9 ** (number - 1)
        ends = [trained(starts[i], ALL[i], SEEDS[i], rate, 2, strength, consensus) for i in (0, 1)]
        point, owns = mean([end[:-2] for end in ends]), [end[-2:] for end in ends]
        np.testing.assert_allclose(whole(state.broadcast["params"]), point, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(state.broadcast["mean"].numpy(), consensus, rtol=1e-11)
        for found, expected in zip(kept, owns, strict=True):
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-11, atol=1e-13)
    assert np.abs(owns[0] - owns[1]).max() > 0.01


def test_the_pull_brings_the_clients_means_together() -> None:
    work, distances = layered(), []
    for strength in (0.0, 20.0):
        algorithm = FedDBE(SGD(0.1), epochs=10, strength=strength)
        state = algorithm.init(work, work.params())
        state.broadcast["known"].fill_(1.0)
        ends = [
            algorithm.client(work, state.broadcast, one).update for one in handed(algorithm, work, state, episodes())
        ]
        bodies = [BODY - body_array(end["params"]) for end in ends]
        distances.append(sum(np.linalg.norm(hidden(b, d)[0].mean(0)) for b, d in zip(bodies, ALL, strict=True)))
    assert distances[1] < 0.5 * distances[0]


def test_a_vector_on_the_features_is_a_change_of_the_heads_bias() -> None:
    """What a participant uses predicts as the head does on the shifted features."""
    work, bias, one = layered(), np.array([0.4, -0.9]), episodes()[1]
    algorithm = FedDBE()
    state = algorithm.init(work, work.params())
    memory = torch.tensor(bias)
    plain, own = algorithm.personal(work, state.broadcast, one._replace(memory=memory))
    assert plain is state.broadcast["params"]
    h = hidden(BODY, ALL[1])[0]
    found = work.logits(own, one.data.x).softmax(-1).numpy()
    np.testing.assert_allclose(found, softmax(THETA, h + bias)[1], rtol=1e-11)


def test_a_new_client_trains_the_model_and_a_vector() -> None:
    work, algorithm = layered(), FedDBE(SGD(0.5), batch_size=2, strength=3.0, adapt_epochs=3)
    consensus = np.array([0.3, -0.2])
    broadcast = {"params": work.params(), "mean": torch.tensor(consensus), "known": torch.tensor(1.0).double()}
    for client in (0, 1):
        data, seed, expected = SUPPORTS[client], SEEDS[client], []
        for epochs in range(4):
            body, head, bias = parts(trained(START, data, seed, 0.5, epochs, 3.0, consensus))
            shifted = np.column_stack([head[:, :2], head[:, 2] + head[:, :2] @ bias])
            expected.append(np.concatenate([body.ravel(), shifted.ravel()]))
        assert_models([whole(m) for m in algorithm.adapt(work, broadcast, as_shots(data, seed))], expected)


def test_refuses_wrong_values_and_heads_of_another_kind() -> None:
    with pytest.raises(ConfigError, match="strength"):
        build("algorithms", "feddbe", {"strength": -1.0})
    work = layered()
    renamed: dict[str, Any] = {"head": ("body",)}
    work.model.parts = renamed  # type: ignore[misc]
    with pytest.raises(ConfigError, match="linear layer `out`"):
        FedDBE().init(work, work.params())
