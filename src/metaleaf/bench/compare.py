"""Time contenders in turn (a, b, a, b, ...), so that what else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch

from metaleaf.engine.replay.traced import OFTEN

Contender = Callable[[], float]
"""Runs rounds and returns the seconds of one."""

LEAST = 0.2
"""Seconds that a measurement lasts at least: short rounds are repeated for so long and averaged."""

WARM = 2.0
"""Seconds that a contender warms up, a round at least: the first ones of a vectorised engine are recorded."""

LONGEST = 20.0
"""Seconds after which a contender is warm in any case."""

SHORT = 0.05
"""Seconds of a round below which rounds have to become many before they are as fast as they get."""


class Ratio(NamedTuple):
    """A ratio of medians, with the least and the greatest of the ratios of each turn."""

    value: float
    low: float
    high: float


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """How many times as fast we are, from the seconds of the same turns."""
    each = [a / b for a, b in zip(theirs, ours, strict=True)]
    return Ratio(median(theirs) / median(ours), min(each), max(each))


def stopwatch(one_round: Callable[[], Any], device: str = "cpu", least: float = LEAST) -> Contender:
    """The contender that runs rounds in this process, for so many seconds at least."""

    def measure() -> float:
        rounds, begun = 0, time.perf_counter()
        while True:
            one_round()
            rounds += 1
            if device != "cpu":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - begun
            if seconds >= least:
                return seconds / rounds

    return measure


def warm_up(run: Contender) -> None:
    """Rounds that do not count."""
    rounds, begun = 0.0, time.perf_counter()
    while True:
        before = time.perf_counter()
        seconds = run()
        rounds += (time.perf_counter() - before) / seconds
        elapsed = time.perf_counter() - begun
        if elapsed >= LONGEST or (elapsed >= WARM and rounds >= _enough(seconds)):
            return


def _enough(seconds: float) -> int:
    """Rounds after which rounds of so many seconds go on as they are.

    A vectorised engine records the first two, and puts replays that are called often into TorchScript.
    """
    return 3 if seconds >= SHORT else 2 * OFTEN


def interleaved(contenders: Mapping[str, Contender], repeats: int) -> dict[str, list[float]]:
    """Seconds a round of each contender, in so many turns after one that warms up."""
    for run in contenders.values():
        warm_up(run)
    turns = [{name: run() for name, run in contenders.items()} for _ in range(repeats)]
    return {name: [turn[name] for turn in turns] for name in contenders}
