"""``metaleaf report``."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from metaleaf.cli.options import Show
from metaleaf.cli.reporting import write_and_show
from metaleaf.errors import ConfigError


@dataclass(frozen=True)
class ReportCommand:
    """Write table, figures and page from the records below a folder."""

    folder: tyro.conf.Positional[Path]
    """A suite's folder in the result store, e.g. results/synthetic."""
    output: Path | None = None
    """Default: `report` in that folder."""
    baseline: str | None = None
    """The label that all others are paired with or majority (default: the best; new environments: few_round)."""
    also: tuple[Path, ...] = ()
    """Folders of further suites, for tables and figures of all."""
    columns: tuple[str, ...] = ()
    """Columns of the tables: before after mean bottom10 p10 p50 p90 hurt rounding seeds rounds bytes flops."""
    show: Show = field(default_factory=Show)

    def main(self) -> None:
        """Write it."""
        from metaleaf.config.suite import order_of

        if self.also and not self.output:
            raise ConfigError("a report of several suites belongs to none of their folders: add --output.")
        output = self.output or self.folder / "report"
        shown = self.show.shown(self.columns)
        order = order_of(self.folder, *self.also)
        write_and_show(self.folder, output, order, baseline=self.baseline, also=self.also, shown=shown)
