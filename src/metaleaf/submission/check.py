"""Check a contributed set of records against the rules, all of them, and say everything that is wrong."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from metaleaf.config.suite import SUITES, Suite, load_suite
from metaleaf.errors import ConfigError, DataError, UserError
from metaleaf.submission import between, files, plan, scores, single
from metaleaf.submission.entry import Entry, read
from metaleaf.submission.problem import Problem


class Invalid(UserError):
    """A submission breaks rules."""

    exit_code = 1


def check(folder: Path, suite: str | None = None, beside: Path | None = None, partial: bool = False) -> str:
    """Print every broken rule of the records in `folder`, a suite's folder of the store, and summarise a valid one.

    suite: a suite file (default: the one that comes with metaleaf under the name in the records). beside: a folder of
    records that these must be comparable with. partial: cells and seeds may be missing.

    Raises Invalid if a rule is broken; ConfigError if there is no such suite, DataError if there is no such folder or
    nothing in it.
    """
    entries, problems, lacking = _problems(folder, suite, beside)
    problems += [] if partial else lacking
    for problem in problems:
        print(problem)
    if problems:
        rules = sorted({problem.rule for problem in problems})
        raise Invalid(f"{folder} breaks the rules in {len(problems)} places ({', '.join(rules)}): see docs/rules.md.")
    datasets, algorithms = ({getattr(e.content, of) for e in entries} for of in ("dataset", "algorithm"))
    rest = f"; partial: {len(lacking)} rows of its table lack seeds" if lacking else ""
    return (
        f"{folder} keeps the rules: {len(entries)} records of {len(algorithms)} algorithms "
        f"on {', '.join(sorted(datasets))}{rest}"
    )


def _problems(folder: Path, suite: str | None, beside: Path | None) -> tuple[list[Entry], list[Problem], list[Problem]]:
    """The records, what is wrong with them, and what is missing."""
    found = files.survey(_checked(folder))
    entries, unreadable = read(folder, found.records)
    problems = [*found.problems, *unreadable]
    if not entries:
        if not problems:
            raise DataError(f"no records below {folder}: give a suite's folder, e.g. results/synthetic.")
        return entries, problems, []
    for entry in entries:
        for rule, broken in {**single.RULES, **scores.RULES}.items():
            problems += [Problem(rule, entry.where, what) for what in broken(entry)]
    problems += _together(entries, _beside(beside, entries) if beside else [])
    problems += plan.once(entries)
    named = _suite(suite, entries)
    for entry in entries:
        for rule, broken_by in plan.RULES.items():
            problems += [Problem(rule, entry.where, what) for what in broken_by(entry, named)]
    problems += plan.trials(folder, found.trials, entries)
    return entries, problems, list(plan.complete(entries, named))


def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}.")
    return folder


def _together(entries: Sequence[Entry], others: Sequence[Entry]) -> Iterator[Problem]:
    """Rules between records; of those beside them nothing is said."""
    for rule, broken in between.RULES.items():
        for entry, what in broken([*others, *entries]):
            if entry in entries:
                yield Problem(rule, entry.where, what)


def _beside(folder: Path, entries: Sequence[Entry]) -> list[Entry]:
    """The records there that have something to be compared with here, named by their whole path."""
    others, unreadable = read(folder, files.survey(_checked(folder)).records)
    if unreadable:
        raise DataError(f"cannot compare with {folder}: {unreadable[0]}")
    datasets = {entry.content.dataset for entry in entries}
    common = [other._replace(where=str(other.record.path)) for other in others if other.content.dataset in datasets]
    if not common:
        raise DataError(f"{folder} has no records of {', '.join(sorted(datasets))} to compare with.")
    return common


def _suite(name: str | None, entries: Sequence[Entry]) -> Suite:
    if name:
        return load_suite(name)
    found = sorted({entry.content.suite for entry in entries})
    path = SUITES / f"{found[0]}.toml"  # the name is a label, so that this stays in the folder
    if len(found) > 1 or not path.is_file():
        raise ConfigError(f"no suite {' and '.join(found)} comes with metaleaf: give the suite's file with --suite.")
    return load_suite(str(path))
