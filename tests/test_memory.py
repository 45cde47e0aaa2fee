"""Memories through whole runs: their files, what a resume finds of them, and that both engines keep the same."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import coins
import numpy as np
import pytest
import torch
from small_tasks import home
from test_run import without_times

from metaleaf import registry, trees
from metaleaf.algorithm import Reply
from metaleaf.config.config import RunConfig
from metaleaf.data.client_store import ClientStore
from metaleaf.engine.engine import Mode
from metaleaf.engine.memory import ClientMemory
from metaleaf.errors import DataError
from metaleaf.runs.run import Progress, Run
from metaleaf.runs.store import Cell

NAMES = [name for name in registry.names("algorithms") if hasattr(registry.plugin("algorithms", name), "memory")]
ROUNDS, COHORT = 6, 5
QUICK: dict[str, dict[str, Any]] = {"ditto": {"adapt_epochs": 1}, "fedrep": {"head_epochs": 1}}

SHORT = {"scaffold", "ditto", "fedrep", "fedbn", "feddbe"}
"""Of every shape of memory one; the others where there is time."""

every_name = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.slow) for name in NAMES]
)


def faces() -> ClientStore:
    """Small pictures, for a model with a body, normalisation and a head."""
    rng = np.random.default_rng(0)
    counts = rng.integers(3, 9, 15)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    x = rng.integers(0, 256, (offsets[-1], 8, 8, 3)).astype(np.uint8)
    y = rng.integers(0, 2, offsets[-1]).astype(np.uint8)
    spec = {"version": "1.0.0", "x_shape": [8, 8, 3], "x_dtype": "uint8", "classes": 2, "window": 0}
    about: dict[str, Any] = {"name": "faces", "spec": spec, "data_hash": "1" * 64}
    ids = np.array([f"client-{i:03d}" for i in range(15)])
    return ClientStore(x, y, offsets, ids, np.array(["album"] * 15), about)


STORES = {"logistic": coins.store(), "face_cnn": faces()}


def config(name: str, model: str) -> RunConfig:
    """Six rounds, a checkpoint after every second."""
    found = coins.config(name, hyperparameters=QUICK.get(name), rounds=ROUNDS, clients_per_round=COHORT)
    return found.model_copy(update={"model": model})


def smallest(name: str) -> str:
    """Logistic regression is quick, but has neither body nor normalisation."""
    return home(registry.plugin("algorithms", name)())


def started(root: Path, name: str, model: str | None = None, mode: Mode = "auto") -> tuple[Run, Cell]:
    """A run, on the smallest model that the algorithm can work with if none is named."""
    model = model or smallest(name)
    return Run(config(name, model), STORES[model], mode=mode), Cell(root, config(name, model))


def memories_of(run: Run, progress: Progress) -> dict[int, Any]:
    """Every sampled client's current memory."""
    fresh = run.algorithm.memory(run.task, progress.state.broadcast)  # type: ignore[attr-defined]
    return {client: run.memories.get(client, number, fresh) for client, number in progress.memories.items()}


def files(cell: Cell) -> set[str]:
    return {path.name for path in (cell.partial / "memories").iterdir()}


def last_rounds(run: Run, until: int) -> dict[int, int]:
    """The last round up to `until` that each client was sampled in."""
    return {client: number for number in range(1, until + 1) for client in run.federation.cohort(number)}


class Killed(BaseException):
    """Ends a run on the spot, as a signal would."""


def kill_after(number: int) -> Any:
    def on_round(now: int, rounds: int, row: dict[str, float]) -> None:
        if now == number:
            raise Killed

    return on_round


def test_some_algorithms_have_a_memory() -> None:
    assert {"scaffold", "ditto", "fedrep", "fedbn"} <= set(NAMES)


@every_name
def test_only_sampled_clients_have_files_and_one_each(tmp_path: Path, name: str) -> None:
    run, cell = started(tmp_path, name)
    seen: list[set[str]] = []
    progress = run.train(cell, lambda *_: seen.append(files(cell)))
    assert len(seen[0]) == COHORT, "after the first round"
    assert len(seen[4]) > len(last_rounds(run, 5)), "older files stay until the next checkpoint"
    assert progress.memories == last_rounds(run, ROUNDS)
    assert len(progress.memories) < run.task.clients
    assert files(cell) == {f"{client}-{number}.safetensors" for client, number in progress.memories.items()}


