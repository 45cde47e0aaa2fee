"""Prototypical networks: two rounds by finite differences in numpy, predictions by hand, classes that are not there."""

import numpy as np
import pytest
import torch
from small_tasks import cohort, one_round, task
from softmax_by_hand import (
    BODY,
    CLASSES,
    QUERIES,
    SUPPORTS,
    Array,
    Data,
    as_shots,
    body_array,
    both,
    episodes,
    hidden,
    history,
    layered,
    mean,
    tiny,
)
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.algorithms.protonet import ProtoNet
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode, engine
from metaleaf.engine.padding import pad
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD

RNG = np.random.default_rng(0)
LARGE: Data = (RNG.normal(size=(9, 2)), np.array([0, 1, 2, 1, 1, 0, 2, 2, 1]))
JUDGED: Data = (RNG.normal(size=(20, 2)), RNG.integers(0, CLASSES, 20))


def nearest(support: Data, x: Array) -> Array:
    """Probabilities [n, classes] of features x, class by class and by distances; 0 of classes that are not there."""
    features, labels = support
    found = np.zeros((len(x), CLASSES))
    for c in set(labels.tolist()):
        found[:, c] = np.exp(-((x - features[labels == c].mean(0)) ** 2).sum(1))
    return np.asarray(found / found.sum(1, keepdims=True))


def smoothed(support: Data, x: Array, smoothing: float) -> Array:
    found: Array = (1 - smoothing) * nearest(support, x) + smoothing / CLASSES
    return found


def objective(body: Array, support: Data, query: Data) -> float:
    """Over the query examples of classes that the support has; 0 without any."""
    x, y = hidden(body, query)
    known = np.isin(y, support[1])
    p = nearest(hidden(body, support), x)[np.arange(len(y)), y]
    return float(-np.log(p[known]).sum() / max(known.sum(), 1))


def slope(body: Array, support: Data, query: Data) -> Array:
    found, eps = np.zeros_like(body), 1e-5
    for place in np.ndindex(*body.shape):
        unit = np.zeros_like(body)
        unit[place] = eps
        ends = [objective(body + sign * unit, support, query) for sign in (1, -1)]
        found[place] = (ends[0] - ends[1]) / (2 * eps)
    return found


@both
def test_two_rounds_by_finite_differences(mode: Mode) -> None:
    """The first client has a single example: it knows one class, and nothing can be learned from it."""
    body, algorithm = BODY, ProtoNet(SGD(0.5))
    for state, _ in history(algorithm, mode, 2, layered()):
        found = [slope(body, s, q) for s, q in zip(SUPPORTS, QUERIES, strict=True)]
        assert not found[0].any()
        assert np.abs(found[1]).max() > 0.01
        body = body - 0.5 * mean(found)
        np.testing.assert_allclose(body_array(state.broadcast), body, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("padding", [0, 3])
def test_a_clients_gradient_by_finite_differences(padding: int) -> None:
    """All classes are known, several examples of each; the gradient passes through the prototypes."""
    whole = episodes()[0]._replace(support=as_shots(LARGE, 1), query=as_shots(JUDGED, 2))
    if padding:
        whole = whole._replace(support=pad(whole.support, 9 + padding), query=pad(whole.query, 20 + padding))
    work = layered()
    found = ProtoNet().client(work, work.split(work.params(), "head")[0], whole)
    np.testing.assert_allclose(body_array(found), slope(BODY, LARGE, JUDGED), rtol=1e-7, atol=1e-9)


@both
def test_scores_by_hand(mode: Mode) -> None:
    """Supports of 1, 3 and 9 examples, padded when vectorised; before adaptation all classes are alike."""
    work, algorithm, y = layered(), ProtoNet(smoothing=0.1), JUDGED[1]
    clients = [*SUPPORTS, LARGE]
    state = algorithm.init(work, work.params())
    placed = [(as_shots(support, 1), as_shots(JUDGED, 2)) for support in clients]
    for rows, support in zip(engine(work, algorithm, mode).score(state.broadcast, placed, True), clients, strict=True):
        before, after = rows.tolist()
        np.testing.assert_allclose(before, [20, (y == 0).sum(), 20 * np.log(CLASSES)], rtol=1e-12)
        p = smoothed(hidden(BODY, support), hidden(BODY, JUDGED)[0], 0.1)
        loss = -np.log(p[np.arange(20), y]).sum()
        np.testing.assert_allclose(after, [20, (p.argmax(1) == y).sum(), loss], rtol=1e-11)


def test_smoothing_does_not_change_the_likeliest_class() -> None:
    work, x = layered(), torch.tensor(JUDGED[0])
    body = work.split(work.params(), "head")[0]
    for smoothing in (1e-6, 0.9):
        algorithm = ProtoNet(smoothing=smoothing)
        _, model = algorithm.adapt(work, body, as_shots(LARGE, 1))
        found = algorithm.predict(work, model, x, None).exp().numpy()
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
        by_distance = nearest(hidden(BODY, LARGE), hidden(BODY, JUDGED)[0])
        np.testing.assert_array_equal(found.argmax(1), by_distance.argmax(1))


@both
def test_logistic_regression_has_nothing_to_learn(mode: Mode) -> None:
    """What is left is the nearest class mean of the inputs."""
    work, algorithm = tiny(), ProtoNet(smoothing=0.1)
    for state, _ in history(algorithm, mode, 2):
        assert trees.nbytes(state.broadcast) == 0
    _, model = algorithm.adapt(work, {}, as_shots(LARGE, 1))
    found = algorithm.predict(work, model, torch.tensor(JUDGED[0]), None).exp()
    np.testing.assert_allclose(found.numpy(), smoothed(LARGE, JUDGED[0], 0.1), rtol=1e-11)


def test_far_away_classes_lose_without_becoming_impossible() -> None:
    """In float32 with features of many units: distances of thousands."""
    work = task("logistic", torch.float32)
    support = as_shots((np.array([[0.0] * 4, [90.0] * 4]), np.array([0, 2])), 1)
    support = support._replace(x=support.x.float())
    _, model = ProtoNet().adapt(work, {}, support)
    found = ProtoNet().predict(work, model, torch.tensor([[1.0] * 4]), None).exp()
    assert_close(found, torch.tensor([[0.99 + 0.01 / 3, 0.01 / 3, 0.01 / 3]]))


@pytest.mark.parametrize("model", ["cnn", "face_cnn", "lstm"])
def test_only_the_body_travels(model: str) -> None:
    work, algorithm = task(model), ProtoNet()
    state = algorithm.init(work, work.params())
    update, _ = one_round(algorithm, work, state, cohort(model)[0])
    assert state.broadcast.keys() == update.keys() == work.split(work.params(), "head")[0].keys()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_refuses_wrong_smoothing(value: float) -> None:
    with pytest.raises(ConfigError, match="smoothing"):
        build("algorithms", "protonet", {"smoothing": value})
