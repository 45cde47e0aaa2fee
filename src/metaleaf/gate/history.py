"""A history of gate runs: one JSON line each, to see slow drifts that no single run is an alarm for."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import FiniteFloat, NonNegativeFloat, ValidationError

from metaleaf.config.config import Strict
from metaleaf.config.labels import Printable
from metaleaf.config.provenance import git_facts
from metaleaf.errors import DataError
from metaleaf.gate.compare import Comparison


class Value(NamedTuple):
    """The mean over a run's seeds, and its standard error by the baseline's sd."""

    mean: FiniteFloat
    error: NonNegativeFloat


class Entry(Strict):
    """One gate run. values: by ``<suite>/<dataset>/<algorithm> <measure>``; counts have none."""

    time: str
    revision: Printable | None
    alarms: int
    values: dict[Printable, Value]


def entry(compared: Sequence[Comparison]) -> Entry:
    """What this run adds."""
    values = {f"{one.cell} {one.measure}": Value(one.found, one.noise) for one in compared if one.noise > 0}
    finite = {name: value for name, value in values.items() if value.mean == value.mean}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Entry(time=now, revision=git_facts()["revision"], alarms=sum(one.alarm for one in compared), values=finite)


def append(path: Path, added: Entry) -> None:
    """Add a line; one write, so that two gates at once do not mix theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(added.model_dump(mode="json")) + "\n")


def read(path: Path) -> list[Entry]:
    """All entries, oldest first. DataError names a line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a history: {error}.") from None
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(Entry.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise DataError(f"{path} line {number} is not an entry of a history: {first['msg']}.") from None
    return entries
