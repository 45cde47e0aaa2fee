"""FedRep: two rounds by hand on a body of two units, what travels, and what a new client does."""

import numpy as np
import pytest
import torch
from small_tasks import cohort, one_round, shots, task
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
    as_shots,
    assert_models,
    body_array,
    body_gradient,
    body_tensors,
    both,
    hidden,
    history,
    layered,
    local_sgd,
    mean,
    tensors,
)

from metaleaf import trees
from metaleaf.algorithms.fedrep import FedRep
from metaleaf.algorithms.local import Local
from metaleaf.engine.engine import Mode
from metaleaf.optimizers import SGD


def client_round(body: Array, head: Array, data: Data, seed: int, lr: float) -> tuple[Array, Array]:
    """(body, head) after 3 epochs of the head, then 2 of the body under it, in batches of 2."""
    head = local_sgd(head, hidden(body, data), seed, lr, 2, 3)

    def slope(body: Array, batch: Data) -> Array:
        return body_gradient(body, head, batch)

    return local_sgd(body, data, seed, lr, 2, 2, slope=slope), head


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    algorithm = FedRep(SGD(0.5), epochs=2, head_epochs=3, batch_size=2, decay=0.6)
    body, heads = BODY, [THETA, THETA]
    for number, (state, memories) in enumerate(history(algorithm, mode, 3, layered())):
        rate = 0.5 * 0.6**number
        ends = [client_round(body, heads[i], ALL[i], SEEDS[i], rate) for i in (0, 1)]
        body, heads = mean([end[0] for end in ends]), [end[1] for end in ends]
        np.testing.assert_allclose(body_array(state.broadcast), body, rtol=1e-11, atol=1e-13)
        for found, expected in zip(memories, heads, strict=True):
            np.testing.assert_allclose(array(found), expected, rtol=1e-11, atol=1e-13)


@both
def test_client_momentum_is_the_heads_and_then_the_bodys(mode: Mode) -> None:
    algorithm = FedRep(SGD(0.3, momentum=0.5), epochs=1, head_epochs=2, batch_size=2)
    [(_, memories)] = history(algorithm, mode, 1, layered())
    for found, data, seed in zip(memories, ALL, SEEDS, strict=True):
        expected = local_sgd(THETA, hidden(BODY, data), seed, 0.3, 2, 2, momentum=0.5)
        np.testing.assert_allclose(array(found), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("model", ["cnn", "face_cnn", "lstm"])
def test_only_the_body_travels(model: str) -> None:
    work, algorithm = task(model), FedRep()
    state = algorithm.init(work, work.params())
    update, memory = one_round(algorithm, work, state, cohort(model)[0])
    body, head = work.split(work.params(), "head")
    assert state.broadcast.keys() == update.keys() == body.keys()
    assert memory.keys() == head.keys() == {"out.weight", "out.bias"}


@pytest.mark.parametrize("model", ["cnn", "face_cnn"])
def test_all_clients_models_have_the_body_that_was_sent(model: str) -> None:
    work, algorithm = task(model), FedRep(SGD(0.1), adapt_epochs=2)
    body = {name: p + 0.01 for name, p in algorithm.init(work, work.params()).broadcast.items()}
    ends = [list(algorithm.adapt(work, body, shots(model, 6, seed)))[-1] for seed in (1, 2)]
    for name, p in body.items():
        assert torch.equal(ends[0][name], p)
        assert torch.equal(ends[1][name], p)
    assert not torch.equal(ends[0]["out.weight"], ends[1]["out.weight"])


def test_a_new_client_trains_the_common_head_on_the_body_it_receives() -> None:
    body, algorithm = BODY + 0.3, FedRep(SGD(0.5), batch_size=2, head_epochs=3)
    for client in (0, 1):
        seen = hidden(body, SUPPORTS[client])
        steps = [local_sgd(THETA, seen, SEEDS[client], 0.5, 2, epochs) for epochs in range(4)]
        assert_models(adapted(algorithm, body_tensors(body), client, layered()), steps)
    support = as_shots(SUPPORTS[1], SEEDS[1])
    assert len(list(FedRep(adapt_epochs=7).adapt(layered(), body_tensors(body), support))) == 8


@both
def test_without_a_body_it_is_local_training(mode: Mode) -> None:
    algorithm = FedRep(SGD(0.5), batch_size=2, head_epochs=3)
    for state, _ in history(algorithm, mode, 2):
        assert trees.nbytes(state.broadcast) == 0
    alone = Local(SGD(0.5), batch_size=2, epochs=3)
    assert_models(adapted(algorithm, {}, 1), adapted(alone, tensors(THETA), 1))
