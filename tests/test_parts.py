"""FedPer, LG-FedAvg and FedBABU, which share a part of the model: rounds by hand on a body of two units."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import cohort, one_round, task
from softmax_by_hand import (
    ALL,
    BODY,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    array,
    as_shots,
    assert_models,
    body_array,
    body_gradient,
    body_tensors,
    both,
    gradient,
    hidden,
    history,
    layered,
    local_sgd,
    mean,
    tensors,
    tiny,
)

from metaleaf import trees
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.fedbabu import FedBABU
from metaleaf.algorithms.fedper import FedPer
from metaleaf.algorithms.lg_fedavg import LGFedAvg
from metaleaf.algorithms.local import Local
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.learning import shared_and_own
from metaleaf.optimizers import SGD
from metaleaf.task import Params

CUT = BODY.size
FIRST = np.concatenate([BODY.ravel(), THETA.ravel()])
"""Body and head in one vector."""


def body_of(point: Array) -> Array:
    return point[:CUT].reshape(BODY.shape)


def head_of(point: Array) -> Array:
    return point[CUT:].reshape(THETA.shape)


def joined(body: Array, head: Array) -> Array:
    return np.concatenate([body.ravel(), head.ravel()])


def joint_gradient(point: Array, data: Data) -> Array:
    """By the body and by the head, at the same point."""
    body, head = body_of(point), head_of(point)
    return joined(body_gradient(body, head, data), gradient(head, hidden(body, data)))


def trained(point: Array, data: Data, seed: int, lr: float, epochs: int) -> Array:
    return local_sgd(point, data, seed, lr, 2, epochs, slope=joint_gradient)


def whole(model: Params) -> Array:
    return joined(body_array(model), array(model))


def models(algorithm: Any, broadcast: Params, client: int) -> list[Array]:
    return [whole(m) for m in algorithm.adapt(layered(), broadcast, as_shots(SUPPORTS[client], SEEDS[client]))]


Pick = Callable[[Array], Array]


@both
@pytest.mark.parametrize(
    ("cls", "shared", "own"), [(FedPer, body_of, head_of), (LGFedAvg, head_of, body_of)], ids=["fedper", "lg_fedavg"]
)
def test_a_part_is_averaged_and_the_other_stays(cls: type[FedAvg], shared: Pick, own: Pick, mode: Mode) -> None:
    """Three rounds: both parts take the same steps together, from the shared one and the client's own."""
    algorithm = cls(SGD(0.5), epochs=2, batch_size=2, decay=0.6)

    def together(common: Array, mine: Array) -> Array:
        return joined(common, mine) if cls is FedPer else joined(mine, common)

    def sent_array(params: Params) -> Array:
        return body_array(params) if cls is FedPer else array(params)

    def kept_array(params: Params) -> Array:
        return array(params) if cls is FedPer else body_array(params)

    common, mine = shared(FIRST), [own(FIRST)] * 2
    for number, (state, memories) in enumerate(history(algorithm, mode, 3, layered())):
        rate = 0.5 * 0.6**number
        ends = [trained(together(common, mine[i]), ALL[i], SEEDS[i], rate, 2) for i in (0, 1)]
        common, mine = mean([shared(end) for end in ends]), [own(end) for end in ends]
        np.testing.assert_allclose(sent_array(state.broadcast), common, rtol=1e-11, atol=1e-13)
        for found, expected in zip(memories, mine, strict=True):
            np.testing.assert_allclose(kept_array(found), expected, rtol=1e-11, atol=1e-13)


@both
def test_fedbabu_averages_bodies_trained_under_the_first_head(mode: Mode) -> None:
    body = BODY
    algorithm = FedBABU(SGD(0.5), epochs=2, batch_size=2, decay=0.6)

    def slope(body: Array, data: Data) -> Array:
        return body_gradient(body, THETA, data)

    for number, (state, memories) in enumerate(history(algorithm, mode, 3, layered())):
        rate = 0.5 * 0.6**number
        body = mean([local_sgd(body, ALL[i], SEEDS[i], rate, 2, 2, slope=slope) for i in (0, 1)])
        np.testing.assert_allclose(body_array(state.broadcast), body, rtol=1e-11, atol=1e-13)
        assert not memories


