"""Every algorithm against the contract; then the basic ones' rounds against numbers computed without them.

The conformance tests take their algorithms from the registry, so a new file in ``algorithms/`` is tested by being
there. The reference numbers come from `softmax_by_hand`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, cast

import numpy as np
import pytest
import torch
from finite_differences import direction, query_loss, slope_along, step_along
from safetensors.torch import load, save
from small_tasks import (
    LEARN_FROM_CLIENTS,
    ON_LOGISTIC,
    ONE_OF_EACH,
    RAGGED,
    SPECS,
    cohort,
    episode,
    handed,
    home,
    one_round,
    reference_batches,
    serves,
    shots,
    stepped,
    task,
)
from softmax_by_hand import (
    ALL,
    QUERIES,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    NumpyAdam,
    adapted,
    array,
    assert_models,
    assert_rounds,
    both,
    descended,
    episodes,
    gradient,
    hessian_product,
    local_sgd,
    mean,
    rounds,
    softmax,
    tensors,
    tiny,
)
from torch import Tensor
from torch.testing import assert_close

from metaleaf import registry, trees
from metaleaf.algorithm import Algorithm, Replies, State, respond
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.fedavg_meta import FedAvgMeta
from metaleaf.algorithms.fomaml import FOMAML
from metaleaf.algorithms.local import Local
from metaleaf.algorithms.maml import MAML
from metaleaf.algorithms.meta_sgd import MetaSGD
from metaleaf.algorithms.reptile import Reptile
from metaleaf.config.config import build, override, resolve
from metaleaf.engine import factored
from metaleaf.engine.engine import Mode, engine
from metaleaf.engine.sequential import Sequential
from metaleaf.engine.vectorised import Vectorised
from metaleaf.optimizers import SGD, Adam
from metaleaf.runs.reported import of_clients, of_server
from metaleaf.shots import Episode, Scored, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree

NAMES = LEARN_FROM_CLIENTS
MODELS = ["logistic", "cnn", "lstm", "face_cnn"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors are tiny here: threads only wait for each other, for minutes where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def default(name: str) -> Algorithm:
    return cast(Algorithm, registry.plugin("algorithms", name)())


def at_home(name: str, dtype: torch.dtype = torch.float64) -> tuple[Algorithm, str, Task]:
    """The algorithm, the smallest model that it can work with, and the task."""
    model = home(default(name))
    return default(name), model, task(model, dtype)


def started(algorithm: Algorithm, work: Task) -> State:
    return algorithm.init(work, work.params())


def copied(tree: Tree) -> Tree:
    return trees.tree_map(lambda leaf: None if leaf is None else leaf.clone(), tree)


def shape_of(leaf: Tensor) -> tuple[torch.Size, torch.dtype]:
    return leaf.shape, leaf.dtype


def own(algorithm: Algorithm, work: Task, state: State, one: Any) -> Iterator[Any]:
    """A participant's models, where the algorithm says so itself."""
    return algorithm.personal(work, state.broadcast, one) if hasattr(algorithm, "personal") else iter(())


def participants(algorithm: Algorithm, work: Task, state: State, model: str) -> list[Scored]:
    """The cohort after a round of its own, every client with what it kept; scored on its query, for want of others."""
    episodes = handed(algorithm, work, state, cohort(model))
    if hasattr(algorithm, "memory"):
        kept = [respond(algorithm, work, state.broadcast, one).memory for one in episodes]
        episodes = [one._replace(memory=memory) for one, memory in zip(episodes, kept, strict=True)]
    return [(one, one.query) for one in episodes]


def assert_same(a: Tree, b: Tree) -> None:
    """The same bits."""
    assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def assert_near(a: Tree, b: Tree, tolerance: float = 1e-9) -> None:
    """Each leaf equal to within a part of the whole tree's norm, and of the same shape."""
    assert trees.named_leaves(a).keys() == trees.named_leaves(b).keys()
    for name, leaf in trees.named_leaves(a).items():
        other = trees.named_leaves(b)[name]
        assert leaf.shape == other.shape, name
        assert trees.length(leaf - other) <= tolerance * (trees.length(b) + 1e-30), name


# ---------------------------------------------------------------------------------------------------- conformance

