"""What is wrong with a submission."""

from typing import NamedTuple

from metaleaf.terminal.visible import visible

LONGEST = 400
"""Characters of a line."""


class Problem(NamedTuple):
    """One broken rule: its name in docs/rules.md, the file or the cell, and what is wrong there."""

    rule: str
    where: str
    what: str

    def __str__(self) -> str:
        """A line that is safe to print: names and values come from anyone."""
        line = f"[{self.rule}] {self.where}: {self.what}"
        line = line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
        return visible(line)
