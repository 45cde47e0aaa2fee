"""FedAvg with ways of fine-tuning: by the head, by minibatches, with early stopping; in numpy."""

from typing import Any

import numpy as np
import pytest
from small_tasks import reference_order, shots, task
from softmax_by_hand import (
    BODY,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    adapted,
    array,
    as_shots,
    assert_models,
    body_array,
    both,
    descended,
    gradient,
    hidden,
    layered,
    local_sgd,
    rounds,
    softmax,
    tensors,
    tiny,
)
from torch.testing import assert_close

from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.fedavg_early import FedAvgEarly
from metaleaf.algorithms.fedavg_head import FedAvgHead
from metaleaf.algorithms.fedavg_meta import FedAvgMeta
from metaleaf.algorithms.fedavg_minibatch import FedAvgMinibatch
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode, engine
from metaleaf.engine.padding import pad
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD

RNG = np.random.default_rng(26)
LARGE: Data = (RNG.normal(size=(7, 2)), np.array([0, 1, 2, 1, 1, 0, 2]))
JUDGED: Data = (RNG.normal(size=(40, 2)), RNG.integers(0, 3, 40))


@both
@pytest.mark.parametrize("cls", [FedAvgHead, FedAvgMinibatch, FedAvgEarly])
def test_trains_as_fedavg_to_the_bit(cls: type[FedAvg], mode: Mode) -> None:
    found = rounds(cls(SGD(0.5), epochs=2, batch_size=2), mode, 2)
    for one, other in zip(found, rounds(FedAvg(SGD(0.5), epochs=2, batch_size=2), mode, 2), strict=True):
        assert_close(tuple(one), tuple(other), rtol=0, atol=0)


@pytest.mark.parametrize("cls", [FedAvgHead, FedAvgEarly])
def test_takes_no_more_steps_than_it_is_given(cls: Any) -> None:
    assert_models(adapted(cls(adapt_steps=0), tensors(THETA), 1), [THETA])
    assert len(adapted(cls(adapt_steps=4), tensors(THETA), 1)) == 5


# ----------------------------------------------------------------------------------------------------------- the head


def test_the_head_descends_on_features_that_stay() -> None:
    work, algorithm = layered(), FedAvgHead(adapt_lr=0.4, adapt_steps=3)
    for data, seed in zip(SUPPORTS, SEEDS, strict=True):
        models = list(algorithm.adapt(work, work.params(), as_shots(data, seed)))
        assert_models([array(model) for model in models], descended(THETA, hidden(BODY, data), 0.4, 3))
        for model in models:
            np.testing.assert_array_equal(body_array(model), BODY)


def test_of_a_model_that_is_only_a_head_it_is_fedavg_meta() -> None:
    for client in (0, 1):
        found = adapted(FedAvgHead(adapt_lr=0.4, adapt_steps=3), tensors(THETA), client)
        assert_models(found, adapted(FedAvgMeta(adapt_lr=0.4, adapt_steps=3), tensors(THETA), client))


# -------------------------------------------------------------------------------------------------------- minibatches


def test_minibatches_by_hand() -> None:
    algorithm = FedAvgMinibatch(batch_size=2, adapt_lr=0.4, adapt_epochs=3)
    for client in (0, 1):
        steps = [local_sgd(THETA, SUPPORTS[client], SEEDS[client], 0.4, 2, epochs) for epochs in range(4)]
        assert_models(adapted(algorithm, tensors(THETA), client), steps)


def test_in_one_batch_they_are_fedavg_meta() -> None:
    for client in (0, 1):
        found = adapted(FedAvgMinibatch(batch_size=100, adapt_lr=0.4, adapt_epochs=3), tensors(THETA), client)
        assert_models(found, adapted(FedAvgMeta(adapt_lr=0.4, adapt_steps=3), tensors(THETA), client))


# ----------------------------------------------------------------------------------------------------- early stopping


def loss(theta: Array, data: Data) -> float:
    return float(-np.log(softmax(theta, data[0])[1][np.arange(len(data[1])), data[1]]).mean())


def stopped(data: Data, seed: int, share: float, rate: float, steps: int) -> list[Array]:
    """The model used after each number of steps."""
    n = len(data[1])
    held = 0 if n == 1 else max(1, int(n * share))
    order = reference_order(seed, -1, n)
    aside, rest = order[:held], order[held:]
    path = descended(THETA, (data[0][rest], data[1][rest]), rate, steps)
    if not held:
        return path
    losses = [loss(theta, (data[0][aside], data[1][aside])) for theta in path]
    return [path[int(np.argmin(losses[: k + 1]))] for k in range(steps + 1)]


CASES = [(SUPPORTS[0], SEEDS[0]), (SUPPORTS[1], SEEDS[1]), *((LARGE, seed) for seed in range(6))]


@both
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_early_stopping_by_hand(share: float, mode: Mode) -> None:
    """Supports of 1, 3 and 7 examples, padded when vectorised."""
    algorithm, work, (x, y) = FedAvgEarly(adapt_lr=0.4, adapt_steps=9, held_back=share), tiny(), JUDGED
    placed = [(as_shots(data, seed), as_shots(JUDGED, 0)) for data, seed in CASES]
    found = engine(work, algorithm, mode).score(work.params(), placed, True)
    ends = set()
    for (data, seed), rows in zip(CASES, found, strict=True):
        models = stopped(data, seed, share, 0.4, 9)
        ends.add(next(k for k in range(10) if np.array_equal(models[k], models[-1])))
        for row, theta in zip(rows.tolist(), models, strict=True):
            right = (softmax(theta, x)[1].argmax(1) == y).sum()
            np.testing.assert_allclose(row, [40, right, 40 * loss(theta, JUDGED)], rtol=1e-10)
    assert {0, 9} < ends, "stopped at once, in between and never"


def test_what_is_held_back_is_not_learned_from() -> None:
    """Two examples: the model moves along the gradient of the one that is not judged by."""
    data = (np.array([[1.0, 2.0], [0.9, 1.8]]), np.array([2, 2]))
    for seed in range(4):
        _, after = FedAvgEarly(adapt_lr=0.3, adapt_steps=1).adapt(tiny(), tensors(THETA), as_shots(data, seed))
        row = reference_order(seed, -1, 2)[1]
        expected = THETA - 0.3 * gradient(THETA, (data[0][[row]], data[1][[row]]))
        np.testing.assert_allclose(array(after), expected, rtol=1e-11)


def test_a_step_that_leads_nowhere_is_not_taken() -> None:
    """NaN is never the best: a rate that is far too large leaves the client with the global model."""
    work, support = task("face_cnn"), shots("face_cnn", 6, 1)
    with np.errstate(all="ignore"):
        *_, end = FedAvgEarly(adapt_lr=1e300, adapt_steps=3).adapt(work, work.params(), support)
    assert_close(end, work.params(), rtol=0, atol=0)


@pytest.mark.parametrize("padding", [1, 9])
def test_padding_is_neither_learned_from_nor_judged_by(padding: int) -> None:
    work, alone = task("cnn"), shots("cnn", 5, 2)
    algorithm = FedAvgEarly(adapt_lr=0.1, adapt_steps=4, held_back=0.4)
    for one, other in zip(
        algorithm.adapt(work, work.params(), alone),
        algorithm.adapt(work, work.params(), pad(alone, 5 + padding)),
        strict=True,
    ):
        assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1])
def test_refuses_to_hold_back_nothing_or_all(value: float) -> None:
    with pytest.raises(ConfigError, match="held_back"):
        build("algorithms", "fedavg_early", {"held_back": value})
