"""Rounds computed without the package: softmax regression's gradient and Hessian in closed form, in plain numpy.

Two clients with the examples below; their model is softmax regression with the parameters THETA, or that on a hidden
layer with the parameters BODY.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from small_tasks import handed, reference_batches
from torch import Tensor, nn

from metaleaf.algorithm import Algorithm, Context, State, step
from metaleaf.engine.engine import Engine, Mode, engine
from metaleaf.models import TensorFlowModel
from metaleaf.models.logistic import Logistic
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree

FEATURES, CLASSES = 2, 3
Array = np.ndarray
Data = tuple[Array, Array]


def softmax(theta: Array, x: Array) -> tuple[Array, Array]:
    """Inputs with a one for the bias, and probabilities, of softmax regression with theta [classes, features + 1]."""
    inputs = np.column_stack([x, np.ones(len(x))])
    z = np.exp(inputs @ theta.T)
    return inputs, z / z.sum(1, keepdims=True)


def gradient(theta: Array, data: Data) -> Array:
    """Of the mean cross-entropy: (p - onehot)^T x / n."""
    x, y = data
    inputs, p = softmax(theta, x)
    found: Array = (p - np.eye(CLASSES)[y]).T @ inputs / len(y)
    return found


def hessian_product(theta: Array, data: Data, v: Array) -> Array:
    """H v, with H[(c, i), (d, j)] = mean of p_c (delta_cd - p_d) x_i x_j."""
    inputs, p = softmax(theta, data[0])
    curvature = p[:, :, None] * (np.eye(CLASSES) - p[:, None, :])
    found: Array = np.einsum("ncd,ni,nj,dj->ci", curvature, inputs, inputs, v) / len(inputs)
    return found


THETA = np.array([[0.3, -0.2, 0.1], [-0.5, 0.4, 0.0], [0.2, 0.6, -0.3]])
SUPPORTS: list[Data] = [
    (np.array([[1.0, 2.0]]), np.array([2])),
    (np.array([[0.5, -1.0], [2.0, 0.3], [-1.2, 0.7]]), np.array([0, 1, 1])),
]
QUERIES: list[Data] = [
    (np.array([[-1.0, 0.5], [0.2, 0.9]]), np.array([0, 1])),
    (np.array([[1.5, 1.0], [-0.4, -0.8]]), np.array([2, 0])),
]
ALL: list[Data] = [(np.vstack([s[0], q[0]]), np.append(s[1], q[1])) for s, q in zip(SUPPORTS, QUERIES, strict=True)]
WEIGHTS = [3 / 8, 5 / 8]  # of 3 and 5 examples
SEEDS = [101, 202]


def tensors(theta: Array) -> Params:
    return {"out.weight": torch.tensor(theta[:, :FEATURES]), "out.bias": torch.tensor(theta[:, FEATURES])}


def array(params: Params) -> Array:
    return np.column_stack([params["out.weight"].numpy(), params["out.bias"].numpy()])


def tiny(clients: int = 1, cohort: int = 1) -> Task:
    model = Logistic(CLASSES, (FEATURES,)).double()
    model.load_state_dict(tensors(THETA))
    return Task(model, clients=clients, cohort=cohort)


class Layered(TensorFlowModel):
    """Softmax regression on tanh of two hidden units: a head on a body."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(FEATURES, 2)
        self.out = nn.Linear(2, CLASSES)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.tanh(self.body(x))


BODY = np.array([[0.7, -0.4, 0.2], [-0.3, 0.9, -0.1]])


def layered() -> Task:
    """The body is BODY, the head THETA."""
    model = Layered().double()
    model.load_state_dict({**body_tensors(BODY), **tensors(THETA)})
    return Task(model)


def body_tensors(body: Array) -> Params:
    return {"body.weight": torch.tensor(body[:, :FEATURES]), "body.bias": torch.tensor(body[:, FEATURES])}


def body_array(params: Params) -> Array:
    return np.column_stack([params["body.weight"].numpy(), params["body.bias"].numpy()])


def hidden(body: Array, data: Data) -> Data:
    """What the head of `Layered` sees of the examples: on them it is softmax regression."""
    return np.tanh(np.column_stack([data[0], np.ones(len(data[0]))]) @ body.T), data[1]


def body_gradient(body: Array, head: Array, data: Data) -> Array:
    """Of the mean cross-entropy, by the body: ((p - onehot) W (1 - h^2))^T x / n."""
    h, y = hidden(body, data)
    slope = (softmax(head, h)[1] - np.eye(CLASSES)[y]) @ head[:, :2] * (1 - h**2)
    found: Array = slope.T @ np.column_stack([data[0], np.ones(len(y))]) / len(y)
    return found


def as_shots(data: Data, seed: int) -> Shots:
    return Shots(torch.tensor(data[0]), torch.tensor(data[1]), torch.tensor(seed))


