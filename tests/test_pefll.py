"""PeFLL against both of its networks in numpy, whose gradients come from finite differences."""

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import episode, task
from softmax_by_hand import (
    ALL,
    CLASSES,
    SEEDS,
    SUPPORTS,
    WEIGHTS,
    Array,
    Data,
    adapted,
    assert_models,
    both,
    descended,
    episodes,
    layered,
    local_sgd,
    tiny,
)
from test_pfedhn import numbers, slope, written
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.algorithms.pefll import PeFLL
from metaleaf.engine.engine import Mode, engine
from metaleaf.optimizers import SGD, Adam
from metaleaf.task import Task
from metaleaf.trees import Tree

SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 2, "embedding": 2, "hidden": 8, "layers": 2, "code": 2}


def embedded(network: dict[str, Array], data: Data) -> Array:
    """The mean over the examples of two layers on (features, one-hot label); the body, if any, is a tanh layer."""
    features, y = data
    if "body.body.weight" in network:
        features = np.tanh(features @ network["body.body.weight"].T + network["body.body.bias"])
    h = np.column_stack([features, np.eye(CLASSES)[y]])
    h = np.maximum(h @ network["perceptron.0.weight"].T + network["perceptron.0.bias"], 0)
    found: Array = (h @ network["perceptron.1.weight"].T + network["perceptron.1.bias"]).mean(0)
    return found


def learned_tree(work: Task, algorithm: PeFLL) -> Tree:
    """Larger weights than at the start, so that embeddings matter."""
    learned = algorithm.init(work, work.params()).broadcast
    network = {**learned["network"], "weight": trees.tree_map(lambda w: 60 * w, learned["network"]["weight"])}
    return {**learned, "network": network}