@pytest.mark.parametrize(
    "algorithm", [FedPer(SGD(0.5), batch_size=2, adapt_epochs=3), FedBABU(adapt_lr=0.5, batch_size=2, adapt_epochs=3)]
)
def test_a_new_client_trains_body_and_first_head(algorithm: FedAvg) -> None:
    """FedBABU at a rate of its own: that of local training is its default, ten times smaller."""
    start = joined(BODY + 0.3, THETA)
    for client in (0, 1):
        steps = [trained(start, SUPPORTS[client], SEEDS[client], 0.5, epochs) for epochs in range(4)]
        assert_models(models(algorithm, body_tensors(BODY + 0.3), client), steps)


def test_a_new_client_of_lg_fedavg_trains_the_first_body_under_the_received_head() -> None:
    start, algorithm = joined(BODY, THETA - 0.2), LGFedAvg(SGD(0.5), batch_size=2, adapt_epochs=3)
    for client in (0, 1):
        steps = [trained(start, SUPPORTS[client], SEEDS[client], 0.5, epochs) for epochs in range(4)]
        assert_models(models(algorithm, tensors(THETA - 0.2), client), steps)


def test_participants_combine_what_is_shared_with_their_own() -> None:
    body, head = body_tensors(BODY + 0.3), tensors(THETA - 0.2)
    one = cohort("logistic")[0]
    found = [whole(m) for m in FedPer().personal(layered(), body, one._replace(memory=head))]
    assert_models(found, [joined(BODY + 0.3, THETA), joined(BODY + 0.3, THETA - 0.2)])
    found = [whole(m) for m in LGFedAvg().personal(layered(), head, one._replace(memory=body))]
    assert_models(found, [joined(BODY, THETA - 0.2), joined(BODY + 0.3, THETA - 0.2)])


@pytest.mark.parametrize("model", ["cnn", "face_cnn"])
def test_only_the_shared_part_travels(model: str) -> None:
    work = task(model)
    body, head = work.split(work.params(), "head")
    for algorithm, shared, own in ((FedPer(), body, head), (LGFedAvg(), head, body), (FedBABU(), body, {})):
        state = algorithm.init(work, work.params())
        update, memory = one_round(algorithm, work, state, cohort(model)[0])
        assert state.broadcast.keys() == update.keys() == shared.keys()
        assert dict(memory).keys() == own.keys()


@both
def test_without_a_body_fedper_and_fedbabu_are_local_training_and_lg_fedavg_is_fedavg(mode: Mode) -> None:
    support = as_shots(SUPPORTS[1], SEEDS[1])
    alone = [array(m) for m in Local(SGD(0.5), batch_size=2, epochs=3).adapt(tiny(), tensors(THETA), support)]
    for algorithm in (
        FedPer(SGD(0.5), batch_size=2, adapt_epochs=3),
        FedBABU(adapt_lr=0.5, batch_size=2, adapt_epochs=3),
    ):
        for state, _ in history(algorithm, mode, 2):
            assert trees.nbytes(state.broadcast) == 0
        assert_models([array(m) for m in algorithm.adapt(tiny(), {}, support)], alone)
    pairs = zip(history(LGFedAvg(SGD(0.5)), mode, 2), history(FedAvg(SGD(0.5)), mode, 2), strict=True)
    for (one, _), (other, _) in pairs:
        torch.testing.assert_close(one.broadcast, other.broadcast, rtol=0, atol=0)


def test_shared_and_own() -> None:
    update = {"a": torch.tensor(1.0), "b": torch.tensor(2.0), "c": torch.tensor(3.0)}
    shared, own = shared_and_own(update, {"b": torch.tensor(0.5)})
    assert shared == {"a": 1.0, "c": 3.0}
    assert own == {"b": -1.5}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("fedper", {"adapt_epochs": -1}), ("lg_fedavg", {"adapt_epochs": -1}), ("fedbabu", {"adapt_lr": 0})],
)
def test_refuses_wrong_values(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build("algorithms", name, wrong)
