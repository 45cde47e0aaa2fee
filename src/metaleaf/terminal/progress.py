"""Progress of long work: a bar on a terminal, one plain line at the end elsewhere, or nothing."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Say that ``amount`` more bytes are done, and (optionally) what has been reached in words."""

    def __call__(self, amount: int, /, note: str = "") -> None:
        """Add ``amount`` bytes; ``note`` replaces the last note."""


@contextmanager
def progress_of(what: str, total: int | None = None, *, shown: bool = True) -> Iterator[Advance]:
    """Show the bytes done of ``total`` (None: unknown) on stderr while the block runs.

    On a terminal this is a moving bar, otherwise a single line when the work has ended; nothing if not
    ``shown``.
    """
    if shown and sys.stderr.isatty():
        with _bar(what, total) as advance:
            yield advance
        return
    done, last, begun = 0, "", time.monotonic()

    def advance_quietly(amount: int, /, note: str = "") -> None:
        nonlocal done, last
        done, last = done + amount, note

    yield advance_quietly
    if shown:
        seconds = time.monotonic() - begun
        print(f"{what}: {f'{last}, ' if last else ''}{done / 1e6:.1f} MB in {seconds:.1f} s", file=sys.stderr)


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Advance]:
    # Imported here: rich costs more to import than opening a prepared dataset.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total, note="")

        def advance(amount: int, /, note: str = "") -> None:
            bars.update(task, advance=amount, note=note)

        yield advance
