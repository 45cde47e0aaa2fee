"""FedFomo: rounds by hand, what the server keeps and whom it sends what, and what clients use."""

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import handed, reference_order
from softmax_by_hand import (
    ALL,
    SEEDS,
    SUPPORTS,
    THETA,
    WEIGHTS,
    Array,
    Data,
    array,
    as_shots,
    assert_models,
    both,
    episodes,
    gradient,
    local_sgd,
    softmax,
    tensors,
    tiny,
)

from metaleaf import trees
from metaleaf.algorithm import Context, Replies, State
from metaleaf.algorithms import fedfomo
from metaleaf.algorithms.fedfomo import FedFomo
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode, engine
from metaleaf.engine.padding import pad
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD

fomo: Any = FedFomo
"""Whose server asks for its context, which type checkers take for another protocol."""
CLIENTS = [4, 2]


def loss(theta: Array, data: Data) -> float:
    return float(-np.log(softmax(theta, data[0])[1][np.arange(len(data[1])), data[1]]).mean())


def weight(own: Array, other: Array, data: Data) -> float:
    distance = np.linalg.norm(other - own)
    return float((loss(own, data) - loss(other, data)) / distance) if distance else 0.0


def local(theta: Array, data: Data, seed: int, client: int) -> tuple[Array, Data]:
    """(after an epoch in batches of 2 on what is not held out, what is): the first 40 % of the client's order."""
    order = reference_order(client, fedfomo._HELD_OUT, len(data[1]))
    x, y, held = data[0][order], data[1][order], int(0.4 * len(order))
    rows = [row for row in reference_order(seed, 0, len(y)) if row >= held]
    for start in range(0, len(rows), 2):
        batch = rows[start : start + 2]
        theta = theta - 0.5 * gradient(theta, (x[batch], y[batch]))
    return theta, (x[:held], y[:held])


@both
def test_four_rounds_by_hand(mode: Mode) -> None:
    """Each of two clients is sent the other's last model; moves only towards one that is better."""
    algorithm = fomo(SGD(0.5), batch_size=2, received=1, pool=2, explore=0.0, validation=0.4)
    work = tiny(clients=5)
    runner, state = engine(work, algorithm, mode), algorithm.init(work, work.params())
    owns, affinity, kept, moves = [THETA, THETA], np.zeros((5, 5)), None, []
    for number in range(4):
        clients = [one._replace(client=torch.tensor(i)) for one, i in zip(episodes(), CLIENTS, strict=True)]
        clients = handed(algorithm, work, state, clients)
        if kept:
            clients = [one._replace(memory=memory) for one, memory in zip(clients, kept, strict=True)]
        replies, kept = runner.gather(state.broadcast, clients, WEIGHTS)
        known = torch.tensor(float(number)), torch.tensor(CLIENTS), torch.tensor(WEIGHTS), torch.tensor(7)
        state = algorithm.server(state, replies, Context(work, *known))
        ends = []
        for i in (0, 1):
            _, held_out = local(owns[i], ALL[i], SEEDS[i], CLIENTS[i])
            w = weight(owns[i], owns[1 - i], held_out) if number else 0.0
            affinity[CLIENTS[i], CLIENTS[1 - i]] += w
            start = owns[1 - i] if w > 0 else owns[i]
            moves.append(w)
            ends.append(local(start, ALL[i], SEEDS[i], CLIENTS[i])[0])
        owns = ends
        for found, expected in zip(kept, owns, strict=True):
            np.testing.assert_allclose(array(found), expected, rtol=1e-11, atol=1e-13)
        for found, expected in zip(trees.unstack(state.broadcast), owns, strict=True):
            np.testing.assert_allclose(array(found), expected, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(state.kept["affinity"].numpy(), affinity, rtol=1e-10, atol=1e-13)
    assert min(moves) < 0 < max(moves), "both cases occur"


def test_several_models_count_in_proportion() -> None:
    own, others = THETA, [local_sgd(THETA, ALL[1], 1, 0.5, 8, n) for n in (1, 9)] + [-THETA]
    data = as_shots(ALL[1], 1)
    models = trees.stack([tensors(other) for other in others])
    weights = fedfomo._weights(tiny(), tensors(own), models, data)
    expected = np.array([weight(own, other, ALL[1]) for other in others])
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-10)
    assert expected[2] < 0 < expected[0]
    shares = np.maximum(expected, 0) / np.maximum(expected, 0).sum()
    moved = own + sum(s * (other - own) for s, other in zip(shares, others, strict=True))
    np.testing.assert_allclose(array(fedfomo._moved(tensors(own), models, weights)), moved, rtol=1e-10)
    stays = fedfomo._moved(tensors(own), models, -weights.abs())
    assert torch.equal(stays["out.weight"], tensors(own)["out.weight"])
    same = fedfomo._weights(tiny(), tensors(own), trees.stack([tensors(own)]), data)
    assert same.tolist() == [0]


def filled(algorithm: Any, affinity: Array) -> State:
    """A pool of which slot i has the model THETA + i of client i, but slot 3 nobody's."""
    state = algorithm.init(tiny(clients=4), tensors(THETA))
    kept = {**state.kept, "owners": torch.tensor([0, 1, 2, -1]), "affinity": torch.tensor(affinity)}
    return State(trees.stack([tensors(THETA + i) for i in range(4)]), kept)


