"""The hand-written derivatives of an LSTM against torch's own, and when which of the two is used."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_tasks import SPECS, shots, task
from torch import Tensor, nn
from torch.testing import assert_close

from metaleaf import models
from metaleaf.algorithms.maml import MAML
from metaleaf.algorithms.meta_sgd import MetaSGD
from metaleaf.engine.vectorised import Vectorised
from metaleaf.gradient import grad, order
from metaleaf.models import _recurrence, lstm
from metaleaf.models._recurrence import recurrence
from metaleaf.models.lstm import LSTM
from metaleaf.shots import Episode
from metaleaf.task import Params, Task
from metaleaf.trees import leaves, tree_map

HIDDEN, INPUTS = 4, 3


def numbers(*shape: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def arguments(steps: int, n: int) -> tuple[Tensor, ...]:
    """x [steps, n, INPUTS] and the layer's weights and biases."""
    gates = 4 * HIDDEN
    shapes = ((steps, n, INPUTS), (gates, INPUTS), (gates, HIDDEN), (gates,), (gates,))
    return tuple(numbers(*shape, seed=seed) for seed, shape in enumerate(shapes))


def ours(x: Tensor, inputs: Tensor, recurrent: Tensor, bias: Tensor, other_bias: Tensor) -> Tensor:
    return recurrence(F.linear(x, inputs, bias + other_bias), recurrent)


def theirs(x: Tensor, *weights: Tensor) -> Tensor:
    layer = nn.LSTM(INPUTS, HIDDEN, dtype=torch.float64)
    named = dict(zip((name for name, _ in layer.named_parameters()), weights, strict=True))
    states: Tensor = torch.func.functional_call(layer, named, (x,))[0]
    return states


def derivatives(layer: Callable[..., Tensor], steps: int, n: int) -> tuple[Tensor, ...]:
    """The states, the gradients of a function of them by all arguments, and those of a function of these gradients."""
    given = arguments(steps, n)
    upstream = numbers(steps, n, HIDDEN, seed=50)
    states = layer(*given)
    value = (upstream * states).sum() + (states**3).sum()
    first = torch.autograd.grad(value, given, create_graph=True)
    along = sum((numbers(*g.shape, seed=60 + i) * g).sum() for i, g in enumerate(first)) + (first[2] ** 2).sum()
    second = torch.autograd.grad(along, (*given, upstream))
    return states, *first, *second


@pytest.mark.parametrize(("steps", "n"), [(7, 5), (2, 1), (1, 3), (4, 0)])
def test_derivatives_are_those_of_torch(steps: int, n: int) -> None:
    for found, expected in zip(derivatives(ours, steps, n), derivatives(theirs, steps, n), strict=True):
        assert_close(found, expected, rtol=1e-11, atol=1e-13)


def test_derivatives_by_finite_differences() -> None:
    given = numbers(4, 2, 4 * HIDDEN, seed=0), numbers(4 * HIDDEN, HIDDEN, seed=1)
    assert torch.autograd.gradcheck(recurrence, given)
    assert torch.autograd.gradgradcheck(recurrence, given)


def test_gradients_of_a_gradient_by_one_argument_only() -> None:
    """As where only some of the weights adapt."""
    for of, by in ((0, 2), (2, 0), (1, 1), (3, 2)):
        found = []
        for layer in (ours, theirs):
            given = arguments(5, 2)
            (first,) = torch.autograd.grad(layer(*given).square().sum(), given[of], create_graph=True)
            found.append(torch.autograd.grad(first.square().sum(), given[by])[0])
        assert_close(*found, rtol=1e-11, atol=1e-13)


def test_third_derivatives_are_refused() -> None:
    given = arguments(3, 2)
    (first,) = torch.autograd.grad(ours(*given).square().sum(), given[1], create_graph=True)
    with pytest.raises(NotImplementedError, match="no third derivatives"):
        torch.autograd.grad(first.square().sum(), given[1], create_graph=True)


def test_what_is_kept_goes_with_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the garbage collector: it is most of the memory."""
    seen: list[weakref.ref[Tensor]] = []
    states = _recurrence._states

    def watched(p: Tensor, recurrent: Tensor) -> Any:
        h, c, kept = states(p, recurrent)
        seen.extend(weakref.ref(tensor) for tensor in (h, c, *kept))
        return h, c, kept

    monkeypatch.setattr(_recurrence, "_states", watched)
    gc.disable()
    try:
        derivatives(ours, 4, 2)
        assert len(seen) == 6
        assert [ref() for ref in seen] == [None] * 6
    finally:
        gc.enable()


# ------------------------------------------------------------------------------------------------ in the model


@contextmanager
def counting() -> Iterator[list[int]]:
    """The orders at which the model used `recurrence`."""
    orders: list[int] = []

    def counted(p: Tensor, recurrent: Tensor) -> Tensor:
        orders.append(order())
        return recurrence(p, recurrent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lstm, "recurrence", counted)
        yield orders


def episode(support: int = 5, query: int = 6) -> Episode:
    sides = shots("lstm", support, seed=1), shots("lstm", query, seed=2)
    return Episode(*sides, sides[1], torch.tensor(0.0), torch.tensor(0))


def plain_maml(params: Params, one: Episode, rate: float, steps: int) -> Params:
    """The meta-gradient in a loop with create_graph, through torch's own LSTM."""
    work = task("lstm")
    start = fast = {name: p.clone().requires_grad_() for name, p in params.items()}
    for _ in range(steps):
        slope = torch.autograd.grad(work.loss(fast, one.support), list(fast.values()), create_graph=True)
        fast = {name: p - rate * g for (name, p), g in zip(fast.items(), slope, strict=True)}
    found = torch.autograd.grad(work.loss(fast, one.query), list(start.values()))
    return dict(zip(start, found, strict=True))


