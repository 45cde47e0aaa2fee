"""A new environment's first meeting, rounds and adaptation, against softmax regression in plain numpy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from small_environments import SHARES, padded, shares
from softmax_by_hand import (
    ALL,
    QUERIES,
    SUPPORTS,
    THETA,
    Array,
    Data,
    array,
    descended,
    gradient,
    softmax,
    tensors,
    tiny,
)

from metaleaf import trees
from metaleaf.algorithm import Replies
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.environments.newcomers import Newcomer, Session, advance, enter, scores
from metaleaf.errors import ConfigError
from metaleaf.gradient import over
from metaleaf.rounds import averaged, differences, loss, train
from metaleaf.shots import Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree

RATE, STEPS = 0.7, 3
LATER = [QUERIES[1], SUPPORTS[1], ALL[0]]
LATER_SHARES = [0.2, 0.5, 0.3]


def work() -> Task:
    task = tiny()
    task.local_lr, task.local_steps = RATE, STEPS
    return task


def trained(theta: Array, data: Data) -> Array:
    return descended(theta, data, RATE, STEPS)[-1]


def mean_change(theta: Array, clients: list[Data], weights: list[float], at: Array | None = None) -> Array:
    found: Array = sum(
        (w * (trained(theta, d) - theta) for w, d in zip(weights, clients, strict=True)), start=np.zeros_like(theta)
    )
    return found


def same(params: Params, theta: Array) -> None:
    np.testing.assert_allclose(array(params), theta, rtol=1e-11, atol=1e-13)


def entered(newcomer: Newcomer, size: int = 2, junk: float = 0.0) -> Session:
    return enter(newcomer, padded(ALL, size, 5, junk), shares(SHARES, size))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("junk", [0.0, 3.0])
def test_the_first_meeting_and_rounds_by_hand(size: int, junk: float) -> None:
    """Padding to more clients or rows, whatever it holds, changes nothing."""
    newcomer = Newcomer(work(), FedAvg(), tensors(THETA))
    session = entered(newcomer, size, junk)
    start = THETA + mean_change(THETA, ALL, SHARES)
    same(session["params"], start)
    later = padded(LATER, 3 + size, 6, junk), shares(LATER_SHARES, 3 + size)
    session = advance(newcomer, session, *later)
    after = start + mean_change(start, LATER, LATER_SHARES)
    same(session["params"], after)
    session = advance(newcomer, session, padded(ALL, size, 5, junk), shares(SHARES, size))
    same(session["params"], after + mean_change(after, ALL, SHARES))


@pytest.mark.parametrize("adapt", [False, True])
def test_scores_by_hand(adapt: bool) -> None:
    newcomer = Newcomer(work(), FedAvg(), tensors(THETA))
    session = entered(newcomer)
    theta, expected = array(session["params"]), []
    for support, query in zip(SUPPORTS, QUERIES, strict=True):
        rows = []
        for point in [theta, trained(theta, support)][: 1 + adapt]:
            p = softmax(point, query[0])[1]
            rows.append([2, (p.argmax(1) == query[1]).sum(), -np.log(p[np.arange(2), query[1]]).sum()])
        expected.append(rows)
    found = scores(newcomer, session, (padded(SUPPORTS, 2, 4, 9.0), padded(QUERIES, 2, 3, 9.0)), adapt)
    assert found.shape == (2, 1 + adapt, 3)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-11)


def test_many_environments_at_once_are_one_at_a_time() -> None:
    newcomer = Newcomer(work(), FedAvg(), tensors(THETA))
    cohorts = [
        (padded(ALL, 3, 6), shares(SHARES, 3)),
        (padded(LATER, 3, 6), shares(LATER_SHARES, 3)),
    ]

    def through(first: Any, second: Any) -> Any:
        session = advance(newcomer, enter(newcomer, *first), *second)
        return session, scores(newcomer, session, (padded(SUPPORTS, 2, 4), padded(QUERIES, 2, 3)), True)

    alone = [through(cohorts[i], cohorts[1 - i]) for i in (0, 1)]
    together = over(through)(trees.stack(cohorts), trees.stack(cohorts[::-1]))
    torch.testing.assert_close(trees.stack(alone), together, rtol=1e-12, atol=1e-14)
    assert trees.length(trees.subtract(alone[0][0], alone[1][0])) > 0.01


def test_rounds_as_differentiable_functions_by_hand() -> None:
    task, clients, weights = work(), padded(ALL, 3, 5, 2.0), shares(SHARES, 3)
    apart = differences(task, tensors(THETA), clients)
    for i, data in enumerate(ALL):
        same(trees.tree_map(lambda leaf, i=i: leaf[i], apart), trained(THETA, data) - THETA)
    assert trees.length(trees.tree_map(lambda leaf: leaf[2], apart)) == 0
    same(averaged(task, tensors(THETA), clients, weights), THETA + mean_change(THETA, ALL, SHARES))
    expected = sum(
        w * -np.log(softmax(THETA, x)[1][np.arange(len(y)), y]).mean() for w, (x, y) in zip(SHARES, ALL, strict=True)
    )
    assert float(loss(task, tensors(THETA), clients, weights)) == pytest.approx(expected, rel=1e-12)
    same(list(train(task, tensors(THETA), padded(ALL, 2, 5).take(torch.tensor(0))))[-1], trained(THETA, ALL[0]))


# -------------------------------------------------------------------------------------------------------------- hooks


@dataclass(frozen=True)
class Hooked:
    """Every part of its own: gradients are sent, the start reads them, rounds remember a velocity."""

    title = "Hooked"

    def params(self, broadcast: Tree) -> Params:
        found: Params = broadcast["model"]
        return found

    def local(self, task: Task, broadcast: Tree, params: Params, shots: Shots) -> Iterator[Params]:
        yield params
        yield trees.add(params, broadcast["shift"])

    def first(self, task: Task, broadcast: Tree, shots: Shots) -> Tree:
        return torch.func.grad(task.loss)(broadcast["model"], shots)

    def start(self, task: Task, broadcast: Tree, replies: Replies) -> Session:
        mean = replies.mean()
        return {"params": trees.add(broadcast["model"], mean, -2.0), "velocity": mean}

    def visit(self, task: Task, broadcast: Tree, session: Session, shots: Shots) -> Tree:
        return torch.func.grad(task.loss)(trees.add(session["params"], broadcast["shift"]), shots)

    def proceed(self, task: Task, broadcast: Tree, session: Session, replies: Replies) -> Session:
        velocity = trees.add(replies.mean(), session["velocity"], 0.5)
        return {"params": trees.add(session["params"], velocity, -0.1), "velocity": velocity}


SHIFT = np.arange(9.0).reshape(3, 3) / 10


def mean_gradient(theta: Array, clients: list[Data], weights: list[float]) -> Array:
    found: Array = sum(
        (w * gradient(theta, d) for w, d in zip(weights, clients, strict=True)), start=np.zeros_like(theta)
    )
    return found


def test_a_plugins_own_parts_by_hand() -> None:
    broadcast = {"model": tensors(THETA), "shift": tensors(SHIFT)}
    newcomer = Newcomer(work(), Hooked(), broadcast)  # type: ignore[arg-type]
    same(newcomer.params, THETA)
    session = entered(newcomer, 3)
    velocity = mean_gradient(THETA, ALL, SHARES)
    theta = THETA - 2 * velocity
    same(session["params"], theta)
    for _ in range(2):
        session = advance(newcomer, session, padded(LATER, 4, 6), shares(LATER_SHARES, 4))
        velocity = mean_gradient(theta + SHIFT, LATER, LATER_SHARES) + 0.5 * velocity
        theta = theta - 0.1 * velocity
        same(session["params"], theta)
    found = scores(newcomer, session, (padded(SUPPORTS, 2, 4), padded(QUERIES, 2, 3)), True)
    for i, (x, y) in enumerate(QUERIES):
        for step, point in enumerate((theta, theta + SHIFT)):
            expected = -np.log(softmax(point, x)[1][np.arange(2), y]).sum()
            assert float(found[i, step, 2]) == pytest.approx(expected, rel=1e-11)


Part = Callable[..., Any]


@pytest.mark.parametrize("part", ["first", "start", "visit", "proceed", "local"])
def test_parts_can_be_given_one_by_one(part: str) -> None:
    """A plugin's own part is used, and the default for all others."""

    @dataclass(frozen=True)
    class OneOwn(FedAvg):
        pass

    calls: list[str] = []
    defaults: dict[str, Part] = {
        "local": lambda self, task, broadcast, params, shots: train(task, params, shots),
        "first": lambda self, task, broadcast, shots: trees.subtract(
            list(train(task, broadcast, shots))[-1], broadcast
        ),
        "start": lambda self, task, broadcast, replies: {"params": trees.add(broadcast, replies.mean())},
        "visit": lambda self, task, broadcast, session, shots: trees.subtract(
            list(train(task, session["params"], shots))[-1], session["params"]
        ),
        "proceed": lambda self, task, broadcast, session, replies: {
            "params": trees.add(session["params"], replies.mean())
        },
    }

    def own(self: Any, *arguments: Any) -> Any:
        calls.append(part)
        return defaults[part](self, *arguments)

    setattr(OneOwn, part, own)

    def through(algorithm: Any) -> Any:
        newcomer = Newcomer(work(), algorithm, tensors(THETA))
        session = advance(newcomer, entered(newcomer), padded(LATER, 3, 5), shares(LATER_SHARES, 3))
        return session, scores(newcomer, session, (padded(SUPPORTS, 2, 4), padded(QUERIES, 2, 3)), True)

    torch.testing.assert_close(through(OneOwn()), through(FedAvg()), rtol=1e-13, atol=0)
    assert calls
    calls.clear()
    through(FedAvg())
    assert not calls


def test_a_session_keeps_what_only_its_plugin_knows() -> None:
    @dataclass(frozen=True)
    class Remembers(FedAvg):
        def start(self, task: Task, broadcast: Tree, replies: Replies) -> Session:
            return {"params": broadcast, "note": torch.tensor(7.0)}

    newcomer = Newcomer(work(), Remembers(), tensors(THETA))
    session = advance(newcomer, entered(newcomer), padded(LATER, 3, 5), shares(LATER_SHARES, 3))
    assert session["note"] == 7


@pytest.mark.parametrize("broadcast", [{"model": tensors(THETA)}, (tensors(THETA),), {"out.weight": torch.zeros(3, 2)}])
def test_a_method_that_broadcasts_other_things_is_refused_by_name(broadcast: Any) -> None:
    with pytest.raises(ConfigError, match=r"FedAvg sends other things than the model's parameters"):
        Newcomer(work(), FedAvg(), broadcast)
