"""What ``metaleaf bench`` does: check, measure, print, write."""

import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from metaleaf.bench import machine, pfl, report, scaling
from metaleaf.bench.check import check
from metaleaf.bench.footprint import FOOTPRINT
from metaleaf.bench.limit import Limit
from metaleaf.bench.rates import rates, workloads
from metaleaf.bench.rows import Row, Settings
from metaleaf.errors import UserError, unknown


def run(patterns: Sequence[str], settings: Settings, *, checks: bool, output: Path | None) -> None:
    """Measure what the patterns name (default: everything) and print the table; UserError if a check fails."""
    names = chosen(patterns, settings)
    if settings.pfl:
        pfl.require(settings.pfl)
    torch.set_num_threads(settings.threads)
    failures = _check(settings.device) if checks else 0
    facts, rows = machine.facts(settings.device), list(_rows(names, settings))
    report.show(rows)
    if output:
        report.write(rows, facts, output)
    if failures:
        raise UserError(f"{failures} combinations differ from one client after the other on the CPU; they are above.")


def scale(settings: Settings, folder: Path) -> None:
    """Write how cost grows."""
    torch.set_num_threads(settings.threads)
    print(*scaling.write(settings, folder), sep="\n")


def chosen(patterns: Sequence[str], settings: Settings) -> list[str]:
    """The benchmarks that match a pattern such as ``maml*``; ConfigError for a pattern that matches none."""
    footprint = FOOTPRINT if settings.device == "cpu" else ("growth", "loading")
    known = [*workloads(settings), *footprint]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise unknown("benchmark", pattern, known)
    return [name for name in known if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]


def _rows(names: Sequence[str], settings: Settings) -> Iterator[Row]:
    known, limit = workloads(settings), Limit(settings.device, 1024 if settings.quick else 4096)
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        yield from FOOTPRINT[name](settings) if name in FOOTPRINT else rates(known[name], settings, limit)


def _check(device: str) -> int:
    """Compare the engines, print what differs, and return how often."""
    outcomes = list(check(device))
    failed = [outcome for outcome in outcomes if not outcome.equal]
    print(*failed, f"{len(outcomes) - len(failed)} of {len(outcomes)} combinations agree on {device}", sep="\n")
    return len(failed)
