"""pFedHN against a hypernetwork in numpy, whose Jacobians come from finite differences."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import handed, task
from softmax_by_hand import (
    ALL,
    SEEDS,
    SUPPORTS,
    WEIGHTS,
    Array,
    Data,
    adapted,
    assert_models,
    both,
    episodes,
    local_sgd,
    softmax,
    tensors,
    tiny,
)
from torch.testing import assert_close

from metaleaf import hypernetwork, trees
from metaleaf.algorithm import Context, State, respond
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.pfedhn import PFedHN
from metaleaf.engine.cost import ClientFlops
from metaleaf.engine.engine import Mode, engine
from metaleaf.learning import fit
from metaleaf.optimizers import SGD
from metaleaf.shots import Episode
from metaleaf.task import Task
from metaleaf.trees import Tree

pfedhn: Any = PFedHN
"""Whose server asks for its context, which type checkers take for another protocol."""
CLIENTS = [3, 1]
SPEC: dict[str, Any] = {"classes": 3, "x_shape": (2,), "x_dtype": "float32"}
SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 2, "embedding": 2, "hidden": 3, "layers": 2, "code": 2}


def numbers(tree: Tree) -> dict[str, Array]:
    return {name: leaf.numpy().copy() for name, leaf in trees.named_leaves(tree).items()}


def written(network: dict[str, Array], v: Array, layers: int = 3) -> Array:
    """The model [classes, features + 1] for an embedding; `layers` counts the last."""
    for i in range(layers):
        v = network[f"trunk.{i}.weight"] @ v + network[f"trunk.{i}.bias"]
        v = np.maximum(v, 0) if i < layers - 1 else v
    weight, bias = (network[f"{kind}.out.weight"] for kind in ("weight", "bias"))
    return np.column_stack([weight @ v + bias, network["weight.out.bias"] @ v + network["bias.out.bias"]])


def slope(f: Callable[[Array], float], at: Array) -> Array:
    """f's gradient by central differences."""
    found = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[i] = 1e-5
        found[i] = (f(at + step) - f(at - step)) / 2e-5
    return found


def learned_tree(work: Any, algorithm: Any) -> Tree:
    """Larger weights than at the start, so that embeddings matter."""
    learned = algorithm.init(work, work.params()).broadcast
    network = {**learned["network"], "weight": trees.tree_map(lambda w: 8 * w, learned["network"]["weight"])}
    return {**learned, "network": network}


def products(network: dict[str, Array], rows: list[Array], differences: list[Array]) -> tuple[Any, list[Array]]:
    """The weighted mean of the products with the Jacobian by each part of the network; each client's own by its row."""
    by_network = {
        name: slope(
            lambda part, name=name: sum(  # type: ignore[misc]
                w * float((written({**network, name: part}, row) * d).sum())
                for w, row, d in zip(WEIGHTS, rows, differences, strict=True)
            ),
            leaf,
        )
        for name, leaf in network.items()
    }
    by_row = [
        slope(lambda v, d=d: float((written(network, v) * d).sum()), row)  # type: ignore[misc]
        for row, d in zip(rows, differences, strict=True)
    ]
    return by_network, by_row


def addressed(algorithm: Any, work: Task, state: State, number: int = 1) -> list[Episode]:
    cohort = [e._replace(client=torch.tensor(i)) for e, i in zip(episodes(number), CLIENTS, strict=True)]
    return handed(algorithm, work, state, cohort)


def known(work: Task, cohort: list[int]) -> Context:
    nothing = torch.tensor(0.0)
    return Context(work, nothing, torch.tensor(cohort), torch.ones(len(cohort)) / len(cohort), nothing)


