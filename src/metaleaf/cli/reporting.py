"""The report of a folder of records, written and shown."""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaleaf.config.config import RunConfig
    from metaleaf.config.suite import Suite
    from metaleaf.report.shown import Shown


def report_suite(suite: "Suite", cells: "Sequence[RunConfig]", results: Path) -> None:
    """The report of its records; those of an earlier wording of the suite stay in the store, but out of it."""
    folder = results / suite.name
    write_and_show(folder, folder / "report", tuple(suite.algorithms), {cell.config_hash() for cell in cells})


def write_and_show(
    folder: Path,
    output: Path,
    order: Sequence[str] = (),
    only: Container[str] | None = None,
    baseline: str | None = None,
    also: Sequence[Path] = (),
    shown: "Shown | None" = None,
) -> None:
    """Write a report, print its table and say where its page is."""
    from metaleaf.report.report import write_report
    from metaleaf.report.shown import ALL

    written = write_report(folder, output, order=order, only=only, baseline=baseline, also=also, shown=shown or ALL)
    table = next((path for path in written if path.suffix == ".md"), None)
    if table:
        print(table.read_text(encoding="utf-8"))
    page = next((path for path in written if path.suffix == ".html"), output)
    print(f"{len(written)} files in {output}; open {page}")
