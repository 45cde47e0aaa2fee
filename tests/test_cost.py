"""FLOPs against counts by hand, and against what one real client does."""

from typing import Any, cast

import pytest
import torch
from small_tasks import ON_LOGISTIC, SPECS, episode, handed, others_slow, task
from torch.utils.flop_counter import FlopCounterMode

from metaleaf import registry
from metaleaf.algorithm import Algorithm, respond, sent
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.fomaml import FOMAML
from metaleaf.algorithms.maml import MAML
from metaleaf.algorithms.meta_sgd import MetaSGD
from metaleaf.engine import cost
from metaleaf.engine.cost import ClientFlops
from metaleaf.engine.vectorised import Vectorised
from metaleaf.models.lstm import LSTM
from metaleaf.task import Task

# Multiply-adds of one example, times 2, by layer, forward.
LOGISTIC = 2 * 4 * 3
CONV1 = 2 * (8 * 8) * (5 * 5 * 1) * 32
CONV2 = 2 * (4 * 4) * (5 * 5 * 32) * 64
HIDDEN = 2 * (2 * 2 * 64) * 2048
OUT = 2 * 2048 * 5


def counter(algorithm: Algorithm, model: str) -> ClientFlops:
    work = task(model, torch.float32)
    state = algorithm.init(work, work.params())
    first = sent(algorithm, work, state, torch.tensor(0))
    return ClientFlops(work, algorithm, state.broadcast, SPECS[model], first)


def counted(algorithm: Algorithm, model: str, sizes: tuple[int, int]) -> int:
    """What torch counts while one client on the CPU really works."""
    work = task(model, torch.float32)
    state = algorithm.init(work, work.params())
    (whole,) = handed(algorithm, work, state, [episode(model, *sizes, seed=0)])
    with FlopCounterMode(display=False) as mode, torch.no_grad():
        respond(algorithm, work, state.broadcast, whole)
    return int(mode.get_total_flops())


def by_name(name: str) -> Algorithm:
    return cast(Algorithm, registry.plugin("algorithms", name)())


@pytest.mark.parametrize("epochs", [1, 3])
def test_fedavg_on_logistic_regression_by_hand(epochs: int) -> None:
    """Forward, and backward to the weights; nobody needs the gradient by the examples."""
    flops = counter(FedAvg(epochs=epochs), "logistic")
    assert flops(episode("logistic", 3, 20, seed=0)) == epochs * 23 * 2 * LOGISTIC


def test_fedavg_on_a_cnn_by_hand() -> None:
    """Backward costs as much again for the weights and, but for the first layer, for the inputs."""
    flops = counter(FedAvg(), "cnn")
    assert flops(episode("cnn", 3, 20, seed=0)) == 23 * (2 * CONV1 + 3 * (CONV2 + HIDDEN + OUT))


def test_fedavg_on_an_lstm_by_hand() -> None:
    """Three times forward, but that nobody needs the gradient by the zeros before the first character."""
    spec = SPECS["lstm"]
    work = Task(LSTM(spec["classes"], spec["x_shape"], spec["x_dtype"]))
    characters, gates = 8, 4 * 256
    recurrent = 2 * gates * 256  # of one layer and character
    forward = characters * (2 * gates * (8 + 256) + 2 * recurrent) + 2 * 256 * 10
    flops = ClientFlops(work, FedAvg(), work.params(), spec)
    assert flops(episode("lstm", 3, 20, seed=0)) == 23 * (3 * forward - 2 * recurrent)


@pytest.mark.parametrize("algorithm", [MAML(inner_steps=2), FOMAML(), MetaSGD()])
def test_a_long_row_is_counted_on_shorter_ones(algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
    found = counter(algorithm, "lstm")(episode("lstm", 3, 20, seed=0))
    monkeypatch.setattr(cost, "_LENGTHS", (8, 9))  # as long as the rows are: no shorter ones
    assert found == counter(algorithm, "lstm")(episode("lstm", 3, 20, seed=0))


def test_first_order_maml_on_logistic_regression_by_hand() -> None:
    """A gradient on the support set, another on the query set."""
    assert counter(FOMAML(), "logistic")(episode("logistic", 3, 20, seed=0)) == (3 + 20) * 2 * LOGISTIC
    assert counter(FOMAML(inner_steps=4), "logistic")(episode("logistic", 3, 20, seed=0)) == (4 * 3 + 20) * 2 * LOGISTIC


@pytest.mark.parametrize("algorithm", [MAML(), MetaSGD()])
def test_second_order_on_logistic_regression_by_hand(algorithm: Algorithm) -> None:
    """Backward through the support gradient x^T d: d's own gradient x v, and from it the weights' gradient x^T u."""
    assert counter(algorithm, "logistic")(episode("logistic", 3, 20, seed=0)) == (3 * 4 + 20 * 2) * LOGISTIC


@pytest.mark.parametrize("sizes", [(1, 1), (5, 3), (7, 26), (3, 0)])
@pytest.mark.parametrize("model", ["logistic", "cnn"])
@pytest.mark.parametrize("name", others_slow(ON_LOGISTIC))
def test_is_what_a_client_really_does(name: str, model: str, sizes: tuple[int, int]) -> None:
    """At sizes other than those it was fitted to; batches of 10 leave a smaller last one."""
    algorithm = by_name(name)
    found = counter(algorithm, model)(episode(model, *sizes, seed=0))
    assert found == counted(algorithm, model, sizes)
    assert (found > 0) == getattr(algorithm, "federated", True)


@pytest.mark.parametrize("name", others_slow(ON_LOGISTIC))
def test_every_example_costs_the_same(name: str) -> None:
    """Beside what an algorithm does whatever the examples: a hypernetwork, a fixed number of batches."""
    flops = counter(by_name(name), "cnn")
    few, more, most = (flops(episode("cnn", *sizes, seed=0)) for sizes in ((2, 3), (4, 4), (6, 5)))
    assert most - more == more - few


def test_padding_does_not_count() -> None:
    """The cost is of one client's own examples, whichever engine runs it beside larger ones."""
    algorithm = MAML(0.1)
    work = task("logistic", torch.float32)
    small, large = episode("logistic", 2, 3, seed=0), episode("logistic", 40, 60, seed=1)
    with FlopCounterMode(display=False) as mode:
        Vectorised(work, algorithm, torch.device("cpu")).gather(work.params(), [small, large], [0.5, 0.5])
    flops = counter(algorithm, "logistic")
    assert flops(small) < flops(large) / 10
    assert flops(small) + flops(large) < mode.get_total_flops()


def test_needs_no_memory_for_a_large_model() -> None:
    """Counting leaves the task and what is broadcast where they are."""
    work: Any = task("cnn", torch.float32)
    before = work.params()
    ClientFlops(work, FedAvg(), before, SPECS["cnn"])
    assert work.device.type == "cpu"
    assert all(torch.equal(p, before[name]) for name, p in work.params().items())
