"""kNN-Per: the mixture of model and neighbours in numpy, on the features of a model with a hidden layer."""

import numpy as np
import pytest
import torch
from softmax_by_hand import (
    BODY,
    CLASSES,
    QUERIES,
    SUPPORTS,
    THETA,
    Array,
    Data,
    as_shots,
    both,
    hidden,
    layered,
    rounds,
    softmax,
)
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.knn_per import KNNPer
from metaleaf.engine.engine import Mode, engine
from metaleaf.optimizers import SGD

# More support than in the other tests, so that k can be smaller than it.
RNG = np.random.default_rng(0)
MEMORY: Data = (RNG.normal(size=(6, 2)), np.array([0, 1, 2, 1, 1, 0]))


def mixture(support: Data, x: Array, k: int, share: float, scale: float) -> Array:
    """Probabilities, example by example."""
    known, labels = hidden(BODY, support)
    inputs, _ = hidden(BODY, (x, np.zeros(len(x))))
    found = np.zeros((len(x), CLASSES))
    for row, h in enumerate(inputs):
        squares = ((known - h) ** 2).sum(1)
        for j in np.argsort(squares)[:k]:
            found[row, labels[j]] += np.exp(-squares[j] / (2 * scale))  # two features
    found /= found.sum(1, keepdims=True)
    mixed: Array = share * found + (1 - share) * softmax(THETA, inputs)[1]
    return mixed


@both
@pytest.mark.parametrize("k", [1, 2, 10])
def test_scores_by_hand(k: int, mode: Mode) -> None:
    """Supports of 1, 3 and 6 examples, padded when vectorised; before adaptation the model alone."""
    algorithm, work = KNNPer(k=k, share=0.7, scale=0.3), layered()
    clients = [*zip(SUPPORTS, QUERIES, strict=True), (MEMORY, QUERIES[0])]
    placed = [(as_shots(s, 1), as_shots(q, 2)) for s, q in clients]
    found = engine(work, algorithm, mode).score(work.params(), placed, True)
    for rows, (support, (x, y)) in zip(found, clients, strict=True):
        for row, share in zip(rows.tolist(), (0.0, 0.7), strict=True):
            p = mixture(support, x, k, share, 0.3)
            loss = -np.log(p[np.arange(len(y)), y]).sum()
            np.testing.assert_allclose(row, [len(y), (p.argmax(1) == y).sum(), loss], rtol=1e-10)


def test_probabilities_by_hand_and_neighbours_matter() -> None:
    work, x = layered(), RNG.normal(size=(20, 2))
    for k in (1, 3):
        _, model = KNNPer(k=k, share=0.7, scale=0.3).adapt(work, work.params(), as_shots(MEMORY, 1))
        found = KNNPer(k=k, share=0.7, scale=0.3).predict(work, model, torch.tensor(x), None).exp().numpy()
        np.testing.assert_allclose(found, mixture(MEMORY, x, k, 0.7, 0.3), rtol=1e-10)
    assert np.abs(mixture(MEMORY, x, 1, 0.7, 0.3) - mixture(MEMORY, x, 3, 0.7, 0.3)).max() > 0.1


def test_far_neighbours_still_vote_and_padding_never_does() -> None:
    """exp(-d^2) of all neighbours underflows; padded rows are at no distance at all from the first example."""
    work = layered()
    algorithm = KNNPer(k=5, share=0.9, scale=1e-9)
    support = as_shots((np.array([[3.0, 3.0], [0.0, 0.0], [0.0, 0.0]]), np.array([2, 0, 0])), 1)
    support = support._replace(mask=torch.tensor([True, False, False]))
    _, model = algorithm.adapt(work, work.params(), support)
    found = algorithm.predict(work, model, torch.zeros(1, 2, dtype=torch.float64), None).exp()
    own = work.logits(work.params(), torch.zeros(1, 2, dtype=torch.float64)).softmax(-1)
    assert_close(found, 0.1 * own + 0.9 * torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64))
    nobody = support._replace(mask=torch.zeros(3, dtype=torch.bool))
    _, model = algorithm.adapt(work, work.params(), nobody)
    found = algorithm.predict(work, model, torch.zeros(1, 2, dtype=torch.float64), None)
    assert_close(found.softmax(-1), own)


@both
def test_trains_as_fedavg(mode: Mode) -> None:
    found = rounds(KNNPer(SGD(0.5), epochs=2, batch_size=2), mode, 2)
    expected = rounds(FedAvg(SGD(0.5), epochs=2, batch_size=2), mode, 2)
    for one, other in zip(found, expected, strict=True):
        assert_close(tuple(one), tuple(other), rtol=0, atol=0)
        assert trees.nbytes(one.broadcast) == 9 * 8
