"""Every suite below a results folder. What cannot be shown is left out with a sentence that names it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from metaleaf.errors import DataError
from metaleaf.records.client_scores import client_scores
from metaleaf.records.environments import EnvironmentRecord, visited
from metaleaf.records.records import (
    AnyRecord,
    Head,
    Record,
    Stored,
    in_order,
    of_new_environments,
    read_record,
    record_paths,
)
from metaleaf.report.site.commands import shipped_suite
from metaleaf.statistics.cost_to_target import cost_to_target


@dataclass
class Collected:
    """Records by suite, in the suite's order of algorithms; and why others are not among them, a sentence each."""

    clients: dict[str, list[Record]] = field(default_factory=dict)
    environments: dict[str, list[EnvironmentRecord]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def collect(results: Path, leave_out: Sequence[str] = ()) -> Collected:
    """The records of each folder of `results` that has any, read with their tables; not of those that fit a pattern.

    A record that is damaged, lies elsewhere than it says, or cannot be compared with most of its suite is refused.
    Raises DataError when no record is left.
    """
    found = Collected()
    folders = [path for path in results.glob("*") if path.is_dir()]
    for one in leave_out:
        if not any(fnmatchcase(path.name, one) for path in folders):
            raise DataError(f"no suite below {results} fits {one!r}, which is to be left out: correct the pattern")
    for folder in sorted(path for path in folders if not any(fnmatchcase(path.name, one) for one in leave_out)):
        paths = record_paths(folder)
        entering = [path for path in paths if of_new_environments(path)]
        meeting = [path for path in paths if path not in set(entering)]
        clients = _suite(Record, folder, meeting, _check_clients, found.refused)
        environments = _suite(EnvironmentRecord, folder, entering, _check_environments, found.refused)
        if clients:
            found.clients[folder.name] = clients
        if environments:
            found.environments[folder.name] = environments
    if not found.clients and not found.environments:
        first = f"; the first of {len(found.refused)} refused: {found.refused[0]}" if found.refused else ""
        raise DataError(f"no records below {results} that can be shown; run a suite first{first}")
    return found


def _suite(
    kind: type[AnyRecord],
    folder: Path,
    paths: Sequence[Path],
    check: Callable[[AnyRecord], object],
    refused: list[str],
) -> list[AnyRecord]:
    records = []
    for path in paths:
        try:
            record = read_record(kind, path)
            _check_place(record, folder)
            check(record)  # reads its tables, so that a damaged one costs this record only
            records.append(record)
        except DataError as error:
            refused.append(str(error))
    suite = shipped_suite(folder.name)
    return in_order(_comparable(records, refused), tuple(suite.algorithms) if suite else ())


def _check_clients(record: Record) -> None:
    client_scores([record])
    cost_to_target([record], 0.0)


def _check_environments(record: EnvironmentRecord) -> None:
    visited([record])


def _check_place(record: Stored[Head], folder: Path) -> None:
    """So that two records of one run cannot both be there, nor one stand among another suite's."""
    content = record.content
    named = (content.suite, content.dataset, content.algorithm, content.config_hash, f"seed-{content.seed}.json")
    if (folder.name, *record.path.relative_to(folder).parts) != named:
        raise DataError(f"{record.path} says that it is {'/'.join(named)}; move it there, or remove the copy")


def _comparable(records: list[AnyRecord], refused: list[str]) -> list[AnyRecord]:
    """The records on the split that most of those that have to share one are on."""
    splits: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for record in records:
        splits[record.content.comparable][record.content.data.split_hash] += 1
    shared = {key: counts.most_common(1)[0][0] for key, counts in splits.items()}
    kept = [r for r in records if r.content.data.split_hash == shared[r.content.comparable]]
    refused += [
        f"{r.path} has other clients or other data in its split than most of its suite and cannot be compared; "
        "run it again"
        for r in records
        if r not in kept
    ]
    return kept