def episodes(round_number: int = 1) -> list[Episode]:
    when = torch.tensor(round_number - 1.0, dtype=torch.float64)
    parts = enumerate(zip(SUPPORTS, QUERIES, ALL, SEEDS, strict=True))
    return [
        Episode(as_shots(s, seed), as_shots(q, seed), as_shots(a, seed), when, torch.tensor(i))
        for i, (s, q, a, seed) in parts
    ]


def local_sgd(
    theta: Array,
    data: Data,
    seed: int,
    lr: float,
    size: int,
    epochs: int,
    momentum: float = 0.0,
    decay: float = 0.0,
    slope: Callable[[Array, Data], Array] = gradient,
) -> Array:
    """Minibatch SGD in the documented order; by default on the cross-entropy."""
    velocity = np.zeros_like(theta)
    for rows in reference_batches(seed, len(data[1]), size, epochs):
        velocity = momentum * velocity + slope(theta, (data[0][rows], data[1][rows])) + decay * theta
        theta = theta - lr * velocity
    return theta


class NumpyAdam:
    """Adam as its paper's algorithm 1 writes it."""

    def __init__(self, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.m: Any = 0.0
        self.v: Any = 0.0
        self.t = 0

    def step(self, theta: Array, g: Array) -> Array:
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
        m, v = self.m / (1 - self.beta1**self.t), self.v / (1 - self.beta2**self.t)
        after: Array = theta - self.lr * m / (np.sqrt(v) + self.eps)
        return after


def mean(per_client: Sequence[Array]) -> Array:
    return cast(Array, sum(w * found for w, found in zip(WEIGHTS, per_client, strict=True)))


def history(algorithm: Any, mode: Mode, count: int, work: Task | None = None) -> Iterator[tuple[State, Any]]:
    """(the state, what both clients keep) after each of `count` rounds, as a run goes through them."""
    work = work or tiny()
    runner: Engine = engine(work, algorithm, mode)
    state, memories = algorithm.init(work, work.params()), None
    for number in range(1, count + 1):
        clients = handed(algorithm, work, state, episodes(number))
        if memories:
            clients = [one._replace(memory=memory) for one, memory in zip(clients, memories, strict=True)]
        update, memories = runner.gather(state.broadcast, clients, WEIGHTS)
        state = step(algorithm, state, update, context(work, number, WEIGHTS))
        yield state, memories


def context(work: Task, number: int, weights: Sequence[float]) -> Context:
    """Of a round (from 1) in which the first clients take part, with these weights."""
    when, counted = torch.tensor(number - 1.0, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    return Context(work, when, torch.arange(len(weights)), counted, torch.tensor(number))


def rounds(algorithm: Any, mode: Mode, count: int) -> Iterator[State]:
    """The states after each of `count` rounds."""
    return (state for state, _ in history(algorithm, mode, count))


def assert_rounds(algorithm: Algorithm, mode: Mode, expected: Sequence[Array]) -> None:
    for state, theta in zip(rounds(algorithm, mode, len(expected)), expected, strict=True):
        np.testing.assert_allclose(array(state.broadcast), theta, rtol=1e-11, atol=1e-13)


NOISY: list[Data] = [
    (np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([0, 1, 1, 2])),
    (
        np.array([[1.0, 0.5], [1.0, 0.5], [-1.0, 1.0], [-1.0, 1.0], [0.3, -2.0], [0.3, -2.0]]),
        np.array([2, 1, 0, 2, 0, 1]),
    ),
]
"""Every input has two labels, so that both clients' losses and their mean have a finite optimum each."""


def at_rest(algorithm: Any, count: int) -> Tree:
    """What is broadcast after so many rounds with the two clients NOISY, who count by their numbers of examples."""
    work, shares = tiny(clients=2, cohort=2), [0.4, 0.6]
    runner: Engine = engine(work, algorithm, "sequential")
    state, memories = algorithm.init(work, work.params()), None
    for number in range(1, count + 1):
        shots = [as_shots(data, 1) for data in NOISY]
        when = torch.zeros((), dtype=torch.float64)
        clients = [Episode(one, one, one, when, torch.tensor(i)) for i, one in enumerate(shots)]
        clients = handed(algorithm, work, state, clients)
        if memories:
            clients = [one._replace(memory=memory) for one, memory in zip(clients, memories, strict=True)]
        update, memories = runner.gather(state.broadcast, clients, shares)
        state = step(algorithm, state, update, context(work, number, shares))
    return state.broadcast


both = pytest.mark.parametrize("mode", ["sequential", "vectorised"])


def adapted(algorithm: Any, broadcast: Tree, client: int, work: Task | None = None) -> list[Array]:
    """`out` of the models that a new client with that support set may use."""
    models = algorithm.adapt(work or tiny(), broadcast, as_shots(SUPPORTS[client], SEEDS[client]))
    return [array(model) for model in models]


def assert_models(found: Sequence[Array], expected: Sequence[Array]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


def descended(theta: Array, data: Data, rate: Any, steps: int) -> list[Array]:
    """Full-batch gradient descent: the points before, and after every step."""
    points = [theta]
    for _ in range(steps):
        points.append(points[-1] - rate * gradient(points[-1], data))
    return points
