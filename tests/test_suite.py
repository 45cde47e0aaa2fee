"""Suite files: the grid, refusals by name, what is finished is left alone, several processes at once."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from metaleaf import registry
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.cli import main
from metaleaf.config.config import override, resolve
from metaleaf.config.suite import SUITES, load_suite, suite_of
from metaleaf.errors import ConfigError

SUITE = """
name = "tiny"
title = "Tiny"
seeds = [1, 2]

[protocol]
rounds = 4
clients_per_round = 5
evaluate_every = 2
test_supports = [0.2]

[datasets.synthetic]
options = { tasks = 40, dimension = 5, classes = 3 }

[algorithms.fedavg]

[algorithms.fast]
name = "maml"
title = "MAML, fast"
inner_lr = 0.5
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SUITE)
    return tmp_path


def records(folder: Path) -> list[Path]:
    return sorted(folder.rglob("seed-*.json"))


def test_the_grid_runs_once_and_is_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", "tiny.toml"]) == 0
    found = records(here / "results" / "tiny")
    assert [p.parent.parent.name for p in found] == ["fast", "fast", "fedavg", "fedavg"]
    record = json.loads(found[0].read_text())
    assert record["title"] == "MAML, fast"
    assert record["config"]["algorithm"]["hyperparameters"]["inner_lr"] == 0.5
    report = here / "results" / "tiny" / "report"
    assert {"table.md", "table.csv", "table.tex", "index.html", "overview.png"} <= {p.name for p in report.iterdir()}
    before = {path: path.stat().st_mtime_ns for path in found}
    capsys.readouterr()
    assert main(["suite", "tiny.toml"]) == 0
    assert capsys.readouterr().err.count("already finished") == 4
    assert {path: path.stat().st_mtime_ns for path in records(here / "results")} == before


def test_a_lost_record_is_made_again_and_only_that(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["suite", "tiny.toml", "--no-report"])
    lost, *others = records(here / "results")
    kept = lost.read_bytes()
    lost.unlink()
    capsys.readouterr()
    assert main(["suite", "tiny.toml", "--no-report"]) == 0
    assert capsys.readouterr().err.count("already finished") == len(others)
    again, before = json.loads(lost.read_text()), json.loads(kept)
    assert {**again, "timing": None} == {**before, "timing": None}


