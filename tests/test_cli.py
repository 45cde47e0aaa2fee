"""The command line as a person meets it: results, one-sentence errors, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from metaleaf.cli import main
from metaleaf.cli.listing import ListCommand

SMALL = (
    "--options",
    "tasks=40",
    "--options",
    "dimension=5",
    "--protocol",
    "rounds=3",
    "--protocol",
    "clients_per_round=4",
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("METALEAF_RAW", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_run_prints_where_the_record_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--dataset", "synthetic", "--algorithm", "meta_sgd", "--set", "inner_lr=0.2", *SMALL]
    assert main(words) == 0
    out = capsys.readouterr()
    assert Path(out.out.strip()).is_file()
    assert "after adaptation" in out.err


def test_report_needs_records(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "results/none"]) == 2
    assert "no records" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "--algorithm", "fedagv"], "unknown algorithm 'fedagv': did you mean"),
        (["run", "--set", "inner_lr"], "'inner_lr' is not an assignment: write key=value"),
        (["run", "--set", "iner_lr=1"], "unknown option of maml 'iner_lr'"),
        (["run", "--model", "cn"], "unknown model 'cn'"),
        (["run", "--model", "cnn", *SMALL], "model 'cnn' cannot read float32 examples of shape (5,)"),
        (["run", "--protocol", "clients_per_round=0"], "clients_per_round"),
        (["run", "--protection", "clipp={norm = 1}"], "unknown layer in [protection] 'clipp': did you mean 'clip'"),
        (["data", "stats"], "needs a dataset: arrays, celeba"),
        (["data", "verify", "synthetic"], "synthetic"),
        (["run", "--workers", "0"], "workers and threads must be at least 1"),
        (["run", "--algorithm", "FedAvg(Meta)"], "unknown algorithm 'FedAvg(Meta)': did you mean 'fedavg_meta'"),
        (["run", "--algorithm", ""], "unknown algorithm ''"),
        (["run", "--dataset", "../synthetic"], "unknown dataset '../synthetic': did you mean 'synthetic'"),
        *(
            (["run", "--name", name], f"the run: name = {name!r}: names a folder: use letters, digits")
            for name in ("my runs", "a/b", "", "..", "tuning")
        ),
        (["run", "--name", "n" * 101], "at most 100 characters"),
        (["run", "--protocol", "test_supports=[0.2,0.2]"], "test_supports must have each fraction once"),
        (["new", "algorithm", "My Method"], "'My Method' is no name for a plugin"),
        (["suite", "my suite"], "unknown suite 'my suite'"),
        (["suite", "synthetic", "--algorithms", "FedAvg(Meta)"], "unknown algorithm of the suite 'FedAvg(Meta)': did"),
        (["tune", "synthetic_search", "--algorithms", "a/b"], "unknown algorithm of the suite 'a/b'"),
        (["gate", "a/b"], "unknown suite 'a/b'"),
        (["data", "prepare", "FEMNIST"], "unknown dataset 'FEMNIST': did you mean 'femnist'"),
        (["algorithms", "--model", "../cnn"], "unknown model '../cnn': did you mean 'cnn'"),
    ],
)
def test_errors_are_one_sentence_and_exit_2(
    capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("metaleaf: ")
    assert sentence in error


def test_data_that_is_nowhere_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metaleaf.raw.published_files", lambda dataset: [])  # no download
    raw = here / "raw"
    raw.mkdir()
    assert main(["data", "prepare", "shakespeare", "--raw", str(raw)]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "shakespeare" in error.lower()
    assert not list((here / "data").rglob("about.json"))


@pytest.mark.parametrize("setting", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_files_are_utf_8_whatever_the_locale_and_output_degrades(here: Path, setting: dict[str, str]) -> None:
    title = "Größe – 連合"
    suite = f"""