# Beyond the defaults: momentum and moments that padding must not disturb, several epochs and inner steps, schedules.
VARIANTS: dict[str, Algorithm] = {
    "fedavg_momentum": FedAvg(SGD(0.05, momentum=0.9, weight_decay=0.1), epochs=2, batch_size=3, decay=0.5),
    "fedavg_adam": FedAvg(Adam(0.01), epochs=2, batch_size=4),
    "reptile_adam": Reptile(Adam(0.01), batch_size=2, adapt_epochs=2),
    "maml_3": MAML(0.3, inner_steps=3, adapt_steps=2),
    "fomaml_2": FOMAML(0.3, inner_steps=2),
    "meta_sgd_2": MetaSGD(0.3, inner_steps=2, adapt_steps=3),
}
# Recurrence and colour take seconds each: all of a kind train alike, so one of each stands for the others.
ON_EVERY_MODEL = {"fedavg", "maml", "meta_sgd", "per_fedavg", "ditto", "scaffold", "fedrep", "ifca", "pfedhn"}


def how_long(name: str, model: str) -> Sequence[pytest.MarkDecorator]:
    """Minutes for forty algorithms, or seconds for some."""
    short = name in ON_EVERY_MODEL or model in ("logistic", home(default(name)))
    short = short or (model == "cnn" and name in ONE_OF_EACH)
    return () if short else (pytest.mark.slow,)


CASES = [
    *(
        pytest.param(default(name), model, id=f"{name}-{model}", marks=how_long(name, model))
        for name in NAMES
        for model in MODELS
        if serves(default(name), model)
    ),
    *(pytest.param(found, model, id=f"{name}-{model}") for name, found in VARIANTS.items() for model in MODELS[:2]),
]


@pytest.mark.parametrize(("algorithm", "model"), CASES)
def test_vectorised_is_one_client_at_a_time(algorithm: Algorithm, model: str) -> None:
    work = task(model)
    state = started(algorithm, work)
    weights = [0.1, 0.2, 0.3, 0.4]
    clients: list[Scored] = [(e.support, e.query) for e in cohort(model)]
    one, all_at_once = Sequential(work, algorithm, CPU), Vectorised(work, algorithm, CPU)
    if getattr(algorithm, "federated", True):
        episodes = handed(algorithm, work, state, cohort(model))
        found = all_at_once.gather(state.broadcast, episodes, weights)
        assert_near(tuple(found), tuple(one.gather(state.broadcast, episodes, weights)))
        assert len(found.memories) == (4 if hasattr(algorithm, "memory") else 0)
    for kind, every_step in product((clients, participants(algorithm, work, state, model)), (True, False)):
        expected = one.score(state.broadcast, kind, every_step)
        scores = all_at_once.score(state.broadcast, kind, every_step)
        assert_close(scores, expected, rtol=1e-9, atol=1e-12)
        for (_, query), rows in zip(RAGGED, scores, strict=True):
            assert rows.dtype == torch.float64
            assert rows.shape == (len(scores[0]), 3)
            assert rows[:, 0].tolist() == [query] * len(rows)


@pytest.mark.parametrize(("algorithm", "model"), [case for case in CASES if case.values[1] in MODELS[:2]])
def test_participants_in_float32_are_nearly_so(algorithm: Algorithm, model: str) -> None:
    """Right answers the same, as no score here is near a tie; losses to the precision."""
    work = task(model, torch.float32)
    state = started(algorithm, work)
    broadcast, clients = state.broadcast, participants(algorithm, work, state, model)
    one, all_at_once = Sequential(work, algorithm, CPU), Vectorised(work, algorithm, CPU)
    assert_close(all_at_once.score(broadcast, clients, True), one.score(broadcast, clients, True), rtol=1e-4, atol=1e-4)


LOW_RANK = [case for case in CASES if case.values[1] in ("logistic", "cnn")] + [
    pytest.param(default(name), "lstm", id=f"{name}-lstm") for name in ("fedavg", "maml", "scaffold")
]


