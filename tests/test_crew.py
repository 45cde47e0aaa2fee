"""Client threads: the order of results, failures, and the same bits with any number of threads."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from small_tasks import cohort, task

from metaleaf import trees
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.crew import Crew
from metaleaf.engine import engine
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


def test_a_twin_shares_the_parameters() -> None:
    work = task("cnn")
    twin = work.twin()
    assert all(a is b for a, b in zip(work.model.parameters(), twin.model.parameters(), strict=True))
    shots = cohort("cnn")[0].data
    doubled = {name: 2 * p for name, p in work.params().items()}
    assert torch.equal(twin.logits(doubled, shots.x), work.logits(doubled, shots.x))
    assert torch.equal(twin.features(doubled, shots.x), work.features(doubled, shots.x))


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
def test_the_number_of_threads_does_not_change_a_bit(mode: str) -> None:
    algorithm, found = FedAvg(SGD(0.1), batch_size=2), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        work = task("cnn", torch.float32)
        runner = engine(work, algorithm, mode)  # type: ignore[arg-type]
        found.append(runner.gather(work.params(), cohort("cnn"), [0.1, 0.2, 0.3, 0.4]).update)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(trees.leaves(found[0]), trees.leaves(other), strict=True))
