"""``metaleaf verify``."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from metaleaf.cli.options import Compute
from metaleaf.errors import ConfigError


@dataclass(frozen=True)
class VerifyCommand:
    """Run the cell of a record again and compare. Exit codes: 0 the same, 1 different, 3 could not be measured."""

    record: tyro.conf.Positional[Path]
    """A record's JSON file, .../seed-<n>.json, with its two tables beside it."""
    tolerance: float = 0.01
    """Largest difference of a score over points that may be rounding, relative where it is no share; hashes and costs
    must be the same."""
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Run it."""
        from metaleaf.submission.verify import verify

        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"tolerance must be a fraction from 0, got {self.tolerance}.")
        print(verify(self.record, self.compute.settings(), self.tolerance))