@every_name
def test_a_client_finds_what_it_kept(name: str) -> None:
    """The memory of every episode is what the client's last one returned; those of new clients are fresh."""
    run = Run(config(name, "face_cnn"), STORES["face_cnn"], mode="sequential")
    found: dict[int, Any] = {}
    spy = Spy(run.algorithm)
    run.engine.algorithm = spy  # type: ignore[attr-defined]
    run.train()
    returning = 0
    for client, given, broadcast, reply in spy.calls:
        returning += client in found
        expected = found.get(client, run.algorithm.memory(run.task, broadcast))  # type: ignore[attr-defined]
        torch.testing.assert_close(given, expected, rtol=0, atol=0)
        found[client] = reply.memory
    assert returning > COHORT
    assert len(spy.calls) == ROUNDS * COHORT


class Spy:
    """An algorithm, and what its clients were given and returned."""

    def __init__(self, algorithm: Any) -> None:
        self.algorithm = algorithm
        self.calls: list[tuple[int, Any, Any, Reply]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.algorithm, name)

    def client(self, task: Any, broadcast: Any, episode: Any) -> Reply:
        reply: Reply = self.algorithm.client(task, broadcast, episode)
        self.calls.append((int(episode.client), episode.memory, broadcast, reply))
        return reply


@every_name
def test_bytes_are_those_of_the_trees_really_sent(name: str) -> None:
    run = Run(config(name, "face_cnn"), STORES["face_cnn"], mode="sequential")
    spy = Spy(run.algorithm)
    run.engine.algorithm = spy  # type: ignore[attr-defined]
    last = run.train().rows[-1]
    if hasattr(run.algorithm, "traffic"):
        pytest.skip("counts other trees than it sends")
    assert last["bytes_down"] == sum(trees.nbytes(broadcast) for _, _, broadcast, _ in spy.calls)
    assert last["bytes_up"] == sum(trees.nbytes(reply.update) for _, _, _, reply in spy.calls)


CONVOLUTIONS = (3 * 9 * 32 + 32) + 3 * (32 * 9 * 32 + 32)
NORMS, HEAD = 4 * 2 * 32, 32 * 2 + 2
ALL = CONVOLUTIONS + NORMS + HEAD


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("scaffold", 2 * ALL), ("ditto", ALL), ("fedrep", CONVOLUTIONS + NORMS), ("fedbn", CONVOLUTIONS + HEAD)],
)
def test_bytes_by_hand(name: str, numbers: int) -> None:
    last = Run(config(name, "face_cnn"), STORES["face_cnn"]).train().rows[-1]
    assert last["bytes_down"] == last["bytes_up"] == ROUNDS * COHORT * 4 * numbers


@every_name
def test_both_engines_keep_the_same(tmp_path: Path, name: str) -> None:
    ends = []
    for mode in ("sequential", "vectorised"):
        run, cell = started(tmp_path / mode, name, "face_cnn", mode)
        run.task.model.double()
        progress = run.train(cell)
        ends.append((tuple(progress.state), memories_of(run, progress)))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-9)


KINDS = [
    pytest.param(
        (name, smallest(name)),
        id=f"{name}-{smallest(name)}",
        marks=() if name in SHORT else pytest.mark.slow,
    )
    for name in NAMES
]


class Whole(NamedTuple):
    """A run that nobody interrupted: its algorithm and model, its end (`ended`)."""

    kind: tuple[str, str]
    end: tuple[Any, dict[str, Any]]


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(request.param, ended(tmp_path_factory.mktemp("whole"), request.param))


def ended(root: Path, kind: tuple[str, str]) -> tuple[Any, dict[str, Any]]:
    """Run (on) to the end: the state, the bytes and all memories then; and the records."""
    run, cell = started(root, *kind)
    progress = run.train(cell)
    found = (tuple(progress.state), progress.rows[-1]["bytes_up"], memories_of(run, progress))
    again, cell = started(root, *kind)
    again.execute(cell)  # from the last checkpoint
    return found, without_times(root)


def assert_goes_on_as_if_nothing_had_been(root: Path, whole: Whole) -> None:
    found, records = ended(root, whole.kind)
    torch.testing.assert_close(found, whole.end[0], rtol=0, atol=0)
    assert records == whole.end[1]
    _, cell = started(root, *whole.kind)
    assert not cell.partial.exists(), "a finished run leaves no memories behind"


