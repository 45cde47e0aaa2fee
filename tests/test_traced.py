"""Replayed operators come to what the function does, and functions that may not be replayed are not."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_tasks import LEARN_FROM_CLIENTS, ONE_OF_EACH, RAGGED, episode, handed, home, stepped, task
from test_algorithms import CPU, VARIANTS, assert_near, default
from torch import Tensor
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.algorithm import Algorithm
from metaleaf.data.deferred import Deferred
from metaleaf.engine.replay import traced
from metaleaf.engine.replay.as_python import compiled
from metaleaf.engine.replay.simplify import simplified
from metaleaf.engine.replay.tape import Recorder
from metaleaf.engine.replay.traced import Traced
from metaleaf.engine.sequential import Sequential
from metaleaf.engine.vectorised import Vectorised
from metaleaf.shots import Episode
from metaleaf.trees import Tree

WEIGHTS = [0.1, 0.2, 0.3, 0.4]
CASES = [
    *(
        pytest.param(default(name), home(default(name)), id=name, marks=() if name in ONE_OF_EACH else pytest.mark.slow)
        for name in LEARN_FROM_CLIENTS
    ),
    *(pytest.param(found, "logistic", id=name) for name, found in VARIANTS.items()),
    *(pytest.param(default(name), "small_cnn", id=f"{name}-small_cnn") for name in ("fedavg", "maml", "scaffold")),
    pytest.param(default("fomaml"), "lstm", id="fomaml-lstm"),  # its operators write to their arguments
]


def cohort(model: str, number: int) -> list[Episode]:
    """Other examples of clients of the same sizes in every round."""
    return [
        episode(model, *sizes, seed=i + 10 * (number - 1), round_number=number)._replace(client=torch.tensor(i))
        for i, sizes in enumerate(RAGGED)
    ]


@pytest.mark.parametrize("often", [traced.OFTEN, 1], ids=["replay", "script"])
@pytest.mark.parametrize(("algorithm", "model"), CASES)
def test_replayed_is_vectorised_is_one_client_at_a_time(
    algorithm: Algorithm, model: str, often: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over rounds with other examples, another broadcast, another round number and memories of the round before."""
    monkeypatch.setattr(traced, "OFTEN", often)
    work = task(model)
    state = algorithm.init(work, work.params())
    replayed, direct = Vectorised(work, algorithm, CPU), Vectorised(work, algorithm, CPU, replay=False)
    memories: list[Tree] = []
    for number in (1, 2, 3):
        episodes = handed(algorithm, work, state, cohort(model, number))
        if memories:
            episodes = [e._replace(memory=kept) for e, kept in zip(episodes, memories, strict=True)]
        clients = [(e.support, e.query) for e in episodes]
        scores = replayed.score(state.broadcast, clients, True)
        assert_close(scores, direct.score(state.broadcast, clients, True), rtol=0, atol=0, equal_nan=True)
        one = Sequential(work, algorithm, CPU)
        if number == 3:
            assert_close(scores, one.score(state.broadcast, clients, True), rtol=1e-9, atol=1e-12)
        if getattr(algorithm, "federated", True):
            found = replayed.gather(state.broadcast, episodes, WEIGHTS)
            assert_close(tuple(found), tuple(direct.gather(state.broadcast, episodes, WEIGHTS)), rtol=0, atol=0)
            if number == 3:
                assert_near(tuple(found), tuple(one.gather(state.broadcast, episodes, WEIGHTS)))
            state, memories = stepped(algorithm, work, state, found.update), found.memories
    for function in [replayed.scores["adapt", True], replayed.client] if getattr(algorithm, "federated", True) else []:
        assert isinstance(function, Traced)
        assert function.trusted
        assert function.replays


class Counted:
    """A function of (broadcast, argument) that counts its calls."""

    def __init__(self, function: Callable[[Tree, Tree], Tree]) -> None:
        self.function, self.calls = function, 0
        self.traced = Traced(self, "a plugin")

    def __call__(self, broadcast: Tree, argument: Tree) -> Tree:
        self.calls += 1
        return self.function(broadcast, argument)

    def assert_right(self, calls: int, reference: Callable[[Tree, Tree], Tree] | None = None) -> None:
        """Six calls with other values; the function ran in so many of them."""
        for i in range(6):
            broadcast, argument = torch.arange(3.0) + i, torch.arange(6.0).reshape(2, 3) * (i + 1)
            expected = (reference or self.function)(broadcast.clone(), argument.clone())
            assert_close(self.traced(broadcast, argument), expected, rtol=0, atol=0)
        assert self.calls == calls


