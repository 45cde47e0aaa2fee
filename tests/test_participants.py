"""Participants through whole runs: scored on what they held out, with what they kept, and nobody else sees either."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import coins
import numpy as np
import pandas as pd
import pytest
import torch
from small_tasks import ON_LOGISTIC, others_slow
from softmax_by_hand import Array, Data, array, gradient, softmax
from test_memory import Killed, faces, kill_after
from test_run import without_times

from metaleaf.algorithm import Algorithm, Reply
from metaleaf.config.config import RunConfig
from metaleaf.data.client_store import ClientStore
from metaleaf.engine.engine import Mode, engine
from metaleaf.runs import run as running
from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell

SHARE = 0.25
STORE = coins.store()
FACES = faces()
QUICK: dict[str, dict[str, Any]] = {"ditto": {"adapt_epochs": 1}, "fedrep": {"head_epochs": 2}}
REMEMBER = ["ditto", "fedrep"]


def config(algorithm: str, model: str = "logistic", hyperparameters: Any = None, **protocol: Any) -> RunConfig:
    values = {"held_out": SHARE, "test_supports": (0.5,), **protocol}
    found = coins.config(algorithm, hyperparameters=hyperparameters or QUICK.get(algorithm), **values)
    return found.model_copy(update={"model": model})


def executed(root: Path, run: Run) -> tuple[dict[str, Any], pd.DataFrame]:
    """The record and the table of participants."""
    cell = Cell(root, run.config)
    return run.execute(cell), pd.read_csv(cell.folder / f"{cell.stem}.participants.csv")


def scores(table: pd.DataFrame, model: str) -> pd.DataFrame:
    return table[table["model"] == model].drop(columns="model").reset_index(drop=True)


# ------------------------------------------------------------------------------------------------------- by hand


def score_by_hand(theta: Array, data: Data) -> tuple[int, float]:
    """Right answers, and the mean cross-entropy."""
    probabilities = softmax(theta, data[0])[1]
    chosen = probabilities[np.arange(len(data[1])), data[1]]
    return int((probabilities.argmax(1) == data[1]).sum()), float(-np.log(chosen).mean())


@pytest.mark.parametrize("mode", ["sequential", "vectorised"])
def test_dittos_participants_by_hand(tmp_path: Path, mode: Mode) -> None:
    """Two rounds of everybody, whole batches: the global model before, the own one after."""
    rate, strength = 0.5, 0.3
    step = {"client_optimizer": {"name": "sgd", "lr": rate}, "strength": strength, "batch_size": 100}
    store = coins.store(sizes=[4, 7, 9, 5, 11, 6])
    run = Run(config("ditto", hyperparameters=step, rounds=2, clients_per_round=9), store, mode=mode)
    run.task.model.double()
    w = array(run.task.params())
    train = [int(i) for i in run.federation.clients["train"]]
    held = [(shots.x.double().numpy(), shots.y.numpy()) for shots in run.federation.held_out(train)]
    kept = [run.federation.episode(client, 1).data for client in train]
    data = [(shots.x.double().numpy(), shots.y.numpy()) for shots in kept]
    shares = np.array([len(y) for _, y in data]) / sum(len(y) for _, y in data)
    own = [w] * len(train)
    for _ in range(2):
        own = [v - rate * (gradient(v, one) + strength * (v - w)) for v, one in zip(own, data, strict=True)]
        w = w - rate * sum(share * gradient(w, one) for share, one in zip(shares, data, strict=True))
    record, table = executed(tmp_path, run)
    final = scores(table, "final")
    for i, client in enumerate(train):
        rows = final[final["client"] == f"client-{client:03d}"]
        assert rows["step"].tolist() == [0, 1]
        assert set(rows["support"]) == {1 - SHARE}
        n, most = len(held[i][1]), np.bincount(data[i][1]).argmax()
        assert set(rows["n"]) == {n}
        assert set(rows["n_support"]) == {len(data[i][1])}
        assert n + len(data[i][1]) == store.counts[client]
        assert set(rows["majority"]) == {int((held[i][1] == most).sum())}
        expected = [score_by_hand(theta, held[i]) for theta in (w, own[i])]
        assert rows["correct"].tolist() == [right for right, _ in expected]
        np.testing.assert_allclose(rows["loss"], [loss for _, loss in expected], rtol=1e-9)
    after = record["participants"]["final"]["after"]
    right = sum(score_by_hand(v, one)[0] for v, one in zip(own, held, strict=True))
    assert after["pooled"] == right / after["points"]
    assert after["clients"] == len(train)


# -------------------------------------------------------------------------------------------------- what they keep


class Forgetting:
    """The algorithm, whose clients always have the memory of one that was never sampled."""

    def __init__(self, algorithm: Any) -> None:
        self.algorithm = algorithm

    def __getattr__(self, name: str) -> Any:
        return getattr(self.algorithm, name)

    def client(self, task: Any, broadcast: Any, episode: Any) -> Reply:
        reply: Reply = self.algorithm.client(task, broadcast, self._blank(task, broadcast, episode))
        return reply

    def personal(self, task: Any, broadcast: Any, episode: Any) -> Any:
        return self.algorithm.personal(task, broadcast, self._blank(task, broadcast, episode))

    def _blank(self, task: Any, broadcast: Any, episode: Any) -> Any:
        return episode._replace(memory=self.algorithm.memory(task, broadcast))


@pytest.mark.parametrize("mode", ["sequential", "vectorised"])
@pytest.mark.parametrize("name", REMEMBER)
def test_one_that_forgets_is_scored_otherwise(tmp_path: Path, name: str, mode: Mode) -> None:
    """Ditto's global model and what new clients make of it do not depend on memories; participants' scores do."""
    found = []
    for forgets in (False, True):
        run = Run(config(name, "face_cnn", rounds=3, evaluate_every=3), FACES, mode=mode)
        if forgets:
            run.algorithm = cast(Algorithm, Forgetting(run.algorithm))
            run.engine = engine(run.task, run.algorithm, mode)
        record, table = executed(tmp_path / str(forgets), run)
        found.append((record["scores"], scores(table, "final")))
    (new, remembers), (same, forgot) = found
    asked = ["client", "environment", "n_support", "n", "step", "majority"]
    pd.testing.assert_frame_equal(remembers[asked], forgot[asked])
    after = remembers["step"] == 1
    assert not np.allclose(remembers["loss"][after], forgot["loss"][after])
    assert forgot["loss"][after].tolist() == forgot["loss"][~after].tolist(), "nothing of their own is left"
    if name == "ditto":
        assert new == same
        pd.testing.assert_frame_equal(remembers[~after], forgot[~after])


def test_one_that_was_never_sampled_has_a_fresh_memory(tmp_path: Path) -> None:
    run = Run(config("ditto", rounds=2, clients_per_round=3), STORE)
    _, table = executed(tmp_path, run)
    sampled = {str(STORE.ids[i]) for number in (1, 2) for i in run.federation.cohort(number)}
    rows = scores(table, "final")
    before, after = (rows[rows["step"] == step].set_index("client")["loss"] for step in (0, 1))
    moved = {client for client in before.index if before[client] != after[client]}
    assert moved == sampled
    assert len(before) == len(run.federation.clients["train"]) > len(sampled)


@pytest.mark.parametrize("name", [*REMEMBER, "pfedhn"])
def test_the_selected_model_has_the_memories_of_its_round(tmp_path: Path, name: str) -> None:
    """A run that ends there has the same: of the models' rounds only the last has memories on disk by itself."""
    whole, table = executed(tmp_path / "whole", Run(selecting_early(name), STORE))
    best = whole["selected_round"]
    assert 0 < best < whole["rounds"]
    short, other = executed(tmp_path / "short", Run(selecting_early(name, rounds=best), STORE))
    pd.testing.assert_frame_equal(scores(table, "selected"), scores(other, "final"))
    assert whole["participants"]["selected"] == short["participants"]["final"]
    assert whole["participants"]["selected"] != whole["participants"]["final"]


