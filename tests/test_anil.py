"""ANIL: its meta-gradient measured and by hand, the body held still, and MAML where there is no body."""

import numpy as np
import pytest
import torch
from finite_differences import direction, query_loss, slope_along, step_along
from small_tasks import cohort, episode, shots, task
from softmax_by_hand import (
    BODY,
    QUERIES,
    SUPPORTS,
    THETA,
    Array,
    adapted,
    array,
    assert_models,
    body_array,
    body_gradient,
    body_tensors,
    both,
    descended,
    gradient,
    hessian_product,
    hidden,
    history,
    layered,
    mean,
    tensors,
)

from metaleaf.algorithms.anil import ANIL
from metaleaf.algorithms.maml import MAML
from metaleaf.engine.engine import Mode
from metaleaf.optimizers import SGD
from metaleaf.task import Params, Task

INNER_LR = {"cnn": 0.3, "face_cnn": 0.1, "lstm": 2.0}


def head_rates(work: Task, params: Params, rate: float) -> Params:
    """Inner rates of a MAML that adapts the head only."""
    head = work.split(params, "head")[1]
    return {name: torch.full_like(p, rate if name in head else 0.0) for name, p in params.items()}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("model", INNER_LR)
def test_meta_gradient_by_finite_differences(model: str, steps: int) -> None:
    work, whole, rate = task(model), episode(model, 4, 6, seed=1), INNER_LR[model]
    params = step_along(work.params(), direction(work.params(), 5), 1.0)
    eps = 1e-4 if model == "lstm" else 1e-6
    found = ANIL(rate, inner_steps=steps).client(work, params, whole)
    first_order = ANIL(rate, inner_steps=steps, first_order=True).client(work, params, whole)
    rates = head_rates(work, params, rate)
    for seed in (1, 2):
        v = direction(params, seed)
        ends = [query_loss(work, step_along(params, v, sign * eps), rates, whole, steps) for sign in (1, -1)]
        measured = (ends[0] - ends[1]) / (2 * eps)
        assert slope_along(v, found) == pytest.approx(measured, rel=1e-5)
        assert slope_along(v, first_order) != pytest.approx(measured, rel=1e-3)


def meta_gradient(client: int, rate: float, eps: float = 1e-6) -> tuple[Array, Array]:
    """By the body (measured, as its closed form has third factors) and by the head, after one inner step."""

    def after(body: Array) -> Array:
        return descended(THETA, hidden(body, SUPPORTS[client]), rate, 1)[-1]

    def loss(body: Array) -> float:
        h, y = hidden(body, QUERIES[client])
        z = np.column_stack([h, np.ones(len(h))]) @ after(body).T
        return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]).mean())

    by_body = np.zeros_like(BODY)
    for place in np.ndindex(BODY.shape):
        step = np.zeros_like(BODY)
        step[place] = eps
        by_body[place] = (loss(BODY + step) - loss(BODY - step)) / (2 * eps)
    g = gradient(after(BODY), hidden(BODY, QUERIES[client]))
    return by_body, g - rate * hessian_product(THETA, hidden(BODY, SUPPORTS[client]), g)


@both
def test_a_round_by_hand(mode: Mode) -> None:
    algorithm = ANIL(0.8, server_optimizer=SGD(0.5))
    [(state, _)] = history(algorithm, mode, 1, layered())
    by_body, by_head = zip(*(meta_gradient(i, 0.8) for i in (0, 1)), strict=True)
    np.testing.assert_allclose(array(state.broadcast), THETA - 0.5 * mean(by_head), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(body_array(state.broadcast), BODY - 0.5 * mean(by_body), rtol=1e-8, atol=1e-9)


@both
def test_first_order_rounds_by_hand(mode: Mode) -> None:
    """Both parts' query gradients at the adapted head, over two rounds."""
    body, head = BODY, THETA
    algorithm = ANIL(0.8, inner_steps=2, first_order=True, server_optimizer=SGD(0.5))
    for state, _ in history(algorithm, mode, 2, layered()):
        ends = [descended(head, hidden(body, data), 0.8, 2)[-1] for data in SUPPORTS]
        by_head = mean([gradient(end, hidden(body, data)) for end, data in zip(ends, QUERIES, strict=True)])
        by_body = mean([body_gradient(body, end, data) for end, data in zip(ends, QUERIES, strict=True)])
        body, head = body - 0.5 * by_body, head - 0.5 * by_head
        np.testing.assert_allclose(array(state.broadcast), head, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(body_array(state.broadcast), body, rtol=1e-11, atol=1e-13)


def test_a_new_client_adapts_the_head_by_hand() -> None:
    sent = {**body_tensors(BODY), **tensors(THETA)}
    for client in (0, 1):
        expected = descended(THETA, hidden(BODY, SUPPORTS[client]), 0.8, 3)
        assert_models(adapted(ANIL(0.8, adapt_steps=3), sent, client, layered()), expected)


@pytest.mark.parametrize("model", ["cnn", "face_cnn", "lstm"])
def test_adapting_leaves_the_body_as_it_is(model: str) -> None:
    work = task(model)
    params = work.params()
    body, head = work.split(params, "head")
    *_, end = ANIL(0.5, adapt_steps=3).adapt(work, params, shots(model, 6, seed=1))
    assert all(torch.equal(end[name], p) for name, p in body.items())
    assert not any(torch.equal(end[name], p) for name, p in head.items())
    update = ANIL(0.5).client(work, params, cohort(model)[0])
    assert all(float(update[name].abs().max()) > 0 for name in body), "but the server learns it"


@both
def test_without_a_body_it_is_maml(mode: Mode) -> None:
    found = [[s for s, _ in history(cls(0.8, inner_steps=2), mode, 3)] for cls in (ANIL, MAML)]
    torch.testing.assert_close(found[0][-1].broadcast, found[1][-1].broadcast, rtol=1e-13, atol=1e-15)
