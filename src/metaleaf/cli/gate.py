"""``metaleaf gate``."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from metaleaf.cli.options import Compute


@dataclass(frozen=True)
class GateCommand:
    """Compare suites with their baselines; exit code 1: something moved, 3: not everything could be measured."""

    suites: tyro.conf.Positional[tuple[str, ...]] = ()
    """TOML files, or names of suites that come with metaleaf (default: its gate suites whose data is here)."""
    baselines: Path | None = None
    """Folder of the baselines (default: `baselines` beside each suite)."""
    update: bool = False
    """Measure the baselines anew instead of comparing with them."""
    seeds: tuple[int, ...] = ()
    """Default: the suite's; for --update 1001 to 1020."""
    false_alarm: float = 0.01
    """Probability that a gate run alarms though nothing has changed."""
    junit: Path | None = None
    """Write JUnit XML here."""
    summary: Path | None = None
    """Write a Markdown summary here."""
    history: Path | None = None
    """Append one line of JSON here."""
    steps: Path | None = None
    """Instead: find the steps in a history."""
    between: tuple[Path, Path] | None = None
    """Instead: compare two JSON files of ``pytest benchmarks/bench_gate.py``, an old and a new one."""
    compute: Compute = field(default_factory=lambda: Compute(results=Path("runs/gate")))

    def main(self) -> None:
        """Measure and compare."""
        from metaleaf.gate import command, revisions

        if self.steps:
            command.show_steps(self.steps, self.false_alarm)
            return
        if self.between:
            revisions.show(*self.between)
            return
        gated, settings = command.suites(self.suites, self.baselines), self.compute.settings()
        if self.update:
            command.update(gated, self.seeds, settings)
        else:
            files = command.Files(self.junit, self.summary, self.history)
            command.run(gated, self.seeds, settings, self.false_alarm, files)