EARLY = {"ditto": 5, "fedrep": 1, "pfedhn": 1}
"""Seeds whose validation is best before the end."""


def selecting_early(name: str, **protocol: Any) -> RunConfig:
    found = config(name, **{"rounds": 8, "evaluate_every": 2, **protocol})
    return found.model_copy(update={"seed": EARLY[name]})


# ------------------------------------------------------------------------------------------------ nobody else sees


def poisoned(store: ClientStore, run: Run) -> ClientStore:
    """The store with other labels and inputs that are no numbers, where something is held out."""
    x, y = store.x.copy(), store.y.copy()
    clients = [int(i) for i in run.federation.clients["train"]]
    for client, held in zip(clients, run.federation.held_out(clients), strict=True):
        rows = range(int(store.offsets[client]), int(store.offsets[client + 1]))
        held_rows = [row for row in rows if any((store.x[row] == one).all() for one in held.x.numpy())]
        assert len(held_rows) == len(held.y) > 0
        x[held_rows], y[held_rows] = math.nan, (y[held_rows] + 1) % 3
    return ClientStore(x, y, store.offsets, store.ids, store.environments, store.about)


@pytest.mark.parametrize("name", others_slow(ON_LOGISTIC))
def test_what_is_held_out_changes_nothing_but_participants_scores(tmp_path: Path, name: str) -> None:
    """Not the state, not what validation and so tuning and selection see, not the scores of new clients."""
    found = []
    for kind in ("clean", "poisoned"):
        run = Run(config(name, rounds=4, clients_per_round=4), STORE)
        run = Run(run.config, poisoned(STORE, run) if kind == "poisoned" else STORE)
        progress = run.train()
        record, table = executed(tmp_path / kind, run)
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in progress.rows]
        found.append((tuple(progress.state), progress.best, rows, record, table, without_times(tmp_path / kind)))
    (state, best, rows, record, table, files), (*others, bad, bad_table, bad_files) = found
    torch.testing.assert_close((state, best), tuple(others[:2]), rtol=0, atol=0)
    assert rows == others[2]
    assert record["scores"] == bad["scores"]
    assert record["selected_round"] == bad["selected_round"]
    for file in ("seed-1.clients.csv", "seed-1.rounds.csv"):
        assert files[file] == bad_files[file]
    assert table["correct"].sum() > 0
    if name == "protonet":  # without prototypes it answers without a look at x
        bad_table = bad_table[bad_table["step"] > 0]
    assert bad_table["correct"].sum() == 0, "the poison is in there"


