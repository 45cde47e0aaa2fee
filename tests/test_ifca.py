"""IFCA: who picks which model, and what the server makes of it, in numpy."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from small_tasks import task
from softmax_by_hand import (
    ALL,
    SEEDS,
    SUPPORTS,
    THETA,
    WEIGHTS,
    Array,
    Data,
    adapted,
    array,
    assert_models,
    both,
    descended,
    episodes,
    local_sgd,
    softmax,
    tensors,
    tiny,
)

from metaleaf import trees
from metaleaf.algorithm import State
from metaleaf.algorithms.ifca import IFCA
from metaleaf.engine.engine import Mode, engine
from metaleaf.optimizers import SGD
from metaleaf.trees import Tree

# Each client's own favourite, and a model that both like less.
APART = [local_sgd(THETA, ALL[1], 1, 0.5, 8, 9), -2 * THETA, local_sgd(THETA, ALL[0], 1, 0.5, 8, 9)]
TOGETHER = [-2 * THETA, THETA, -4 * THETA]


def loss(theta: Array, data: Data) -> float:
    return float(-np.log(softmax(theta, data[0])[1][np.arange(len(data[1])), data[1]]).mean())


def best(models: Sequence[Array], data: Data) -> int:
    return int(np.argmin([loss(model, data) for model in models]))


def one_round(models: Sequence[Array]) -> list[Array]:
    """The weighted mean of the trained models of those who picked it, cluster by cluster."""
    chosen = [best(models, data) for data in ALL]
    following = list(models)
    for k, model in enumerate(models):
        own = [i for i in (0, 1) if chosen[i] == k]
        if own:
            trained = [local_sgd(model, ALL[i], SEEDS[i], 0.5, 2, 2) for i in own]
            following[k] = np.average(trained, axis=0, weights=[WEIGHTS[i] for i in own])
    return following


def stacked(models: Sequence[Array]) -> Tree:
    return trees.stack([tensors(model) for model in models])


@both
@pytest.mark.parametrize(("models", "chosen"), [(APART, [2, 0]), (TOGETHER, [1, 1])], ids=["apart", "together"])
def test_two_rounds_by_hand(models: list[Array], chosen: list[int], mode: Mode) -> None:
    algorithm, work = IFCA(3, SGD(0.5), epochs=2, batch_size=2), tiny()
    state = State(stacked(models))
    runner = engine(work, algorithm, mode)
    for number in (1, 2):
        assert [best(models, data) for data in ALL] == chosen
        replies = runner.gather(state.broadcast, episodes(number), WEIGHTS).update
        assert replies.updates["chosen"].tolist() == chosen
        state, models = algorithm.server(state, replies), one_round(models)
        for found, expected in zip(trees.unstack(state.broadcast), models, strict=True):
            np.testing.assert_allclose(array(found), expected, rtol=1e-11, atol=1e-13)
    untouched = next(k for k in range(3) if k not in chosen)
    before = trees.unstack(stacked(APART if chosen == [2, 0] else TOGETHER))[untouched]
    assert torch.equal(trees.unstack(state.broadcast)[untouched]["out.weight"], before["out.weight"])


def test_models_start_apart_and_the_first_is_the_usual_start() -> None:
    work = task("cnn")
    models = trees.unstack(IFCA(3).init(work, work.params()).broadcast)
    assert torch.equal(models[0]["conv1.weight"], work.params()["conv1.weight"])
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not torch.equal(models[one]["conv1.weight"], models[other]["conv1.weight"])


def test_a_new_client_picks_by_its_support_set() -> None:
    for client in (0, 1):
        model = APART[best(APART, SUPPORTS[client])]
        assert_models(adapted(IFCA(3), stacked(APART), client), [model])
        tuned = IFCA(3, adapt_lr=0.3, adapt_steps=2)
        assert_models(adapted(tuned, stacked(APART), client), descended(model, SUPPORTS[client], 0.3, 2))
    assert best(APART, SUPPORTS[0]) != best(APART, SUPPORTS[1])


def test_all_models_travel_down_and_one_with_its_number_up() -> None:
    algorithm, work = IFCA(4), tiny()
    state = algorithm.init(work, work.params())
    assert trees.nbytes(state.broadcast) == 4 * 9 * 8
    assert trees.nbytes(algorithm.client(work, state.broadcast, episodes()[0])) == 9 * 8 + 8
