"""Records and tables as anyone may have written them: read as they are, or refused in a sentence, and soon."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_records import write_record

from metaleaf.cli import main
from metaleaf.errors import DataError
from metaleaf.records.records import Record, read_record
from metaleaf.report.report import write_report
from metaleaf.runs.store import write_csv
from metaleaf.terminal.visible import visible

NAMES = ["NA", "nan", "null", "None", "", "a\rb", "a\r", "\n", "a,b", '"a"', "01", " ", "-inf", "#", "\x1b[31m", "é"]


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """One record of twelve clients."""
    return write_record(tmp_path / "suite", "femnist", "maml", 0, clients=12)


def table(path: Path) -> Path:
    return path.with_suffix(".clients.csv")


def test_what_clients_are_called_is_text(one: Path) -> None:
    """In every column of text, whatever a reader of numbers would take it for."""
    count = len(NAMES)
    numbers = {name: [1] * count for name in ("support", "n", "step", "correct", "majority")}
    texts = {"model": ["final"] * count, "client": NAMES, "environment": NAMES[::-1]}
    write_csv(table(one), {**texts, **numbers, "loss": [float("nan")] * count})
    found = read_record(Record, one).clients
    assert found["client"].tolist() == NAMES
    assert found["environment"].tolist() == NAMES[::-1]
    assert found["loss"].isna().all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('"a,"' * 25_000, "lacks the column|does not name the columns"),
        ("a," * 25_000, "does not name the columns"),
        ("a,b,a\n1,2,3\n", "does not name the columns"),
        ("a" * 10**6, "does not name the columns|lacks the column|field larger"),
        ("", "does not name the columns"),
        ("a,b\n" + "1," * 25_000, "does not have a cell for each column"),
    ],
)
def test_a_hostile_table_never_reaches_pandas(
    one: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    """Whose time grows with the square of the columns."""
    table(one).write_text(text)
    wide: list[Any] = []
    read = pd.read_csv

    def watched(path: Path, **options: Any) -> Any:
        frame = read(path, **options)
        wide.append(frame.shape[1] > 100)
        return frame

    monkeypatch.setattr(pd, "read_csv", watched)
    with pytest.raises(DataError, match=sentence):
        read_record(Record, one).clients  # noqa: B018
    assert not any(wide)


def to_zero(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("replace", [to_zero, to_pipe])
def test_only_files_are_read(one: Path, replace: Callable[[Path], None]) -> None:
    replace(table(one))
    with pytest.raises(DataError, match=r"clients.csv is not a plain file"):
        read_record(Record, one).clients  # noqa: B018
    replace(one)
    with pytest.raises(DataError, match=r"seed-0.json is not a plain file"):
        read_record(Record, one)


def damaged(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_nested_lists_are_refused(one: Path) -> None:
    damaged(one, config="here")
    one.write_text(one.read_text().replace('"here"', '{"a": ' + "[" * 5000 + "]" * 5000 + "}"))
    with pytest.raises(DataError, match="is not a record of schema 1"):
        write_report(one.parents[3], one.parents[3] / "report")


def test_a_seed_is_a_number_that_a_file_can_be_called_by(one: Path) -> None:
    damaged(one, seed=10**400)
    with pytest.raises(DataError, match="is not a record of schema 1: seed: "):
        read_record(Record, one)


@pytest.mark.parametrize("command", ["report", "site"])
def test_what_a_record_says_does_not_reach_the_terminal_as_it_is(
    one: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    scores = json.loads(one.read_text())["scores"]
    damaged(one, scores={**scores, "\x1b]0;mine\x07\nmetaleaf: all is well\u202e": {}})
    folder = one.parents[3] if command == "report" else one.parents[4]
    assert main([command, str(folder), "--output", str(folder / "made")]) == 2
    error = capsys.readouterr().err
    assert r"\x1b]0;mine\x07\nmetaleaf: all is well\u202e" in error
    assert all(line.isprintable() for line in error.splitlines())
    assert len(error.splitlines()) == 1


def test_visible_text_is_one_line_of_what_prints() -> None:
    assert visible("é 漢 🙂") == "é 漢 🙂"
    hidden = "\x1b[2J\r\n\u202e\ud800\U000e0001"
    assert visible(hidden) == r"\x1b[2J\r\n\u202e\ud800\U000e0001"
    assert visible(visible(hidden)) == visible(hidden)


def test_a_reason_is_visible_in_the_page(tmp_path: Path) -> None:
    path = write_record(tmp_path / "suite", "femnist", "maml", 0, clients=12)
    write_record(tmp_path / "suite", "femnist", "maml", 1, clients=12)
    damaged(path, status="diverged", reason="round 1\u202e\x1b[31m", scores={})
    write_report(tmp_path / "suite", tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert r"round 1\u202e\x1b[31m" in page
    assert "\u202e" not in page
