"""What stands behind a row: configuration, command, tuning, data, and every seed with what it was made by."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metaleaf.records.records import Head, Stored
from metaleaf.report.site.commands import Command, command
from metaleaf.report.tables.tables import slug
from metaleaf.terminal.visible import visible

_MADE_BY = ("git", "device", "engine", "versions", "timing", "data", "rounding")
"""Keys of a record that say what it was made by, and from."""


@dataclass(frozen=True)
class Seed:
    """One record."""

    seed: int
    status: str
    reason: str
    selected_round: str
    revision: str
    made_by: str


@dataclass(frozen=True)
class Run:
    """All records of one configuration."""

    id: str
    content: Head
    config: str
    tuning: str
    command: Command
    seeds: tuple[Seed, ...]


def run_id(content: Head) -> str:
    """What a row and a link call a run: letters, digits and hyphens only, whatever the record says."""
    return "run-" + "-".join(
        slug(text) for text in (content.suite, content.dataset, content.algorithm, content.config_hash)
    )


def runs(records: Sequence[Stored[Head]]) -> list[Run]:
    """One for each configuration, in the order of the records."""
    together: dict[str, list[Stored[Head]]] = {}
    for record in records:
        together.setdefault(run_id(record.content), []).append(record)
    return [_run(name, its) for name, its in together.items()]


def _run(name: str, its: Sequence[Stored[Head]]) -> Run:
    content = its[0].content
    tuning = _text(content.tuning) if content.tuning else ""
    made = command(content, [record.content.seed for record in its])
    return Run(name, content, _text(content.config), tuning, made, tuple(_seed(record) for record in its))


def _seed(record: Stored[Head]) -> Seed:
    content = record.content
    whole: dict[str, Any] = json.loads(record.path.read_bytes())
    git = whole.get("git")
    revision = git.get("revision") if isinstance(git, dict) else None
    changed = " with changes" if isinstance(git, dict) and git.get("dirty") else ""
    return Seed(
        content.seed,
        content.status,
        visible(content.reason or ""),
        "–" if content.selected_round is None else f"{content.selected_round}",
        visible(revision)[:12] + changed if isinstance(revision, str) else "–",
        _text({key: whole[key] for key in _MADE_BY if key in whole}),
    )


def _text(value: Any) -> str:
    """JSON in ASCII, in which no character can pretend to be another or turn the direction of text."""
    return json.dumps(value, indent=1)
