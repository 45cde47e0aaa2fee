"""What several commands are told: how to compute, what to show, and values written as key=value."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metaleaf.errors import ConfigError

if TYPE_CHECKING:
    from metaleaf.config.sources import Choice
    from metaleaf.jobs.execute import Settings
    from metaleaf.report.shown import Shown


@dataclass(frozen=True)
class Compute:
    """How to compute; none of it decides the numbers, beyond rounding."""

    results: Path = Path("results")
    """Folder of the result store."""
    workers: int = 1
    """Runs computed at the same time, each in a process of its own."""
    threads: int | None = None
    """Threads of each process (default: the machine's, shared out)."""
    engine: Literal["auto", "sequential", "lowrank", "vectorised"] = "auto"
    """One client at a time, all at once, or whichever suits model and device."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    raw: Path | None = None
    """Folder with the publisher's raw files, if data has to be prepared; then no other is looked into."""
    again: bool = False
    """Make again what other code has made, or what was made from other data (docs/records.md)."""
    keep: bool = False
    """Take it as it is."""

    def settings(self) -> "Settings":
        """The same, checked."""
        from metaleaf.jobs.execute import Settings

        how = (self.results, self.engine, self.device, self.workers, self.threads, self.raw)
        return Settings(*how, stale=choice(self.again, self.keep)).checked()


@dataclass(frozen=True)
class Show:
    """What of the records is shown."""

    algorithms: tuple[str, ...] = ()
    """Only these labels, in this order; ``label=name`` calls it by another name."""
    supports: tuple[float, ...] = ()
    """Only these support fractions of new clients."""
    model: Literal["selected", "final"] = "selected"
    """That of the best round on validation clients, or of the last round."""
    metric: str = ""
    """Another one of those that the records report than their main one, e.g. ``AUC``."""
    statistic: Literal["pooled", "mean", "bottom10", "p10", "p50", "p90"] = "pooled"
    """Of figures that show one number of each run: over points, or over clients."""

    who: Literal["all", "new", "participants"] = "all"
    """New clients or participants alone."""

    def shown(self, columns: tuple[str, ...] = ()) -> "Shown":
        """The same, for those who read records."""
        from metaleaf.report.shown import Shown

        return Shown(self.algorithms, self.supports, self.model, columns, self.metric, self.statistic, self.who)


def choice(again: bool, keep: bool) -> "Choice":
    """What is to be done with what other code has made."""
    if again and keep:
        raise ConfigError("--again and --keep: choose one of them.")
    return "again" if again else "keep" if keep else "refuse"


def assignments(words: Sequence[str]) -> dict[str, Any]:
    """``["a=1", "b=x"]`` as {"a": 1, "b": "x"}; values are read as TOML where they are TOML, else as text."""
    import tomllib

    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r} is not an assignment: write key=value.")
        try:
            found[key] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found
