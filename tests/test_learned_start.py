"""Learned start: what it writes knowing nothing, its formulas by hand, its gradients measured, what it prepares."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from environment_cases import environment, local, shaken
from small_environments import JUDGE_SHARES, JUDGES, PARTICIPANTS, SHARES, by_hand, padded, shares
from small_tasks import task as small_task
from softmax_by_hand import (
    ALL,
    CLASSES,
    FEATURES,
    QUERIES,
    SUPPORTS,
    THETA,
    Array,
    Data,
    array,
    descended,
    softmax,
    tiny,
)
from test_newcomers import LATER, LATER_SHARES, mean_change

from metaleaf import trees
from metaleaf.algorithm import Replies, State
from metaleaf.algorithms.learned_start import LearnedStart
from metaleaf.engine.engine import Mode, engine
from metaleaf.environments.newcomers import Newcomer, advance, enter
from metaleaf.errors import ConfigError
from metaleaf.gradient import over
from metaleaf.optimizers import SGD
from metaleaf.rounds import differences
from metaleaf.shots import EnvironmentEpisode
from metaleaf.task import Task
from metaleaf.trees import Tree

RATE, STEPS = 0.7, 3  # those of test_newcomers
both = pytest.mark.parametrize("mode", ["sequential", "vectorised"])
LINEAR: Any = LearnedStart(reader="linear", directions=3)


def work() -> Task:
    task = tiny()
    task.local_lr, task.local_steps, task.rounds = RATE, STEPS, 40
    return task


def started(algorithm: Any, task: Task | None = None) -> State:
    task = task or work()
    state: State = algorithm.init(task, task.params())
    return state


def flat(theta: Array) -> Array:
    """In the order of the package: weights, then biases."""
    return np.concatenate([theta[:, :FEATURES].ravel(), theta[:, FEATURES]])


def unflat(vector: Array) -> Array:
    return np.column_stack([vector[: CLASSES * FEATURES].reshape(CLASSES, FEATURES), vector[CLASSES * FEATURES :]])


def changes(theta: Array, clients: list[Data]) -> Array:
    return np.stack([flat(descended(theta, d, RATE, STEPS)[-1] - theta) for d in clients])


def by_formula(broadcast: Any, theta: Array, updates: Array, weights: list[float]) -> Array:
    """The start that `LINEAR` writes: p + e^s mean(u) + scale (b + M (S mean(u / scale) - c) D)."""
    learned, scale = broadcast["learned"], broadcast["scale"].numpy()
    net = {key: learned["network"][key].numpy() for key in ("sketch", "centre", "directions")}
    mean = np.array(weights) @ updates
    coefficients = learned["network"]["network"]["linear"].numpy() @ (net["sketch"] @ (mean / scale) - net["centre"])
    factors = np.exp([float(s) for s in (learned["factors"]["out.weight"], learned["factors"]["out.bias"])])
    grown = np.repeat(factors, [CLASSES * FEATURES, CLASSES]) * mean
    return unflat(flat(theta) + grown + scale * (learned["offset"].numpy() + coefficients @ net["directions"]))


# -------------------------------------------------------------------------------------------------------------- start

UNTRAINED: dict[str, Any] = {
    "basis": LearnedStart(directions=3),
    "linear": LINEAR,
    "mean": LearnedStart(directions=3, reader="mean"),
    "dense": LearnedStart(writer="dense", width=4),
    "coordinate": LearnedStart(writer="coordinate", width=4),
    "random": LearnedStart(directions=3, start_directions="random"),
}


def entered(algorithm: Any, state: State, size: int = 2) -> Any:
    newcomer, episode = Newcomer(work(), algorithm, state.broadcast), by_hand(size)
    return newcomer, enter(newcomer, episode.participants, episode.weights)


@pytest.mark.parametrize("scale", [1.0, 0.03])
@pytest.mark.parametrize("name", UNTRAINED)
def test_knowing_nothing_it_starts_from_the_mean_update(name: str, scale: float) -> None:
    algorithm = UNTRAINED[name]
    state = started(algorithm)
    state = state._replace(broadcast={**state.broadcast, "scale": scale * state.broadcast["scale"]})
    _, session = entered(algorithm, state, 4)
    np.testing.assert_allclose(array(session["params"]), THETA + mean_change(THETA, ALL, SHARES), rtol=1e-12)
    alone = replace(algorithm, residual=False)
    _, session = entered(alone, state, 4)
    np.testing.assert_array_equal(array(session["params"]), THETA)


def test_the_start_by_hand() -> None:
    state = shaken(started(LINEAR))
    assert any(bool(leaf.any()) for leaf in trees.leaves(state.broadcast["learned"]["factors"]))
    _, session = entered(LINEAR, state, 3)
    expected = by_formula(state.broadcast, THETA, changes(THETA, PARTICIPANTS), SHARES)
    np.testing.assert_allclose(array(session["params"]), expected, rtol=1e-11)
    assert np.abs(expected - THETA - mean_change(THETA, ALL, SHARES)).max() > 0.05, "it has learnt something"


def test_rounds_are_left_to_averaging() -> None:
    state = shaken(started(LINEAR))
    newcomer, session = entered(LINEAR, state)
    start = array(session["params"])
    session = advance(newcomer, session, *cohort(LATER, LATER_SHARES))
    np.testing.assert_allclose(array(session["params"]), start + mean_change(start, LATER, LATER_SHARES), rtol=1e-11)
    assert set(session) == {"params"}


def cohort(clients: list[Data], weights: list[float]) -> tuple[Any, torch.Tensor]:
    return padded(clients, 4, 6), shares(weights, 4)


def test_read_writes_the_start_anew_from_all_updates() -> None:
    """Every cohort counts alike, however many there are; all train from the shared parameters."""
    algorithm: Any = replace(LINEAR, onward="read")
    state = shaken(started(algorithm))
    newcomer, session = entered(algorithm, state)
    clients, weights = list(PARTICIPANTS), list(SHARES)
    rounds = [(LATER, LATER_SHARES), ([QUERIES[0]], [1.0]), ([SUPPORTS[0], QUERIES[1]], [0.4, 0.6])]
    for number, (more, parts) in enumerate(rounds, start=2):
        session = advance(newcomer, session, *cohort(more, parts))
        clients, weights = [*clients, *more], [*weights, *parts]
        expected = by_formula(state.broadcast, THETA, changes(THETA, clients), [w / number for w in weights])
        np.testing.assert_allclose(array(session["params"]), expected, rtol=1e-10)


def test_learn_follows_the_rounds_with_the_network() -> None:
    """The change of the start by one step of all that is learnt, along the mean update; measured by differences."""
    algorithm: Any = replace(LINEAR, onward="learn", onward_lr=0.05)
    state = shaken(started(algorithm))
    newcomer, session = entered(algorithm, state)
    updates, start = changes(THETA, PARTICIPANTS), array(session["params"])
    mean = mean_change(start, LATER, LATER_SHARES)
    learned = state.broadcast["learned"]

    def start_with(learned: Tree) -> Array:
        return by_formula({**state.broadcast, "learned": learned}, THETA, updates, SHARES)

    def stepped(learned: Tree) -> Tree:
        """Coordinate by coordinate, d(start . mean) / d(learned)."""
        leaves, eps = trees.leaves(learned), 1e-6
        found = []
        for i, leaf in enumerate(leaves):
            moved = leaf.clone()
            for place in np.ndindex(leaf.shape):
                values = []
                for sign in (1, -1):
                    other = leaf.clone()
                    other[place] += sign * eps
                    rest = iter([*leaves[:i], other, *leaves[i + 1 :]])
                    tree = trees.tree_map(lambda _, rest=rest: next(rest), learned)
                    values.append(float((start_with(tree) * mean).sum()))
                moved[place] += 0.05 * (values[0] - values[1]) / (2 * eps)
            found.append(moved)
        rest = iter(found)
        return trees.tree_map(lambda _: next(rest), learned)

    session = advance(newcomer, session, *cohort(LATER, LATER_SHARES))
    after = stepped(learned)
    expected = start + mean + start_with(after) - start_with(learned)
    np.testing.assert_allclose(array(session["params"]), expected, rtol=1e-6, atol=1e-8)
    assert np.abs(expected - start - mean).max() > 0.01, "the network has moved"
    still = replace(algorithm, onward_lr=0.0)
    newcomer, session = entered(still, state)
    session = advance(newcomer, session, *cohort(LATER, LATER_SHARES))
    np.testing.assert_allclose(array(session["params"]), start + mean, rtol=1e-10)


# ----------------------------------------------------------------------------------------------------------- training


def judged(theta: Array) -> float:
    each = [-np.log(softmax(theta, x)[1][np.arange(len(y)), y]).mean() for x, y in JUDGES]
    return float(np.dot(JUDGE_SHARES, each))


def objective(broadcast: Any, horizon: tuple[int, ...], theta: Array, at: Array) -> float:
    """Of `LINEAR`: the first updates are taken at `at`, which is theta in truth."""
    point, found = by_formula(broadcast, theta, changes(at, PARTICIPANTS), SHARES), []
    for number in range(max(horizon) + 1):
        if number:
            point = point + mean_change(point, PARTICIPANTS, SHARES)
        if number in horizon:
            found.append(judged(point))
    return float(np.mean(found))


def episode_for(algorithm: Any, broadcast: Any) -> EnvironmentEpisode:
    episode = by_hand(3, 6, 4, junk=2.0)
    if not algorithm.keeps_first:
        return episode
    return episode._replace(first=differences(work(), broadcast["params"], episode.participants))


@both
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("horizon", [(0,), (0, 2)])
def test_meta_gradients_by_finite_differences(horizon: tuple[int, ...], frozen: bool, mode: Mode) -> None:
    algorithm: Any = replace(LINEAR, horizon=horizon, frozen=frozen)
    broadcast = shaken(started(algorithm)).broadcast
    update, _ = engine(work(), algorithm, mode).gather(broadcast, [episode_for(algorithm, broadcast)], [1.0])
    assert set(update) == ({"learned"} if frozen else {"learned", "params"})
    eps, rng = 1e-5, torch.Generator().manual_seed(0)
    learned = broadcast["learned"]
    for part in trees.named_leaves(learned):
        v = trees.with_named_leaves(
            learned,
            {
                name: torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype) if name == part else leaf * 0
                for name, leaf in trees.named_leaves(learned).items()
            },
        )
        ends = [
            objective({**broadcast, "learned": trees.add(learned, v, sign * eps)}, horizon, THETA, THETA)
            for sign in (1, -1)
        ]
        slope = sum(float((a * b).sum()) for a, b in zip(trees.leaves(update["learned"]), trees.leaves(v), strict=True))
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-6, abs=1e-9), part
    if not frozen:
        found = array(update["params"])
        for i in np.ndindex(THETA.shape):
            step = np.zeros_like(THETA)
            step[i] = eps
            ends = [objective(broadcast, horizon, THETA + s * step, THETA + s * step) for s in (1, -1)]
            assert found[i] == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-6, abs=1e-9)


@both
def test_first_order_leaves_out_how_first_updates_depend_on_the_parameters(mode: Mode) -> None:
    second = replace(LINEAR, frozen=False)
    first = replace(second, first_order=True)
    broadcast = shaken(started(second)).broadcast
    a, b = (
        engine(work(), algorithm, mode).gather(broadcast, [by_hand()], [1.0]).update for algorithm in (second, first)
    )
    torch.testing.assert_close(a["learned"], b["learned"], rtol=1e-11, atol=1e-13)
    eps = 1e-5
    expected, whole = np.zeros_like(THETA), array(a["params"])
    for i in np.ndindex(THETA.shape):
        step = np.zeros_like(THETA)
        step[i] = eps
        ends = [objective(broadcast, (0,), THETA + s * step, THETA) for s in (1, -1)]
        expected[i] = (ends[0] - ends[1]) / (2 * eps)
    np.testing.assert_allclose(array(b["params"]), expected, rtol=1e-5, atol=1e-9)
    assert np.abs(whole - expected).max() > 0.05 * np.abs(expected).max()


RISE = 1 / 2
"""The schedule's factor in the first of 40 rounds: 5 % of them are two."""