@both
def test_two_rounds_by_finite_differences(mode: Mode) -> None:
    """The server descends the weighted sum of <h(embedding), difference>, the differences being constants."""
    work, algorithm = tiny(), PeFLL(SGD(0.5), SGD(0.3, momentum=0.9), **SMALL)
    state = algorithm.init(work, work.params())._replace(broadcast=learned_tree(work, algorithm))
    runner = engine(work, algorithm, mode)
    networks = {name: numbers(state.broadcast[name]) for name in ("embedding", "network")}
    velocity: dict[tuple[str, str], Any] = {}
    for number in (1, 2):
        state = algorithm.server(state, runner.gather(state.broadcast, episodes(number), WEIGHTS).update)
        models = [written(networks["network"], embedded(networks["embedding"], data)) for data in ALL]
        assert np.abs(models[0] - models[1]).max() > 0.05
        differences = [m - local_sgd(m, d, s, 0.5, 2, 2) for m, d, s in zip(models, ALL, SEEDS, strict=True)]

        def outer(which: str, name: str, part: Array, differences: list[Array] = differences) -> float:
            given = {**networks, which: {**networks[which], name: part}}
            parts = zip(WEIGHTS, ALL, differences, strict=True)
            return float(
                sum(w * (written(given["network"], embedded(given["embedding"], x)) * d).sum() for w, x, d in parts)
            )

        gradients = {
            (which, name): slope(lambda part, which=which, name=name: outer(which, name, part), leaf)  # type: ignore[misc]
            for which, network in networks.items()
            for name, leaf in network.items()
        }
        for (which, name), g in gradients.items():
            velocity[which, name] = 0.9 * velocity.get((which, name), 0.0) + g
            networks[which][name] -= 0.3 * velocity[which, name]
        for which, network in networks.items():
            for name, leaf in numbers(state.broadcast[which]).items():
                np.testing.assert_allclose(leaf, network[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_the_embedding_networks_body_learns_too() -> None:
    """With a model that has a body: the gradient that a client sends, by finite differences."""
    work, algorithm = layered(), PeFLL(SGD(0.5), **SMALL)
    learned = learned_tree(work, algorithm)
    sent = algorithm.client(work, learned, episodes()[1])
    assert sent["embedding"]["body"].keys() == {"body.weight", "body.bias"}
    embedding = numbers(learned["embedding"])
    np.testing.assert_allclose(sent["v"].numpy(), embedded(embedding, ALL[1]), rtol=1e-12)

    def outer(name: str, part: Array) -> float:
        v, network = torch.tensor(embedded({**embedding, name: part}, ALL[1])), learned["network"]
        for layer in network["trunk"][:-1]:
            v = torch.relu(layer["weight"] @ v + layer["bias"])
        v = network["trunk"][-1]["weight"] @ v + network["trunk"][-1]["bias"]
        models = {name: weight @ v + network["bias"][name] for name, weight in network["weight"].items()}
        return float(sum((models[name] * d).sum() for name, d in sent["difference"].items()))

    for name, leaf in embedding.items():
        found = trees.named_leaves(sent["embedding"])[name].numpy()
        expected = slope(lambda part, name=name: outer(name, part), leaf)  # type: ignore[misc]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_new_client_uses_the_model_written_for_its_support_set() -> None:
    work = tiny()
    learned = learned_tree(work, PeFLL(**SMALL))
    for client, data in enumerate(SUPPORTS):
        model = written(numbers(learned["network"]), embedded(numbers(learned["embedding"]), data))
        assert_models(adapted(PeFLL(**SMALL), learned, client, work), [model])
        tuned = PeFLL(**SMALL, adapt_lr=0.3, adapt_steps=2)
        assert_models(adapted(tuned, learned, client, work), descended(model, data, 0.3, 2))


def test_the_papers_exchange_is_counted() -> None:
    """Embedding network, model and v's gradient down; v, difference and the embedding network's gradient up."""
    algorithm, work = PeFLL(**SMALL), layered()
    learned = algorithm.init(work, work.params()).broadcast
    traffic = algorithm.traffic(learned, algorithm.client(work, learned, episodes()[0]))
    body, perceptron, model, v = 6, (5 * 8 + 8) + (8 * 2 + 2), 6 + 9, 2
    assert [trees.nbytes(part) for part in traffic] == [8 * (body + perceptron + model + v)] * 2


@pytest.mark.parametrize("model", ["logistic", "cnn", "lstm", "face_cnn"])
def test_embeds_whatever_the_model_reads_in_any_order(model: str) -> None:
    work, algorithm = task(model), PeFLL()
    learned, whole = algorithm.init(work, work.params()).broadcast, episode(model, 5, 1, seed=0)
    (one,) = algorithm.adapt(work, learned, whole.support)
    (same,) = algorithm.adapt(work, learned, whole.support.take(torch.tensor([3, 1, 0, 4, 2])))
    assert_close(one, same)
    relabelled = whole.support._replace(y=(whole.support.y + 1) % 2)
    (other,) = algorithm.adapt(work, learned, relabelled)
    assert trees.length(trees.subtract(one, other)) > 1e-6


def test_training_lowers_the_loss_of_new_clients_without_training_theirs() -> None:
    """Two kinds of clients with opposite labels: no single model serves both, an embedding tells them apart."""
    work = tiny(clients=8)
    algorithm = PeFLL(SGD(0.5), Adam(0.01), epochs=3, embedding=4, hidden=16, layers=1)
    rng = torch.Generator().manual_seed(0)

    def client(kind: int) -> Any:
        x = torch.randn(20, 2, generator=rng, dtype=torch.float64)
        y = ((x[:, 0] > 0).long() + kind) % 2
        one = episodes()[0]
        data = one.data._replace(x=x, y=y)
        return one._replace(support=data, query=data, data=data)

    cohort, new = [client(i % 2) for i in range(8)], [client(i % 2) for i in range(6)]
    state = algorithm.init(work, work.params())
    runner = engine(work, algorithm, "vectorised")

    def accuracy() -> float:
        scores = runner.score(state.broadcast, [(one.support, one.query) for one in new], False)
        total = torch.stack([rows[-1] for rows in scores]).sum(0)
        return float(total[1] / total[0])

    assert accuracy() < 0.6
    for _ in range(60):
        state = algorithm.server(state, runner.gather(state.broadcast, cohort, [1 / 8] * 8).update)
    assert accuracy() > 0.9
