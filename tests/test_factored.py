"""Factored weights against ordinary ones: sums, layers, and derivatives up to the third, in float64.

And in float32, bit for bit, what rules make of them that read their matrices (`reading`).
"""

import gc
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_tasks import cohort, task
from torch import Tensor
from torch.testing import assert_close

from metaleaf import models, trees
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.engine import factored
from metaleaf.engine.engine import engine
from metaleaf.engine.factored import Factored, Term, Thin, Unsupported, big_layers, break_even, dense, lift
from metaleaf.gradient import grad
from metaleaf.optimizers import SGD, Adam, Adaptive, Optimizer
from metaleaf.task import Task

OUT, IN = 40, 60


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrix(seed: int = 0) -> Tensor:
    return draw(OUT, IN, seed=seed)


def lifted(w: Tensor) -> Any:
    return lift(w, [(OUT, IN)])


def corrected(w: Tensor, rows: int = 3, seed: int = 1) -> tuple[Any, Tensor]:
    """The matrix plus a thin product, in both forms."""
    g, x = draw(rows, OUT, seed=seed), draw(rows, IN, seed=seed + 1)
    return torch.add(lifted(w), Factored(w, (), (Term(1.0, Thin(g, x)),)), alpha=-0.5), w - 0.5 * g.T @ x


def test_sums_and_multiples_keep_the_form() -> None:
    (a, plain_a), (b, plain_b), rate = corrected(matrix(), seed=1), corrected(matrix(9), seed=5), torch.tensor(0.3)
    cases: list[tuple[Any, Tensor]] = [
        (a + b, plain_a + plain_b),
        (a - b, plain_a - plain_b),
        (2.0 * a, 2 * plain_a),
        (a * rate, plain_a * rate),
        (rate * a, plain_a * rate),
        (-a, -plain_a),
        (a / 4, plain_a / 4),
        (torch.add(a, b, alpha=-0.1), plain_a - 0.1 * plain_b),
        (torch.addcmul(a, b, rate), plain_a + rate * plain_b),
        (torch.addcmul(a, rate, b, value=2), plain_a + 2 * rate * plain_b),
        (torch.zeros_like(a), torch.zeros_like(plain_a)),
        (a.detach(), plain_a),
    ]
    for found, expected in cases:
        assert isinstance(found, Factored)
        assert (found.shape, found.dtype, found.numel()) == (expected.shape, expected.dtype, expected.numel())
        assert_close(found.matrix(), expected)


def test_what_cancels_is_gone() -> None:
    """A client's difference from the shared weights holds the thin factors only."""
    w = lifted(matrix())
    others = w + (lifted(matrix()) - lifted(matrix()))
    assert len(others.matrices) == 3, "other tensors of the same values do not cancel"
    step: Any = Factored(w, (), (Term(2.0, Thin(draw(3, OUT), draw(3, IN))),))
    difference: Any = w - (w - step)
    assert (len(difference.matrices), difference.rows()) == (0, 3)
    assert (step - step).rows() == 0


def test_the_same_factors_are_kept_once() -> None:
    """Weight decay and momentum add the same gradients again and again."""
    step = Factored(matrix(), (), (Term(1.0, Thin(draw(3, OUT), draw(3, IN))),))
    total: Any = step
    for _ in range(5):
        total = 0.9 * total + step
    assert total.rows() == 3
    assert_close(total.matrix(), sum(0.9**i for i in range(6)) * step.matrix())


def test_everything_else_sees_the_matrix() -> None:
    a, plain = corrected(matrix())
    for f in (torch.abs, torch.sum, lambda w: w * w, lambda w: w + torch.ones(OUT, IN), lambda w: torch.stack([w, w])):
        found = f(a)
        assert type(found) is Tensor
        assert_close(found, f(plain))
    assert dense({"a": a, "b": (plain, None)})["a"].shape == (OUT, IN)


