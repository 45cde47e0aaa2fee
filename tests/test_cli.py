"""The command line as a person meets it: results, one-sentence errors, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from metaleaf.cli import main

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
        (["data", "stats"], "needs a dataset: femnist"),
        (["data", "verify", "synthetic"], "synthetic"),
        (["run", "--workers", "0"], "workers and threads must be at least 1"),
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
