"""Which clients are there in a round.

An availability is a frozen dataclass of options, and pure: ``there(number, clients)`` says who is there in a round
(from 1), bool [n], and ``chances(number, clients)`` with what probability that was to be, float64 [n], by which clients
can be weighed (`metaleaf.systems.fleet`). Both are functions of the round and not of the simulated time: so every
algorithm is offered the same clients, also one whose rounds take longer.
"""

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import ConfigDict, Field, PositiveFloat

from metaleaf.errors import ConfigError
from metaleaf.metrics import Values
from metaleaf.seeds import derive

STRICT = ConfigDict(extra="forbid")
Chance = Annotated[float, Field(gt=0, le=1)]

LARGEST = 64 << 20
"""Bytes of a trace, at most."""
COLUMNS = ("client", "first", "last")
"""Of a trace."""


class Clients(NamedTuple):
    """The n clients that train in a run.

    ids: theirs. groups: int64 [n], the number of the group that each is in; clients of a group have devices and days in
    common. others: ids of the data's other clients. rounds: of the run. seed: the run's.
    """

    ids: Sequence[str]
    groups: np.ndarray
    others: Sequence[str]
    rounds: int
    seed: int


@dataclass(frozen=True)
class ByChance:
    """Each client is there with a probability, every round and for itself."""

    def resolved(self) -> Self:
        """As it is."""
        return self

    def check(self, clients: Clients) -> None:
        """Fits any clients."""

    def chances(self, number: int, clients: Clients) -> Values:
        """See above."""
        raise NotImplementedError

    def there(self, number: int, clients: Clients) -> np.ndarray:
        """See above."""
        drawn = np.random.default_rng(derive(clients.seed, "there", number)).random(len(clients.ids))
        return np.asarray(drawn < self.chances(number, clients))


@dataclass(frozen=True)
class Bernoulli(ByChance):
    """With one probability for all clients and rounds."""

    probability: Chance
    name: Literal["bernoulli"] = "bernoulli"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def chances(self, number: int, clients: Clients) -> Values:
        """See above."""
        return np.full(len(clients.ids), self.probability)


@dataclass(frozen=True)
class Diurnal(ByChance):
    """A client's probability goes up and down with its day, as a cosine from `high` to `low` and back.

    rounds_per_day: how many rounds a day has. When its day begins is drawn for each group of clients. Phones take part
    at night, at their chargers (Bonawitz et al. 2019, arXiv 1902.01046); what it does to learning that clients come and
    go in blocks is in Eichner et al. 2019 (arXiv 1904.10120).
    """

    rounds_per_day: PositiveFloat
    low: Chance
    high: Chance
    name: Literal["diurnal"] = "diurnal"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ConfigError(f"systems: availability.low = {self.low:g} must not be above high = {self.high:g}.")

    def chances(self, number: int, clients: Clients) -> Values:
        """See above."""
        begins = np.random.default_rng(derive(clients.seed, "days")).random(int(clients.groups.max()) + 1)
        days = (number - 1) / self.rounds_per_day - begins[clients.groups]
        return np.asarray(self.low + (self.high - self.low) * (1 + np.cos(2 * np.pi * days)) / 2)


@dataclass(frozen=True)
class Trace:
    """Who was there in which rounds, from a CSV file with the columns client, first and last.

    A line says that a client is there from round `first` to round `last`, both included; a client has any number of
    lines, and none if it is never there. path: from the working directory. sha256: of the file; it is filled in when a
    suite is read, so that a run's hash follows what the file says.

    A client's chance is the share of the run's rounds in which it is there.
    """

    path: str
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    name: Literal["trace"] = "trace"
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def resolved(self) -> Self:
        """With the hash of the file, where none is given. ConfigError if the file cannot be read."""
        return self if self.sha256 else replace(self, sha256=hashlib.sha256(self._content).hexdigest())

    def check(self, clients: Clients) -> None:
        """ConfigError if the file is none, names clients that the data does not have, or is about nobody who trains."""
        strange = sorted(self._intervals.keys() - {*clients.ids, *clients.others})
        if strange:
            raise self._wrong(f"names the client {strange[0]!r}, which the data does not have")
        if not any(first <= clients.rounds for name in clients.ids for first, _ in self._intervals.get(name, ())):
            raise self._wrong(f"has none of the {len(clients.ids)} clients that train in rounds 1 to {clients.rounds}")

    def chances(self, number: int, clients: Clients) -> Values:
        """See above."""
        rounds = clients.rounds
        counts = [
            sum(max(min(last, rounds) - first + 1, 0) for first, last in self._intervals.get(name, ()))
            for name in clients.ids
        ]
        return np.array(counts) / rounds

    def there(self, number: int, clients: Clients) -> np.ndarray:
        """See above."""
        found = (any(first <= number <= last for first, last in self._intervals.get(name, ())) for name in clients.ids)
        return np.array(list(found))

    @cached_property
    def _content(self) -> bytes:
        path = Path(self.path)
        if not path.is_file():
            raise self._wrong("is not there, or no plain file")
        if path.stat().st_size > LARGEST:
            raise self._wrong(f"has more than {LARGEST:,} bytes")
        try:
            return path.read_bytes()
        except OSError as error:
            raise self._wrong(f"cannot be read ({error.strerror})") from None

    @cached_property
    def _intervals(self) -> Mapping[str, list[tuple[int, int]]]:
        """First and last rounds by client, ascending, none of which overlap."""
        if self.sha256 and hashlib.sha256(self._content).hexdigest() != self.sha256:
            raise self._wrong(f"is not the file whose SHA-256 is {self.sha256[:12]}...: give that file")
        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for client, first, last in self._lines():
            found[client].append((first, last))
        for client, intervals in found.items():
            intervals.sort()
            if any(last >= first for (_, last), (first, _) in pairwise(intervals)):
                raise self._wrong(f"has {client!r} twice in one round: join the two lines")
        return found

    def _lines(self) -> Iterator[tuple[str, int, int]]:
        try:
            table = csv.DictReader(io.StringIO(self._content.decode("utf-8-sig"), newline=""), strict=True)
            if set(table.fieldnames or ()) != set(COLUMNS):
                raise self._wrong(
                    f"must have the columns {', '.join(COLUMNS)}, and has {', '.join(table.fieldnames or ['none'])}"
                )
            for line in table:
                yield line["client"], *self._rounds(line, table.line_num)
        except (UnicodeDecodeError, csv.Error) as error:
            raise self._wrong(f"is no CSV file ({error})") from None

    def _rounds(self, line: Mapping[str, Any], number: int) -> tuple[int, int]:
        try:
            first, last = int(line["first"]), int(line["last"])
        except (TypeError, ValueError):
            first, last = 0, 0
        if not 1 <= first <= last or None in line:
            raise self._wrong(f"line {number}: first and last must be whole numbers of rounds, 1 <= first <= last")
        return first, last

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"systems: the trace {self.path} {what}.")


Availability = Annotated[Bernoulli | Diurnal | Trace, Field(discriminator="name")]