# ---------------------------------------------------------------------------------------------------- runs go on


@pytest.mark.parametrize("name", REMEMBER)
@pytest.mark.parametrize("killed", [3, 5, 7])
def test_a_killed_run_resumes_to_the_bit(tmp_path: Path, name: str, killed: int) -> None:
    """Before the selected round, after it, and at the end: its memories are still there."""
    record, _ = executed(tmp_path / "whole", Run(selecting_early(name), STORE))
    assert record["selected_round"] < 8
    with pytest.raises(Killed):
        executed_with(tmp_path / "broken", selecting_early(name), killed)
    executed(tmp_path / "broken", Run(selecting_early(name), STORE))
    assert without_times(tmp_path / "broken") == without_times(tmp_path / "whole")


def executed_with(root: Path, config: RunConfig, killed: int) -> None:
    Run(config, STORE).execute(Cell(root, config), kill_after(killed))


def test_only_memories_that_count_stay_on_disk(tmp_path: Path) -> None:
    found = selecting_early("ditto")
    cell, run = Cell(tmp_path, found), Run(found, STORE)
    progress = run.train(cell)
    assert progress.best_memories.items() - progress.memories.items(), "some of the selected round's are older"
    wanted = {f"{client}-{number}.safetensors" for client, number in progress.memories.items()}
    wanted |= {f"{client}-{number}.safetensors" for client, number in progress.best_memories.items()}
    assert {path.name for path in (cell.partial / "memories").iterdir()} == wanted


@pytest.mark.parametrize("limit", [{"GROUP": 4}, {"GROUP_BYTES": 1}])
def test_in_groups_is_all_at_once(tmp_path: Path, limit: Mapping[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = executed(tmp_path / "whole", Run(config("ditto"), STORE, mode="sequential"))
    for name, value in limit.items():
        monkeypatch.setattr(running, name, value)
    asked: list[int] = []
    run = Run(config("ditto"), STORE, mode="sequential")
    score = run.engine.score

    def noted(broadcast: Any, clients: Any, every_step: bool) -> list[torch.Tensor]:
        asked.append(len(clients))
        return score(broadcast, clients, every_step)

    monkeypatch.setattr(run.engine, "score", noted)
    groups = executed(tmp_path / "groups", run)
    assert max(asked[-5:]) == next(iter(limit.values()))
    pd.testing.assert_frame_equal(groups[1], whole[1])


# ------------------------------------------------------------------------------------------------------- the record


@pytest.mark.parametrize("name", ["fedavg", "fedavg_meta", "ditto", "local"])
def test_a_record_agrees_with_its_table(tmp_path: Path, name: str) -> None:
    record, table = executed(tmp_path, Run(config(name), STORE))
    assert set(record["participants"]) == {"final", "selected"}
    for model in ("final", "selected"):
        rows = scores(table, model)
        for when, step in (("before", 0), ("after", rows["step"].max())):
            own, score = rows[rows["step"] == step], record["participants"][model][when]
            assert score["pooled"] == own["correct"].sum() / own["n"].sum()
            assert math.isclose(score["loss"], (own["loss"] * own["n"]).sum() / own["n"].sum())
            assert score["clients"] == len(own) == record["data"]["clients"]["train"]


def test_without_held_out_a_record_is_as_before(tmp_path: Path) -> None:
    plain = config("ditto", held_out=0.0)
    cell = Cell(tmp_path, plain)
    record = Run(plain, STORE).execute(cell)
    assert "participants" not in record
    assert "held_out" not in record["config"]["protocol"]
    assert not (cell.folder / f"{cell.stem}.participants.csv").exists()
    assert Run(plain, STORE).train(Cell(tmp_path / "again", plain)).best_memories == {}


def test_a_diverged_run_has_no_participants_scores(tmp_path: Path) -> None:
    wild = {"client_optimizer": {"name": "sgd", "lr": 1e40}, "epochs": 3}
    record, table = executed(tmp_path, Run(config("fedavg", hyperparameters=wild), STORE))
    assert record["status"] == "diverged"
    assert record["participants"] == {}
    assert table.empty