def test_nothing_changes_the_shared_matrix() -> None:
    shared = matrix()
    before, w, plain = shared.clone(), lifted(shared), matrix()

    def item(target: Any) -> None:
        target[0] = 5.0

    def minus(target: Any) -> None:
        target -= 1.0

    for change in (item, minus, lambda w: w.add_(1.0), lambda w: w.mul_(2), lambda w: w.requires_grad_()):
        with pytest.raises(Unsupported, match="would change factored weights in place"):
            change(w)
    with pytest.raises(Unsupported):
        torch.mul(plain, 2.0, out=w)
    for copy in (w.clone(), w * torch.ones_like(plain), dense(w)):
        item(copy)
        copy.view(-1).add_(1.0)
    plain.copy_(w)
    assert torch.equal(plain, before)
    assert torch.equal(shared, before)


def test_arguments_by_name_and_odd_ones_mean_what_they_mean() -> None:
    (a, plain), other = corrected(matrix()), matrix(7)
    cases: list[tuple[Callable[..., Any], Any]] = [
        (lambda w, f: torch.add(w, other=f, alpha=2), other),
        (lambda w, f: torch.add(input=w, other=f), other),
        (lambda w, f: F.linear(input=f, weight=w), draw(2, IN)),
        (lambda w, f: torch.div(w, f, rounding_mode="floor"), 2.0),
        (lambda w, f: w / f, 0.0),
        (lambda w, f: w / f, torch.tensor(3)),
        (lambda w, f: w + f, torch.ones(IN, dtype=torch.float64)),
        (lambda w, f: torch.where(f > 0, w, f), other),
        (lambda w, f: torch.lerp(w, f, 0.3), other),
    ]
    for f, argument in cases:
        assert_close(dense(f(a, argument)), f(plain, argument), rtol=1e-14, atol=1e-14)


def test_only_numbers_with_fractions_are_lifted() -> None:
    counts = torch.ones(OUT, IN, dtype=torch.int64)
    assert type(lifted(counts)) is Tensor
    assert type(lifted(counts > 0)) is Tensor
    assert (lifted(matrix()) + lifted(matrix().float())).dtype == torch.float64


def test_many_factors_or_matrices_become_one_matrix() -> None:
    rows = break_even(OUT, IN)
    assert rows == 24
    below, _ = corrected(matrix(), rows)
    above, expected = corrected(matrix(), rows + 1)
    assert (below.rows(), above.rows()) == (rows, 0)
    assert_close(above.matrix(), expected)
    total: Any = lifted(matrix())
    for seed in range(1, 10):
        total = total + lifted(matrix(seed))
        assert len(total.matrices) <= factored.MOST_MATRICES
    assert_close(total.matrix(), torch.stack([matrix(seed) for seed in range(10)]).sum(0))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer(bias: bool) -> None:
    x, b = draw(2, 7, IN, seed=4), draw(OUT, seed=5) if bias else None
    w, plain = corrected(matrix())
    assert_close(F.linear(x, w, b), F.linear(x, plain, b))
    assert_close(F.linear(x, w - w, b), F.linear(x, torch.zeros_like(plain), b))


# ---- reading


def cancelling(seed: int, rows: int = 3) -> Any:
    """A gradient in float32 whose second half is minus the first, up to rounding: of what sign its entries are."""
    rng = torch.Generator().manual_seed(seed)
    g, x = torch.randn(rows, OUT, generator=rng), torch.randn(rows, IN, generator=rng).relu()
    almost = g * (1 + 1e-7 * torch.randn(rows, OUT, generator=rng))
    return Factored(torch.empty(OUT, IN), thin=(Term(1.0, Thin(torch.cat([g, -almost]), torch.cat([x, x]))),))


Leaves = tuple[Any, ...]


def start32(seed: int, ordinary: bool) -> Leaves:
    """Shared weights and three gradients: factored, or as the matrices that these are."""
    shared = matrix(seed).float()
    found = (lift(shared, [(OUT, IN)]), *(cancelling(3 * seed + i) for i in range(3)))
    return tuple(leaf.matrix() for leaf in found) if ordinary else found