@pytest.mark.parametrize("steps", [1, 3])
def test_maml_equals_a_plain_loop(steps: int) -> None:
    work, one = task("lstm"), episode()
    with counting() as orders:
        found = MAML(2.0, inner_steps=steps).client(work, work.params(), one)
    assert orders == [2, 2] * steps  # two layers on the support set; the query loss is differentiated once
    assert_close(found, plain_maml(work.params(), one, 2.0, steps), rtol=1e-10, atol=1e-13)


def test_one_derivative_uses_the_fused_layer() -> None:
    work, one = task("lstm"), episode()
    with counting() as orders:
        found = grad(work.loss)(work.params(), one.query)
        assert orders == []
        grad(lambda p: detached(work, p, one) * p["out.bias"].sum())(work.params())
    assert orders == []
    assert_close(found, torch.func.grad(work.loss)(work.params(), one.query), rtol=1e-10, atol=1e-13)


def detached(work: Task, p: Params, one: Episode) -> Tensor:
    """From a gradient within another, for which it is a constant."""
    with torch.no_grad():
        total: Tensor = grad(work.loss)(p, one.query)["out.bias"].square().sum()
        return total


def test_vectorised_it_is_taken_apart() -> None:
    work, sizes = task("lstm"), [(4, 3), (2, 5)]
    params, episodes = work.params(), [episode(*size) for size in sizes]
    with counting() as orders:
        engine = Vectorised(work, MAML(2.0), torch.device("cpu"))
        found = engine.gather(params, episodes, [0.25, 0.75]).update
    assert orders == []
    first, second = (plain_maml(params, one, 2.0, 1) for one in episodes)
    expected = tree_map(lambda a, b: 0.25 * a + 0.75 * b, first, second)
    assert_close(found, expected, rtol=1e-10, atol=1e-13)


def test_deeper_gradients_go_through_torch() -> None:
    work, one = task("lstm"), episode(2, 2)

    def steepness(gradient: Any) -> Callable[[Params], Tensor]:
        """Of the loss after a step; its gradient is a third derivative."""

        def stepped(p: Params) -> Tensor:
            slope = gradient(work.loss)(p, one.support)
            return work.loss({name: leaf - 0.5 * slope[name] for name, leaf in p.items()}, one.query)

        return lambda p: torch.stack([g.square().sum() for g in leaves(gradient(stepped)(p))]).sum()

    with counting() as orders:
        found = grad(steepness(grad))(work.params())
    assert orders == [2, 2]  # the query loss
    expected = torch.func.grad(steepness(torch.func.grad))(work.params())
    assert_close(found, expected, rtol=1e-9, atol=1e-13)


def test_meta_sgd_learns_rates_through_it() -> None:
    work, one = task("lstm"), episode()
    params = work.params()
    learned = {"params": params, "rates": tree_map(lambda p: torch.full_like(p, 2.0), params)}
    found = MetaSGD().client(work, learned, one)
    slope = torch.func.grad(work.loss)(params, one.support)
    after = torch.func.grad(work.loss)({name: p - 2 * slope[name] for name, p in params.items()}, one.query)
    assert_close(found["rates"], {name: -slope[name] * after[name] for name in params}, rtol=1e-10, atol=1e-13)
    assert_close(found["params"], plain_maml(params, one, 2.0, 1), rtol=1e-10, atol=1e-13)


def test_values_in_float32() -> None:
    """At LEAF's size, on 80 characters."""
    spec = {**SPECS["lstm"], "x_shape": (80,), "classes": 80}
    model, rng = models.build("lstm", spec, 3), torch.Generator().manual_seed(0)
    x = torch.randint(80, (3, 80), generator=rng, dtype=torch.uint8)
    assert isinstance(model, LSTM)
    with torch.no_grad():
        assert_close(model._twice_differentiable(x), model.features(x), rtol=1e-5, atol=1e-6)


def test_initial_parameters_are_drawn_layer_by_layer() -> None:
    """Committed records start from them: torch's own modules in order, then Glorot's bounds in the same order."""
    built = models.build("lstm", SPECS["lstm"], 5).state_dict()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        modules = {"embedding": nn.Embedding(10, 8), "lstm": nn.LSTM(8, 256, 2), "out": nn.Linear(256, 10)}
        state = {f"{module}.{name}": p for module, m in modules.items() for name, p in m.state_dict().items()}
        for p in state.values():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        for name in (f"lstm.weight_{kind}_l{layer}" for layer in (0, 1) for kind in ("ih", "hh")):
            bound = (6 / (state[name.replace("hh", "ih")].shape[1] + 256 + 1024)) ** 0.5
            nn.init.uniform_(state[name], -bound, bound)
    for name, p in state.items():
        if "bias" in name:
            p.zero_()
        if "bias_hh" in name:
            p[256:512] = 1.0
    assert list(built) == list(state)
    assert all(torch.equal(built[name], state[name]) for name in state)
