"""``metaleaf tune``."""

from dataclasses import dataclass, field

import tyro

from metaleaf.cli.options import Compute
from metaleaf.errors import refuse_unknown


@dataclass(frozen=True)
class TuneCommand:
    """Search hyper-parameters on validation clients, the same number of trials for every algorithm of a suite."""

    suite: tyro.conf.Positional[str]
    """A TOML file with a [tuning] table, or the name of a suite that comes with metaleaf."""
    algorithms: tuple[str, ...] = ()
    """Only these (labels)."""
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Run it."""
        from metaleaf.config.suite import load_suite
        from metaleaf.jobs import tune
        from metaleaf.terminal.display import Display

        suite = load_suite(self.suite)
        refuse_unknown("algorithm of the suite", self.algorithms, suite.algorithms)
        pairs = [pair for pair in suite.grid() if not self.algorithms or pair[1] in self.algorithms]
        with Display(tune.length(suite, pairs), "trials") as display:
            tune.search(suite, pairs, self.compute.settings(), display)
        for dataset, algorithm in pairs:
            print(tune.best_in_words(self.compute.results, suite, dataset, algorithm))
