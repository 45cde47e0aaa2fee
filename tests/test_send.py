"""What the server sends to one client alone: given to `client`, counted, the same with every engine and resumed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import coins
import pytest
import small_environments
import torch
from documented import both_ways, two_rounds
from small_tasks import RAGGED, episode, handed, task
from test_run import without_times
from torch import Tensor
from torch.testing import assert_close

from metaleaf import registry, trees
from metaleaf.algorithm import Context, Replies, State, respond
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.few_round import FewRound
from metaleaf.algorithms.maml import MAML
from metaleaf.config.config import resolve
from metaleaf.engine import factored
from metaleaf.engine.engine import engine
from metaleaf.environments.run import EnvironmentRun
from metaleaf.errors import ConfigError
from metaleaf.gradient import grad
from metaleaf.learning import descend, last
from metaleaf.optimizers import SGD
from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell
from metaleaf.shots import Episode
from metaleaf.task import Params, Task
from metaleaf.trees import Tree

STORE = coins.store()


@dataclass(frozen=True)
class Fomo(FedAvg):
    """The server keeps everyone's last model and sends each client a mixture: near models count more."""

    each: ClassVar[bool] = True

    def init(self, task: Task, params: Params) -> State:
        return State(params, trees.stack([params] * task.clients))

    def send(self, task: Task, state: State, client: Tensor) -> Params:
        own = trees.take(state.kept, client)
        apart = sum(
            (leaf - mine).flatten(1).square().sum(1)
            for leaf, mine in zip(trees.leaves(state.kept), trees.leaves(own), strict=True)
        )
        mixed: Params = trees.weighted_sum(state.kept, (-10 * apart).softmax(0))
        return mixed

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        return trees.subtract(params, super().client(task, params, episode))

    def server(self, state: State, replies: Replies, context: Context) -> State:  # type: ignore[override]
        kept = trees.tree_map(lambda all, new: all.index_copy(0, context.cohort, new), state.kept, replies.updates)
        return State(trees.weighted_sum(kept, torch.full((context.task.clients,), 1 / context.task.clients)), kept)


FOMO: Any = Fomo(client_optimizer=SGD(0.3), epochs=2, batch_size=2)


@pytest.mark.parametrize("model", ["logistic", "small_cnn"])
def test_engines_agree(model: str) -> None:
    found = both_ways(FOMO, model)
    kept = trees.unstack(found.state.kept)
    assert trees.length(trees.subtract(kept[0], kept[1])) > 1e-2
    params = task(model).params()
    assert_close(kept[len(RAGGED) :], [params] * (9 - len(RAGGED)))
    assert found.bytes_down == found.bytes_up == trees.nbytes(params), "not everyone's model"


def test_engines_agree_in_float32() -> None:
    work = task("logistic", torch.float32)
    one, other = (two_rounds(FOMO, work, "logistic", mode) for mode in ("sequential", "vectorised"))
    assert_close(other.state, one.state, rtol=1e-4, atol=1e-5)


def test_factored_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factored, "LEAST_ROWS", 1)
    work = task("cnn")
    one, other = (two_rounds(FOMO, work, "cnn", mode) for mode in ("sequential", "lowrank"))
    assert_close(other.state, one.state, rtol=1e-9, atol=1e-12)


@dataclass(frozen=True)
class Meta(MAML):
    """MAML from a start that is another for each client."""

    def send(self, task: Task, state: State, client: Tensor) -> Params:
        start: Params = trees.tree_map(lambda p: p * (1 + client / 10).to(p.dtype), state.broadcast)
        return start


def test_derivatives_through_what_was_sent() -> None:
    method, work = Meta(0.5, inner_steps=2, server_optimizer=SGD(0.1)), task("logistic")
    both_ways(method)
    one = episode("logistic", 3, 4, seed=2)
    (given,) = handed(method, work, method.init(work, work.params()), [one])

    def judged(params: Params) -> Tensor:
        return work.loss(last(descend(work, params, one.support, 0.5, 2)), one.query)

    expected = grad(judged)({name: 1.2 * p for name, p in work.params().items()})
    assert_close(respond(method, work, work.params(), given), expected)
    vectorised = engine(work, method, "vectorised").gather(work.params(), [given], [1.0]).update
    assert_close(vectorised, expected)


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = registry.plugin
    monkeypatch.setattr(registry, "plugin", lambda kind, name: Fomo if name == "fedavg" else plugin(kind, name))


def test_a_resumed_run_is_the_same(tmp_path: Path, brought: None) -> None:
    def interrupt(number: int, rounds: int, row: dict[str, float]) -> None:
        if number == 5:
            raise KeyboardInterrupt

    config = coins.config("fedavg", held_out=0.2)
    whole, cell = Cell(tmp_path / "whole", config), Cell(tmp_path / "cut", config)
    record = Run(config, STORE).execute(whole)
    with pytest.raises(KeyboardInterrupt):
        Run(config, STORE).execute(cell, interrupt)
    Run(config, STORE).execute(cell)
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "cut")
    assert record["cost"]["bytes_down"] == record["cost"]["bytes_up"] == 6 * 5 * 15 * 4


def test_clients_get_what_is_made_for_their_number(brought: None) -> None:
    """In a run: the server stores each client's model in its own place."""
    run = Run(coins.config("fedavg", rounds=1), STORE, mode="sequential")
    progress = run.train()
    train = run.federation.clients["train"].tolist()
    cohort = {train.index(client) for client in run.federation.cohort(1)}
    start = run.task.params()
    for i, own in enumerate(trees.unstack(progress.state.kept)):
        assert (trees.length(trees.subtract(own, start)) > 0) == (i in cohort)


def test_in_new_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brought: None) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    given, store = small_environments.config("fedavg", 1), small_environments.store()
    record = EnvironmentRun(given, store).execute(Cell(tmp_path, given))
    assert record["status"] == "finished"
    monkeypatch.setattr(FewRound, "send", lambda *_: (), raising=False)
    whole: Any = given.model_copy(
        update={"algorithm": "few_round", "hyperparameters": resolve("algorithms", "few_round", {})}
    )
    with pytest.raises(ConfigError, match="few_round learns from whole environments, to which nothing"):
        EnvironmentRun(whole, store)
