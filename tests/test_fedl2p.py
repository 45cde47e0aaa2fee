"""FedL2P: the network's gradient by finite differences in numpy over two rounds, and what its rates do."""

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import shots, task
from softmax_by_hand import (
    BODY,
    QUERIES,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    array,
    as_shots,
    body_array,
    body_gradient,
    both,
    episodes,
    gradient,
    hidden,
    history,
    layered,
    mean,
    softmax,
)
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.fedavg_meta import FedAvgMeta
from metaleaf.algorithms.fedl2p import FedL2P
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.engine.padding import pad
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD
from metaleaf.trees import Tree

RATE = 0.4
Model = tuple[Array, Array]
"""Body and head."""


def statistics(model: Model, data: Data) -> Array:
    h, _ = hidden(model[0], data)
    logits = np.column_stack([h, np.ones(len(h))]) @ model[1].T
    return np.array([h.mean(), h.std(), logits.mean(), logits.std()])


def rates(net: Tree, model: Model, data: Data) -> dict[str, float]:
    first, second = ({name: leaf.numpy() for name, leaf in layer.items()} for layer in net)
    inner = np.maximum(first["weight"] @ statistics(model, data) + first["bias"], 0)
    outputs = second["weight"] @ inner + second["bias"]
    return dict(zip(layered().params(), RATE * np.exp(np.clip(outputs, -np.log(1000), np.log(1000))), strict=True))


def tuned(net: Tree, model: Model, data: Data, steps: int) -> list[Model]:
    body, head = model
    by, points = rates(net, model, data), [model]
    columns = {
        part: np.array([by[f"{part}.weight"]] * 2 + [by[f"{part}.bias"]]) for part in ("body", "out")
    }  # of [units, inputs + 1]
    for _ in range(steps):
        moves = body_gradient(body, head, data), gradient(head, hidden(body, data))
        body, head = body - columns["body"] * moves[0], head - columns["out"] * moves[1]
        points.append((body, head))
    return points


def objective(net: Tree, model: Model, client: int, steps: int) -> float:
    body, head = tuned(net, model, SUPPORTS[client], steps)[-1]
    x, y = hidden(body, QUERIES[client])
    return float(-np.log(softmax(head, x)[1][np.arange(len(y)), y]).mean())


def slopes(net: Tree, model: Model, client: int, steps: int) -> Array:
    """By all numbers of the network in one vector."""
    flat, eps = trees.flatten(net), 1e-5
    units = eps * torch.eye(len(flat), dtype=flat.dtype)
    ends = [[objective(trees.unflatten(flat + s * u, net), model, client, steps) for s in (1, -1)] for u in units]
    return np.array([(up - down) / (2 * eps) for up, down in ends])


def some_net(algorithm: FedL2P) -> Tree:
    """One whose rates differ by client and tensor; some of its hidden units are at rest."""
    fresh = algorithm.init(layered(), layered().params()).broadcast["net"]
    rng = torch.Generator().manual_seed(3)
    drawn = torch.randn(len(trees.flatten(fresh)), generator=rng, dtype=torch.float64)
    return trees.add(fresh, trees.unflatten(0.3 * drawn, fresh))


@both
def test_two_rounds_by_finite_differences(mode: Mode) -> None:
    """The model is FedAvg's to the bit, the network follows its gradient at the model that was received."""
    algorithm = FedL2P(SGD(0.5), batch_size=2, adapt_lr=RATE, adapt_steps=2, hidden=4, net_optimizer=SGD(0.9))
    plain = history(FedAvg(SGD(0.5), batch_size=2), mode, 2, layered())
    net: Tree = algorithm.init(layered(), layered().params()).broadcast["net"]
    model = (BODY, THETA)
    for (state, _), (expected, _) in zip(history(algorithm, mode, 2, layered()), plain, strict=True):
        flat = trees.flatten(net)
        step = mean([slopes(net, model, i, 2) for i in (0, 1)])
        assert np.abs(step).max() > 1e-3
        net = trees.unflatten(flat - 0.9 * torch.tensor(step), net)
        assert_close(state.broadcast["net"], net, rtol=1e-7, atol=1e-9)
        assert_close(state.broadcast["params"], expected.broadcast, rtol=0, atol=0)
        model = body_array(expected.broadcast), array(expected.broadcast)


def test_all_of_a_networks_gradient_by_finite_differences() -> None:
    algorithm = FedL2P(adapt_lr=RATE, adapt_steps=3, hidden=4)
    net, work = some_net(algorithm), layered()
    for i, whole in enumerate(episodes()):
        found = algorithm.client(work, {"params": work.params(), "net": net}, whole)["net"]
        expected = slopes(net, (BODY, THETA), i, 3)
        np.testing.assert_allclose(trees.flatten(found).numpy(), expected, rtol=1e-6, atol=1e-9)
        assert np.count_nonzero(np.abs(expected) > 1e-4) > 10


def test_a_new_client_fine_tunes_with_its_own_rates() -> None:
    algorithm = FedL2P(adapt_lr=RATE, adapt_steps=3, hidden=4)
    net, work = some_net(algorithm), layered()
    for data, seed in zip(SUPPORTS, SEEDS, strict=True):
        models = list(algorithm.adapt(work, {"params": work.params(), "net": net}, as_shots(data, seed)))
        for found, (body, head) in zip(models, tuned(net, (BODY, THETA), data, 3), strict=True):
            np.testing.assert_allclose(body_array(found), body, rtol=1e-11)
            np.testing.assert_allclose(array(found), head, rtol=1e-11)
    by = [rates(net, (BODY, THETA), data) for data in SUPPORTS]
    assert len({round(rate, 6) for one in by for rate in one.values()}) == 8


@pytest.mark.parametrize("model", ["logistic", "cnn"])
def test_starts_as_fedavg_meta(model: str) -> None:
    work, support = task(model), shots(model, 5, 1)
    broadcast = FedL2P().init(work, work.params()).broadcast
    found = FedL2P(adapt_lr=0.2, adapt_steps=3).adapt(work, broadcast, support)
    expected = FedAvgMeta(adapt_lr=0.2, adapt_steps=3).adapt(work, work.params(), support)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_padding_is_not_in_the_statistics() -> None:
    algorithm, work, support = FedL2P(hidden=4, adapt_steps=2), layered(), as_shots(SUPPORTS[1], 1)
    broadcast = {"params": work.params(), "net": some_net(algorithm)}
    pairs = zip(
        algorithm.adapt(work, broadcast, support), algorithm.adapt(work, broadcast, pad(support, 9)), strict=True
    )
    for one, other in pairs:
        assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("given", [{"hidden": 0}, {"adapt_lr": 0.0}, {"adapt_steps": -1}])
def test_refuses_wrong_values(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        build("algorithms", "fedl2p", given)
