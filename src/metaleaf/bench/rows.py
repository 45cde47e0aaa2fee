"""One line of the table: metaleaf beside a baseline, with what is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from metaleaf.bench.compare import Ratio, ratio


@dataclass(frozen=True)
class Settings:
    """How to measure. pfl: the Python of an environment that has it."""

    repeats: int = 5
    threads: int = 1
    device: str = "cpu"
    quick: bool = False
    pfl: Path | None = None


@dataclass(frozen=True)
class Row:
    """ours and theirs in `unit`; ratio: how many times as good we are; share: of the hardware's limit, in [0, 1].

    goal and share_goal: (least, hoped for) of these; at_most: (most, hoped for) of ours. limit: the hardware's, in
    GFLOP/s. seconds: all measurements, by contender.
    """

    work: str
    unit: str
    ours: float
    against: str = ""
    theirs: float | None = None
    ratio: Ratio | None = None
    goal: tuple[float, float] | None = None
    share: float | None = None
    share_goal: tuple[float, float] | None = None
    at_most: tuple[float, float] | None = None
    limit: float | None = None
    engine: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the least that is wanted is reached; None if nothing is."""
        reached = []
        if self.ratio and self.goal:
            reached.append(self.ratio.value >= self.goal[0])
        if self.share is not None and self.share_goal:
            reached.append(self.share >= self.share_goal[0])
        if self.at_most:
            reached.append(self.ours <= self.at_most[0])
        return all(reached) if reached else None


def in_seconds(work: str, ours: Sequence[float], against: str, theirs: Sequence[float], least: float | None) -> Row:
    """The row of two times, of which ours should be the shorter; least: the ratio that is wanted."""
    found, goal = ratio(theirs, ours), None if least is None else (least, least)
    seconds = {"metaleaf": list(ours), against: list(theirs)}
    return Row(work, "s", median(ours), against, median(theirs), found, goal, seconds=seconds)
