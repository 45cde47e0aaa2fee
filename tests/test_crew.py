"""Client threads: the order of results, failures, and the same bits with any number of threads."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from small_tasks import cohort, task

from metaleaf import trees
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.engine import factored
from metaleaf.engine.crew import Crew
from metaleaf.engine.engine import engine
from metaleaf.optimizers import SGD
from metaleaf.task import Task


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_several_threads() -> None:
    seen = set()

    def work(_: Task, item: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.02 if item % 3 == 0 else 0.001)
        return item

    assert list(Crew(task("logistic")).map(work, range(20))) == list(range(20))
    assert len(seen) > 1
    assert threading.get_ident() not in seen


def test_each_thread_computes_alone_with_a_model_of_its_own() -> None:
    """Calling a module with other parameters writes into it, which would reach the other threads' clients."""
    work, barrier = task("logistic"), threading.Barrier(3)

    def facts(own: Task, _: int) -> tuple[int, int, int, float]:
        barrier.wait()
        weight = next(own.model.parameters())
        return torch.get_num_threads(), id(own.model), id(own.params), float(weight.detach().sum())

    found = list(Crew(work).map(facts, range(3)))
    assert {threads for threads, *_ in found} == {1}
    assert len({model for _, model, *_ in found} | {id(work.model)}) == 4
    assert len({total for *_, total in found}) == 1
    assert torch.get_num_threads() == 3, "this thread's own number"


def test_a_copied_model_shares_the_parameters_and_the_task_stays_the_tasks() -> None:
    work = task("cnn")
    other = work.on(work.copied_model())
    assert all(a is b for a, b in zip(work.model.parameters(), other.model.parameters(), strict=True))
    shots = cohort("cnn")[0].data
    doubled = {name: 2 * p for name, p in work.params().items()}
    assert torch.equal(other.logits(doubled, shots.x), work.logits(doubled, shots.x))
    assert torch.equal(other.features(doubled, shots.x), work.features(doubled, shots.x))
    crew, seen = Crew(work), []
    for rounds in (1, 50):
        work.rounds = rounds
        seen += list(crew.map(lambda own, _: own.rounds, range(3)))
    assert seen == [1, 1, 1, 50, 50, 50]


def test_who_waits_for_the_crew_computes_alone_until_it_has_finished() -> None:
    found = Crew(task("logistic")).map(lambda _, item: item, range(5))
    assert (next(found), torch.get_num_threads()) == (0, 1)
    assert (list(found), torch.get_num_threads()) == ([1, 2, 3, 4], 3)
    abandoned = Crew(task("logistic")).map(lambda _, item: item, range(5))
    next(abandoned)
    del abandoned
    assert torch.get_num_threads() == 3


def test_draws_of_parameters_do_not_disturb_each_other() -> None:
    """They seed the process's one generator."""
    work = task("lstm")
    expected = {draw: work.params(draw) for draw in (1, 2)}
    for _ in range(5):
        found = Crew(work).map(lambda own, draw: (draw, own.params(draw)), [1, 2] * 10)
        for draw, params in found:
            assert all(torch.equal(params[name], expected[draw][name]) for name in params)


def test_a_failure_is_raised_and_ends_the_rest() -> None:
    done = []

    def work(_: Task, item: int) -> int:
        if item == 2:
            raise ValueError("client 2")
        time.sleep(0.01)
        done.append(item)
        return item

    with pytest.raises(ValueError, match="client 2"):
        list(Crew(task("logistic")).map(work, range(1000)))
    time.sleep(0.1)
    assert len(done) < 20, "what was not begun is not begun any more"


@pytest.mark.parametrize("mode", ["sequential", "lowrank"])
def test_the_number_of_threads_does_not_change_a_bit(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factored, "LEAST_ROWS", 2)
    algorithm, found = FedAvg(SGD(0.1), batch_size=2), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        work = task("cnn", torch.float32)
        runner = engine(work, algorithm, mode)  # type: ignore[arg-type]
        one = runner.gather(work.params(), cohort("cnn")[3:], [1.0]).update
        found.append((one, runner.gather(work.params(), cohort("cnn") * 3, [1 / 12] * 12).update))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(trees.leaves(found[0]), trees.leaves(other), strict=True))