def test_worker_processes_give_the_same_records(here: Path) -> None:
    main(["suite", "tiny.toml", "--no-report", "--threads", "1"])
    main(["suite", "tiny.toml", "--no-report", "--threads", "1", "--workers", "2", "--results", "parallel"])
    for one, two in zip(records(here / "results"), records(here / "parallel"), strict=True):
        a, b = json.loads(one.read_text()), json.loads(two.read_text())
        assert {**a, "timing": None} == {**b, "timing": None}
        assert (one.parent / f"{one.stem}.clients.csv").read_text() == (
            two.parent / f"{two.stem}.clients.csv"
        ).read_text()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("seeds =", "seeeds ="), r"unknown key in .*tiny.toml 'seeeds': did you mean 'seeds'"),
        (("rounds = 4", "rouns = 4"), r"unknown key in .* \[protocol\] 'rouns': did you mean 'rounds'"),
        (("options =", "option ="), r"unknown key in .* \[datasets.synthetic\] 'option': did you mean 'options'"),
        (("tasks = 40", "task = 40"), r"unknown option of synthetic 'task': did you mean 'tasks'"),
        (("inner_lr = 0.5", "iner_lr = 0.5"), r"unknown option of maml 'iner_lr': did you mean 'inner_lr'"),
        (("[algorithms.fedavg]", "[algorithms.fedavgg]"), r"unknown algorithm 'fedavgg': did you mean 'fedavg'"),
        (("[datasets.synthetic]", "[datasets.sinthetic]"), r"unknown dataset 'sinthetic': did you mean 'synthetic'"),
        (("inner_lr = 0.5", 'inner_lr = "high"'), r"maml: inner_lr = 'high': .*valid number"),
        (("rounds = 4", "rounds = -4"), r"rounds = -4"),
        (("test_supports = [0.2]", "test_supports = [1.2]"), r"test_supports must be fractions between 0 and 1"),
        (('name = "tiny"', 'name = "tiny'), r"tiny.toml is not a TOML file"),
        (('name = "tiny"', 'name = "../tiny"'), r"name = '../tiny': names a folder"),
        (("[algorithms.fast]", '[algorithms."a/b"]'), r"'a/b': names a folder"),
        (("[algorithms.fast]", "[algorithms.report]"), r"'report': names a folder"),
        (("seeds = [1, 2]", "seeds = [1, 1]"), r"seeds.*each only once"),
        (("seeds = [1, 2]", "seeds = []"), r"seeds.*at least one seed"),
        (("inner_lr = 0.5", "inner_lr = nan"), r"maml: .* not finite"),
        (("inner_lr = 0.5", "inner_lr = -0.5"), r"maml: inner_lr = -0.5: .*greater than 0"),
        (("inner_lr = 0.5", "server_optimizer = { lr = 0.1 }"), r"maml: server_optimizer: give its name and options"),
        (("inner_lr = 0.5", 'server_optimizer = { name = "adam", lr = 0.1, bta1 = 0.1 }'), r"unknown key .*bta1"),
        (("inner_lr = 0.5", "space = { iner_lr = [0.1] }"), r"unknown option of maml 'iner_lr'"),
        (("inner_lr = 0.5", "space = { inner_lr = [] }"), r"space.inner_lr"),
        (("MAML, fast", "MAML,\u00a0fast"), r"algorithms.fast.title = .*: must be printable text, without U\+00A0"),
        (("MAML, fast", " "), r"algorithms.fast.title = ' ': must not be empty"),
        (("MAML, fast", "M" * 101), r"algorithms.fast.title = .*at most 100 characters"),
        (('title = "Tiny"', 'title = "Ti\u202eny"'), r"title = .*: must be printable text, without U\+202E"),
        (("[algorithms.fast]", f"[algorithms.{'f' * 101}]"), r"at most 100 characters"),
        (("[0.2]", "[0.2, 0.5, 0.20]"), r"test_supports must have each fraction once, got \[0.2, 0.5, 0.2\]"),
        (
            ("inner_lr = 0.5", "inner_lr = 0.5\nhyperparameters = { inner_lr = 0.1 }"),
            r"maml: the hyper-parameter 'inner_lr' is given twice",
        ),
        (("inner_lr = 0.5", "hyperparameters = { iner_lr = 1 }"), r"unknown option of maml 'iner_lr'"),
    ],
)
def test_a_mistake_is_named_and_nothing_runs(
    here: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], sentence: str
) -> None:
    (here / "tiny.toml").write_text(SUITE.replace(*change), encoding="utf-8")
    assert main(["suite", "tiny.toml"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, "one sentence"
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(error)
    assert not (here / "results").exists()


def test_titles_in_any_script_are_kept(here: Path) -> None:
    title = "連合学習 é מטא मेटा"
    (here / "tiny.toml").write_text(SUITE.replace("MAML, fast", title), encoding="utf-8")
    assert load_suite("tiny.toml").config("synthetic", "fast", 1).title == title


@dataclass(frozen=True)
class Namesakes(FedAvg):
    """A plugin with hyper-parameters that are called like keys of a suite."""

    seeds: int = 7
    name: str = "Ann"
    hyperparameters: str = "few"


@pytest.mark.parametrize("key", ["seeds = [1]", "name = 'namesakes'"])
def test_a_hyper_parameter_that_a_key_would_shadow_is_said(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr(
        registry,
        "plugin",
        lambda kind, name, real=registry.plugin: Namesakes if name == "namesakes" else real(kind, name),
    )
    name = key.split()[0]

    def given(words: str) -> dict[str, Any]:
        text = SUITE.replace("[algorithms.fedavg]", f"[algorithms.namesakes]\n{words}")
        return suite_of(tomllib.loads(text), "here").config("synthetic", "namesakes", 1).hyperparameters

    with pytest.raises(ConfigError, match=f"'{name}' is a key of the suite and a hyper-parameter of namesakes; give "):
        given(key)
    assert given("")["seeds"] == 7
    values = "hyperparameters = { seeds = 3, name = 'Bea', hyperparameters = 'many' }"
    found = given(f"{key}\n{values}")
    assert (found["seeds"], found["name"], found["hyperparameters"]) == (3, "Bea", "many")


def test_a_plugins_title_is_judged_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FedAvg, "title", "Fed\u200bAvg")
    with pytest.raises(ConfigError, match=r"fedavg: its title .* must be printable text, without U\+200B"):
        suite_of(tomllib.loads(SUITE), "here").config("synthetic", "fedavg", 1)


def test_a_plugin_that_fails_does_not_stop_the_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = SUITE.replace("[algorithms.fedavg]", "[algorithms.broken]") + "\n[algorithms.fedavg]\n"
    (here / "tiny.toml").write_text(broken)

    @dataclass(frozen=True)
    class Broken(FedAvg):
        def client(self, task: Any, params: Any, episode: Any) -> Any:
            raise RuntimeError("a bug in a plugin")

    with pytest.MonkeyPatch.context() as patch:
        real = registry.plugin
        patch.setattr(registry, "plugin", lambda kind, name: Broken if name == "broken" else real(kind, name))
        assert main(["suite", "tiny.toml", "--no-report"]) == 2
    assert len(records(here / "results")) == 4
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == "metaleaf: synthetic broken seed 1 failed: a bug in a plugin (1 more failed; the others are kept)"


def test_a_record_of_other_data_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", "tiny.toml", "--no-report"]) == 0
    path = records(here / "results")[0]
    path.write_text(path.read_text().replace('"data_hash": "', '"data_hash": "0'))
    assert main(["suite", "tiny.toml", "--no-report"]) == 2
    assert "was made from other data than what is prepared now" in capsys.readouterr().err


def test_an_edited_suite_reports_its_present_configuration_only(here: Path) -> None:
    assert main(["suite", "tiny.toml"]) == 0
    (here / "tiny.toml").write_text(SUITE.replace("inner_lr = 0.5", "inner_lr = 0.25"))
    assert main(["suite", "tiny.toml"]) == 0
    table = (here / "results" / "tiny" / "report" / "table.md").read_text()
    assert table.count("| MAML, fast") == 1
    assert "[fast" not in table


def test_a_missing_suite_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", "nowhere.toml"]) == 2
    assert "cannot read the suite nowhere.toml: No such file" in capsys.readouterr().err
    assert main(["suite", "sinthetic"]) == 2
    assert "did you mean 'synthetic'" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_suite_that_ships_is_valid(path: Path) -> None:
    suite = load_suite(path.stem)
    assert suite.name == path.stem, "records lie under the suite's name"
    assert suite.grid()


def test_overriding_a_key_that_does_not_exist_is_refused() -> None:
    options: dict[str, Any] = {"client_optimizer": {"lr": 1.0}, "epochs": 1}
    assert override(options, {"client_optimizer.lr": 2.0}) == {"client_optimizer": {"lr": 2.0}, "epochs": 1}
    assert options["client_optimizer"]["lr"] == 1.0
    with pytest.raises(ConfigError, match=r"unknown option 'client.lr'"):
        override(options, {"client.lr": 2.0})


def test_another_optimizer_keeps_nothing_of_the_one_it_replaces() -> None:
    options = resolve("algorithms", "fedavg", {"client_optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0.9}})
    for changes in (
        {"client_optimizer.lr": 0.001, "client_optimizer.name": "adam"},
        {"client_optimizer.name": "adam", "client_optimizer.lr": 0.001},
    ):
        assert override(options, changes)["client_optimizer"] == {"name": "adam", "lr": 0.001}
        resolve("algorithms", "fedavg", override(options, changes))
    with pytest.raises(ConfigError, match=r"client_optimizer.adam.lr' is missing"):
        resolve("algorithms", "fedavg", override(options, {"client_optimizer.name": "adam"}))
    same = override(options, {"client_optimizer.name": "sgd", "client_optimizer.lr": 0.5})
    assert same["client_optimizer"] == {**options["client_optimizer"], "lr": 0.5}


def test_a_diverged_cell_is_recorded_and_the_suite_goes_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = SUITE.replace("[algorithms.fedavg]", '[algorithms.fedavg]\nclient_optimizer = { name = "sgd", lr = 1e38 }')
    (here / "tiny.toml").write_text(wild)
    assert main(["suite", "tiny.toml"]) == 0
    assert "diverged (round 1" in capsys.readouterr().err
    status = [json.loads(path.read_text())["status"] for path in records(here / "results")]
    assert status == ["finished", "finished", "diverged", "diverged"]
    assert "diverged" in (here / "results" / "tiny" / "report" / "table.md").read_text()


def _start(here: Path, *words: str, session: bool = False) -> subprocess.Popen[str]:
    environment = {**os.environ, "METALEAF_DATA": str(here / "data")}
    # Whoever started the tests may ignore Ctrl-C, which children inherit.
    listen = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"{listen}; from metaleaf.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "suite", "tiny.toml", "--no-report", "--threads", "1", *words]
    return subprocess.Popen(
        command, cwd=here, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=session
    )


def _wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_suite_goes_on_to_the_same_records(here: Path, how: signal.Signals) -> None:
    (here / "tiny.toml").write_text(SUITE.replace("rounds = 4", "rounds = 60"))
    whole = _start(here, "--results", "whole")
    assert whole.wait(timeout=120) == 0
    broken = here / "results"
    first = _start(here)
    _wait_for(lambda: any(broken.rglob("checkpoint.safetensors")))
    first.send_signal(how)
    _, said = first.communicate(timeout=60)
    if how != signal.SIGKILL:
        assert first.returncode == 128 + how
        word = "interrupted" if how == signal.SIGINT else "terminated"
        assert said.strip().splitlines()[-1].startswith(f"metaleaf: {word}; finished runs are kept")
    assert len(records(broken)) < 4
    assert _start(here).wait(timeout=120) == 0
    for one, two in zip(records(here / "whole"), records(broken), strict=True):
        a, b = json.loads(one.read_text()), json.loads(two.read_text())
        assert {**a, "timing": None} == {**b, "timing": None}


@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "kill -INT"])
def test_ctrl_c_with_workers_saves_what_they_have_and_goes_on(here: Path, whole_group: bool) -> None:
    (here / "tiny.toml").write_text(SUITE.replace("rounds = 4", "rounds = 400"))
    words = ("--workers", "2")
    first = _start(here, *words, session=True)
    _wait_for(lambda: len(list((here / "results").rglob("checkpoint.safetensors"))) == 2)
    if whole_group:
        os.killpg(first.pid, signal.SIGINT)
    else:
        first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130, said
    assert "Traceback" not in said
    assert not records(here / "results")
    assert len(list((here / "results").rglob("checkpoint.safetensors"))) == 2


def test_what_the_system_refuses_ends_a_suite_in_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "file").touch()
    assert main(["suite", "tiny.toml", "--results", "file"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("metaleaf: file/tiny/synthetic/")
    assert main(["suite", "tiny.toml", "--no-report", "--algorithms", "fast"]) == 0
    capsys.readouterr()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(["suite", "tiny.toml", "--no-report"]) == 2
    lines = capsys.readouterr().err.splitlines()
    sentence = r"metaleaf: results/tiny/.*/checkpoint.safetensors: No space left on device: free some space there\. Fin"
    assert not any("seed 2" in line or "Traceback" in line for line in lines), "what would fail as well is not tried"
    assert re.match(sentence, lines[-1])
    assert len(records(here / "results")) == 2, "what is finished stays"
    assert main(["suite", "tiny.toml"]) == 0
    assert not list((here / "results").rglob("*.partial"))
    monkeypatch.setattr(os, "fsync", full)
    assert main(["report", "results/tiny"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"metaleaf: results/tiny/report/\S+: No space left", last)


def test_workers_stop_at_what_the_system_refuses(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").touch()
    assert main(["suite", "tiny.toml", "--results", "file", "--workers", "2"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.match(
        r"metaleaf: file/tiny/synthetic/.*: move away what is in the place of a file", error.splitlines()[-1]
    )


def test_what_a_killed_process_leaves_beside_a_record_goes(here: Path) -> None:
    words = ["suite", "tiny.toml", "--no-report", "--algorithms", "fast", "--seeds", "1"]
    assert main(words) == 0
    [path] = records(here / "results")
    left = path.with_name("seed-1.partial")
    (left / "memories").mkdir(parents=True)
    with (left / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(words) == 0
        assert left.exists(), "another process is at it"
    assert main(words) == 0
    assert not left.exists()


def test_workers_die_with_the_process_that_started_them(here: Path) -> None:
    (here / "tiny.toml").write_text(SUITE.replace("rounds = 4", "rounds = 100000"))
    parent = _start(here, "--workers", "2")
    _wait_for(lambda: len(list((here / "results").rglob("checkpoint.safetensors"))) == 2)
    locks = list((here / "results").rglob("lock"))
    parent.kill()
    parent.communicate(timeout=60)

    def free(lock: Path) -> bool:
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    _wait_for(lambda: all(free(lock) for lock in locks))


def test_two_processes_share_the_cells(here: Path) -> None:
    (here / "tiny.toml").write_text(SUITE.replace("rounds = 4", "rounds = 30"))
    both = [_start(here), _start(here)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(records(here / "results")) == 4
