"""Whole runs: records whose parts agree, costs counted by hand, resume to the bit, divergence, Ctrl-C."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import coins
import numpy as np
import pandas as pd
import pytest
import torch
from interrupted import interrupted
from small_tasks import ON_LOGISTIC, others_slow

from metaleaf import trees
from metaleaf.algorithm import Context, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.records.records import read_records
from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell, write_csv

STORE = coins.store()


def execute(root: Path, algorithm: str, **options: Any) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    config = coins.config(algorithm, **options)
    cell = Cell(root, config)
    record = Run(config, STORE).execute(cell)
    clients, rounds = (pd.read_csv(cell.folder / f"{cell.stem}.{name}.csv") for name in ("clients", "rounds"))
    return record, clients, rounds


def without_times(folder: Path) -> dict[str, Any]:
    """Every record and table below a folder, without wall-clock times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("seed-*")):
        if path.suffix == ".json":
            found[path.name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "timing"}
        elif path.name.endswith(".rounds.csv"):
            found[path.name] = pd.read_csv(path).drop(columns="seconds").to_csv()
        elif path.suffix == ".csv":
            found[path.name] = path.read_text()
    return found


def test_tables_are_written_as_pandas_writes_them(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64)
    numbers = np.concatenate(
        [bits.view(np.float64), [0.0, -0.0, 1e16, 1e-5, 0.1, 123456.0, math.inf, -math.inf, math.nan]]
    )
    columns: dict[str, Any] = {
        "number": numbers,
        "whole": np.arange(len(numbers)),
        "gaps": [math.nan, *range(1, len(numbers))],
        "text": [("plain", "a,b", 'a "quote"', "two\nlines", "é", "", " ")[i % 7] for i in range(len(numbers))],
    }
    for table in (columns, dict.fromkeys(columns, ())):
        write_csv(tmp_path / "table.csv", table)
        assert (tmp_path / "table.csv").read_bytes() == pd.DataFrame(table).to_csv(index=False).encode()


@pytest.mark.parametrize("algorithm", others_slow(ON_LOGISTIC))
def test_a_record_agrees_with_its_tables(tmp_path: Path, algorithm: str) -> None:
    record, clients, rounds = execute(tmp_path, algorithm)
    assert record["status"] == "finished"
    assert set(record["scores"]) == {"final", "selected"}
    for model in ("final", "selected"):
        for support in (0.2, 0.5):
            rows = clients[(clients["model"] == model) & (clients["support"] == support)]
            score = record["scores"][model][str(support)]
            for when, step in (("before", 0), ("after", rows["step"].max())):
                own = rows[rows["step"] == step]
                assert score[when]["pooled"] == own["correct"].sum() / own["n"].sum()
                assert score[when]["points"] == own["n"].sum()
                assert score[when]["clients"] == len(own) == record["data"]["clients"]["test"]
                assert math.isclose(score[when]["loss"], (own["loss"] * own["n"]).sum() / own["n"].sum())
            first = rows[rows["step"] == 0]
            assert score["majority"]["pooled"] == first["majority"].sum() / first["n"].sum()
    evaluated = rounds.dropna(subset="validation_after")
    best = evaluated["validation_after"].to_numpy().argmax()
    assert record["selected_round"] == evaluated["round"].to_numpy()[best]
    assert sum(record["data"]["clients"].values()) == len(STORE)
    assert sum(record["data"]["examples"].values()) == len(STORE.y)


def test_bytes_are_those_of_the_trees_sent(tmp_path: Path) -> None:
    parameters = 4 * 3 + 3
    for algorithm, copies in (("fedavg", 1), ("maml", 1), ("meta_sgd", 2)):
        record, _, rounds = execute(tmp_path, algorithm)
        assert record["parameters"] == parameters
        assert record["cost"]["bytes_down"] == record["cost"]["bytes_up"] == 6 * 5 * copies * parameters * 4
        assert list(rounds["bytes_up"]) == [5 * copies * parameters * 4 * r for r in range(7)]
    record, _, _ = execute(tmp_path, "local")
    assert record["cost"] == {"bytes_down": 0, "bytes_up": 0, "flops": 0}


def test_flops_of_logistic_regression_by_hand(tmp_path: Path) -> None:
    record, _, _ = execute(tmp_path, "fedavg")
    run = Run(coins.config("fedavg"), STORE)
    examples = sum(run.federation.size(i) for r in range(1, 7) for i in run.federation.cohort(r))
    assert record["cost"]["flops"] == 2 * (2 * 4 * 3) * examples, "forward, and the gradient of the weights"


@pytest.mark.parametrize("mode", ["vectorised", "sequential"])
@pytest.mark.parametrize("algorithm", ["fedavg", "maml", "meta_sgd"])
def test_an_interrupted_run_resumes_to_the_bit(tmp_path: Path, algorithm: str, mode: Mode) -> None:
    Run(coins.config(algorithm), STORE, mode=mode).execute(Cell(tmp_path / "whole", coins.config(algorithm)))
    config = coins.config(algorithm)
    cell = Cell(tmp_path / "broken", config)
    # before the first evaluation, and after a checkpoint
    seen = interrupted(lambda: Run(config, STORE, mode=mode), cell, [1, 4])
    assert seen == [5, 6], "goes on after the last finished round"
    assert without_times(tmp_path / "broken") == without_times(tmp_path / "whole")


