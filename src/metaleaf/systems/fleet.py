"""The clients of a run as devices: who can be asked in a round, who is back in time, and what it took.

The server asks `over_select` times as many clients as it wants, of those that are there, and takes the first of them to
come back, until it has as many as it wanted or the deadline is over (Bonawitz et al. 2019, arXiv 1902.01046, who ask
130 %). Everybody else stops then: their work is lost, what they spent until then counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from metaleaf.errors import ConfigError
from metaleaf.systems.availability import Availability, Clients
from metaleaf.systems.devices import Device, dealt, factors, lasted

SHARES = 1e-9
"""Shares may differ from 1 by so much in all."""


@dataclass(frozen=True)
class Systems:
    """What a suite's [systems] declares.

    devices: classes, whose shares add up to 1. spread: sigma of the lognormal factor by which each client is faster
    than its class, in computing, receiving and sending alike. by: who has devices and days in common; each client has
    its own ("client"), or those of an environment are alike. availability: None where all are there always. deadline:
    seconds; None for no end. over_select: clients asked, as a multiple of those wanted, rounded up. least: fewer
    arrivals than that move nothing. weigh: "inverse_probability" divides weights by the chance to be there.
    """

    devices: Annotated[tuple[Device, ...], Field(min_length=1)]
    spread: Annotated[float, Field(ge=0, le=5)] = 0.0
    by: Literal["client", "environment"] = "client"
    availability: Availability | None = None
    deadline: PositiveFloat | None = None
    over_select: Annotated[float, Field(ge=1)] = 1.0
    least: PositiveInt = 1
    weigh: Literal["arrived", "inverse_probability"] = "arrived"

    def __post_init__(self) -> None:
        names = [device.name for device in self.devices]
        if len(set(names)) < len(names):
            raise ConfigError(f"systems: devices must have names of their own, got {', '.join(names)}.")
        total = math.fsum(device.share for device in self.devices)
        if abs(total - 1) > SHARES:
            raise ConfigError(f"systems: the shares of devices must add up to 1, not to {total:g}.")
        if self.weigh != "arrived" and self.availability is None:
            raise ConfigError(f"systems: weigh = {self.weigh!r} needs chances: give availability = {{ ... }} as well.")


class Turn(NamedTuple):
    """A round: the clients whose work reaches the server, and entries of the round's row on all who were asked."""

    arrived: list[int]
    row: dict[str, float]


class Fleet:
    """Systems with a run's clients, which are numbers among those that train.

    wanted: clients whose work a round waits for. ConfigError if that is fewer than `Systems.least`.
    """

    def __init__(self, systems: Systems, clients: Clients, wanted: int) -> None:
        if systems.least > wanted:
            raise ConfigError(
                f"systems: least = {systems.least}, but a round waits for {wanted} clients: lower it or raise "
                "clients_per_round."
            )
        if systems.by == "environment" and clients.groups.max() == 0:
            raise ConfigError("systems: by = 'environment', but all clients are of one: leave it out.")
        self.systems, self.wanted = systems, wanted
        each = np.arange(len(clients.ids))
        self.clients = clients if systems.by == "environment" else clients._replace(groups=each)

    @cached_property
    def devices(self) -> np.ndarray:
        """The class of each client, int64 [n]."""
        return dealt([device.share for device in self.systems.devices], self.clients.groups, self.clients.seed)

    @cached_property
    def _rates(self) -> np.ndarray:
        own = factors(self.systems.spread, len(self.devices), self.clients.seed)
        rates: np.ndarray = np.array([device.rates for device in self.systems.devices])[self.devices] * own[:, None]
        return rates

    @cached_property
    def _power(self) -> np.ndarray:
        power: np.ndarray = np.array([device.power for device in self.systems.devices])[self.devices]
        return power

    @cached_property
    def availability(self) -> Availability | None:
        """None where all are there. ConfigError if it does not fit the clients: seen by who trains, and only then."""
        if self.systems.availability is not None:
            self.systems.availability.check(self.clients)
        return self.systems.availability

    @staticmethod
    def nothing() -> dict[str, float]:
        """Entries of the row of round 0."""
        return {"simulated_seconds": 0.0, "joules": 0.0, "asked": 0, "arrived": 0}

    def there(self, number: int) -> np.ndarray:
        """The clients that are there in a round (from 1), ascending."""
        if self.availability is None:
            return np.arange(len(self.clients.ids))
        return np.flatnonzero(self.availability.there(number, self.clients))

    @property
    def asked(self) -> int:
        """How many clients a round asks, where as many are there."""
        return math.ceil(self.systems.over_select * self.wanted - 1e-9)  # 1.1 * 10 is a little more than 11

    def turn(self, asked: Sequence[int], work: Sequence[tuple[int, int, int]]) -> Turn:
        """What becomes of a round that asks these clients for that work, each the numbers of a `Work`.

        Those who arrive are in the order in which they were asked.
        """
        places, amounts = np.array(asked, dtype=np.int64), np.array(work, dtype=np.int64).reshape(-1, 3)
        rates, deadline, goal = self._rates[places], self.systems.deadline, min(self.wanted, len(asked))
        phases = amounts / rates
        times = phases.sum(1)
        first = np.argsort(times, kind="stable")[:goal]
        first = first[times[first] <= (deadline or math.inf)]
        in_time = np.isin(np.arange(len(asked)), first)
        seconds = float(times[first].max()) if 0 < goal == len(first) else deadline or 0.0
        spent = np.where(in_time[:, None], phases, lasted(phases, seconds))
        done = np.where(spent >= phases, amounts, (spent * rates).astype(np.int64))
        down, flops, up = done.sum(0).tolist()
        row = {
            "bytes_down": down,
            "bytes_up": up,
            "flops": flops,
            "simulated_seconds": seconds,
            "joules": math.fsum((spent * self._power[places]).ravel().tolist()),
            "asked": len(asked),
            "arrived": len(first),
        }
        return Turn(places[in_time].tolist() if len(first) >= self.systems.least else [], row)

    def weighed(self, weights: Sequence[float], clients: Sequence[int], number: int) -> list[float]:
        """The weights of these clients in a round, which sum to 1, as `Systems.weigh` says.

        "inverse_probability" divides each by the client's chance to be there: then the mean over those who are there
        follows that over all clients (Hájek's estimator, a ratio: consistent, not unbiased). Who is there and late
        has a chance that nobody knows, and is not made up for.
        """
        if self.systems.weigh == "arrived" or self.availability is None:
            return list(weights)
        chances = self.availability.chances(number, self.clients)[list(clients)]
        raised = [weight / chance for weight, chance in zip(weights, chances.tolist(), strict=True)]
        return [weight / math.fsum(raised) for weight in raised]
