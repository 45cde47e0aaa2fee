"""BMAML: the particles' steps as double sums in numpy, two rounds by finite differences of the chaser loss."""

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import task
from softmax_by_hand import (
    ALL,
    QUERIES,
    SEEDS,
    SUPPORTS,
    THETA,
    WEIGHTS,
    Array,
    Data,
    adapted,
    array,
    as_shots,
    assert_models,
    both,
    episodes,
    gradient,
    mean,
    softmax,
    tensors,
    tiny,
)
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.algorithm import State
from metaleaf.algorithms.bmaml import BMAML
from metaleaf.algorithms.maml import MAML
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode, engine
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD
from metaleaf.trees import Tree

RNG = np.random.default_rng(5)
START = np.array([THETA, *(THETA + 0.4 * RNG.normal(size=(3, *THETA.shape)))])
RATE = 0.8


def width(particles: Array) -> float:
    """The kernel's h; the lower of two medians, as torch takes it."""
    pairs = [((a - b) ** 2).sum() for i, a in enumerate(particles) for b in particles[:i]]
    return float(sorted(pairs)[(len(pairs) - 1) // 2] / np.log(len(particles) + 1))


def moved(particles: Array, data: Data, h: float) -> Array:
    """One step of SVGD, as the paper's formula is written."""
    found = particles.copy()
    for m, theta in enumerate(particles):
        for other in particles:
            k = np.exp(-((other - theta) ** 2).sum() / h)
            score = -len(data[1]) * gradient(other, data)
            repulsion = -2 / h * (other - theta) * k  # of k by its first argument
            found[m] += RATE / (len(particles) * len(data[1])) * (k * score + repulsion)
    return found


def path(particles: Array, data: Data, steps: int) -> tuple[list[Array], list[float]]:
    """(points, the kernel's widths on the way)."""
    points, widths = [particles], []
    for _ in range(steps):
        widths.append(width(points[-1]))
        points.append(moved(points[-1], data, widths[-1]))
    return points, widths


def slope(particles: Array, client: int, steps: int, leader_steps: int) -> Array:
    """Of the chaser's squared distance to the leader, which stands still, as do the widths."""
    points, widths = path(particles, SUPPORTS[client], steps)
    leader = path(points[-1], ALL[client], leader_steps)[0][-1]

    def loss(start: Array) -> float:
        for h in widths:
            start = moved(start, SUPPORTS[client], h)
        return float(((start - leader) ** 2).sum())

    found, eps = np.zeros_like(particles), 1e-5
    for place in np.ndindex(*particles.shape):
        unit = np.zeros_like(particles)
        unit[place] = eps
        found[place] = (loss(particles + unit) - loss(particles - unit)) / (2 * eps)
    return found


def stacked(particles: Array) -> Tree:
    return trees.stack([tensors(theta) for theta in particles])


def arrays(particles: Tree) -> Array:
    return np.array([array(one) for one in trees.unstack(particles)])


@both
@pytest.mark.parametrize(("steps", "leader_steps"), [(1, 1), (2, 3)])
def test_two_rounds_by_finite_differences(steps: int, leader_steps: int, mode: Mode) -> None:
    algorithm, work = BMAML(4, RATE, steps, leader_steps, server_optimizer=SGD(0.5)), tiny()
    particles, state = START, State(stacked(START))
    runner = engine(work, algorithm, mode)
    for number in (1, 2):
        update = runner.gather(state.broadcast, episodes(number), WEIGHTS).update
        state = algorithm.server(state, update)
        particles = particles - 0.5 * mean([slope(particles, i, steps, leader_steps) for i in (0, 1)])
        np.testing.assert_allclose(arrays(state.broadcast), particles, rtol=1e-8, atol=1e-10)


@both
def test_a_new_client_moves_the_particles_and_predicts_by_their_mean(mode: Mode) -> None:
    """Scores of three models: before, and after each of two steps; of supports with 1 and 3 examples."""
    algorithm, work = BMAML(4, RATE, adapt_steps=2), tiny()
    placed = [(as_shots(s, seed), as_shots(q, 1)) for s, q, seed in zip(SUPPORTS, QUERIES, SEEDS, strict=True)]
    scores = engine(work, algorithm, mode).score(stacked(START), placed, True)
    for rows, support, (x, y) in zip(scores, SUPPORTS, QUERIES, strict=True):
        points, _ = path(START, support, 2)
        for row, particles in zip(rows.tolist(), points, strict=True):
            p = np.mean([softmax(theta, x)[1] for theta in particles], axis=0)
            loss = -np.log(p[np.arange(len(y)), y]).sum()
            np.testing.assert_allclose(row, [len(y), (p.argmax(1) == y).sum(), loss], rtol=1e-10)


def test_particles_repel_each_other() -> None:
    """Without the kernel's gradient they would end nearer to each other."""
    ends, _ = path(START, SUPPORTS[0], 1)
    for theta, before in zip(ends[-1], START, strict=True):
        assert not np.allclose(theta, before - RATE * gradient(before, SUPPORTS[0]), atol=1e-3)
    spread = [np.var(points, axis=0).sum() for points in (START, ends[-1])]
    assert spread[1] > spread[0]


def test_with_one_particle_it_adapts_as_maml() -> None:
    algorithm = BMAML(1, RATE, inner_steps=3)
    for client in (0, 1):
        models = algorithm.adapt(tiny(), stacked(START[:1]), as_shots(SUPPORTS[client], SEEDS[client]))
        expected = adapted(MAML(RATE, inner_steps=3), tensors(THETA), client)
        assert_models([arrays(model)[0] for model in models], expected)


def test_particles_in_one_place_stay_together_and_finite() -> None:
    algorithm, work = BMAML(3, RATE, inner_steps=2), tiny()
    together = stacked(np.array([THETA] * 3))
    found = algorithm.client(work, together, episodes()[1])
    assert all(leaf.isfinite().all() for leaf in trees.leaves(found))
    *_, end = algorithm.adapt(work, together, episodes()[1].support)
    expected = adapted(MAML(RATE, inner_steps=2), tensors(THETA), 1)[-1]
    np.testing.assert_allclose(arrays(end), [expected] * 3, rtol=1e-11)


def test_particles_start_apart_and_the_first_is_the_usual_start() -> None:
    work = task("cnn")
    particles = trees.unstack(BMAML(3).init(work, work.params()).broadcast)
    assert_close(particles[0], work.params(), rtol=0, atol=0)
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not torch.equal(particles[one]["conv1.weight"], particles[other]["conv1.weight"])


@pytest.mark.parametrize("given", [{"particles": 0}, {"leader_steps": 0}, {"inner_lr": 0.0}])
def test_refuses_wrong_values(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        build("algorithms", "bmaml", given)
