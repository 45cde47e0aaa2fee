"""``metaleaf suite``."""

from dataclasses import dataclass, field

import tyro

from metaleaf.cli.options import Compute
from metaleaf.cli.process import importing
from metaleaf.cli.reporting import report_suite
from metaleaf.cli.running import run_all


@dataclass(frozen=True)
class SuiteCommand:
    """Run every cell of a suite that has no record yet, then write its report."""

    suite: tyro.conf.Positional[str]
    """A TOML file, or the name of a suite that comes with metaleaf."""
    algorithms: tuple[str, ...] = ()
    """Only these (labels)."""
    seeds: tuple[int, ...] = ()
    """Only these."""
    report: bool = True
    save: bool = False
    """Keep the trained models beside the records, for `metaleaf evaluate` and `metaleaf export`."""
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Run it."""
        with importing():
            from metaleaf.config.suite import load_suite
            from metaleaf.jobs.cells import cells_of, select

        suite = load_suite(self.suite)
        cells = cells_of(suite, self.compute.results, self.algorithms)
        run_all(select(suite, cells, self.algorithms, self.seeds), self.compute, save=self.save)
        if self.report:
            report_suite(suite, cells, self.compute.results)
