"""The files of a submission, looked at before any of them is read."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from metaleaf.records.records import LIMITS
from metaleaf.submission.problem import Problem

MOST = 100_000
"""Files at most."""

_LABEL = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_FILES = r"\.json|\.clients\.csv|\.participants\.csv|\.rounds\.csv|\.safetensors"
_RECORD = re.compile(rf"{_LABEL}/{_LABEL}/[0-9a-f]{{12}}/seed--?\d+({_FILES})")
_TRIAL = re.compile(rf"tuning/{_LABEL}/{_LABEL}/[0-9a-f]{{12}}-seed--?\d+\.json")
_REPORT = "report"
"""Is made anew from the records by whoever takes a submission, and not looked at."""

_TABLES = (".clients.csv", ".rounds.csv")


class Survey(NamedTuple):
    """Records with both of their tables and trials of searches, sorted; and what is wrong with other files."""

    records: list[Path]
    trials: list[Path]
    problems: list[Problem]


def survey(folder: Path) -> Survey:
    """All files below `folder`, no link followed."""
    problems, good = [], set()
    for number, path in enumerate(_walk(folder)):
        name = path.relative_to(folder).as_posix()
        if number >= MOST:
            problems.append(Problem("files", str(folder), f"has more than {MOST:,} files"))
            break
        if fault := _fault(path, name):
            problems.append(Problem("files", name, fault))
        elif not name.startswith(f"{_REPORT}/"):
            good.add(path)
    trials = sorted(path for path in good if path.relative_to(folder).parts[0] == "tuning")
    kept = good.difference(trials)
    records = []
    for path in sorted({_record_of(path) for path in kept}):
        expected = [path, *(path.with_suffix(suffix) for suffix in _TABLES)]
        missing = [one.name for one in expected if one not in kept]
        if missing:
            name = path.relative_to(folder).as_posix()
            problems.append(Problem("files", name, f"is not whole without {' and '.join(missing)}"))
        else:
            records.append(path)
    return Survey(records, trials, problems)


def _walk(folder: Path) -> Iterator[Path]:
    """Everything that is not a folder; links to folders, too."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (Path(place, name) for name in sorted([*files, *links]))


def _fault(path: Path, name: str) -> str | None:
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        return "is a link; give the file itself"
    if not stat.S_ISREG(about.st_mode):
        return "is not a plain file"
    if name.startswith(f"{_REPORT}/"):
        return None
    if not _RECORD.fullmatch(name) and not _TRIAL.fullmatch(name):
        return "is no file of the store (docs/records.md); remove it"
    limit = LIMITS[path.suffix]
    return f"has {about.st_size:,} bytes, more than {limit:,}" if about.st_size > limit else None


def _record_of(path: Path) -> Path:
    """The JSON file that a file of a record belongs to."""
    return path.with_name(f"{path.name.split('.')[0]}.json")