def test_a_killed_run_resumes_from_its_checkpoint_to_the_bit(tmp_path: Path) -> None:
    execute(tmp_path / "whole", "maml")
    config = coins.config("maml")
    cell = Cell(tmp_path / "broken", config)

    class Killed(BaseException):
        pass

    def kill(number: int, rounds: int, row: dict[str, float]) -> None:
        if number == 5:
            raise Killed

    with pytest.raises(Killed):
        Run(config, STORE).execute(cell, kill)
    seen: list[int] = []
    Run(config, STORE).execute(cell, lambda number, rounds, row: seen.append(number))
    assert seen == [5, 6], "the checkpoint is of round 4"
    assert without_times(tmp_path / "broken") == without_times(tmp_path / "whole")


def test_a_damaged_checkpoint_is_said_and_the_run_starts_again(tmp_path: Path) -> None:
    execute(tmp_path / "whole", "maml")
    config = coins.config("maml")
    cell = Cell(tmp_path / "broken", config)
    for damage in (b"half", None):
        with pytest.raises(KeyboardInterrupt):
            Run(config, STORE).execute(cell, interrupted_after(4))
        whole = bytearray(cell.checkpoint.read_bytes())
        whole[-1] ^= 1  # of the tensors: nothing but a checksum can know
        cell.checkpoint.write_bytes(damage or bytes(whole))
        with pytest.warns(UserWarning, match=r"/checkpoint.safetensors is damaged .*: the run starts again"):
            seen = rounds_of(cell)
        assert seen == [1, 2, 3, 4, 5, 6]
        assert without_times(tmp_path / "broken") == without_times(tmp_path / "whole")
        cell.record_path.unlink()


def interrupted_after(last: int) -> Any:
    """Ctrl-C after that round."""

    def on_round(number: int, rounds: int, row: dict[str, float]) -> None:
        if number == last:
            raise KeyboardInterrupt

    return on_round


def rounds_of(cell: Cell) -> list[int]:
    """The rounds that it takes to finish the run of MAML."""
    seen: list[int] = []
    Run(coins.config("maml"), STORE).execute(cell, lambda number, rounds, row: seen.append(number))
    return seen


def test_a_state_lies_in_memory_as_a_checkpoint_brings_it_back(tmp_path: Path) -> None:
    """Else a product of an unbroken run takes another kernel than that of a resumed one, and rounds otherwise."""

    class Views(FedAvg):
        def server(self, state: State, update: Any) -> State:
            state = super().server(state, update)
            vector = torch.cat([torch.zeros(1), trees.flatten(state.broadcast)])
            return State(trees.unflatten(vector[1:], state.broadcast), state.kept)

    cell = Cell(tmp_path, coins.config("fedavg"))
    run = Run(coins.config("fedavg"), STORE, mode="sequential")
    run.algorithm = Views()
    seen: list[Any] = []
    gather = run.engine.gather

    def spied(broadcast: Any, episodes: Any, weights: Any) -> Any:
        data = [episode.data.x.untyped_storage().data_ptr() for episode in episodes]
        seen.append([*(leaf.data_ptr() for leaf in trees.leaves(broadcast)), *data])
        return gather(broadcast, episodes, weights)

    run.engine.gather = spied  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.train(cell, interrupted_after(3))
    assert run.train(cell).round == 6
    assert len(seen) == 6
    assert not any(address % trees.ALIGNMENT for addresses in seen for address in addresses)


def test_a_server_is_told_who_took_part_and_an_algorithm_says_how_they_count() -> None:
    config = coins.config("fedavg")
    seen: list[Context] = []

    @dataclass(frozen=True)
    class Asking(FedAvg):
        weighting: Literal["samples", "uniform"] = "samples"

        def server(self, state: State, update: Any, context: Context) -> State:  # type: ignore[override]
            seen.append(context)
            return super().server(state, update)

    for weighting in ("uniform", "samples"):
        run = Run(config, STORE, mode="sequential")
        run.algorithm = run.engine.algorithm = Asking(weighting=weighting)  # type: ignore[assignment, attr-defined]
        run.train()
    federation, train = run.federation, run.federation.clients["train"]
    assert [float(context.round) for context in seen] == [*range(6), *range(6)]
    assert len({int(context.seed) for context in seen}) == 6, "another every round, the same for everybody"
    for i, context in enumerate(seen):
        cohort = federation.cohort(i % 6 + 1)
        assert [int(train[number]) for number in context.cohort] == cohort
        sizes = torch.tensor([federation.size(client) if i >= 6 else 1 for client in cohort], dtype=torch.float64)
        torch.testing.assert_close(context.weights, sizes / sizes.sum())
        assert context.task is not None
    run.algorithm = Asking(weighting="sample")  # type: ignore[arg-type, assignment]
    with pytest.raises(ConfigError, match="weighting = 'sample': an algorithm weighs clients by samples or uniform"):
        run.train()


