"""``metaleaf bench``."""

import os
from dataclasses import dataclass
from pathlib import Path

import tyro

from metaleaf.cli.options import Compute
from metaleaf.cli.process import importing
from metaleaf.errors import ConfigError


@dataclass(frozen=True)
class BenchCommand:
    """Measure rounds beside plain PyTorch loops (and pfl), interleaved, and print ratios and the % of the limit."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Only these benchmarks; patterns such as 'maml*' are welcome."""
    quick: bool = False
    """A few small clients: to see that it works, not for figures."""
    repeats: int | None = None
    """Turns that are measured, after one that warms up (default: 5, or 2 if it is to be quick)."""
    threads: int | None = None
    """Default: the machine's cores."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    pfl: Path | None = None
    """The Python of an environment with pfl-research, to measure against it as well."""
    check: bool = False
    """First compare the numbers of all engines on the device with one client after the other on the CPU."""
    output: Path | None = None
    """A JSON file for all measurements; the table is written beside it, as Markdown."""
    scaling: Path | None = None
    """Instead: a folder for how cost grows with clients, samples and threads, and where a round's time goes."""

    def main(self) -> None:
        """Measure."""
        with importing():  # otherwise the collector would look through it all in the middle of a measurement
            from metaleaf.bench import command
            from metaleaf.bench.rows import Settings

        Compute(device=self.device, threads=self.threads).settings()  # refuses what cannot be
        repeats = (2 if self.quick else 5) if self.repeats is None else self.repeats
        if repeats < 1:
            raise ConfigError(f"repeats must be at least 1, got {repeats}.")
        settings = Settings(repeats, self.threads or os.cpu_count() or 1, self.device, self.quick, self.pfl)
        if self.scaling:
            command.scale(settings, self.scaling)
        else:
            command.run(self.names, settings, checks=self.check, output=self.output)
