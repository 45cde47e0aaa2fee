"""Examples that count differently in the loss."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from documented import both_ways
from small_tasks import SPECS, shots, task
from torch import Tensor
from torch.testing import assert_close

from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.engine.padding import batch, pad
from metaleaf.gradient import grad, over
from metaleaf.optimizers import SGD
from metaleaf.shots import Shots, minibatches
from metaleaf.task import Task
from metaleaf.trees import Tree, leaves, length, subtract

N = 6
MODELS = ["logistic", "cnn", "lstm"]


def weighed(model: str, weights: Any, seed: int = 0) -> Shots:
    return shots(model, len(weights), seed)._replace(weights=torch.as_tensor(weights, dtype=torch.float64))


def slopes(work: Task, data: Shots) -> Tree:
    """The loss and its gradient."""
    params = work.params()
    return work.loss(params, data), grad(work.loss)(params, data)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rows", [N, N + 3])
def test_weights_that_are_all_alike_change_nothing(model: str, rows: int) -> None:
    work, plain = task(model), pad(shots(model, N, 0), rows)
    for weight in (1.0, 0.3):
        assert_close(slopes(work, plain._replace(weights=torch.full((rows,), weight))), slopes(work, plain))


@pytest.mark.parametrize("model", MODELS)
def test_weight_0_leaves_an_example_out(model: str) -> None:
    work, plain = task(model), shots(model, N, 0)
    some = plain.take(torch.tensor([0, 2, 5]))
    assert_close(slopes(work, weighed(model, [1, 0, 1, 0, 0, 1])), slopes(work, some))


def test_a_whole_number_is_as_many_examples() -> None:
    work, plain = task("logistic"), shots("logistic", N, 0)
    repeated = plain.take(torch.tensor([0, 0, 0, 2, 4, 4]))
    assert_close(slopes(work, weighed("logistic", [3, 0, 1, 0, 2, 0])), slopes(work, repeated))


def test_nothing_that_counts_has_no_loss_and_no_gradient() -> None:
    loss, gradient = slopes(task("logistic"), weighed("logistic", [0.0] * N))
    assert loss == 0
    assert not any(leaf.any() for leaf in leaves(gradient))


def test_the_gradient_by_hand() -> None:
    work, data = task("logistic"), weighed("logistic", [0.5, 2, 0, 1, 1, 3])
    params, weights = work.params(), torch.tensor([0.5, 2, 0, 1, 1, 3]).double() / 7.5
    logits = data.x.double() @ params["out.weight"].T + params["out.bias"]
    off = logits.softmax(1) - torch.nn.functional.one_hot(data.y, SPECS["logistic"]["classes"])
    found = grad(work.loss)(params, data)
    assert_close(found["out.bias"], weights @ off)
    assert_close(found["out.weight"], (weights[:, None] * off).T @ data.x.double())


def test_derivatives_by_the_weights_through_a_step() -> None:
    """Second derivatives, as of methods that learn how much an example counts; one by one and side by side."""
    work, params = task("logistic"), task("logistic").params()
    train, judged = (shots("logistic", n, seed) for n, seed in ((N, 1), (9, 2)))

    def after(weights: Tensor, train: Shots) -> Tensor:
        (batch,) = minibatches(train._replace(weights=weights), len(train.y))
        gradient = grad(work.loss)(params, batch)
        return work.loss({name: p - 0.5 * gradient[name] for name, p in params.items()}, judged)

    weights = torch.tensor([1.0, 2, 3, 1, 0.5, 1]).double()
    found = grad(after)(weights, train)
    for i in range(N):
        step = torch.zeros(N).double()
        step[i] = 1e-5
        slope = (after(weights + step, train) - after(weights - step, train)) / 2e-5
        assert_close(found[i], slope, rtol=1e-6, atol=1e-10)
    padded = pad(train._replace(weights=weights), N + 2)

    def by_weights(weights: Tensor) -> Tree:
        return grad(after)(weights, padded)

    assert_close(over(by_weights)(padded.weights[None])[0, :N], found)


def test_examples_keep_their_weights() -> None:
    data = weighed("logistic", [0, 1, 2, 3, 4])
    rows = torch.tensor([3, 1])
    assert_close(data.take(rows).weights, data.weights[[3, 1]])
    assert_close(data.between(1, 3).at(2).weights, data.weights[1:3])
    assert shots("logistic", 3, 0).take(rows[1:]).between(0, 1).weights == ()
    by_x = {tuple(x.tolist()): w for x, w in zip(data.x, data.weights, strict=True)}
    for one in minibatches(data, 2):
        assert [by_x[tuple(x.tolist())] for x in one.x] == list(one.weights)
    clients = [weighed("logistic", [1, 2, 3]), weighed("logistic", [4])]
    both: Any = batch(clients, torch.device("cpu"))
    assert both.weights.make()[:, :3].tolist() == [[1, 2, 3], [4, 0, 0]]


@dataclass(frozen=True)
class Tilted(FedAvg):
    """FedAvg in which hard examples count more, in minibatches. What padding weighs is not looked at."""

    def client(self, task: Task, params: Any, episode: Any) -> Tree:
        data = episode.data
        weights = task.losses(params, data).exp()
        if data.mask is not None:
            weights = torch.where(data.mask, weights, torch.inf)
        return super().client(task, params, episode._replace(data=data._replace(weights=weights)))


@pytest.mark.parametrize("model", ["logistic", "small_cnn"])
@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, momentum=0.9)])
def test_engines_agree(model: str, optimizer: SGD) -> None:
    found = both_ways(Tilted(client_optimizer=optimizer, epochs=2, batch_size=2), model)
    plain = both_ways(FedAvg(client_optimizer=optimizer, epochs=2, batch_size=2), model)
    assert length(subtract(found.state.broadcast, plain.state.broadcast)) > 1e-4
