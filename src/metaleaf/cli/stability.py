"""``metaleaf stability``."""

from dataclasses import dataclass, field

import tyro

from metaleaf.cli.options import Compute
from metaleaf.cli.process import importing
from metaleaf.cli.reporting import report_suite
from metaleaf.cli.running import run_all
from metaleaf.errors import refuse_unknown


@dataclass(frozen=True)
class StabilityCommand:
    """Compute a suite's records with other engines, threads, precision and perturbed starts; say how far scores move.

    What is measured is written into the records (`rounding`); stop it and start it again at will.
    """

    suite: tyro.conf.Positional[str]
    """A TOML file, or the name of a suite that comes with metaleaf."""
    datasets: tuple[str, ...] = ()
    """Only these (labels)."""
    algorithms: tuple[str, ...] = ()
    """Only these (labels)."""
    seeds: tuple[int, ...] = ()
    """Only these."""
    report: bool = True
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Measure, and write the suite's report again."""
        with importing():
            from metaleaf.config.suite import load_suite
            from metaleaf.jobs.cells import cells_of, select
            from metaleaf.submission.stability import measure

        suite = load_suite(self.suite)
        refuse_unknown("dataset of the suite", self.datasets, suite.datasets)
        cells = cells_of(suite, self.compute.results, self.algorithms)
        asked = self.datasets or suite.datasets
        chosen = select(suite, cells, self.algorithms, self.seeds)
        run_all([cell for cell in chosen if cell.dataset_label in asked], self.compute, job=measure)
        if self.report:
            report_suite(suite, cells, self.compute.results)