@pytest.mark.parametrize("rounds", [(3,), (1, 4)])
def test_an_interrupted_run_resumes_to_the_bit(tmp_path: Path, whole: Whole, rounds: tuple[int, ...]) -> None:
    def interrupt(number: int, total: int, row: dict[str, float]) -> None:
        if number == stop:
            raise KeyboardInterrupt

    for stop in rounds:
        run, cell = started(tmp_path, *whole.kind)
        with pytest.raises(KeyboardInterrupt):
            run.train(cell, interrupt)
        expected = {f"{client}-{number}.safetensors" for client, number in last_rounds(run, stop).items()}
        assert files(cell) == expected, "the checkpoint on Ctrl-C tidies, too"
    assert_goes_on_as_if_nothing_had_been(tmp_path, whole)


@pytest.mark.parametrize("number", [1, 5])
def test_a_killed_run_resumes_to_the_bit(tmp_path: Path, whole: Whole, number: int) -> None:
    """Rounds after the checkpoint have left files that are no client's memory when it goes on."""
    run, cell = started(tmp_path, *whole.kind)
    with pytest.raises(Killed):
        run.train(cell, kill_after(number))
    assert any(f"-{number}." in name for name in files(cell))
    assert_goes_on_as_if_nothing_had_been(tmp_path, whole)


@pytest.mark.parametrize("number", [2, 5])
def test_a_run_killed_while_it_writes_memories_resumes_to_the_bit(
    tmp_path: Path, whole: Whole, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a round, and of a file."""
    put, written = ClientMemory.put, Counter[int]()

    def dying(self: ClientMemory, client: int, when: int, memory: Any) -> None:
        put(self, client, when, memory)
        written[when] += 1
        if when == number and written[when] == 3:
            path = self.folder / f"{client}-{when}.safetensors"
            path.write_bytes(path.read_bytes()[:10])
            raise Killed

    run, cell = started(tmp_path, *whole.kind)
    monkeypatch.setattr(ClientMemory, "put", dying)
    with pytest.raises(Killed):
        run.train(cell)
    monkeypatch.undo()
    assert sum(f"-{number}." in name for name in files(cell)) == 3
    assert_goes_on_as_if_nothing_had_been(tmp_path, whole)


def test_a_run_killed_before_it_tidied_resumes_to_the_bit(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of round 4 is written, older files are still there."""
    tidy = ClientMemory.tidy

    def dying(self: ClientMemory, *current: Any) -> None:
        if max(current[0].values()) == 4:
            raise Killed
        tidy(self, *current)

    run, cell = started(tmp_path, *whole.kind)
    monkeypatch.setattr(ClientMemory, "tidy", dying)
    with pytest.raises(Killed):
        run.train(cell)
    monkeypatch.undo()
    assert len(files(cell)) > len(last_rounds(run, 4))
    assert_goes_on_as_if_nothing_had_been(tmp_path, whole)


@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
@every_name
def test_a_damaged_memory_is_named_in_one_sentence(tmp_path: Path, name: str, damage: str) -> None:
    run, cell = started(tmp_path, name)
    with pytest.raises(Killed):
        run.train(cell, kill_after(4))
    checkpointed = last_rounds(run, 2)
    [client, *_] = [i for i in run.federation.cohort(3) if i in checkpointed]
    path = cell.partial / "memories" / f"{client}-{checkpointed[client]}.safetensors"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "cut" else b"")
    again, _ = started(tmp_path, name)
    with pytest.raises(DataError) as caught:
        again.train(cell)
    message = str(caught.value)
    assert message.startswith(f"a client's memory {path} is missing or damaged (")
    assert message.endswith(f"delete {cell.partial} to start the run again.")
    assert "\n" not in message
    shutil.rmtree(cell.partial)
    assert again.train(cell).round == ROUNDS, "the remedy helps"


def test_memories_without_a_cell_lie_in_a_temporary_folder() -> None:
    run = Run(config("scaffold", "logistic"), STORES["logistic"])
    run.train()
    folder = run.memories.folder
    assert len(list(folder.iterdir())) >= COHORT
    del run
    assert not folder.exists()
