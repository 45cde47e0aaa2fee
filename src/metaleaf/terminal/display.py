"""What a person sees while runs go on: bars on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from metaleaf.terminal.visible import visible

REDRAWN_EVERY = 0.25
"""Seconds between two states of a notebook's progress."""

PLAIN_EVERY = 30.0
"""Seconds between two plain lines of one run."""


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} rounds/s" if task.speed and task.fields.get("unit") == "rounds" else "")


class Display:
    """Progress of several runs: one bar for all of them, one for each that is under way."""

    def __init__(self, total: int, what: str = "runs", console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.fancy = self.console.is_terminal
        self.total, self.finished, self.what = total, 0, what
        self._tasks: dict[str, Any] = {}
        self._printed: dict[str, float] = {}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Speed(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bars = Progress(*columns, console=self.console, speed_estimate_period=60)

    def __enter__(self) -> Self:
        if self.fancy:
            self._bars.start()
            self._all = self._bars.add_task(self.what, total=self.total, note="", unit=self.what)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.fancy:
            self._bars.stop()

    def round(self, name: str, number: int, rounds: int, row: dict[str, Any]) -> None:
        """A run has finished a round."""
        note = f"validation {row['validation']}" if "validation" in row else None
        if not self.fancy:
            now = time.monotonic()
            if note and now - self._printed.get(name, 0.0) > PLAIN_EVERY:
                self._printed[name] = now
                self.say(
                    f"  {name}: round {number}/{rounds}, {number / max(row['seconds'], 1e-9):.1f} rounds/s, {note}"
                )
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(f"  {name}", total=rounds, note="", unit="rounds")
        self._bars.update(self._tasks[name], completed=number)
        if note:
            self._bars.update(self._tasks[name], note=note)

    def done(self, name: str, result: str) -> None:
        """A run has ended."""
        self.finished += 1
        if self.fancy:
            if name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))
            self._bars.update(self._all, completed=self.finished)
        self.say(visible(f"[{self.finished}/{self.total}] {name}: {result}"))

    def say(self, line: str) -> None:
        """Print text, of any number of lines, above the bars."""
        line = "\n".join(map(visible, line.splitlines()))
        if self.fancy:
            self._bars.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)


class NotebookDisplay(Display):
    """The same below a cell of a notebook: what has ended, and a line on each run under way."""

    def __init__(self, total: int, what: str = "runs") -> None:
        super().__init__(total, what)
        self.fancy = False
        self._said: list[str] = []
        self._under_way: dict[str, str] = {}
        self._shown: Any = None
        self._drawn = 0.0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._under_way.clear()
        self._draw()

    def round(self, name: str, number: int, rounds: int, row: dict[str, Any]) -> None:
        """See `Display`."""
        before = self._under_way.get(name, "").partition(", validation")[2]
        note = str(row["validation"]) if "validation" in row else before.strip()
        self._under_way[name] = f"{name}: round {number}/{rounds}" + (f", validation {note}" if note else "")
        if time.monotonic() - self._drawn > REDRAWN_EVERY:
            self._draw()

    def done(self, name: str, result: str) -> None:
        """See `Display`."""
        self._under_way.pop(name, None)
        super().done(name, result)

    def say(self, line: str) -> None:
        """See `Display`."""
        self._said += map(visible, line.splitlines())
        self._draw()

    def _draw(self) -> None:
        from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

        self._drawn = time.monotonic()
        text = _AsItIs("\n".join([*self._said, *map(visible, self._under_way.values())]))
        if self._shown is None:
            self._shown = display(text, display_id=True)  # type: ignore[no-untyped-call,unused-ignore]
        else:
            self._shown.update(text)


class _AsItIs:
    """Text that a notebook shows as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class Silent(Display):
    """Nothing is seen."""

    def __init__(self, total: int, what: str = "runs") -> None:
        super().__init__(total, what)
        self.fancy = False

    def round(self, name: str, number: int, rounds: int, row: dict[str, Any]) -> None:
        """See `Display`."""

    def say(self, line: str) -> None:
        """See `Display`."""


def display_of(total: int, what: str = "runs", *, shown: bool = True) -> Display:
    """The display that fits: below a notebook's cell, on a terminal, as plain lines, or none."""
    if not shown:
        return Silent(total, what)
    return NotebookDisplay(total, what) if _in_notebook() else Display(total, what)


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this: what it is asked to display goes to a page."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell else None
    return running is not None and hasattr(running, "kernel")
