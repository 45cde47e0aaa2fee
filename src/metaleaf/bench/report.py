"""The table, on a terminal, as Markdown and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from metaleaf.bench.rows import Row
from metaleaf.files.whole_files import write_atomically
from metaleaf.runs.store import write_json

HEADINGS = ("work", "metaleaf", "against", "baseline", "ratio", "min..max", "wanted", "", "% of limit")
"""Numbers without a unit are samples a second."""


def cells(row: Row) -> list[str]:
    """A row as text."""
    ratio = ("", "") if row.ratio is None else (f"{row.ratio.value:.2f}", f"{row.ratio.low:.2f}..{row.ratio.high:.2f}")
    return [
        row.work,
        _quantity(row.ours, row.unit),
        row.against,
        "" if row.theirs is None else _quantity(row.theirs, row.unit),
        *ratio,
        _wanted(row),
        {None: "", True: "yes", False: "no"}[row.met],
        "" if row.share is None else f"{100 * row.share:.2g}",
    ]


def _quantity(value: float, unit: str) -> str:
    number = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return number if unit == "samples/s" else f"{number} {unit}"


def _wanted(row: Row) -> str:
    ratio = f"{row.goal[0]:g}x" if row.goal else ""
    share = f"{row.share_goal[0]:.0%}" if row.share_goal else ""
    most = f"under {row.at_most[0]:g} {row.unit}" if row.at_most else ""
    return ", ".join(filter(None, (ratio, share, most)))


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(box=SIMPLE)
    for i, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=max(Console().width, 130)).print(table)


def write(rows: Sequence[Row], machine: dict[str, Any], path: Path) -> None:
    """Everything as JSON, and the table as Markdown beside it."""
    write_json(path, {"machine": machine, "rows": [{**asdict(row), "met": row.met} for row in rows]})
    lines = [HEADINGS, [":--", *["--:"] * (len(HEADINGS) - 1)], *map(cells, rows)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    write_atomically(path.with_suffix(".md"), partial(Path.write_text, data=text, encoding="utf-8"))