name = "far"
title = "{title}"
seeds = [1]
protocol = {{ rounds = 2, clients_per_round = 3, test_supports = [0.2] }}
datasets.synthetic.options = {{ tasks = 40, dimension = 5, classes = 3 }}
algorithms.fedavg.title = "{title}"
"""
    (here / "far.toml").write_text(suite, encoding="utf-8")
    # Python would rather take UTF-8 for the locale C than believe it.
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **setting}
    script = "import sys; from metaleaf.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "suite", "far.toml"]
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"\n| Gr??e ? ?? " in done.stdout
    [record] = (here / "results").rglob("seed-1.json")
    assert json.loads(record.read_text(encoding="utf-8"))["title"] == title
    assert title in (here / "results/far/report/table.md").read_text(encoding="utf-8")


def test_a_notebooks_backend_that_is_not_installed_here_is_no_matter(here: Path) -> None:
    words = ["run", "--dataset", "synthetic", "--algorithm", "fedavg", *SMALL]
    assert main(words) == 0
    script = "import sys; from metaleaf.cli import main; sys.exit(main(sys.argv[1:]))"
    for command in (["report", "results/runs"], ["figures", "results/runs", "--only", "overview"]):
        environment = {**os.environ, "MPLBACKEND": "module://no_such_inline.backend"}
        done = subprocess.run(
            [sys.executable, "-c", script, *command], capture_output=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr


def test_a_full_disk_is_one_sentence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "results").symlink_to("/dev/full")
    assert main(["run", "--dataset", "synthetic", *SMALL]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("metaleaf: ")


def test_lists_name_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for what, name in (("algorithms", "maml"), ("datasets", "femnist"), ("models", "cnn"), ("suites", "synthetic")):
        assert main(["list", what]) == 0
        assert name in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    assert "not prepared" in capsys.readouterr().out


def test_help_imports_neither_torch_nor_matplotlib() -> None:
    script = (
        "import sys; from metaleaf import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'matplotlib', 'pandas', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr


def test_a_run_imports_only_what_it_uses() -> None:
    """A second of a short run is at stake: for pandas, for what compiles, and for sympy, which comes with that."""
    words = ["run", "--dataset", "synthetic", "--algorithm", "fedavg", "--engine", "vectorised", *SMALL]
    assert main(words) == 0  # prepares the data
    script = (
        "import sys; from metaleaf.cli import main\n"
        "main(sys.argv[1:])\n"
        "heavy = {'matplotlib', 'pandas', 'scipy', 'sympy', 'tensorflow_datasets', 'torch._dynamo'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, *words, "--seed", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "after adaptation" in done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "hung up")]
)
def test_what_asks_a_process_to_end_does_as_ctrl_c_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, word: str
) -> None:
    monkeypatch.setattr(ListCommand, "main", lambda self: os.kill(os.getpid(), number))
    before = [signal.signal(one, how) for one, how in DEFAULTS.items()]
    try:
        assert main(["list", "suites"]) == 128 + number
        assert [signal.getsignal(one) for one in DEFAULTS] == list(DEFAULTS.values()), "as they were"
    finally:
        for one, how in zip(DEFAULTS, before, strict=True):
            signal.signal(one, how)
    sentence = "finished runs are kept, the same command goes on from here."
    assert capsys.readouterr().err == f"metaleaf: {word}; {sentence}\n"


DEFAULTS: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


def test_what_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As nohup has it."""
    monkeypatch.setattr(ListCommand, "main", lambda self: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["list", "suites"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_while_torch_is_imported_ends_the_process_at_once() -> None:
    """To raise there would make torch's C++ abort."""
    script = """
import signal, sys
from metaleaf import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
module = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('went on')"
class Importing:
    def main(self):
        exec(module, {"__name__": "torch"})
cli.tyro.cli = lambda *a, **k: Importing()
sys.exit(cli.main([]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "metaleaf: interrupted; finished runs are kept, the same command goes on from here.\n"


DROPPED = """
import gc, os, signal, time
{setup}

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.{signal})
        for _ in range(1000):  # the signal's handler runs in here, and what it raises goes nowhere
            pass

def work(*_):
    dying = Dying()
    del dying
    time.sleep(20)

try:
    {call}
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("setup", "signal_name", "call"),
    [
        ("from metaleaf.cli.process import interruptible", "SIGINT", "with interruptible(): work()"),
        ("from metaleaf.cli.process import interruptible", "SIGTERM", "with interruptible(): work()"),
        (
            "from metaleaf.jobs import execute; signal.signal(signal.SIGTERM, execute._stop)",
            "SIGTERM",
            "execute._in_worker(work, None, 'cell', None)",
        ),
    ],
)
def test_an_interrupt_that_falls_into_a_destructor_is_not_lost(setup: str, signal_name: str, call: str) -> None:
    script = DROPPED.format(setup=setup, signal=signal_name, call=call)
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "interrupted\n", done.stderr
    assert done.stderr == ""
    assert time.monotonic() - begun < 15