RULES: list[Callable[..., Any]] = [
    lambda a, b, c: a + c * b,
    lambda a, b, c: a - b,
    lambda a, b, c: torch.add(a, b, alpha=c),
    lambda a, b, c: torch.addcmul(a, b, torch.tensor(c)),
    lambda a, b, c: torch.tensor(c, dtype=torch.float64) * a,
    lambda a, b, c: c * a,
    lambda a, b, c: -a,
    lambda a, b, c: a / c,
    lambda a, b, c: c - a,
    lambda a, b, c: a / torch.tensor(c, dtype=torch.float64),
    lambda a, b, c: c * a * b,
    lambda a, b, c: a / (b.abs() + c),
    lambda a, b, c: (c * a * a).sqrt(),
    lambda a, b, c: a.sign() * b,
    lambda a, b, c: torch.where(a * b > 0, a, c * b),
    lambda a, b, c: torch.maximum(a, b).clamp(max=c),
    lambda a, b, c: a.detach() + a.norm() * b,
]


def computed(leaves: Leaves, seed: int, steps: int = 12) -> list[Any]:
    """The leaves and what a random program makes of them and of its own results."""
    rng, values = random.Random(seed), list(leaves)
    for _ in range(steps):
        values.append(rng.choice(RULES)(rng.choice(values), rng.choice(values), rng.uniform(0.01, 1)))
    return values


@pytest.mark.parametrize("seed", range(60))
def test_all_that_is_read_is_what_ordinary_arithmetic_makes_of_the_matrices(seed: int) -> None:
    """In whatever order it is read: also what was made of a gradient before anybody read that."""
    expected = computed(start32(seed, ordinary=True), seed)
    found = list(enumerate(computed(start32(seed, ordinary=False), seed)))
    random.Random(-seed).shuffle(found)
    for i, value in found:
        own = value.matrix() if isinstance(value, Factored) else value
        assert_close(own, expected[i], rtol=0, atol=0, equal_nan=True)
        if isinstance(value, Factored):
            own.zero_()
            assert_close(value.matrix(), expected[i], rtol=0, atol=0, equal_nan=True)


def test_what_is_read_first_and_last_agree() -> None:
    """A sum that is sent: in one product if nobody has read of it, and else the sum of what was read."""
    weights, g = start32(0, ordinary=False)[:2]
    scaled, moved = 0.001 * g, weights - 0.001 * g
    assert torch.equal(dense(scaled * 1.0), (0.001 * g.thin[0].of.g).T @ g.thin[0].of.x)
    read = g.abs()
    assert torch.equal(dense(scaled).abs(), 0.001 * read)
    assert torch.equal(dense(moved), weights.matrix() - dense(scaled))