@pytest.mark.parametrize(("algorithm", "model"), LOW_RANK)
def test_factored_weights_change_nothing(algorithm: Algorithm, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dense layer is factored here, also those so small that they stop being so in the middle of training."""
    monkeypatch.setattr(factored, "LEAST_ROWS", 1)
    work = task(model)
    state = started(algorithm, work)
    weights = [0.1, 0.2, 0.3, 0.4]
    plain, low_rank = engine(work, algorithm, "sequential"), engine(work, algorithm, "lowrank")
    assert low_rank.mode == "lowrank"
    if getattr(algorithm, "federated", True):
        episodes = handed(algorithm, work, state, cohort(model))
        found = low_rank.gather(state.broadcast, episodes, weights)
        assert not any(isinstance(leaf, factored.Factored) for leaf in trees.leaves(tuple(found)))
        assert_near(tuple(found), tuple(plain.gather(state.broadcast, episodes, weights)))
    clients: list[Scored] = [(e.support, e.query) for e in cohort(model)]
    for kind in (clients, participants(algorithm, work, state, model)):
        scores = low_rank.score(state.broadcast, kind, True)
        assert_close(scores, plain.score(state.broadcast, kind, True), rtol=1e-9, atol=1e-12)


def cancelling(model: str, seed: int) -> Episode:
    """Each example once with every label: what the head, whose weights are zero, learns from them cancels."""
    classes = SPECS[model]["classes"]
    examples, labels = shots(model, 2, seed), torch.arange(classes)
    data = Shots(examples.x.repeat_interleave(classes, 0), labels.repeat(2), examples.seed)
    rows = torch.arange(2 * classes)
    parts = data.take(rows[:classes]), data.take(rows[classes:])
    return Episode(*parts, data, torch.tensor(0.0), torch.tensor(seed))


ADAM = {"name": "adam", "lr": 0.01}
ADAM_ON_CLIENTS = [
    pytest.param(
        build("algorithms", name, {"client_optimizer": ADAM} if hasattr(default(name), "client_optimizer") else {}),
        id=name,
        marks=() if name in ONE_OF_EACH else pytest.mark.slow,
    )
    for name in ON_LOGISTIC
]


@pytest.mark.parametrize("model", ["logistic", "cnn"])
@pytest.mark.parametrize("algorithm", ADAM_ON_CLIENTS)
def test_rows_that_cancel_leave_factored_weights_finite(
    algorithm: Algorithm, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32: rounding alone decides what is left, and must not make an impossible number of it."""
    monkeypatch.setattr(factored, "LEAST_ROWS", 1)
    work = task(model, torch.float32)
    params = {name: torch.zeros_like(p) if name.startswith("out.") else p for name, p in work.params().items()}
    state = algorithm.init(work, params)
    broadcast = state.broadcast
    episodes = handed(algorithm, work, state, [cancelling(model, seed) for seed in range(8)])
    runner = engine(work, algorithm, "lowrank")
    if getattr(algorithm, "federated", True):
        found = runner.gather(broadcast, episodes, [1 / 8] * 8)
        assert all(leaf.isfinite().all() for leaf in trees.leaves(tuple(found)))
    clients: list[Scored] = [(e.support, e.query) for e in episodes]
    scores = runner.score(broadcast, clients, True)
    assert torch.stack(scores).isfinite().all()
    assert runner.mode == "lowrank"


def test_in_chunks_is_all_at_once() -> None:
    work, algorithm = task("logistic"), MAML(0.3)
    whole, chunked = Vectorised(work, algorithm, CPU), Vectorised(work, algorithm, CPU)
    chunked.chunk = 3
    broadcast, weights = work.params(), [0.1, 0.2, 0.3, 0.4]
    clients = [(e.support, e.query) for e in cohort("logistic")]
    assert_near(
        chunked.gather(broadcast, cohort("logistic"), weights).update,
        whole.gather(broadcast, cohort("logistic"), weights).update,
    )
    assert_close(chunked.score(broadcast, clients, True), whole.score(broadcast, clients, True), rtol=1e-12, atol=0)


def test_the_mean_is_over_the_clients_weights() -> None:
    work, algorithm = task("logistic"), MAML(0.3)
    apart = [algorithm.client(work, work.params(), e) for e in cohort("logistic")]
    weights = [0.4, 0.3, 0.2, 0.1]
    expected = {k: sum(w * update[k] for w, update in zip(weights, apart, strict=True)) for k in apart[0]}
    for mode in ("sequential", "vectorised"):
        found = engine(work, algorithm, mode).gather(work.params(), cohort("logistic"), weights).update
        assert_near(found, expected, 1e-13)


@pytest.mark.parametrize("mode", ["sequential", "vectorised"])
@pytest.mark.parametrize("name", NAMES)
def test_is_deterministic(name: str, mode: Mode) -> None:
    algorithm, model, work = at_home(name, torch.float32)
    clients = [(e.support, e.query) for e in cohort(model)]

    def once() -> Tree:
        torch.rand(3)  # the global generator has moved on, which must not matter
        state = started(algorithm, work)
        runner = engine(work, algorithm, mode)
        if getattr(algorithm, "federated", True):
            episodes = handed(algorithm, work, state, cohort(model))
            update, memories = runner.gather(state.broadcast, episodes, [0.25] * 4)
            state = stepped(algorithm, work, state, update)
            return tuple(state), memories, runner.score(state.broadcast, clients, True)
        return tuple(state), runner.score(state.broadcast, clients, True)

    assert_same(once(), once())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_keeps_dtypes_and_shapes(name: str, dtype: torch.dtype) -> None:
    algorithm, model, work = at_home(name, dtype)
    params = work.params()
    state = algorithm.init(work, params)
    for e in cohort(model):
        update, memory = one_round(algorithm, work, state, e)
        following = stepped(algorithm, work, state, update)
        sent = update.updates if isinstance(update, Replies) else update
        floats = [leaf for leaf in trees.leaves((sent, memory, tuple(following))) if leaf.is_floating_point()]
        assert {leaf.dtype for leaf in floats} <= {dtype}
        assert not any(leaf.requires_grad for leaf in trees.leaves((sent, memory, tuple(following))))
        assert [(k, v.shape, v.dtype) for k, v in trees.named_leaves(tuple(following)).items()] == [
            (k, v.shape, v.dtype) for k, v in trees.named_leaves(tuple(state)).items()
        ]
        if hasattr(algorithm, "memory"):
            fresh = algorithm.memory(work, state.broadcast)
            assert trees.tree_map(shape_of, memory) == trees.tree_map(shape_of, fresh)
        (participant, _), *_ = participants(algorithm, work, state, model)
        for found in (*algorithm.adapt(work, state.broadcast, e.support), *own(algorithm, work, state, participant)):
            if hasattr(algorithm, "predict"):
                assert algorithm.predict(work, found, e.query.x, None).shape == (
                    len(e.query.y),
                    SPECS[model]["classes"],
                )
                continue
            assert {k: (p.shape, p.dtype) for k, p in found.items()} == {k: (p.shape, dtype) for k, p in params.items()}


@pytest.mark.parametrize("name", NAMES)
def test_stays_on_its_device(name: str) -> None:
    """On tensors without data, of a device that no code here names."""
    place, (algorithm, model, work) = torch.device("meta"), at_home(name)
    work = Task(work.model.to(place))
    state = started(algorithm, work)
    whole = trees.tree_map(lambda leaf: leaf if leaf is None else leaf.to(place), episode(model, 3, 4, seed=0))
    update, memory = one_round(algorithm, work, state, whole)
    found = [tuple(state), update, memory, tuple(stepped(algorithm, work, state, update))]
    found += algorithm.adapt(work, state.broadcast, whole.support)
    found += own(algorithm, work, state, whole._replace(memory=memory))
    assert {leaf.device for leaf in trees.leaves(found)} == {place}


@pytest.mark.parametrize("name", NAMES)
def test_methods_are_pure(name: str) -> None:
    """No argument is written to: the state may be the selected model, and the examples are the memory-mapped data."""
    algorithm, model, work = at_home(name)
    params = work.params()
    original = copied(params)
    state = algorithm.init(work, params)
    first = episode(model, 3, 4, seed=0)
    update, memory = one_round(algorithm, work, state, first)
    state = stepped(algorithm, work, state, update)
    (first,) = handed(algorithm, work, state, [first])
    first = first._replace(memory=memory)
    kept, given, sent = copied(tuple(state)), copied(first), copied(update)
    respond(algorithm, work, state.broadcast, first)
    list(algorithm.adapt(work, state.broadcast, first.support))
    list(own(algorithm, work, state, first))
    stepped(algorithm, work, state, update)
    assert_same(tuple(state), kept)
    assert_same(trees.leaves(first), trees.leaves(given))
    assert_same(update, sent)
    assert_same(params, original)
    assert_same(work.params(), original)


@pytest.mark.parametrize("name", NAMES)
def test_state_survives_a_checkpoint(name: str) -> None:
    algorithm, model, work = at_home(name, torch.float32)
    state = started(algorithm, work)
    update, _ = one_round(algorithm, work, state, episode(model, 3, 4, seed=0))
    state = stepped(algorithm, work, state, update)
    blob = save({key: leaf.clone() for key, leaf in trees.named_leaves(tuple(state)).items()})
    restored = State(*trees.with_named_leaves(tuple(started(algorithm, work)), load(blob)))
    assert_same(tuple(restored), tuple(state))
    assert_same(tuple(stepped(algorithm, work, restored, update)), tuple(stepped(algorithm, work, state, update)))


@pytest.mark.parametrize("name", NAMES)
def test_adapts_in_the_same_number_of_steps(name: str) -> None:
    algorithm, model, work = at_home(name)
    broadcast = started(algorithm, work).broadcast
    models = [list(algorithm.adapt(work, broadcast, shots(model, n, n))) for n in (1, 2, 13)]
    assert len({len(steps) for steps in models}) == 1


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(default(name), "personal")])
def test_participants_have_the_same_number_of_models(name: str) -> None:
    algorithm, model, work = at_home(name)
    state = started(algorithm, work)
    clients = participants(algorithm, work, state, model)
    assert len({len(list(own(algorithm, work, state, one))) for one, _ in clients}) == 1


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(default(name), "report")])
def test_reports_scalars_of_the_server(name: str) -> None:
    algorithm, _, work = at_home(name)
    assert of_server(work, algorithm, started(algorithm, work))


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(default(name), "report_client")])
def test_reports_the_same_scalars_of_every_client(name: str) -> None:
    algorithm, model, work = at_home(name)
    state = started(algorithm, work)
    clients = [client for client, _ in participants(algorithm, work, state, model)]
    new = [shots(model, n, n) for n in (1, 2, 13)]
    assert of_clients(work, algorithm, state.broadcast, [*clients, *new])


