"""How a cohort is grouped and padded."""

import pytest
import torch
from small_tasks import episode, shots, task
from test_algorithms import CPU
from torch.testing import assert_close

from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.data.deferred import made
from metaleaf.engine.padding import batch, pad
from metaleaf.engine.vectorised import Vectorised
from metaleaf.shots import Shots
from metaleaf.trees import leaves, stack


def clients(*sizes: int) -> list[tuple[Shots, Shots]]:
    return [(shots("logistic", n, seed=n), shots("logistic", 4 * n, seed=n + 100)) for n in sizes]


@pytest.mark.parametrize("sizes", [(3, 1, 2), (30, 41, 17), (8, 8), (1,), (2, 0)])
def test_padding_is_what_each_padded_client_is(sizes: tuple[int, ...]) -> None:
    given = clients(*sizes)
    found = made(batch(given, CPU))
    for part in (0, 1):
        rows = found[part].y.shape[1]
        assert max(len(one[part].y) for one in given) <= rows <= 1.5 * max(len(one[part].y) for one in given) + 1
        for i, one in enumerate(given):
            assert_close([leaf[i] for leaf in leaves(found[part])], leaves(pad(one[part], rows)))


def test_few_lengths_occur() -> None:
    """A factor of ten in size is 20 shapes at most; clients whose parts grow together share them."""
    shapes = {tuple(part.y.shape[1] for part in batch(clients(n), CPU)) for n in range(20, 201)}
    assert len(shapes) <= 20


def test_what_has_a_mask_is_stacked_as_it_is() -> None:
    masked = [pad(shots("logistic", n, seed=n), 7) for n in (2, 5)]
    found = made(batch([{"shots": one, "number": (torch.tensor(i), ())} for i, one in enumerate(masked)], CPU))
    assert_close(found["shots"], stack(masked))
    assert_close(found["number"], (torch.tensor([0, 1]), ()))


def test_groups_are_cut_where_that_pays() -> None:
    engine = Vectorised(task("logistic"), FedAvg(), CPU)
    engine.overhead = 1.0
    assert list(engine._groups([5, 100, 4, 6, 5, 4, 5, 6])) == [[2, 5, 0, 4], [6, 3, 7], [1]]
    engine.overhead = 1000.0
    assert list(engine._groups([5, 100, 4, 6])) == [[2, 0, 3, 1]]
    engine.chunk = 3
    assert list(engine._groups([5, 100, 4, 6])) == [[2, 0, 3], [1]]
    engine.overhead = float("inf")
    assert list(engine._groups([0, 0])) == [[0, 1]], "environments, whose size is 0, stay in their order"


def test_groups_side_by_side_change_no_bit() -> None:
    work, algorithm, found = task("logistic"), FedAvg(batch_size=4), []
    threads = torch.get_num_threads()
    sizes = [(4, 9), (5, 11), (3, 9), (4, 10), (9, 14), (10, 12), (7, 30), (30, 41)]
    cohort = [episode("logistic", *size, seed=i) for i, size in enumerate(sizes)]
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            engine, state = Vectorised(work, algorithm, CPU), algorithm.init(work, work.params())
            engine.overhead = 0.1
            for _ in range(4):
                update = engine.gather(state.broadcast, cohort, [1 / len(cohort)] * len(cohort)).update
                state = algorithm.server(state, update)
            scores = engine.score(state.broadcast, [(one.support, one.query) for one in cohort], False)
            assert ("_helpers" in vars(engine)) == (number > 1)
            found.append((state.broadcast, scores))
    finally:
        torch.set_num_threads(threads)
    assert_close(found[0], found[1], rtol=0, atol=0)