def test_sends_the_models_of_the_highest_affinity_but_never_the_own() -> None:
    affinity = np.array([[9.0, 1.0, 2.0, 9.0], [3.0, 9.0, 1.0, 9.0], [-2.0, -1.0, 9.0, 9.0], [0.5, 0.1, 0.3, 9.0]])
    algorithm, work = fomo(received=2, pool=4, explore=0.0), tiny(clients=4)
    state = filled(algorithm, affinity)
    for client, expected in enumerate([[2, 1], [0, 2], [1, 0], [0, 2]]):
        sent = algorithm.send(work, state, torch.tensor(client))
        assert sent["owners"].tolist() == expected
        for model, owner in zip(trees.unstack(sent["models"]), expected, strict=True):
            np.testing.assert_array_equal(array(model), THETA + owner)
    sent = fomo(received=4, pool=4, explore=0.0).send(work, state, torch.tensor(0))
    assert sent["owners"].tolist() == [2, 1, -1, -1], "no more than there are"


def test_explores_with_that_probability() -> None:
    affinity = np.zeros((4, 4)) + np.array([0.0, 1.0, 2.0, 3.0])
    algorithm, work = fomo(received=1, pool=4, explore=0.5), tiny(clients=4)
    state, chosen = filled(algorithm, affinity), []
    for number in range(400):
        kept = {**state.kept, "round": torch.tensor(number)}
        sent = algorithm.send(work, State(state.broadcast, kept), torch.tensor(3))
        chosen.append(int(sent["owners"]))
    share = [chosen.count(owner) / 400 for owner in range(3)]
    assert share[2] == pytest.approx(0.5 + 0.5 / 3, abs=0.08)
    assert share[0] == pytest.approx(0.5 / 3, abs=0.06)


def test_new_models_replace_the_oldest_and_their_clients_former_ones() -> None:
    algorithm, work = fomo(received=1, pool=4), tiny(clients=9)
    state = algorithm.init(work, tensors(THETA))

    def after(state: State, cohort: list[int]) -> State:
        models = trees.stack([tensors(np.full_like(THETA, i)) for i in cohort])
        k = len(cohort)
        update = {"model": models, "weights": torch.zeros(k, 1).double(), "owners": torch.full((k, 1), -1)}
        known = torch.tensor(0.0), torch.tensor(cohort), torch.full((k,), 1 / k), torch.tensor(7)
        found: State = algorithm.server(state, Replies(update, known[2]), Context(work, *known))
        return found

    expected = [([1, 2], [1, 2, -1, -1]), ([3, 1], [-1, 2, 3, 1]), ([5, 6], [5, 6, 3, 1]), ([7, 8, 1, 3, 4], None)]
    for cohort, owners in expected:
        state = after(state, cohort)
        if owners:
            assert state.kept["owners"].tolist() == owners
        for owner, model in zip(state.kept["owners"].tolist(), trees.unstack(state.broadcast), strict=True):
            assert owner in (-1, float(model["out.bias"][0]))
    assert sorted(state.kept["owners"].tolist()) == [1, 3, 7, 8], "a larger cohort than the pool is cut"


def test_new_clients_and_participants() -> None:
    algorithm = fomo(SGD(0.5), batch_size=2, adapt_epochs=2, pool=2)
    models = [local_sgd(THETA, ALL[i], 1, 0.5, 8, 9) for i in (0, 1)]
    pool, start = trees.stack([tensors(model) for model in models]), (models[0] + models[1]) / 2
    for client in (0, 1):
        data, seed = SUPPORTS[client], SEEDS[client]
        weights = np.maximum([weight(start, model, data) for model in models], 0)
        assert weights.sum() > 0
        moved = start + sum(w / weights.sum() * (m - start) for w, m in zip(weights, models, strict=True))
        trained = [local_sgd(moved, data, seed, 0.5, 2, epochs) for epochs in range(3)]
        found = [array(m) for m in algorithm.adapt(tiny(), pool, as_shots(data, seed))]
        assert_models(found, [start, *trained])
    one = episodes()[0]._replace(memory=tensors(THETA + 1))
    assert_models([array(m) for m in algorithm.personal(tiny(), pool, one)], [start, THETA + 1])


def test_what_is_held_out_is_so_in_every_round_and_padded() -> None:
    data = as_shots(ALL[1], 1)
    client = torch.tensor(3)
    parts = [fedfomo._parts(given, 0.4, client) for given in (data, data._replace(seed=torch.tensor(99)), pad(data, 9))]
    for training, held_out in parts:
        assert training.mask is not None
        assert held_out.mask is not None
        assert (int(training.mask.sum()), int(held_out.mask.sum())) == (3, 2)
        assert torch.equal(held_out.x[held_out.mask], parts[0][1].x[:2])
        assert torch.equal(training.x[training.mask], parts[0][0].x[2:5])


@pytest.mark.parametrize(
    "wrong", [{"validation": 0.0}, {"validation": 1.0}, {"explore": 1.5}, {"received": 0}, {"pool": 0}]
)
def test_refuses_wrong_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build("algorithms", "fedfomo", wrong)
