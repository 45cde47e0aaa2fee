"""FedALA: rounds by hand on a body of two units under a head, what its weights may be, and what participants use."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import reference_batches, reference_order, shots
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
    episodes,
    gradient,
    hidden,
    history,
    layered,
    local_sgd,
    mean,
    tensors,
    tiny,
)

from metaleaf.algorithms import fedala
from metaleaf.algorithms.fedala import FedALA
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.engine.padding import pad
from metaleaf.errors import ConfigError
from metaleaf.learning import some
from metaleaf.optimizers import SGD

CUT = BODY.size


def joint_gradient(point: Array, data: Data) -> Array:
    body, head = point[:CUT].reshape(BODY.shape), point[CUT:].reshape(THETA.shape)
    parts = body_gradient(body, head, data), gradient(head, hidden(body, data))
    return np.concatenate([part.ravel() for part in parts])


def part_of(data: Data, seed: int, share: float) -> Data:
    rows = reference_order(seed, fedala._PART, len(data[1]))[: math.ceil(share * len(data[1]))]
    return data[0][rows], data[1][rows]


def learned(weights: Array, own: Array, head: Array, seen: Data, seed: int, rate: float, epochs: int) -> Array:
    """Weights of the head's numbers, by the chain rule; `seen` are the head's inputs."""
    for rows in reference_batches(seed, len(seen[1]), 2, epochs):
        slope = gradient(own + (head - own) * weights, (seen[0][rows], seen[1][rows])) * (head - own)
        weights = np.clip(weights - rate * slope, 0, 1)
    return weights


@both
def test_four_rounds_by_hand(mode: Mode) -> None:
    """The body is always the global one; the head is mixed by weights learned under the global body."""
    algorithm = FedALA(SGD(0.5), epochs=2, batch_size=2, decay=0.9, weight_lr=2.0, weight_epochs=2, part=0.6)
    body, head, owns, weights = BODY, THETA, [THETA] * 2, [np.ones_like(THETA)] * 2
    for number, (state, memories) in enumerate(history(algorithm, mode, 4, layered())):
        ends = []
        for i in (0, 1):
            seen = hidden(body, part_of(ALL[i], SEEDS[i], 0.6))
            weights[i] = learned(weights[i], owns[i], head, seen, SEEDS[i], 2.0, 2)
            start = np.concatenate([body.ravel(), (owns[i] + (head - owns[i]) * weights[i]).ravel()])
            ends.append(local_sgd(start, ALL[i], SEEDS[i], 0.5 * 0.9**number, 2, 2, slope=joint_gradient))
        owns = [end[CUT:].reshape(THETA.shape) for end in ends]
        body, head = mean([end[:CUT] for end in ends]).reshape(BODY.shape), mean(owns)
        np.testing.assert_allclose(body_array(state.broadcast), body, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(array(state.broadcast), head, rtol=1e-11, atol=1e-13)
        for memory, own, expected in zip(memories, owns, weights, strict=True):
            np.testing.assert_allclose(array(memory["own"]), own, rtol=1e-11, atol=1e-13)
            np.testing.assert_allclose(array(memory["weights"]), expected, rtol=1e-11, atol=1e-13)
    assert min(w.min() for w in weights) < 0.9, "the weights have learned something"


@both
def test_the_first_round_is_fedavg(mode: Mode) -> None:
    """Nobody has a model of its own yet."""
    [(state, memories)] = history(FedALA(SGD(0.5), epochs=2, batch_size=2), mode, 1)
    [(plain, _)] = history(FedAvg(SGD(0.5), epochs=2, batch_size=2), mode, 1)
    torch.testing.assert_close(state.broadcast, plain.broadcast, rtol=1e-13, atol=1e-15)
    assert all(torch.equal(m["weights"]["out.bias"], torch.ones(3, dtype=torch.float64)) for m in memories)


def test_all_layers_may_be_mixed() -> None:
    work, one = layered(), episodes()[1]
    params = work.params()
    for layers, names in (("head", {"out.weight", "out.bias"}), ("all", params.keys())):
        assert FedALA(layers=layers).memory(work, params)["weights"].keys() == names  # type: ignore[arg-type]
    own = {name: p + 0.5 for name, p in params.items()}
    memory = {"own": own, "weights": {name: torch.zeros_like(p) for name, p in params.items()}}
    algorithm = FedALA(layers="all", weight_lr=1e-12)
    *_, found = algorithm.personal(work, params, one._replace(memory=memory))
    torch.testing.assert_close(found, own, rtol=1e-9, atol=1e-9)


def test_participants_mix_after_training_the_weights_once_more() -> None:
    own, start, one = THETA + 0.7, np.full_like(THETA, 0.5), episodes()[1]
    memory = {"own": tensors(own), "weights": tensors(start)}
    algorithm = FedALA(batch_size=2, weight_lr=2.0, part=0.6)
    found = [array(m) for m in algorithm.personal(tiny(), tensors(THETA), one._replace(memory=memory))]
    weights = learned(start, own, THETA, part_of(ALL[1], SEEDS[1], 0.6), SEEDS[1], 2.0, 1)
    assert_models(found, [THETA, own + (THETA - own) * weights])
    assert np.abs(weights - start).max() > 0.1


def test_the_weights_lower_the_mixtures_loss() -> None:
    """Below that of both models: of each, some numbers fit the client better."""
    work, one = tiny(), episodes()[1]
    own, shared = (local_sgd(THETA, data, 1, 0.5, 8, 20) for data in ALL)
    memory = {"own": tensors(own), "weights": tensors(np.full_like(THETA, 0.5))}
    algorithm = FedALA(weight_lr=5.0, weight_epochs=100, part=1.0, batch_size=8)
    *_, found = algorithm.personal(work, tensors(shared), one._replace(memory=memory))
    losses = [float(work.loss(m, one.data, training=False)) for m in (found, tensors(own), tensors(shared))]
    assert losses[0] < min(losses[1:]) - 0.005


def test_a_new_client_trains_the_global_model() -> None:
    algorithm = FedALA(SGD(0.5), batch_size=2, adapt_epochs=3)
    for client in (0, 1):
        steps = [local_sgd(THETA, SUPPORTS[client], SEEDS[client], 0.5, 2, epochs) for epochs in range(4)]
        assert_models(adapted(algorithm, tensors(THETA), client), steps)


@pytest.mark.parametrize(("n", "share", "count"), [(5, 0.6, 3), (5, 1.0, 5), (1, 0.1, 1), (10, 0.25, 3)])
def test_some_examples(n: int, share: float, count: int) -> None:
    """As many padded as not, and the same ones."""
    data = shots("logistic", n, 1)
    for given in (data, pad(data, n + 4)):
        found = some(given, share, 3)
        assert found.mask is not None
        assert int(found.mask.sum()) == count
        order = torch.tensor(reference_order(int(data.seed), 3, n)[:count])
        assert torch.equal(found.x[:count], data.x[order])
        assert found.mask[:count].all()


@pytest.mark.parametrize("wrong", [{"part": 0.0}, {"part": 1.5}, {"weight_lr": 0}, {"layers": "body"}])
def test_refuses_wrong_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build("algorithms", "fedala", wrong)
