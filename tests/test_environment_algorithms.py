"""Every algorithm that learns from whole environments, against the contract; taken from the registry."""

from typing import Any, cast

import pytest
import torch
from environment_cases import ALL, NAMES, cohort, environment, local, prepared, shaken
from safetensors.torch import load, save
from small_tasks import shots, stepped, task
from torch.testing import assert_close

from metaleaf import registry, trees
from metaleaf.algorithm import Algorithm, State
from metaleaf.config.config import build, override, resolve
from metaleaf.engine.engine import Mode, engine
from metaleaf.engine.sequential import Sequential
from metaleaf.engine.vectorised import Vectorised
from metaleaf.environments.newcomers import Newcomer, advance, enter, scores
from metaleaf.gradient import over
from metaleaf.rounds import differences
from metaleaf.task import Task
from metaleaf.trees import Tree

MODELS = ["logistic", "small_cnn", "face_cnn"]
CPU = torch.device("cpu")
WEIGHTS = [0.2, 0.3, 0.5]
# Second order through large models takes seconds: there, only what the registry has.
CASES = [
    *(pytest.param(found, "logistic", id=f"{name}-logistic") for name, found in ALL.items()),
    *(pytest.param(ALL[name], model, id=f"{name}-{model}") for name in NAMES for model in MODELS[1:3]),
    *(pytest.param(ALL[name], "lstm", id=f"{name}-lstm", marks=pytest.mark.slow) for name in NAMES),
]


def default(name: str) -> Algorithm:
    return cast(Algorithm, registry.plugin("algorithms", name)())


def started(algorithm: Algorithm, work: Task) -> State:
    return algorithm.init(work, work.params())


def copied(tree: Tree) -> Tree:
    return trees.tree_map(torch.clone, tree)


def assert_same(a: Tree, b: Tree) -> None:
    assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def shape_of(tree: Tree) -> dict[str, Any]:
    return {key: (leaf.shape, leaf.dtype) for key, leaf in trees.named_leaves(tree).items()}


def entered(algorithm: Algorithm, work: Task, state: State, model: str) -> Tree:
    """First meeting, a round and scores of a new environment."""
    newcomer = Newcomer(work, algorithm, state.broadcast)
    first, second = environment(model, 0), environment(model, 1)
    session = advance(newcomer, enter(newcomer, first.participants, first.weights), second.participants, second.weights)
    return session, scores(newcomer, session, (second.queries, first.queries), True)


def test_there_are_some() -> None:
    assert {"few_round", "learned_start"} <= set(NAMES)


@pytest.mark.parametrize(("algorithm", "model"), CASES)
def test_vectorised_is_one_environment_at_a_time(algorithm: Algorithm, model: str) -> None:
    work = local(task(model))
    state = shaken(started(algorithm, work), 0.3 if model == "logistic" else 0.05)
    episodes = cohort(algorithm, work, state, model)
    one = Sequential(work, algorithm, CPU).gather(state.broadcast, episodes, WEIGHTS)
    both = Vectorised(work, algorithm, CPU).gather(state.broadcast, episodes, WEIGHTS)
    size = trees.length(one.update)
    assert size > 0
    assert trees.length(trees.subtract(one.update, both.update)) <= 1e-9 * size
    apart = [algorithm.client(work, state.broadcast, cast(Any, e)) for e in episodes]
    mean = trees.weighted_sum(trees.stack(apart), torch.tensor(WEIGHTS, dtype=torch.float64))
    assert trees.length(trees.subtract(one.update, mean)) <= 1e-12 * size


@pytest.mark.parametrize("name", ALL)
def test_padding_changes_nothing(name: str) -> None:
    """More participants and judges of weight 0, whatever their rows hold."""
    work, algorithm = local(task("logistic")), ALL[name]
    state = shaken(started(algorithm, work))
    few = prepared(algorithm, work, state, environment("logistic"))
    many = environment("logistic", participants=6, judges=5)
    for part in (many.participants, many.queries):
        assert part.mask is not None
        part.x[~part.mask] = 5.0
        part.y[~part.mask] = 1
    many = prepared(algorithm, work, state, many)
    updates = [algorithm.client(work, state.broadcast, cast(Any, e)) for e in (few, many)]
    assert trees.length(updates[0]) > 0
    assert trees.length(trees.subtract(*updates)) <= 1e-10 * trees.length(updates[0])


@pytest.mark.parametrize("mode", ["sequential", "vectorised"])
@pytest.mark.parametrize("name", ALL)
def test_is_deterministic(name: str, mode: Mode) -> None:
    work, algorithm = local(task("logistic", torch.float32)), ALL[name]

    def once() -> Tree:
        torch.rand(3)  # the global generator has moved on, which must not matter
        state = started(algorithm, work)
        episodes = cohort(algorithm, work, state, "logistic")
        update, _ = engine(work, algorithm, mode).gather(state.broadcast, episodes, WEIGHTS)
        state = stepped(algorithm, work, state, update)
        return tuple(state), entered(algorithm, work, state, "logistic")

    assert_same(once(), once())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_keeps_dtypes_and_shapes(name: str, dtype: torch.dtype) -> None:
    work, algorithm = local(task("logistic", dtype)), ALL[name]
    state = started(algorithm, work)
    episode = prepared(algorithm, work, state, environment("logistic"))
    update = algorithm.client(work, state.broadcast, cast(Any, episode))
    following = stepped(algorithm, work, state, update)
    assert {leaf.dtype for leaf in trees.leaves(update)} == {dtype}
    assert not any(leaf.requires_grad for leaf in trees.leaves((update, tuple(following))))
    assert shape_of(tuple(following)) == shape_of(tuple(state))
    assert {leaf.dtype for leaf in trees.leaves(following.broadcast)} == {dtype}
    session, _ = entered(algorithm, work, following, "logistic")
    assert shape_of(session["params"]) == shape_of(work.params())
    for model in algorithm.adapt(work, state.broadcast, shots("logistic", 4, 1)):
        assert shape_of(model) == shape_of(work.params())


