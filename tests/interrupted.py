"""Runs that are interrupted after chosen rounds, and go on."""

from collections.abc import Callable, Sequence

import pytest

from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell


def interrupted(make: Callable[[], Run], cell: Cell, after: Sequence[int]) -> list[int]:
    """Execute a run that Ctrl-C ends after each of these rounds, then to its end; the rounds of the last part.

    make: the run, anew for every part.
    """
    left = list(after)

    def interrupt(number: int, rounds: int, row: dict[str, float]) -> None:
        if number in left:
            left.remove(number)
            raise KeyboardInterrupt

    while left:
        with pytest.raises(KeyboardInterrupt):
            make().execute(cell, interrupt)
        assert not cell.done()
    seen: list[int] = []
    make().execute(cell, lambda number, rounds, row: seen.append(number))
    assert not cell.partial.exists()
    return seen
