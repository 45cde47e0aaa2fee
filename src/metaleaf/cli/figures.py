"""``metaleaf figures``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from metaleaf.cli.options import Show
from metaleaf.errors import ConfigError


@dataclass(frozen=True)
class FiguresCommand:
    """Draw all figures that a suite's records allow, at the size of a paper."""

    suite: tyro.conf.Positional[str]
    """A suite's folder of records, e.g. results/synthetic, or the suite itself (a name, or a TOML file)."""
    output: Path | None = None
    """Default: `figures` in the folder of records."""
    only: tuple[str, ...] = ()
    """Names of figures (docs/figures.md)."""
    width: Literal["single", "double", "neurips"] | None = None
    """3.25, 6.75 or 5.5 inches (default: a single column for a figure of one panel, else double)."""
    formats: tuple[Literal["pdf", "svg", "png"], ...] = ("pdf", "svg", "png")
    also: tuple[Path, ...] = ()
    """Folders of further suites, for figures of all."""
    results: Path = Path("results")
    """Folder of the result store, if the suite is named."""
    show: Show = field(default_factory=Show)

    def main(self) -> None:
        """Draw them, with a line on each."""
        from metaleaf.config.suite import load_suite, order_of
        from metaleaf.report.figure_files import write_figures

        if self.also and not self.output:
            raise ConfigError("figures of several suites belong to none of their folders: add --output.")
        folder = Path(self.suite)
        if not folder.is_dir():
            folder = self.results / load_suite(self.suite).name
        output, order, shown = self.output or folder / "figures", order_of(folder, *self.also), self.show.shown()
        written = write_figures(
            folder, output, order, also=self.also, only=self.only, width=self.width, formats=self.formats, shown=shown
        )
        for line in written:
            print(line, flush=True)