@both
@pytest.mark.parametrize("clip", [50.0, 0.1])
def test_two_rounds_by_finite_differences(clip: float, mode: Mode) -> None:
    """Momentum and weight decay are the optimizer's, and reach the rows of clients that were not sampled."""
    work = tiny(clients=5)
    algorithm = pfedhn(SGD(0.5), SGD(0.3, momentum=0.9, weight_decay=0.1), clip=clip, **SMALL)
    state = algorithm.init(work, work.params())._replace(broadcast=learned_tree(work, algorithm))
    runner = engine(work, algorithm, mode)
    network, table = numbers(state.broadcast["network"]), state.broadcast["table"].numpy().copy()
    velocity: dict[str, Any] = dict.fromkeys([*network, "table"], 0.0)
    for number in (1, 2):
        cohort = addressed(algorithm, work, state, number)
        replies = runner.gather(state.broadcast, cohort, WEIGHTS).update
        state = algorithm.server(state, replies, known(work, CLIENTS))
        models = [written(network, table[i]) for i in CLIENTS]
        assert np.abs(models[0] - models[1]).max() > 0.05
        differences = [m - local_sgd(m, d, s, 0.5, 2, 2) for m, d, s in zip(models, ALL, SEEDS, strict=True)]
        by_network, by_row = products(network, [table[i] for i in CLIENTS], differences)
        gradient = {**by_network, "table": np.zeros_like(table)}
        gradient["table"][CLIENTS] = by_row
        length = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        assert (length > clip) == (clip < 1)
        for name, g in gradient.items():
            part = table if name == "table" else network[name]
            velocity[name] = 0.9 * velocity[name] + g * min(1, clip / length) + 0.1 * part
            part -= 0.3 * velocity[name]
        np.testing.assert_allclose(state.broadcast["table"].numpy(), table, rtol=1e-6, atol=1e-9)
        for name, leaf in numbers(state.broadcast["network"]).items():
            np.testing.assert_allclose(leaf, network[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_an_embedding_does_not_depend_on_who_else_was_sampled() -> None:
    """Only the hypernetwork follows the cohort's mean."""
    work, algorithm = tiny(clients=5), pfedhn(server_optimizer=SGD(0.3), **SMALL)
    state = algorithm.init(work, work.params())._replace(broadcast=learned_tree(work, algorithm), kept=())
    cohort, runner = addressed(algorithm, work, state), engine(work, algorithm, "sequential")
    both_rows, alone = (
        algorithm.server(state, runner.gather(state.broadcast, some, weights).update, known(work, clients))
        for some, weights, clients in ((cohort, WEIGHTS, CLIENTS), (cohort[:1], [1.0], CLIENTS[:1]))
    )
    assert_close(both_rows.broadcast["table"][3], alone.broadcast["table"][3])
    assert not torch.equal(both_rows.broadcast["table"][3], state.broadcast["table"][3])
    assert torch.equal(both_rows.broadcast["table"][0], state.broadcast["table"][0])


def test_a_new_client_fits_its_embedding_only() -> None:
    work = tiny(clients=5)
    algorithm = pfedhn(adapt_lr=0.5, adapt_steps=3, **SMALL)
    learned = learned_tree(work, algorithm)
    network = numbers(learned["network"])

    def loss(v: Array, data: Data) -> float:
        p = softmax(written(network, v), data[0])[1]
        return float(-np.log(p[np.arange(len(data[1])), data[1]]).mean())

    for client, data in enumerate(SUPPORTS):
        v, expected = learned["table"].numpy().mean(0), []
        for _ in range(4):
            expected.append(written(network, v))
            v = v - 0.5 * slope(lambda v, data=data: loss(v, data), v)  # type: ignore[misc]
        found = adapted(algorithm, learned, client, work)
        assert len(found) == 4
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
    assert_models(adapted(pfedhn(adapt_steps=0, **SMALL), learned, 0, work), expected[:1])


def test_a_model_travels_down_and_a_difference_up() -> None:
    """And the client does not compute its model: its FLOPs are FedAvg's."""
    algorithm, work = pfedhn(), tiny(clients=5)
    state = algorithm.init(work, work.params())
    (one, _) = addressed(algorithm, work, state)
    assert [trees.nbytes(part) for part in (one.received, respond(algorithm, work, state.broadcast, one))] == [
        9 * 8
    ] * 2
    assert state.broadcast["table"].shape == (5, 2)  # 1 + clients / 4
    ours = ClientFlops(work, algorithm, state.broadcast, SPEC, one.received)
    assert ours(one) == ClientFlops(work, FedAvg(), work.params(), SPEC)(one) > 0


def test_the_difference_is_that_of_the_formula_in_one_place() -> None:
    """As a client that was sent the hypernetwork would compute it, to the bit."""
    work, algorithm = tiny(clients=5), pfedhn(client_optimizer=SGD(0.5), **SMALL)
    state = algorithm.init(work, work.params())._replace(broadcast=learned_tree(work, algorithm))
    for one in addressed(algorithm, work, state):
        model = hypernetwork.write(state.broadcast["network"], state.broadcast["table"][one.client])
        trained = fit(work, model, one.data, SGD(0.5), epochs=2, batch_size=2)
        found = respond(algorithm, work, state.broadcast, one)
        assert_close(found, trees.subtract(model, trained), rtol=0, atol=0)


@pytest.mark.parametrize(("model", "code"), [("logistic", 100), ("cnn", 8)])
def test_large_models_get_a_short_code_and_all_start_near_the_models_own_start(model: str, code: int) -> None:
    work = task(model)
    params = work.params()
    network = pfedhn().init(work, params).broadcast["network"]
    assert {w.shape for w in network["weight"].values()} == {(*p.shape, code) for p in params.values()}
    one, other = trees.unstack(hypernetwork.write(network, torch.randn(2, 3, dtype=torch.float64)))
    name = max(params, key=lambda name: params[name].numel())
    assert trees.length(one[name] - other[name]) > 0.01 * trees.length(params[name])
    for written_model in (one, other):
        assert trees.length(written_model[name] - params[name]) < 0.5 * trees.length(params[name])
    assert {p.dtype for p in one.values()} == {torch.float64}
    given = pfedhn(code=3).init(work, params).broadcast["network"]
    assert given["weight"]["out.bias"].shape[-1] == 3


def test_one_vector_or_many_and_clipping() -> None:
    network = hypernetwork.init(tiny(), tensors(np.ones((3, 3))), 2, hidden=4, layers=1)
    rows = torch.randn(5, 2, dtype=torch.float64)
    together = hypernetwork.write(network, rows)
    assert_close(together, trees.stack([hypernetwork.write(network, v) for v in rows]))
    assert_close(
        hypernetwork.products(together, together),
        torch.stack([trees.dot(one, one) for one in trees.unstack(together)]),
    )
    tree = {"a": torch.tensor([3.0]), "b": torch.tensor(4.0)}
    assert_close(hypernetwork.clip(tree, 2.0), {"a": torch.tensor([1.2]), "b": torch.tensor(1.6)})
    assert_close(hypernetwork.clip(tree, 6.0), tree, rtol=0, atol=0)
    nothing = trees.zeros_like(tree)
    assert_close(hypernetwork.clip(nothing, 6.0), nothing, rtol=0, atol=0)


def test_draws_depend_on_the_seed_only() -> None:
    networks = []
    for seed in (1, 1, 2):
        work = task("logistic")
        work.seed = seed
        networks.append(pfedhn().init(work, work.params()).broadcast)
    assert_close(networks[0], networks[1], rtol=0, atol=0)
    assert not torch.equal(networks[0]["table"], networks[2]["table"])
    assert not torch.equal(
        networks[0]["network"]["weight"]["out.weight"], networks[2]["network"]["weight"]["out.weight"]
    )
