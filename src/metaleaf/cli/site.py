"""``metaleaf site``."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from metaleaf.terminal.visible import visible


@dataclass(frozen=True)
class SiteCommand:
    """Write the leaderboard: one page with the results of every suite below a folder."""

    results: tyro.conf.Positional[Path] = Path("results")
    """Folder of the result store."""
    output: Path = Path("site")
    """A folder for index.html."""
    leave_out: tuple[str, ...] = ()
    """Suites that are no part of it, by pattern: ``--leave-out 'claim_*' '*_search'``."""

    def main(self) -> None:
        """Write it, and say what could not be shown."""
        from metaleaf.errors import DataError
        from metaleaf.report.site.page import write_site

        path, refused = write_site(self.results, self.output, self.leave_out)
        print(f"open {path} ({path.stat().st_size / 1e6:.1f} MB)")
        for sentence in refused:
            print(f"metaleaf: {visible(sentence)}", file=sys.stderr)
        if refused:
            raise DataError(f"{path} is written without these {len(refused)}.")