@pytest.mark.parametrize("name", ALL)
def test_stays_on_its_device(name: str) -> None:
    """On tensors without data, of a device that no code here names."""
    place, algorithm = torch.device("meta"), ALL[name]
    work = local(Task(task("logistic").model.to(place)))
    state = started(algorithm, work)
    assert {leaf.device for leaf in trees.leaves(tuple(state))} == {place}
    episode = trees.to(environment("logistic"), place)
    episode = prepared(algorithm, work, state, episode)
    update = algorithm.client(work, state.broadcast, cast(Any, episode))
    following = stepped(algorithm, work, state, update)
    newcomer = Newcomer(work, algorithm, following.broadcast)
    session = advance(
        newcomer, enter(newcomer, episode.participants, episode.weights), episode.participants, episode.weights
    )
    assert {leaf.device for leaf in trees.leaves((update, tuple(following), session))} == {place}


@pytest.mark.parametrize("name", ALL)
def test_methods_are_pure(name: str) -> None:
    """No argument is written to."""
    work, algorithm = local(task("logistic")), ALL[name]
    params = work.params()
    original = copied(params)
    state = algorithm.init(work, params)
    episode = prepared(algorithm, work, state, environment("logistic"))
    given, kept = copied(episode), copied(tuple(state))
    update = algorithm.client(work, state.broadcast, cast(Any, episode))
    sent = copied(update)
    stepped(algorithm, work, state, update)
    entered(algorithm, work, state, "logistic")
    assert_same(tuple(state), kept)
    assert_same(tuple(episode), tuple(given))
    assert_same(update, sent)
    assert_same(params, original)
    assert_same(work.params(), original)


@pytest.mark.parametrize("name", ALL)
def test_state_survives_a_checkpoint(name: str) -> None:
    work, algorithm = local(task("logistic", torch.float32)), ALL[name]
    state = started(algorithm, work)
    episode = prepared(algorithm, work, state, environment("logistic"))
    update = algorithm.client(work, state.broadcast, cast(Any, episode))
    state = stepped(algorithm, work, state, update)
    blob = save({key: leaf.clone() for key, leaf in trees.named_leaves(tuple(state)).items()})
    restored = State(*trees.with_named_leaves(tuple(started(algorithm, work)), load(blob)))
    assert_same(tuple(restored), tuple(state))
    assert_same(tuple(stepped(algorithm, work, restored, update)), tuple(stepped(algorithm, work, state, update)))


@pytest.mark.parametrize("name", ALL)
def test_descends(name: str) -> None:
    """Some steps of the server on one environment make its judges happier, however it is parametrised."""
    work, algorithm = local(task("logistic")), ALL[name]
    state = started(algorithm, work)
    episode = prepared(algorithm, work, state, environment("logistic", 2))

    def judged(state: State) -> float:
        newcomer = Newcomer(work, algorithm, state.broadcast)
        session = enter(newcomer, episode.participants, episode.weights)
        for _ in range(max(algorithm.horizon)):
            session = {"params": trees.add(session["params"], _mean(work, session["params"], episode))}
        each = over(lambda one: work.loss(session["params"], one))(episode.queries)
        return float((episode.query_weights.double() * each).sum())

    before = judged(state)
    for _ in range(25):
        update = algorithm.client(work, state.broadcast, cast(Any, episode))
        state = stepped(algorithm, work, state, update)
    assert judged(state) < before - 1e-4


def _mean(work: Task, params: Tree, episode: Any) -> Tree:
    return trees.weighted_sum(differences(work, params, episode.participants), episode.weights)


@pytest.mark.parametrize("name", NAMES)
def test_declared_space_can_be_built(name: str) -> None:
    cls = registry.plugin("algorithms", name)
    assert cls.title
    plain = resolve("algorithms", name, {})
    for key, values in cls.space.items():
        assert len(set(values)) == len(values) > 1
        for value in values:
            found: Any = build("algorithms", name, override(plain, {key: value}))
            for part in key.split("."):
                found = getattr(found, part)
            assert found == value


@pytest.mark.parametrize("name", ALL)
def test_counts_its_client_updates(name: str) -> None:
    algorithm: Any = ALL[name]
    rounds = max(algorithm.horizon) + (not getattr(algorithm, "keeps_first", False))
    for participants, judges in ((3, 2), (5, 8)):
        assert algorithm.client_updates(participants, judges) == rounds * participants + judges
