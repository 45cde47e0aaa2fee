"""FedEM: rounds by hand, what one component is, and that its steps raise the likelihood of a client's examples."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import handed, shots, task
from softmax_by_hand import (
    ALL,
    CLASSES,
    SEEDS,
    SUPPORTS,
    THETA,
    WEIGHTS,
    Array,
    Data,
    array,
    as_shots,
    both,
    episodes,
    history,
    local_sgd,
    mean,
    softmax,
    tensors,
    tiny,
)

from metaleaf import trees
from metaleaf.algorithm import State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.fedem import FedEM
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode, engine
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD
from metaleaf.trees import Tree

MODELS = [THETA, -2 * THETA, THETA[::-1] * 3]


def stacked(models: Sequence[Array]) -> Tree:
    return trees.stack([tensors(model) for model in models])


def likelihoods(models: Sequence[Array], data: Data) -> Array:
    """Of each example's label by each component, [components, n]."""
    return np.stack([softmax(model, data[0])[1][np.arange(len(data[1])), data[1]] for model in models])


def responsibilities(models: Sequence[Array], shares: Array, data: Data) -> Array:
    joint = shares[:, None] * likelihoods(models, data)
    found: Array = joint / joint.sum(0)
    return found


def weighted(theta: Array, data: Data) -> Array:
    """Gradient of the weighted losses' sum over the number of rows; the weights are the last column of x."""
    x, y = data
    inputs, p = softmax(theta, x[:, :-1])
    found: Array = ((p - np.eye(CLASSES)[y]) * x[:, -1:]).T @ inputs / len(y)
    return found


def trained(theta: Array, data: Data, q: Array, seed: int, lr: float) -> Array:
    return local_sgd(theta, (np.column_stack([data[0], q]), data[1]), seed, lr, 2, 2, slope=weighted)


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    """Every component of every client, its shares, and the server's means."""
    algorithm, work = FedEM(3, SGD(0.5), epochs=2, batch_size=2, decay=0.9), tiny()
    runner, state = engine(work, algorithm, mode), State(stacked(MODELS))
    models, shares, kept = MODELS, [np.full(3, 1 / 3)] * 2, None
    for number in (1, 2, 3):
        clients = handed(algorithm, work, state, episodes(number))
        if kept:
            clients = [one._replace(memory=memory) for one, memory in zip(clients, kept, strict=True)]
        update, kept = runner.gather(state.broadcast, clients, WEIGHTS)
        state = algorithm.server(state, update)
        qs = [responsibilities(models, shares[i], ALL[i]) for i in (0, 1)]
        rate = 0.5 * 0.9 ** (number - 1)
        models = [mean([trained(m, ALL[i], qs[i][k], SEEDS[i], rate) for i in (0, 1)]) for k, m in enumerate(models)]
        shares = [q.mean(1) for q in qs]
        for found, expected in zip(trees.unstack(state.broadcast), models, strict=True):
            np.testing.assert_allclose(array(found), expected, rtol=1e-11, atol=1e-13)
        for found, expected in zip(kept, shares, strict=True):
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-11)
    assert abs(shares[0] - shares[1]).max() > 0.1, "the clients differ"


@both
def test_one_component_is_fedavg(mode: Mode) -> None:
    pairs = zip(
        history(FedEM(1, SGD(0.5, momentum=0.9), epochs=2, batch_size=2), mode, 2),
        history(FedAvg(SGD(0.5, momentum=0.9), epochs=2, batch_size=2), mode, 2),
        strict=True,
    )
    for (one, _), (other, _) in pairs:
        np.testing.assert_allclose(array(trees.unstack(one.broadcast)[0]), array(other.broadcast), rtol=1e-11)


def test_components_start_apart_and_the_first_is_the_usual_start() -> None:
    work = task("cnn")
    models = trees.unstack(FedEM(3).init(work, work.params()).broadcast)
    assert torch.equal(models[0]["conv1.weight"], work.params()["conv1.weight"])
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not torch.equal(models[one]["conv1.weight"], models[other]["conv1.weight"])


def shares_by_hand(data: Data, shares: Array, steps: int) -> list[Array]:
    found = [shares]
    for _ in range(steps):
        shares = responsibilities(MODELS, shares, data).mean(1)
        found.append(shares)
    return found


def test_a_new_client_finds_its_shares_only() -> None:
    algorithm = FedEM(3, adapt_steps=3)
    for client in (0, 1):
        found = list(algorithm.adapt(tiny(), stacked(MODELS), as_shots(SUPPORTS[client], SEEDS[client])))
        expected = shares_by_hand(SUPPORTS[client], np.full(3, 1 / 3), 3)
        np.testing.assert_allclose(np.stack([m["shares"].numpy() for m in found]), expected, rtol=1e-11)
        assert all(torch.equal(m["components"]["out.weight"], stacked(MODELS)["out.weight"]) for m in found)


@pytest.mark.parametrize("own", [0, 1, 2])
def test_a_new_client_finds_the_component_that_made_its_data(own: int) -> None:
    """Labels drawn by one of the components: its share goes to 1, and the mixture predicts as it does."""
    drawn = np.random.default_rng(own)
    x = drawn.normal(size=(300, 2)) * 2
    y = np.array([drawn.choice(CLASSES, p=p) for p in softmax(MODELS[own], x)[1]])
    algorithm, work, data = FedEM(3, adapt_steps=60), tiny(), as_shots((x, y), 1)
    *_, model = algorithm.adapt(work, stacked(MODELS), data)
    assert model["shares"][own] > 0.9
    found = algorithm.predict(work, model, data.x, None).exp().numpy()
    assert np.abs(found - softmax(MODELS[own], x)[1]).mean() < 0.05


def test_participants_go_on_from_the_shares_they_kept() -> None:
    kept = np.array([0.7, 0.2, 0.1])
    one = episodes()[1]._replace(memory=torch.tensor(kept))
    found = [m["shares"].numpy() for m in FedEM(3, adapt_steps=2).personal(tiny(), stacked(MODELS), one)]
    np.testing.assert_allclose(found, [np.full(3, 1 / 3), *shares_by_hand(ALL[1], kept, 2)], rtol=1e-11)


def test_every_step_makes_the_examples_likelier() -> None:
    """What expectation maximisation promises, here of the mixture that `predict` computes."""
    algorithm, work, data = FedEM(3, adapt_steps=4), tiny(), as_shots(ALL[1], 1)
    said = []
    for model in algorithm.adapt(work, stacked(MODELS), data):
        scores = algorithm.predict(work, model, data.x, None)
        np.testing.assert_allclose(scores.exp().sum(1), 1, rtol=1e-12)
        said.append(float(scores[torch.arange(len(data.y)), data.y].sum()))
        expected = np.log(model["shares"].numpy() @ likelihoods(MODELS, ALL[1])).sum()
        assert said[-1] == pytest.approx(expected, rel=1e-11)
    assert all(later > earlier for earlier, later in pairwise(said))


def test_without_examples_shares_stay() -> None:
    work = task("logistic")
    algorithm = FedEM(2, adapt_steps=2)
    empty = shots("logistic", 3, 0).take(torch.arange(0))
    for none in (empty, shots("logistic", 3, 0)._replace(mask=torch.zeros(3, dtype=torch.bool))):
        for model in algorithm.adapt(work, algorithm.init(work, work.params()).broadcast, none):
            assert model["shares"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("wrong", [{"components": 0}, {"adapt_steps": -1}])
def test_refuses_wrong_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build("algorithms", "fedem", wrong)