OPTIMIZERS: list[Optimizer] = [
    SGD(0.1),
    SGD(0.1, momentum=0.9, weight_decay=0.01),
    Adam(5e-4),
    *(Adaptive(0.1, rule) for rule in ("adam", "yogi", "adagrad")),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_optimizers_do_to_gradients_whose_rows_cancel_what_they_do_to_matrices(optimizer: Optimizer) -> None:
    for seed in range(20):
        runs = []
        for ordinary in (True, False):
            weights, *gradients = start32(seed, ordinary)
            params, state = {"w": weights}, optimizer.init({"w": weights})
            for gradient in gradients:
                params, state = optimizer.step(params, {"w": gradient}, state)
            runs.append(factored._read({"params": params, "state": state}))
        expected, found = runs
        assert all(leaf.isfinite().all() for leaf in trees.leaves(found))
        assert_close(found, expected, rtol=0, atol=0)


def test_long_chains_are_read() -> None:
    """Longer than Python's stack is deep; and nothing is kept of what they were made of."""
    total, step = start32(0, ordinary=False)[:2]
    plain, gradient = start32(0, ordinary=True)[:2]
    for _ in range(3000):
        total, plain = total - 0.01 * step, plain - 0.01 * gradient
    assert_close(total.matrix(), plain, rtol=0, atol=0)
    assert total.origin is None


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_of_what_is_read_more_than_once(order: int) -> None:
    """By the weights, through a matrix that several uses share, and under no_grad before."""

    def loss(params: Any) -> Tensor:
        w, twice = params["w"], 2 * params["w"]
        with torch.no_grad():
            size = twice.abs().mean()
        several = (w * twice).sum() + (w * w * twice.tanh()).mean() / size + twice.square().mean()
        return torch.add(network(params), several)

    assert_same_gradient(loss if order == 1 else descended(loss, 1, rate=0.1), thin=True)


def test_adam_within_a_gradient() -> None:
    """Its moments are read, and differentiated: what is read under no_grad first keeps its graph for later."""

    def after(params: Any) -> Tensor:
        optimizer = Adam(0.01, eps=0.1)
        state = optimizer.init(params)
        for _ in range(2):
            slope = grad(network)(params)
            with torch.no_grad():
                trees.tree_map(torch.abs, slope)
            params, state = optimizer.step(params, slope, state)
        return network(params)

    params = start()
    expected, found = grad(after)(params), grad(after)(lift(params, [(OUT, IN)]))
    assert_close(dense(found), expected, rtol=1e-9, atol=1e-13)


# ---- derivatives

X, Y = draw(5, 30, seed=20), draw(5, OUT, seed=21)


def network(params: dict[str, Any]) -> Tensor:
    """A loss of a network whose middle layer has the weights; what is before it depends on parameters, too."""
    hidden = torch.tanh(X @ params["first"])
    found = torch.tanh(F.linear(hidden, params["w"], params["bias"])) @ params["last"]
    return F.mse_loss(found, Y)


def penalised(params: dict[str, Any]) -> Tensor:
    """The weights both in a layer and as a matrix."""
    return torch.add(network(params), (params["w"] ** 2).sum(), alpha=0.1)


def twice(params: dict[str, Any]) -> Tensor:
    """The same weights in two layers, the second one's input being the first one's output."""
    hidden = torch.tanh(F.linear(torch.tanh(X @ params["first"]), params["w"], params["bias"]))
    return F.mse_loss(F.linear(hidden @ params["back"], params["w"]), Y)


def descended(loss: Callable[[Any], Tensor], steps: int, rate: float = 0.5) -> Callable[[Any], Tensor]:
    """The loss after steps of gradient descent."""

    def after(params: Any) -> Tensor:
        for _ in range(steps):
            params = trees.add(params, grad(loss)(params), -rate)
        return loss(params)

    return after


def start() -> dict[str, Any]:
    return {
        "first": draw(30, IN, seed=1),
        "w": draw(OUT, IN, seed=2) / 8,
        "bias": draw(OUT, seed=3),
        "last": draw(OUT, OUT, seed=4) / 8,
        "back": draw(OUT, IN, seed=5) / 8,
    }


def assert_same_gradient(f: Callable[[Any], Tensor], thin: bool) -> None:
    params = start()
    expected = grad(f)(params)
    found = grad(f)(lift(params, [(OUT, IN)]))
    assert isinstance(found["w"], Factored)
    assert (found["w"].rows() > 0) == thin
    assert not any(leaf.requires_grad for leaf in trees.leaves(dense(found)))
    for name, leaf in dense(found).items():
        assert_close(leaf, expected[name], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("loss", [network, penalised, twice])
def test_first_derivatives(loss: Callable[[Any], Tensor]) -> None:
    assert_same_gradient(loss, thin=True)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("loss", [network, penalised, twice])
def test_second_derivatives(loss: Callable[[Any], Tensor], steps: int) -> None:
    """MAML: also the gradients that flow back through the weights into what is before them depend on the weights."""
    assert_same_gradient(descended(loss, steps), thin=True)


def test_third_derivatives() -> None:
    assert_same_gradient(descended(descended(network, 1), 1, rate=0.2), thin=True)


def test_the_gradient_by_a_learnt_rate() -> None:
    """Meta-SGD with one rate a layer."""

    def after(rate: Tensor, params: Any) -> Tensor:
        slope = grad(network)(params)
        return network(trees.tree_map(lambda p, g: p - rate * g, params, slope))

    rate = torch.tensor(0.3, dtype=torch.float64)
    found = grad(after)(rate, lift(start(), [(OUT, IN)]))
    assert_close(found, grad(after)(rate, start()), rtol=1e-10, atol=0)


def test_after_the_break_even_the_derivatives_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factors are added to the matrix in the middle of the inner loop."""
    monkeypatch.setattr(factored, "break_even", lambda out, inner: 6)
    params = start()
    expected, found = (grad(descended(network, 3))(p) for p in (params, lift(params, [(OUT, IN)])))
    assert_close(dense(found), expected, rtol=1e-10, atol=1e-14)


def test_a_loss_without_the_weights_has_no_gradient() -> None:
    found = grad(lambda params: (params["bias"] ** 2).sum())(lift(start(), [(OUT, IN)]))
    assert (found["w"].rows(), len(found["w"].matrices)) == (0, 0)
    assert_close(found["bias"], 2 * start()["bias"])


def test_what_no_grad_shuts_out_is_constant() -> None:
    """First-order methods may be written so; torch.func.grad says the same."""

    def first_order(params: Any) -> Tensor:
        with torch.no_grad():
            slope = grad(network)(params)
        return network(trees.add(params, slope, -0.5))

    def stopped(params: Any) -> Tensor:
        with torch.no_grad():
            constant = trees.tree_map(lambda p: 0.5 * p, params)
        return network(trees.add(params, constant))

    for f in (first_order, stopped):
        assert_same_gradient(f, thin=True)
        expected = torch.func.grad(f)(start())
        assert_close(grad(f)(start()), expected, rtol=1e-12, atol=1e-15)


def test_a_layer_changed_in_place() -> None:
    def silu(params: Any) -> Tensor:
        return F.silu(F.linear(torch.tanh(X @ params["first"]), params["w"]), inplace=True).square().mean()

    assert_same_gradient(silu, thin=True)
    assert_same_gradient(descended(silu, 1), thin=True)

    def input_changed(params: Any) -> Tensor:
        hidden = torch.tanh(X @ params["first"]) * 2
        found = F.linear(hidden, params["w"], params["bias"])
        hidden += 1
        return found.square().mean()

    with pytest.raises(Unsupported, match="changed in place"):
        grad(input_changed)(lift(start(), [(OUT, IN)]))


def test_a_layer_over_examples_side_by_side() -> None:
    def one_by_one(params: Any) -> Tensor:
        over = torch.func.vmap(lambda x: F.linear(torch.tanh(x @ params["first"]), params["w"], params["bias"]))
        return over(X).square().mean()

    with pytest.raises(Unsupported, match=r"torch\.func"):
        grad(one_by_one)(lift(start(), [(OUT, IN)]))


@pytest.mark.parametrize("steps", [1, 2])
def test_rates_for_every_weight(steps: int) -> None:
    """Element by element: the step is a matrix, but what is the derivative by the weights stays thin."""

    def after(tree: Any) -> Tensor:
        params = tree["params"]
        for _ in range(steps):
            slope = grad(network)(params)
            params = trees.tree_map(lambda p, r, g: p - r * g, params, tree["rates"], slope)
        return network(params)

    rates = trees.tree_map(lambda p: draw(*p.shape, seed=3) * 0.1, start())
    plain = {"params": start(), "rates": rates}
    expected, found = (grad(after)(tree) for tree in (plain, lift(plain, [(OUT, IN)])))
    assert found["params"]["w"].rows() > 0
    assert not found["params"]["w"].matrices
    assert_close(dense(found), expected, rtol=1e-10, atol=1e-14)


def test_a_sum_with_an_ordinary_matrix() -> None:
    (a, plain), other, rate = corrected(matrix()), matrix(7), torch.tensor(0.3, dtype=torch.float64)
    sums = [
        (a + other, plain + other),
        (other - a, other - plain),
        (torch.addcmul(a, other, rate), plain + 0.3 * other),
    ]
    for found, expected in sums:
        assert (found.rows(), len(found.matrices)) == (0, 1)
        assert_close(dense(found), expected, rtol=1e-12, atol=1e-14)

    def shifted(params: Any) -> Tensor:
        return network({**params, "w": params["w"] + params["more"]})

    params = {**start(), "more": matrix(8)}
    found = grad(shifted)({**lift(start(), [(OUT, IN)]), "more": params["more"]})
    assert_close(dense(found), grad(shifted)(params), rtol=1e-10, atol=1e-14)


def test_a_learnt_number_in_the_weights() -> None:
    def mixed(params: Any) -> Tensor:
        return network({**params, "w": params["share"] * params["w"]})

    params = {**start(), "share": torch.tensor(0.7, dtype=torch.float64)}
    expected, found = grad(mixed)(params), grad(mixed)(lift(params, [(OUT, IN)]))
    assert_close(dense(found), expected, rtol=1e-12, atol=1e-15)
    assert not found["w"].requires_grad


def test_no_graph_outlives_its_gradient() -> None:
    def live() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    params = lift(start(), [(OUT, IN)])
    grad(descended(network, 2))(params)
    before = live()
    for _ in range(20):
        grad(descended(network, 2))(params)
    assert live() <= before + 5


class Functional(FedAvg):
    """A third party's plugin that differentiates with torch's own function."""

    def client(self, task: Task, params: Any, episode: Any) -> Any:
        """A step."""
        return torch.func.grad(task.loss)(params, episode.data)


class Rewriting(FedAvg):
    """One that changes what it was sent."""

    def client(self, task: Task, params: Any, episode: Any) -> Any:
        """The second round would see the first one's change."""
        own = {name: p.clone() for name, p in params.items()}
        own["out.weight"][0] = 0.0
        return trees.subtract(own, params)


def test_an_algorithm_that_factored_weights_do_not_suit_runs_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factored, "LEAST_ROWS", 1)
    work = task("cnn")
    plain, low_rank = engine(work, Functional(), "sequential"), engine(work, Functional(), "lowrank")
    params, weights = work.params(), [0.25] * 4
    expected = plain.gather(params, cohort("cnn"), weights).update
    with pytest.warns(UserWarning, match=r"Functional runs with ordinary weights from now on: .* metaleaf\.gradient"):
        found = low_rank.gather(params, cohort("cnn"), weights).update
    assert low_rank.mode == "sequential"
    assert_close(found, expected)
    runner = engine(work, Rewriting(), "lowrank")
    twice_over = [runner.gather(params, cohort("cnn"), weights).update for _ in range(2)]
    assert runner.mode == "lowrank"
    assert_close(twice_over[0], twice_over[1], rtol=0, atol=0)
    assert_close(params, work.params(), rtol=0, atol=0)


def test_only_big_dense_layers_are_worth_it() -> None:
    images = {"classes": 62, "x_shape": (28, 28), "x_dtype": "uint8"}
    assert big_layers(models.build("cnn", images, 0)) == {(2048, 3136)}
    assert big_layers(models.build("small_cnn", {**images, "x_shape": (14, 14)}, 0)) == set()
    text = {"classes": 80, "x_shape": (80,), "x_dtype": "uint8"}
    assert big_layers(models.build("lstm", text, 0)) == set()


def test_a_model_without_one_is_run_with_ordinary_weights() -> None:
    work = task("logistic")
    with pytest.warns(UserWarning, match="no dense layer is big enough for mode lowrank"):
        assert engine(work, FedAvg(), "lowrank").mode == "sequential"
    assert (
        engine(Task(models.build("cnn", {"classes": 62, "x_shape": (28, 28), "x_dtype": "uint8"}, 0)), FedAvg()).mode
        == "lowrank"
    )
