"""What clients run on: classes of devices, how clients are dealt out to them, what a part of a round's work takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat

from metaleaf.metrics import Values
from metaleaf.seeds import derive


class Work(NamedTuple):
    """One client's round, in the order in which it is done: bytes down, floating-point operations, bytes up."""

    down: int
    flops: int
    up: int


@dataclass(frozen=True)
class Device:
    """A class of devices, all alike.

    share: of the clients that have one. down, up: bytes a second. flops: floating-point operations a second. watts:
    drawn while computing; radio_watts: while receiving or sending.
    """

    name: str
    share: Annotated[float, Field(gt=0, le=1)]
    flops: PositiveFloat
    down: PositiveFloat
    up: PositiveFloat
    watts: NonNegativeFloat
    radio_watts: NonNegativeFloat
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @property
    def rates(self) -> tuple[float, float, float]:
        """Units of `Work` a second."""
        return self.down, self.flops, self.up

    @property
    def power(self) -> tuple[float, float, float]:
        """Watts during each part of `Work`."""
        return self.radio_watts, self.watts, self.radio_watts


def dealt(shares: Sequence[float], groups: np.ndarray, seed: int) -> np.ndarray:
    """The class of each client, int64 [n]: of every class its share of the clients, to the whole client.

    groups: int64 [n]. Clients are dealt out group by group, in random order within and among groups; so of groups of
    one client each all orders are as likely, and a large group is mostly of one class. What rounding down leaves goes
    to the largest remainders.
    """
    rng = np.random.default_rng(derive(seed, "devices"))
    order = rng.permutation(len(groups))
    rank = rng.permutation(int(groups.max()) + 1)[groups]
    found = np.empty(len(groups), dtype=np.int64)
    found[order[np.argsort(rank[order], kind="stable")]] = np.repeat(
        np.arange(len(shares)), counts(shares, len(groups))
    )
    return found


def counts(shares: Sequence[float], clients: int) -> list[int]:
    """How many of so many clients each share is, in whole clients that add up."""
    exact = [share * clients for share in shares]
    found = [math.floor(value + 1e-9) for value in exact]  # 0.07 * 100 is a little more than 7, others are less
    order = sorted(range(len(shares)), key=lambda i: found[i] - exact[i])
    for i in order[: clients - sum(found)]:
        found[i] += 1
    return found


def factors(spread: float, clients: int, seed: int) -> Values:
    """How many times as fast as its class each client is, [n]: lognormal with the median 1."""
    return np.random.default_rng(derive(seed, "speed")).lognormal(0.0, spread, clients)


def lasted(phases: Values, until: float) -> Values:
    """Seconds of each phase [k, 3] that lie before that time, where one follows the other from 0."""
    starts = phases.cumsum(1) - phases
    return np.asarray(np.clip(until - starts, 0, phases))
