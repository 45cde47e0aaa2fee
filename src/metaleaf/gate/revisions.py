"""Two runs of ``pytest benchmarks/bench_gate.py`` side by side: time and accuracy of every cell.

pytest-benchmark's own ``compare`` shows times only; accuracy is in the `extra_info` of its JSON.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import FiniteFloat, PositiveFloat, ValidationError
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metaleaf.config.labels import Printable
from metaleaf.errors import DataError
from metaleaf.gate.measures import text
from metaleaf.records.records import Part


class Reached(NamedTuple):
    """A measure of a cell: what it was, and how far from the baseline it might be."""

    found: FiniteFloat
    tolerance: FiniteFloat


class Stats(Part):
    """Seconds that the cell took."""

    mean: PositiveFloat


class Extra(Part):
    """What `bench_gate.py` adds; benchmarks of other files have none of it."""

    cell: Printable | None = None
    measures: dict[Printable, Reached] = {}


class Benchmark(Part):
    """One benchmark of pytest-benchmark's JSON."""

    stats: Stats
    extra_info: Extra


class Machine(Part):
    """Where it ran, as far as times depend on it."""

    cpu: dict[str, Any] = {}


class Report(Part):
    """The parts of pytest-benchmark's JSON that are read."""

    machine_info: Machine
    benchmarks: list[Benchmark]


def read(path: Path) -> Report:
    """DataError if it is not pytest-benchmark's JSON."""
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DataError(f"{path} is not pytest-benchmark's JSON: {where or 'file'}: {first['msg']}.") from None


def rows(old: Report, new: Report) -> Iterator[list[str]]:
    """For every cell that both have: its time, then its measures; what moved more than its tolerance is marked."""
    earlier = {one.extra_info.cell: one for one in old.benchmarks}
    for one in new.benchmarks:
        cell = one.extra_info.cell
        if cell is None or cell not in earlier:
            continue
        before, after = earlier[cell].stats.mean, one.stats.mean
        yield [cell, "seconds", f"{before:.2f}", f"{after:.2f}", f"x {after / before:.2f}", "", ""]
        for measure, now in one.extra_info.measures.items():
            if was := earlier[cell].extra_info.measures.get(measure):
                change = now.found - was.found
                numbers = (text(measure, was.found), text(measure, now.found), text(measure, change))
                moved = "moved" if abs(change) > now.tolerance else ""
                yield ["", measure, *numbers, text(measure, now.tolerance), moved]


def show(old: Path, new: Path) -> None:
    """Print the table. DataError if the two have no cell in common."""
    reports = read(old), read(new)
    table = Table(box=SIMPLE)
    for i, heading in enumerate(("cell", "", "before", "after", "change", "tolerance", "")):
        table.add_column(heading, justify="right" if 1 < i < 6 else "left", no_wrap=True)
    for row in rows(*reports):
        table.add_row(*(Text(cell) for cell in row))
    if not table.row_count:
        raise DataError(f"{old} and {new} have no cell of the gate in common; make them with benchmarks/bench_gate.py.")
    Console(width=max(Console().width, 130)).print(table)
    if reports[0].machine_info != reports[1].machine_info:
        print("the two ran on different machines: their times cannot be compared")
