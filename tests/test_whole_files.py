"""Files are there as a whole or not at all, and what killed processes leave goes."""

import fcntl
from pathlib import Path

import pytest

from metaleaf.files.whole_files import write_atomically


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.json"
    write_atomically(path, lambda p: p.write_text("old"))

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(path, fail)
    assert caught.value.filename == str(path)
    assert [one.name for one in path.parent.iterdir()] == ["record.json"]
    assert path.read_text() == "old"


def test_the_litter_of_killed_writers_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "seed-1[a].csv"
    litter, other, busy = (
        tmp_path / name for name in (f".{path.name}.0123abcd", ".seed-2.csv.0123abcd", f".{path.name}.busybusy")
    )
    for one in (litter, other, busy):
        one.write_text("half")
    with busy.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_atomically(path, lambda p: p.write_text("whole"))
    assert {one.name for one in tmp_path.iterdir()} == {path.name, other.name, busy.name}
    assert path.read_text() == "whole"