def test_frozen_parameters_stay_and_others_move() -> None:
    for frozen in (True, False):
        algorithm = replace(LINEAR, frozen=frozen, optimizer=SGD(0.5), params_optimizer=SGD(0.1), clip=1e6)
        state = shaken(started(algorithm))
        update = algorithm.client(work(), state.broadcast, episode_for(algorithm, state.broadcast))
        following = algorithm.server(state, update)
        moved = trees.subtract(following.broadcast["learned"], state.broadcast["learned"])
        expected = trees.tree_map(lambda g: -0.5 * RISE * g, update["learned"])
        torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-12)
        change = array(following.broadcast["params"]) - THETA
        np.testing.assert_allclose(change, 0 if frozen else -0.1 * RISE * array(update["params"]), rtol=1e-6)
        assert torch.equal(following.broadcast["scale"], state.broadcast["scale"])
        assert following.kept["round"] == 1


def test_the_bound_is_on_the_whole_gradient() -> None:
    algorithm: Any = replace(LINEAR, frozen=False, optimizer=SGD(1.0), params_optimizer=SGD(1.0), clip=0.01)
    state = shaken(started(algorithm))
    update = algorithm.client(work(), state.broadcast, by_hand())
    assert trees.length(update) > 0.01
    following = algorithm.server(state, update)
    moved = {key: trees.subtract(following.broadcast[key], state.broadcast[key]) for key in ("learned", "params")}
    assert trees.length(moved) == pytest.approx(0.01 * RISE, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- preparing


def ask_of(episodes: list[EnvironmentEpisode]) -> Callable[..., Tree]:
    return lambda f: over(f)(trees.stack(episodes))


def environments(count: int = 6) -> list[EnvironmentEpisode]:
    """Whole environments; in every second one only a part of the members is real."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        clients = [(rng.normal(size=(n, 2)) * 2, rng.integers(0, 3, n)) for n in rng.integers(1, 6, 4 - seed % 2)]
        sizes = [len(y) for _, y in clients]
        empty = padded([], 1, 6)
        found.append(
            EnvironmentEpisode(
                padded(clients, 4, 6),
                shares([n / sum(sizes) for n in sizes], 4),
                empty,
                shares([], 1),
                torch.tensor(-1.0),
            )
        )
    return found


def real(episode: EnvironmentEpisode) -> tuple[list[Data], list[float]]:
    clients = []
    x, y, mask = episode.participants.x, episode.participants.y, episode.participants.mask
    assert mask is not None
    for i, weight in enumerate(episode.weights):
        if weight > 0:
            clients.append((x[i][mask[i]].numpy(), y[i][mask[i]].numpy()))
    return clients, [float(w) for w in episode.weights if w > 0]


def mean_and_scale() -> tuple[Array, Array]:
    """The environments' mean first updates, and the usual size of an update of each tensor, by hand."""
    means, squares = [], []
    for episode in environments():
        clients, weights = real(episode)
        moved = changes(THETA, clients)
        means.append(np.array(weights) @ moved)
        squares.append([(moved[:, :6] ** 2).mean(), (moved[:, 6:] ** 2).mean()])
    sizes = np.sqrt(np.mean(squares, axis=0))
    return np.stack(means), np.repeat(sizes, [6, 3])


@pytest.mark.parametrize("writer", ["basis", "dense", "coordinate"])
def test_prepares_the_scale(writer: Any) -> None:
    algorithm: Any = LearnedStart(writer=writer, directions=3, width=4)
    state = algorithm.prepare(work(), started(algorithm), ask_of(environments()))
    np.testing.assert_allclose(state.broadcast["scale"].numpy(), mean_and_scale()[1], rtol=1e-10)
    before = trees.named_leaves(tuple(started(algorithm)))
    after = trees.named_leaves(tuple(state))
    assert {k: (v.shape, v.dtype) for k, v in before.items()} == {k: (v.shape, v.dtype) for k, v in after.items()}


def principal_of(rows: Array, count: int) -> Array:
    """Unit rows, up to their sign."""
    found: Array = np.linalg.svd(rows, full_matrices=False)[2][:count]
    return found


def test_prepares_directions_and_sketch_from_mean_updates() -> None:
    algorithm: Any = LearnedStart(directions=3, reader="linear")
    state = algorithm.prepare(work(), started(algorithm), ask_of(environments()))
    means, scale = mean_and_scale()
    rows, network = means / scale, state.broadcast["learned"]["network"]
    _, s, v = np.linalg.svd(rows, full_matrices=False)
    directions = network["directions"].numpy()
    np.testing.assert_allclose(np.abs(directions @ v[:3].T), np.diag(s[:3] / np.sqrt(6)), atol=1e-8)
    expected = np.concatenate([v[:3], principal_of(rows - rows.mean(0), 3)])
    sketch = network["sketch"].numpy()
    unit = sketch / np.linalg.norm(sketch, axis=1)[:, None]
    np.testing.assert_allclose(np.abs((unit * expected).sum(1)), 1, atol=1e-8)
    read = rows @ sketch.T - network["centre"].numpy()
    np.testing.assert_allclose(read.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(read.std(0, ddof=1), 1, rtol=1e-9)
    _, session = entered(algorithm, state)
    np.testing.assert_allclose(array(session["params"]), THETA + mean_change(THETA, ALL, SHARES), rtol=1e-10)


def solution(episode: EnvironmentEpisode, rounds: int, size: int) -> Array:
    """Federated averaging, the members taking turns in order; who only pads is left out."""
    clients, weights = real(episode)
    theta = THETA
    for number in range(rounds):
        turn = [(i + number * size) % 4 for i in range(size)]
        present = [i for i in turn if i < len(clients)]
        if present:
            total = sum(weights[i] for i in present)
            theta = theta + mean_change(theta, [clients[i] for i in present], [weights[i] / total for i in present])
    return theta


def test_prepares_directions_from_solutions() -> None:
    algorithm: Any = LearnedStart(
        directions=4, start_directions="solutions", solution_rounds=3, solution_participants=3, distil_steps=0
    )
    state = algorithm.prepare(work(), started(algorithm), ask_of(environments()))
    _, scale = mean_and_scale()
    rows = np.stack([flat(solution(e, 3, 3) - THETA) for e in environments()]) / scale
    _, s, v = np.linalg.svd(rows, full_matrices=False)
    directions = state.broadcast["learned"]["network"]["directions"].numpy()
    np.testing.assert_allclose(np.abs(directions @ v[:4].T), np.diag(s[:4] / np.sqrt(6)), atol=1e-8)


@pytest.mark.parametrize("residual", [True, False])
def test_distils_solutions(residual: bool) -> None:
    """With as many directions as matter and linear reading, the written start comes closer to the solution."""
    algorithm: Any = LearnedStart(
        directions=5, start_directions="solutions", solution_rounds=5, solution_participants=4, residual=residual
    )
    task, episodes = work(), environments()
    none, some = (
        replace(algorithm, distil_steps=steps).prepare(task, started(algorithm), ask_of(episodes)) for steps in (0, 800)
    )
    scale = none.broadcast["scale"].numpy()

    def error(state: State) -> float:
        found = []
        for episode in episodes:
            newcomer = Newcomer(task, algorithm, state.broadcast)
            session = enter(newcomer, episode.participants, episode.weights)
            missed = flat(array(session["params"]) - solution(episode, 5, 4)) / scale
            found.append((missed**2).sum())
        return float(np.mean(found))

    assert error(some) < 0.25 * error(none)


def test_random_directions_are_left_as_they_are() -> None:
    algorithm: Any = LearnedStart(directions=3, start_directions="random")
    before = started(algorithm)
    after = algorithm.prepare(work(), before, ask_of(environments()))
    torch.testing.assert_close(after.broadcast["learned"], before.broadcast["learned"], rtol=0, atol=0)


@pytest.mark.parametrize("directions", [6, 7])
def test_more_directions_than_environments_are_refused(directions: int) -> None:
    algorithm: Any = LearnedStart(directions=directions)
    with pytest.raises(ConfigError, match=f"{directions} directions from 6 training environments: lower directions"):
        algorithm.prepare(work(), started(algorithm), ask_of(environments()))


def test_counts_what_it_prepares() -> None:
    sizes = [20, 12, 7]
    assert LearnedStart().prepare_updates(sizes) == 39
    assert LearnedStart(writer="dense", start_directions="solutions").prepare_updates(sizes) == 39
    solved = LearnedStart(start_directions="solutions", solution_rounds=25, solution_participants=10)
    assert solved.prepare_updates(sizes) == 39 + 25 * (10 + 10 + 7)


def test_training_makes_starts_better_than_the_mean_update() -> None:
    """On other tasks than softmax regression's, too."""
    task = local(small_task("small_cnn"), 0.1, 1)
    algorithm: Any = LearnedStart(directions=4, width=8)
    state = algorithm.init(task, task.params())
    episode = environment("small_cnn")
    episode = episode._replace(first=differences(task, state.broadcast["params"], episode.participants))

    def loss(state: State) -> float:
        newcomer = Newcomer(task, algorithm, state.broadcast)
        params: Any = newcomer.start(Replies(episode.first, episode.weights))["params"]
        each = over(lambda one: task.loss(params, one))(episode.queries)
        return float((episode.query_weights.double() * each).sum())

    before = loss(state)
    for _ in range(20):
        state = algorithm.server(state, algorithm.client(task, state.broadcast, episode))
    assert loss(state) < before