@pytest.mark.parametrize("name", NAMES)
def test_declared_space_can_be_built(name: str) -> None:
    cls = registry.plugin("algorithms", name)
    assert cls.title
    assert cls.space
    plain = resolve("algorithms", name, {})
    for key, values in cls.space.items():
        assert len(set(values)) == len(values) > 1
        for value in values:
            found: Any = build("algorithms", name, override(plain, {key: value}))
            for part in key.split("."):
                found = getattr(found, part)
            assert found == value


@pytest.mark.parametrize("name", NAMES)
def test_is_a_frozen_dataclass(name: str) -> None:
    algorithm = default(name)
    field = dataclasses.fields(cast(Any, algorithm))[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(algorithm, field, 1)


# ------------------------------------------------------------------------------- rounds computed by hand, with numpy


def test_the_reference_formulas() -> None:
    """The numpy formulas by themselves: the Hessian is the gradient's slope, the gradient the loss's."""
    data, v, eps = ALL[1], np.random.default_rng(0).normal(size=THETA.shape), 1e-6

    def loss(theta: Array) -> float:
        return float(-np.log(softmax(theta, data[0])[1][np.arange(len(data[1])), data[1]]).mean())

    slope = (loss(THETA + eps * v) - loss(THETA - eps * v)) / (2 * eps)
    assert (gradient(THETA, data) * v).sum() == pytest.approx(slope, rel=1e-8)
    slopes = (gradient(THETA + eps * v, data) - gradient(THETA - eps * v, data)) / (2 * eps)
    np.testing.assert_allclose(hessian_product(THETA, data, v), slopes, rtol=1e-7, atol=1e-9)


@both
def test_fedavg_of_one_full_batch_is_gradient_descent_on_all_examples(mode: Mode) -> None:
    """With weights by examples, one step of every client is one step on the pooled data."""
    pooled = (np.vstack([a[0] for a in ALL]), np.concatenate([a[1] for a in ALL]))
    assert_rounds(FedAvg(SGD(0.5), batch_size=100), mode, [THETA - 0.5 * gradient(THETA, pooled)])


@both
def test_fedavg_of_minibatches_and_epochs_is_the_mean_of_models(mode: Mode) -> None:
    expected = mean([local_sgd(THETA, d, seed, 0.5, 2, 2) for d, seed in zip(ALL, SEEDS, strict=True)])
    assert_rounds(FedAvg(SGD(0.5), epochs=2, batch_size=2), mode, [expected])


@both
def test_fedavg_client_momentum_and_weight_decay(mode: Mode) -> None:
    expected = mean([local_sgd(THETA, d, seed, 0.2, 2, 3, 0.9, 0.1) for d, seed in zip(ALL, SEEDS, strict=True)])
    assert_rounds(FedAvg(SGD(0.2, momentum=0.9, weight_decay=0.1), epochs=3, batch_size=2), mode, [expected])


@both
def test_fedavg_client_adam_starts_afresh_every_round(mode: Mode) -> None:
    def client(theta: Array, data: Data, seed: int) -> Array:
        adam = NumpyAdam(0.05)
        for rows in reference_batches(seed, len(data[1]), 2, 2):
            theta = adam.step(theta, gradient(theta, (data[0][rows], data[1][rows])))
        return theta

    first = mean([client(THETA, d, seed) for d, seed in zip(ALL, SEEDS, strict=True)])
    second = mean([client(first, d, seed) for d, seed in zip(ALL, SEEDS, strict=True)])
    assert_rounds(FedAvg(Adam(0.05), epochs=2, batch_size=2), mode, [first, second])


@both
def test_fedavg_server_momentum_and_decay_over_two_rounds(mode: Mode) -> None:
    """v1 = d1; v2 = 0.9 v1 + d2; the server's rate is 0.7; in round 2 clients learn at half the rate."""

    def difference(theta: Array, lr: float) -> Array:
        trained = mean([local_sgd(theta, d, seed, lr, 2, 1) for d, seed in zip(ALL, SEEDS, strict=True)])
        return cast(Array, theta - trained)

    d1 = difference(THETA, 0.4)
    first = THETA - 0.7 * d1
    second = first - 0.7 * (0.9 * d1 + difference(first, 0.2))
    algorithm = FedAvg(SGD(0.4), SGD(0.7, momentum=0.9), batch_size=2, decay=0.5)
    assert_rounds(algorithm, mode, [first, second])


@both
def test_fedavg_server_adam_over_three_rounds(mode: Mode) -> None:
    adam, theta, expected = NumpyAdam(0.1, 0.9, 0.99, 1e-3), THETA, []
    for _ in range(3):
        theta = adam.step(theta, theta - mean([theta - 0.3 * gradient(theta, d) for d in ALL]))
        expected.append(theta)
    assert_rounds(FedAvg(SGD(0.3), Adam(0.1, 0.9, 0.99, 1e-3)), mode, expected)


def test_fedavg_does_not_adapt() -> None:
    assert_models(adapted(FedAvg(), tensors(THETA), 1), [THETA])


@both
def test_fedavg_meta_trains_as_fedavg_and_fine_tunes_on_the_whole_support_set(mode: Mode) -> None:
    algorithm = FedAvgMeta(SGD(0.5), epochs=2, batch_size=2, adapt_lr=0.3, adapt_steps=3)
    expected = mean([local_sgd(THETA, d, seed, 0.5, 2, 2) for d, seed in zip(ALL, SEEDS, strict=True)])
    assert_rounds(algorithm, mode, [expected])
    for client in (0, 1):
        assert_models(adapted(algorithm, tensors(expected), client), descended(expected, SUPPORTS[client], 0.3, 3))


@both
def test_reptile_moves_part_of_the_way_and_adapts_as_it_trains(mode: Mode) -> None:
    algorithm = Reptile(SGD(0.5), SGD(0.25), epochs=2, batch_size=2, adapt_epochs=3)
    target = mean([local_sgd(THETA, d, seed, 0.5, 2, 2) for d, seed in zip(ALL, SEEDS, strict=True)])
    assert_rounds(algorithm, mode, [THETA + 0.25 * (target - THETA)])
    for client in (0, 1):
        steps = [local_sgd(THETA, SUPPORTS[client], SEEDS[client], 0.5, 2, epochs) for epochs in range(4)]
        assert_models(adapted(algorithm, tensors(THETA), client), steps)


def test_local_trains_on_its_support_set_and_nothing_moves() -> None:
    algorithm = Local(SGD(0.5), epochs=3, batch_size=2)
    state = algorithm.init(tiny(), tensors(THETA))
    assert trees.nbytes(algorithm.client(tiny(), state.broadcast, episodes()[0])) == 0
    assert stepped(algorithm, tiny(), state, ()) is state
    assert not algorithm.federated
    for client in (0, 1):
        steps = [local_sgd(THETA, SUPPORTS[client], SEEDS[client], 0.5, 2, epochs) for epochs in range(4)]
        assert_models(adapted(algorithm, state.broadcast, client), steps)


def fomaml_gradient(theta: Array, client: int, rate: float, steps: int) -> Array:
    return gradient(descended(theta, SUPPORTS[client], rate, steps)[-1], QUERIES[client])


def maml_gradient(theta: Array, client: int, rate: float, steps: int) -> Array:
    """(I - rate H(theta_0)) ... (I - rate H(theta_k-1)) times the query gradient at theta_k."""
    *points, final = descended(theta, SUPPORTS[client], rate, steps)
    g = gradient(final, QUERIES[client])
    for point in reversed(points):
        g = g - rate * hessian_product(point, SUPPORTS[client], g)
    return g


@both
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(("cls", "client"), [(MAML, maml_gradient), (FOMAML, fomaml_gradient)])
def test_maml_in_closed_form(cls: type[MAML], client: Callable[..., Array], steps: int, mode: Mode) -> None:
    """One round of the server's SGD; the inner rate is large, so that the orders differ in the first digit."""
    g = mean([client(THETA, i, 0.8, steps) for i in (0, 1)])
    algorithm = cls(0.8, inner_steps=steps, adapt_steps=3, server_optimizer=SGD(0.5))
    assert_rounds(algorithm, mode, [THETA - 0.5 * g])
    for i in (0, 1):
        assert_models(adapted(algorithm, tensors(THETA), i), descended(THETA, SUPPORTS[i], 0.8, 3))


def test_first_and_second_order_differ_here() -> None:
    first, second = (mean([f(THETA, i, 0.8, 1) for i in (0, 1)]) for f in (fomaml_gradient, maml_gradient))
    assert np.abs(first - second).max() > 0.1 * np.abs(second).max()


@both
def test_maml_server_adam_over_three_rounds(mode: Mode) -> None:
    adam, theta, expected = NumpyAdam(0.05), THETA, []
    for _ in range(3):
        theta = adam.step(theta, mean([maml_gradient(theta, i, 0.8, 1) for i in (0, 1)]))
        expected.append(theta)
    assert_rounds(MAML(0.8, server_optimizer=Adam(0.05)), mode, expected)


def meta_sgd_gradients(theta: Array, rates: Array, client: int, steps: int) -> tuple[Array, Array]:
    """By parameters and by rates, backwards through theta' = theta - rates * grad(theta)."""
    *points, final = descended(theta, SUPPORTS[client], rates, steps)
    by_theta, by_rates = gradient(final, QUERIES[client]), np.zeros_like(rates)
    for point in reversed(points):
        by_rates = by_rates - by_theta * gradient(point, SUPPORTS[client])
        by_theta = by_theta - hessian_product(point, SUPPORTS[client], rates * by_theta)
    return by_theta, by_rates


@both
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_sgd_in_closed_form_over_two_rounds(mode: Mode, steps: int) -> None:
    """In round 2 every rate is another, so a gradient that forgets an element-wise product would be found."""
    theta, rates = THETA, np.full_like(THETA, 0.6)
    algorithm = MetaSGD(0.6, inner_steps=steps, adapt_steps=2, server_optimizer=SGD(0.5))
    for state in rounds(algorithm, mode, 2):
        by_theta, by_rates = zip(*(meta_sgd_gradients(theta, rates, i, steps) for i in (0, 1)), strict=True)
        if steps == 1:  # the formula as papers write it
            support = [gradient(theta, d) for d in SUPPORTS]
            query = [gradient(theta - rates * s, d) for s, d in zip(support, QUERIES, strict=True)]
            np.testing.assert_allclose(mean(by_rates), mean([-s * q for s, q in zip(support, query, strict=True)]))
        theta, rates = theta - 0.5 * mean(by_theta), rates - 0.5 * mean(by_rates)
        np.testing.assert_allclose(array(state.broadcast["params"]), theta, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(array(state.broadcast["rates"]), rates, rtol=1e-11, atol=1e-13)
    learned = {"params": tensors(theta), "rates": tensors(rates)}
    assert_models(adapted(algorithm, learned, 1), descended(theta, SUPPORTS[1], rates, 2))


@both
def test_meta_sgd_server_adam_moves_rates_too(mode: Mode) -> None:
    theta, rates, for_theta, for_rates = THETA, np.full_like(THETA, 0.6), NumpyAdam(0.02), NumpyAdam(0.02)
    for state in rounds(MetaSGD(0.6, server_optimizer=Adam(0.02)), mode, 3):
        by_theta, by_rates = zip(*(meta_sgd_gradients(theta, rates, i, 1) for i in (0, 1)), strict=True)
        theta, rates = for_theta.step(theta, mean(by_theta)), for_rates.step(rates, mean(by_rates))
        np.testing.assert_allclose(array(state.broadcast["params"]), theta, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(array(state.broadcast["rates"]), rates, rtol=1e-10, atol=1e-12)


def test_scores_by_hand() -> None:
    """Examples, correct and summed loss on the query set, before and after two steps."""
    algorithm = FedAvgMeta(adapt_lr=0.8, adapt_steps=2)
    expected = []
    for support, query in zip(SUPPORTS, QUERIES, strict=True):
        rows = []
        for theta in descended(THETA, support, 0.8, 2):
            p = softmax(theta, query[0])[1]
            rows.append([2, (p.argmax(1) == query[1]).sum(), -np.log(p[np.arange(2), query[1]]).sum()])
        expected.append(rows)
    assert len({row[1] for rows in expected for row in rows}) > 1
    clients = [(e.support, e.query) for e in episodes()]
    for mode in ("sequential", "vectorised"):
        runner = engine(tiny(), algorithm, mode)
        found = [rows.tolist() for rows in runner.score(tensors(THETA), clients, True)]
        np.testing.assert_allclose(found, expected, rtol=1e-11)
        ends = [rows.tolist() for rows in runner.score(tensors(THETA), clients, False)]
        np.testing.assert_allclose(ends, [[rows[0], rows[-1]] for rows in expected], rtol=1e-11)


GIVEN_STEPS: list[dict[str, int]] = [{}, {"inner_steps": 3}, {"inner_steps": 3, "adapt_steps": 5}]


@pytest.mark.parametrize("cls", [MAML, FOMAML, MetaSGD])
def test_adapts_in_as_many_steps_as_it_trained(cls: type[Any]) -> None:
    counts = [len(adapted(cls(**given), started(cls(), tiny()).broadcast, 1)) for given in GIVEN_STEPS]
    assert counts == [2, 4, 6]


def test_a_model_that_is_not_finite_is_never_right() -> None:
    work, data = task("logistic"), shots("logistic", 20, seed=1)
    broken = trees.tree_map(lambda p: torch.full_like(p, torch.nan), work.params())
    assert (data.y == 0).any()  # the class that argmax finds among NaN
    assert work.score(broken, data)[:2].tolist() == [20, 0]


def test_scoring_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    work, data = task("logistic"), shots("logistic", 23, seed=1)
    whole = work.score(work.params(), data)
    monkeypatch.setattr("metaleaf.task.SCORE_ROWS", 5)
    assert_close(work.score(work.params(), data), whole, rtol=1e-14, atol=0)


# ------------------------------------------------------------------------------------------------ finite differences

# Inner rates at which the second-order terms are a visible part of the gradient.
INNER_LR = {"logistic": 0.5, "cnn": 0.3, "lstm": 2.0}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("model", INNER_LR)
def test_meta_gradients_by_finite_differences(model: str, steps: int) -> None:
    work, whole, rate = task(model), episode(model, 4, 6, seed=1), INNER_LR[model]
    params = step_along(work.params(), direction(work.params(), 5), 1.0)
    eps = 1e-6 if model == "cnn" else 1e-4
    maml = MAML(rate, inner_steps=steps).client(work, params, whole)
    fomaml = FOMAML(rate, inner_steps=steps).client(work, params, whole)
    rates = {name: rate * (0.5 + (p - p.floor())) for name, p in params.items()}  # of all sizes
    both_gradients = MetaSGD(inner_steps=steps).client(work, {"params": params, "rates": rates}, whole)
    constant = {name: torch.full_like(p, rate) for name, p in params.items()}
    for seed in (1, 2):
        v = direction(params, seed)

        def difference(along: str, at: Params, v: Params = v) -> float:
            ends = []
            for sign in (1, -1):
                moved = step_along(params if along == "params" else at, v, sign * eps)
                first, second = (moved, at) if along == "params" else (params, moved)
                ends.append(query_loss(work, first, second, whole, steps))
            return (ends[0] - ends[1]) / (2 * eps)

        measured = difference("params", constant)
        assert slope_along(v, maml) == pytest.approx(measured, rel=1e-5)
        assert slope_along(v, fomaml) != pytest.approx(measured, rel=1e-2)
        assert slope_along(v, both_gradients["params"]) == pytest.approx(difference("params", rates), rel=1e-5)
        assert slope_along(v, both_gradients["rates"]) == pytest.approx(difference("rates", rates), rel=1e-5)
