"""What a person reads: what moved, by how much, against what tolerance."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metaleaf.gate.compare import Comparison
from metaleaf.gate.measures import text
from metaleaf.terminal.visible import visible

HEADINGS = ("cell", "measure", "verdict", "baseline", "now", "change", "tolerance")


def row(one: Comparison) -> list[str]:
    """A comparison as text, by `HEADINGS`."""
    if one.reason:
        return [one.cell, one.measure, one.verdict, one.reason, "", "", ""]
    change = one.found - one.baseline
    shown = [text(one.measure, value) for value in (one.baseline, one.found, abs(change), one.tolerance)]
    shown[2] = f"{'-' if change < 0 else '+'}{shown[2]}"
    return [one.cell, one.measure, one.verdict, *shown]


def moved(compared: Sequence[Comparison]) -> list[Comparison]:
    """All that is not well, alarms first."""
    return sorted((one for one in compared if one.verdict != "ok"), key=lambda one: not one.alarm)


def conclusion(compared: Sequence[Comparison], false_alarm: float) -> str:
    """One line for all of it."""
    alarms, unknown = sum(one.alarm for one in compared), sum(one.verdict == "not measured" for one in compared)
    cells = len({one.cell for one in compared if one.verdict != "not measured"})
    checked = f"{len(compared) - unknown} values of {cells} cells compared, false-alarm rate {false_alarm:.2g}"
    if not compared:
        return "nothing could be measured"
    missing = f"; {unknown} cells could not be measured" if unknown else ""
    return f"{f'{alarms} moved' if alarms else 'nothing moved'}{missing} ({checked})"


def show(compared: Sequence[Comparison], skipped: Mapping[str, str], false_alarm: float) -> None:
    """Print the table of what moved, if anything did, and the conclusion."""
    table = Table(box=SIMPLE)
    for i, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if i > 2 else "left", overflow="fold")
    for one in moved(compared):
        table.add_row(*(Text(cell) for cell in row(one)))
    if table.row_count:
        Console(width=max(Console().width, 150)).print(table)
    for suite, reason in skipped.items():
        print(visible(f"skipped {suite}: {reason}"))
    print(conclusion(compared, false_alarm))


def markdown(compared: Sequence[Comparison], skipped: Mapping[str, str], false_alarm: float) -> str:
    """The same for a pull request; all that was compared is folded away below."""
    lines = ["## metaleaf gate", "", f"**{conclusion(compared, false_alarm)}**", ""]
    if bad := moved(compared):
        lines += [*_table(bad), ""]
    lines += [f"Skipped {_escaped(suite)}: {_escaped(reason)}" for suite, reason in skipped.items()]
    if compared:
        lines += ["", "<details><summary>all values</summary>", "", *_table(compared), "", "</details>", ""]
    return "\n".join(lines) + "\n"


def _table(compared: Sequence[Comparison]) -> list[str]:
    alignment = [":--"] * 3 + ["--:"] * (len(HEADINGS) - 3)
    return [f"| {' | '.join(map(_escaped, cells))} |" for cells in (HEADINGS, alignment, *map(row, compared))]


def _escaped(cell: str) -> str:
    plain = cell.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(plain.split())