def test_the_third_call_is_a_replay() -> None:
    Counted(lambda b, x: {"a": (b * x).sum(0), "b": [x.sort(1)[0]]}).assert_right(calls=2)


def test_what_is_replayed_often_becomes_a_script_of_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "OFTEN", 3)
    function = Traced(lambda a, b: (a @ b).log_softmax(-1), "f")
    used = []
    for seed in range(8):
        a, b = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(seed)).unbind()
        assert torch.equal(function(a, b), (a @ b).log_softmax(-1))
        used += [known.replay for known in function.replays.values()]
    assert len(set(used)) == 2
    assert used.index(used[-1]) == 3, "recorded twice, replayed twice, and a script from then on"


def test_other_shapes_are_recorded_once_when_the_function_is_trusted() -> None:
    counted = Counted(lambda b, x: b + x.sum())
    counted.assert_right(calls=2)
    for n in (4, 5, 4, 5, 4):
        x = torch.arange(float(n))
        assert_close(counted.traced(torch.ones(3), x), torch.ones(3) + x.sum())
    assert counted.calls == 4
    strided = torch.arange(12.0).reshape(3, 4).T[:2]
    counted.traced(torch.ones(3), strided)
    assert counted.calls == 5, "views of a transposed tensor are other views"


REFUSED = {
    "reads a value": lambda b, x: x * float(b[0]),
    "branches on a value": lambda b, x: x if b.sum() > 4 else -x,
    "has a shape that depends on values": lambda b, x: x[x > 2].sum() + b,
    "writes to what it was given": lambda b, x: x.mul_(2) + b,
    "writes to a view of it": lambda b, x: x.view(-1)[1:].mul_(2).sum() + b,
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_function_is_not_replayed_that(what: str) -> None:
    counted = Counted(REFUSED[what])
    with pytest.warns(UserWarning, match="a plugin runs without recorded operators") as found:
        counted.assert_right(calls=7, reference=REFUSED[what])  # the first recording stops, and it runs again
    assert len(found) == 1


def test_random_numbers_are_not_replayed() -> None:
    counted = Counted(lambda b, x: x + torch.rand(3))
    with pytest.warns(UserWarning, match="rand"):
        found = [counted.traced(torch.ones(3) * i, torch.ones(3)) for i in range(5)]
    assert len({tuple(leaf.tolist()) for leaf in found}) == 5


@pytest.mark.parametrize("constant", [lambda n: float(n), lambda n: torch.tensor(float(n))])
def test_what_changes_between_calls_is_noticed(constant: Callable[[int], Any]) -> None:
    """A number, or a tensor, that the function has from elsewhere."""
    counted = Counted(lambda b, x: x * constant(counted.calls) + b)
    with pytest.warns(UserWarning, match="same shapes"):
        found = [counted.traced(torch.ones(3) * i, torch.ones(3)) for i in range(5)]
    assert_close(found, [torch.ones(3) * (2 * i + 1) for i in range(5)])


def test_a_value_read_without_an_operator_is_noticed() -> None:
    counted = Counted(lambda b, x: x * b.tolist()[1])
    with pytest.warns(UserWarning, match="same shapes"):
        counted.assert_right(calls=6)


def test_a_function_whose_shapes_never_repeat_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaleaf.engine.replay.traced.PATIENCE", 3)
    counted = Counted(lambda b, x: b + x.sum())
    for n in range(1, 6):
        assert_close(counted.traced(torch.ones(1) * n, torch.ones(n)), torch.ones(1) * 2 * n)
    assert counted.traced.trusted is False


def test_calls_with_the_same_broadcast_prove_nothing() -> None:
    counted = Counted(lambda b, x: x * b.tolist()[1])
    for i in range(4):
        counted.traced(torch.ones(2), torch.full((2,), float(i)))
    assert counted.traced.trusted is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(counted.traced(torch.ones(2) * 5, torch.ones(2)), torch.full((2,), 5.0))


def test_a_tensor_from_elsewhere_is_used_as_it_is() -> None:
    weights = torch.randn(3, requires_grad=True)
    counted = Counted(lambda b, x: (x * weights + b).detach())
    counted.assert_right(calls=2)
    assert_close(counted.traced(torch.ones(3), torch.ones(2, 3)), torch.ones(2, 3) * weights.detach() + 1)


def test_one_tensor_given_twice_may_be_two_next_time() -> None:
    counted = Counted(lambda b, x: b["p"] * 2 + b["q"] + x)
    for i in range(3):
        p = torch.full((2,), float(i))
        counted.traced({"p": p, "q": p}, torch.ones(2))
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    assert_close(counted.traced({"p": one, "q": other}, torch.ones(2)), torch.tensor([13.0, 25.0]))
    assert counted.calls == 2


def test_an_argument_may_be_a_result_and_none_a_leaf() -> None:
    counted = Counted(lambda b, x: (b, x[0], x[0][1:]))
    for i in range(4):
        b, x = torch.full((2,), float(i)), torch.arange(3.0) + i
        assert_close(counted.traced(b, (x, None)), (b, x, x[1:]))
    assert counted.calls == 2


def test_an_error_of_the_function_is_its_own() -> None:
    counted = Counted(lambda b, x: x @ b)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        counted.traced(torch.ones(2, 2), torch.ones(3, 3))


def test_the_longest_unused_replays_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaleaf.engine.replay.traced.LONGEST", 4)
    counted = Counted(lambda b, x: (x + 1).sum() * b)  # 3 operators
    for n in (2, 2, 3, 3, 2, 2):
        assert_close(counted.traced(torch.rand(1).exp(), torch.zeros(n)).shape, torch.Size([1]))
    assert counted.calls == 4
    assert len(counted.traced.replays) == 1


def test_what_is_done_twice_or_for_nothing_is_left_out() -> None:
    given = [torch.tensor([1.0, 2.0])]
    with Recorder(given) as recorder:
        (x,) = recorder.inputs
        unused = x.exp().sum()
        zeros = torch.zeros_like(x) + torch.arange(2)
        twice = (x * 2).sum() + (x * 2).sum() + (x * 2.0).view(2).expand(2).sum()
        del unused
        tape = recorder.tape([twice, zeros])
    small = simplified(tape)
    names = [str(step.operator) for step in small.steps]
    # 2 and 2.0 are not the same to an operator.
    assert sorted(names) == [f"aten.{name}" for name in ("add.Tensor", "mul.Tensor", "sum.default") for _ in range(2)]
    assert_close(compiled(small)([torch.tensor([3.0, 4.0])]), [torch.tensor(42.0), torch.tensor([0.0, 1.0])])


def test_writing_to_own_results_is_replayed_in_order() -> None:
    def function(b: Tensor, x: Tensor) -> Tensor:
        own = x + b
        before = own * 1.5
        own.view(-1)[2:].mul_(3)
        return before + own.squeeze(0) + own * 1.5

    Counted(function).assert_right(calls=2)


def test_nothing_is_added_to_the_arguments() -> None:
    """Neither gradients nor notes: the broadcast is the server's, the leaves may be a model's parameters."""
    broadcast, x = torch.ones(2, requires_grad=True), torch.ones(2)
    traced = Traced(lambda b, x: b * x, "a plugin")
    for i in range(3):
        assert not traced(broadcast + i, x).requires_grad
    assert not vars(x)
    assert trees.leaves(broadcast.grad) == [None]


def test_a_replay_makes_only_what_it_reads() -> None:
    asked: list[str] = []

    def deferred(name: str, value: float) -> Deferred:
        def make() -> Tensor:
            asked.append(name)
            return torch.full((2,), value)

        return Deferred((2,), torch.float32, CPU, make)

    traced = Traced(lambda b, x: b * x["read"], "a plugin")
    for i in range(4):
        found = traced(torch.ones(2) * i, {"left": deferred("left", 1.0), "read": deferred("read", i + 1.0)})
        assert_close(found, torch.full((2,), i * (i + 1.0)))
    assert asked.count("left") == 2, "by the function itself, which was recorded twice"
    assert asked.count("read") == 5, "once more to compare the replay with the function"
