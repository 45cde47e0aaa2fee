"""Clients in lockstep: the same products as each alone, made together, also when some end early or fail."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest
import torch
from small_tasks import cohort, task
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.maml import MAML
from metaleaf.engine import crew, factored, lockstep
from metaleaf.engine.engine import engine
from metaleaf.engine.lockstep import Team, product
from metaleaf.optimizers import SGD

WEIGHT = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """(rows, backwards) of the products made."""
    found: list[tuple[int, bool]] = []
    multiply = lockstep._multiply

    def noted(x: Tensor, matrix: Tensor, backwards: bool) -> Tensor:
        found.append((len(x), backwards))
        return multiply(x, matrix, backwards)

    monkeypatch.setattr(lockstep, "_multiply", noted)
    return found


def _there_and_back(x: Tensor, times: int) -> Tensor:
    for _ in range(times):
        x = product(product(x, WEIGHT, False), WEIGHT, True)
    return x


@pytest.mark.parametrize("seats", [1, 2, 3])
def test_products_are_made_together_until_a_client_ends(
    threads: ThreadPoolExecutor, made: list[tuple[int, bool]], seats: int
) -> None:
    inputs = [torch.full((rows, 3), float(rows), dtype=torch.float64) for rows in (1, 2, 3)]
    found = Team([WEIGHT], seats).map(threads, lambda i: _there_and_back(inputs[i], times=i + 1), range(3))
    together = list(made)
    assert together == [(6, False), (6, True), (5, False), (5, True), (3, False), (3, True)]
    for i, y in enumerate(found):
        assert torch.allclose(y, inputs[i] @ torch.linalg.matrix_power(WEIGHT.T @ WEIGHT, i + 1), rtol=1e-12)


def test_only_shared_matrices_are_waited_for_and_each_apart(
    threads: ThreadPoolExecutor, made: list[tuple[int, bool]]
) -> None:
    x = torch.ones(2, 3, dtype=torch.float64)

    def work(i: int) -> Tensor:
        return product(x, WEIGHT if i else OTHER, False) + (product(x, WEIGHT + 1, False) if i == 2 else 0)

    found = Team([WEIGHT, OTHER]).map(threads, work, range(3))
    assert sorted(made) == [(2, False), (2, False), (4, False)]
    assert torch.allclose(found[0], x @ OTHER.T)
    assert torch.allclose(found[1], x @ WEIGHT.T)
    assert torch.allclose(found[2], x @ (2 * WEIGHT + 1).T)


def test_no_more_clients_run_than_there_are_seats(threads: ThreadPoolExecutor) -> None:
    running, most = [0], [0]

    def work(i: int) -> None:
        for _ in range(5):
            running[0] += 1
            most[0] = max(most[0], running[0])
            time.sleep(0.002)
            running[0] -= 1
            product(torch.ones(1, 3, dtype=torch.float64), WEIGHT, False)

    for seats in (1, 2):
        most[0] = 0
        Team([WEIGHT], seats).map(threads, work, range(4))
        assert most[0] == seats


def test_an_answer_is_the_clients_own(threads: ThreadPoolExecutor) -> None:
    x = torch.ones(1, 3, dtype=torch.float64)
    found = Team([WEIGHT]).map(threads, lambda i: product(x, WEIGHT, False).mul_(i), range(3))
    assert all(torch.allclose(y, i * x @ WEIGHT.T) for i, y in enumerate(found))


def test_without_a_team_it_is_the_product(made: list[tuple[int, bool]]) -> None:
    assert torch.equal(product(OTHER, WEIGHT, False), OTHER @ WEIGHT.T)
    assert torch.equal(product(OTHER.T, WEIGHT, True), OTHER.T @ WEIGHT)


@pytest.mark.parametrize("first", [True, False])
def test_a_client_that_fails_is_not_waited_for(threads: ThreadPoolExecutor, first: bool) -> None:
    done = []

    def work(i: int) -> Tensor:
        if i == 1:
            if not first:
                product(torch.ones(1, 3, dtype=torch.float64), WEIGHT, False)
            raise ValueError("client 1")
        y = _there_and_back(torch.ones(1, 3, dtype=torch.float64), times=3)
        done.append(i)
        return y

    with pytest.raises(ValueError, match="client 1"):
        Team([WEIGHT]).map(threads, work, range(4))
    assert sorted(done) == [0, 2, 3]


def test_a_product_that_fails_fails_for_who_asked_for_it(threads: ThreadPoolExecutor) -> None:
    with pytest.raises(RuntimeError, match="shape"):
        Team([WEIGHT]).map(threads, lambda i: product(torch.ones(1, 5, dtype=torch.float64), WEIGHT, False), range(3))


def test_teams_take_every_client_once_and_have_about_equal_work() -> None:
    for count in range(1, 60):
        teams = crew.dealt(range(count), [1] * count)
        assert sorted(chain(*teams)) == list(range(count))
        assert max(map(len, teams)) <= crew.TEAM
        assert max(map(len, teams)) - min(map(len, teams)) <= 1
    assert [len(team) for team in crew.dealt(range(10), [1] * 10)] == [5, 5]


def test_teams_of_very_different_clients_are_levelled() -> None:
    sizes = [463, 163, 128, 121, 92, 76, 74, 65, 49, 45]
    teams = crew.dealt(range(10), sizes)
    assert sorted(chain(*teams)) == list(range(10))
    assert [sum(sizes[i] for i in team) for team in teams] == [643, 633]
    teams = crew.dealt(range(11), [1000, *sizes])
    assert sorted(chain(*teams)) == list(range(11))
    assert max(map(len, teams)) <= crew.MOST, "a thread for each"


@pytest.mark.parametrize("algorithm", [FedAvg(SGD(0.1), batch_size=2), MAML(inner_lr=0.1, inner_steps=2)])
def test_a_ragged_cohort_gets_what_each_gets_alone(
    algorithm: FedAvg | MAML, monkeypatch: pytest.MonkeyPatch, made: list[tuple[int, bool]]
) -> None:
    monkeypatch.setattr(factored, "LEAST_ROWS", 2)
    work, episodes = task("cnn"), cohort("cnn") * 3
    weights = [1 / len(episodes)] * len(episodes)
    broadcast = algorithm.init(work, work.params()).broadcast
    expected = engine(work, algorithm, "sequential").gather(broadcast, episodes, weights).update
    assert not made
    runner = engine(work, algorithm, "lowrank")
    found = runner.gather(broadcast, episodes, weights).update
    together = len(made)
    for a, b in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(crew, "TEAM", 1)
    runner.gather(broadcast, episodes, weights)
    assert together < 0.7 * (len(made) - together)
    pairs = [(episode.support, episode.query) for episode in episodes]
    alone = engine(work, algorithm, "sequential").score(broadcast, pairs, True)
    assert all(
        torch.allclose(a, b, rtol=1e-9) for a, b in zip(runner.score(broadcast, pairs, True), alone, strict=True)
    )