def test_the_same_run_twice_is_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        execute(tmp_path / name, "maml")
    assert without_times(tmp_path / "a") == without_times(tmp_path / "b")


def test_two_algorithms_see_the_same_clients_cohorts_and_splits() -> None:
    a, b = Run(coins.config("fedavg"), STORE), Run(coins.config("maml"), STORE)
    assert a.federation.split_hash() == b.federation.split_hash()
    assert a.federation.cohort(3) == b.federation.cohort(3)
    assert all(map(torch.equal, a.task.params().values(), b.task.params().values()))


def test_divergence_is_recorded(tmp_path: Path) -> None:
    hyperparameters = {"client_optimizer": {"name": "sgd", "lr": 1e40}, "epochs": 3}
    record, clients, rounds = execute(tmp_path, "fedavg", hyperparameters=hyperparameters)
    assert record["status"] == "diverged"
    assert "round 1: the cohort's mean update is not finite" in record["reason"]
    assert record["scores"] == {}
    assert len(clients) == 0
    assert rounds["round"].max() == 1
    assert rounds["validation_after"].isna().all()
    _, _, whole = execute(tmp_path, "fedavg", hyperparameters={})
    assert list(rounds) == list(whole), "a diverged record is a whole record"


def test_a_model_that_became_nan_has_nothing_right() -> None:
    run = Run(coins.config("fedavg"), STORE)
    _, query = run.federation.support_query(0, 0.5)
    params = {name: torch.full_like(p, torch.nan) for name, p in run.task.params().items()}
    assert 0 in query.y, "argmax of NaN is 0, which would be right here"
    assert run.task.score(params, query)[1] == 0


def test_clients_with_one_example_survive(tmp_path: Path) -> None:
    lonely = coins.store(sizes=[1] * 10 + [12] * 20)
    for algorithm in ON_LOGISTIC:
        config = coins.config(algorithm)
        record = Run(config, lonely).execute(Cell(tmp_path, config))
        assert record["status"] == "finished"
        for score in record["scores"]["final"]["0.2"].values():
            assert score["clients"] <= record["data"]["clients"]["test"]
            assert 0 <= score["pooled"] <= 1


def test_the_server_state_outlives_the_round() -> None:
    run = Run(coins.config("maml"), STORE)
    progress = run.train()
    assert int(progress.state.kept["steps"]) == 6, "Adam has seen every round"


def test_adapting_beats_the_global_model_where_clients_disagree(tmp_path: Path) -> None:
    record, _, _ = execute(tmp_path, "fedavg_meta", hyperparameters={"adapt_lr": 1.0, "adapt_steps": 10})
    score = record["scores"]["final"]["0.5"]
    assert score["after"]["pooled"] > score["before"]["pooled"] + 0.2


def test_uniform_weighting_changes_the_mean() -> None:
    by_size, uniform = (Run(coins.config("fedavg", weighting=w), STORE).train() for w in ("samples", "uniform"))
    difference = trees.subtract(by_size.state.broadcast, uniform.state.broadcast)
    assert trees.length(difference) > 0
    assert np.isfinite(trees.length(difference))


def test_fedavg_with_one_client_is_that_client(tmp_path: Path) -> None:
    """A round with one client and server rate 1 gives exactly the client's own training."""
    run = Run(coins.config("fedavg", rounds=1, clients_per_round=1), STORE)
    [client] = run.federation.cohort(1)
    plugin = FedAvg()
    state: State = plugin.init(run.task, run.task.params())
    own = plugin.client(run.task, state.broadcast, run.federation.episode(client, 1))
    expected = trees.subtract(state.broadcast, own)
    after = run.train().state.broadcast
    assert all(torch.allclose(after[name], expected[name], atol=1e-6) for name in expected)


def test_a_checkpoint_of_other_data_is_not_used(tmp_path: Path) -> None:
    config = coins.config("fedavg")
    cell = Cell(tmp_path, config)

    def interrupt(number: int, rounds: int, row: dict[str, float]) -> None:
        if number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run(config, STORE).execute(cell, interrupt)
    other = coins.store(seed=9)
    other = replace(other, about={**other.about, "data_hash": "1" * 64})
    seen: list[int] = []
    Run(config, other).execute(cell, lambda number, rounds, row: seen.append(number))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_diverged_run_has_all_columns(tmp_path: Path) -> None:
    hyperparameters = {"client_optimizer": {"name": "sgd", "lr": 1e40}, "epochs": 3}
    execute(tmp_path, "fedavg", hyperparameters=hyperparameters)
    [record] = read_records(tmp_path)
    assert record.clients.empty
    assert {"loss", "environment"} <= set(record.clients)
