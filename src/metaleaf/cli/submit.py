"""``metaleaf submit``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class SubmitCommand:
    """Check a contributed set of records against the rules (docs/rules.md). Exit code 1: a rule is broken."""

    action: tyro.conf.Positional[Literal["check"]]
    folder: tyro.conf.Positional[Path]
    """A suite's folder of a result store, e.g. results/synthetic."""
    suite: str | None = None
    """The suite's TOML file (default: the one that comes with metaleaf under the records' name)."""
    beside: Path | None = None
    """A folder of records that these must be comparable with, e.g. the leaderboard's."""
    partial: bool = False
    """Accept that cells or seeds are missing."""

    def main(self) -> None:
        """Check it."""
        from metaleaf.submission.check import check

        print(check(self.folder, self.suite, self.beside, self.partial))
