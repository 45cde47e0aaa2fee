"""Engine `auto`: low-rank weights are chosen where they spare matrices, and only there."""

from typing import Any

import pytest
import torch
from small_tasks import shots, task

from metaleaf.algorithm import Algorithm
from metaleaf.config import config
from metaleaf.engine.engine import engine
from metaleaf.engine.factored import big_layers
from metaleaf.engine.worth import matrices

ADAM = {"client_optimizer": {"name": "adam", "lr": 0.0005}}
FEW = shots("cnn", 4, seed=0)


def plugin(name: str, options: dict[str, Any]) -> Algorithm:
    built: Algorithm = config.build("algorithms", name, options)
    return built


@pytest.mark.parametrize(
    ("name", "options", "chosen"),
    [
        ("fedavg", {}, "lowrank"),
        ("fedavg", {"client_optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}, "lowrank"),
        ("maml", {}, "lowrank"),
        ("ditto", {}, "lowrank"),
        ("fedadam", {}, "lowrank"),  # Adam on the server costs clients nothing
        ("fedavg", ADAM, "sequential"),
        ("ditto", ADAM, "sequential"),
        ("meta_sgd", {}, "sequential"),  # a rate for each entry
        ("scaffold", {}, "sequential"),  # control variates of a client's own
    ],
)
def test_auto_is_lowrank_where_that_spares_matrices(name: str, options: dict[str, Any], chosen: str) -> None:
    assert engine(task("cnn"), plugin(name, options), examples=FEW).mode == chosen


def test_who_asks_for_lowrank_gets_it() -> None:
    assert engine(task("cnn"), plugin("fedavg", ADAM), "lowrank", examples=FEW).mode == "lowrank"


def test_matrices_are_those_of_the_rule() -> None:
    """Four steps' gradients and moved weights, and the update; of factored weights the update alone."""
    work, fedavg = task("cnn"), plugin("fedavg", {"batch_size": 10})
    layers = big_layers(work.model)
    assert layers == {(2048, 256)}
    assert matrices(work, fedavg, FEW, layers, lifted=False) == 4 * 2 + 1
    assert matrices(work, fedavg, FEW, layers, lifted=True) == 1
    twice = plugin("fedavg", {"batch_size": 10, "epochs": 2})
    assert matrices(work, twice, FEW, layers, lifted=False) == 8 * 2 + 1


def test_an_algorithm_that_does_not_get_on_with_factored_weights_is_sequential() -> None:
    class InPlace:
        """Changes its weights where they lie."""

        def init(self, work: Any, params: Any) -> Any:
            return plugin("fedavg", {}).init(work, params)

        def client(self, work: Any, broadcast: Any, episode: Any) -> Any:
            for leaf in broadcast.values():
                leaf.mul_(0.5)
            return broadcast

    assert engine(task("cnn"), InPlace(), examples=FEW).mode == "sequential"  # type: ignore[arg-type]


def test_counting_changes_nothing() -> None:
    work, fedavg = task("cnn"), plugin("fedavg", ADAM)
    before = {name: value.clone() for name, value in work.params().items()}
    random = torch.get_rng_state()
    engine(work, fedavg, examples=FEW)
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in work.params().items():
        assert torch.equal(value, before[name])
