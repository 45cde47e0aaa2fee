"""Stages that deal all examples out to new clients, whoever had them before.

The examples of all clients are one pool, in order. x waits in a file on the disk; in memory are y, and three numbers an
example. Where examples are grouped (`metaleaf.dataset.Spec`), it is groups that are dealt out, and count as one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, ClassVar, Literal

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.partition.stage import Named, fitting
from metaleaf.raw import RawFiles

DRAWS = 1000
"""Times that `Dirichlet` draws, at most."""

CLIENTS = {"clients": (1, 10**7)}
LEAST = {**CLIENTS, "least": (1, 10**6)}


class Pool:
    """The examples of all clients, in order: x in a file, everything else in memory.

    y: [N, *y_shape]; unit: int64 [N], from 0, the same for examples that stay together; starts: int64 [C + 1], where
    each client's examples begin, and N; environments: str [C].
    """

    def __init__(self, spec: Spec, clients: Iterator[Client], file: IO[bytes]) -> None:
        self._file, self._shape, self._dtype = file, spec.x_shape, np.dtype(spec.x_dtype)
        ys, units = [np.empty((0, *spec.y_shape), spec.stored)], [np.empty(0, np.int64)]
        environments, starts, used = [], [0], 0
        for client in clients:
            _, environment, x, y, groups = fitting(client, spec)
            file.write(x.tobytes())
            ys.append(y.copy())  # it may be a view of what x is in, too
            own = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
            units.append(own + used)
            used += int(own.max(initial=-1)) + 1
            environments.append(environment)
            starts.append(starts[-1] + len(y))
        self.y, self.unit, self.units = np.concatenate(ys), np.concatenate(units), used
        self.starts, self.environments = np.array(starts), np.array(environments, str)

    def x(self, rows: np.ndarray) -> np.ndarray:
        """Those examples, read from the file: [n, *x_shape]."""
        x = np.empty((len(rows), *self._shape), self._dtype)
        size = x[:1].nbytes
        places = x.view(np.uint8).reshape(len(rows), size)
        firsts = np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist()  # of stretches that lie in the file as here
        for first, last in pairwise([*firsts, len(rows)]):
            self._file.seek(int(rows[first]) * size)
            self._file.readinto(places[first:last].data)  # type: ignore[attr-defined]
        return x

    def labels(self) -> np.ndarray:
        """The class of each unit, int64 [units]; of several examples their most frequent one."""
        kinds, y = np.unique(self.y, return_inverse=True)
        pairs, counts = np.unique(self.unit * len(kinds) + y, return_counts=True)
        order = np.lexsort((pairs, -counts, pairs // len(kinds)))
        first = np.unique(pairs[order] // len(kinds), return_index=True)[1]
        found: np.ndarray = pairs[order][first] % len(kinds)
        return found

    def majority(self, rows: np.ndarray) -> str:
        """The environment that most of these examples were in."""
        names, counts = np.unique(self.environments[self._client(rows)], return_counts=True)
        return str(names[counts.argmax()])

    def _client(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, rows, side="right") - 1

    def overlap(self, start: int, window: int) -> slice:
        """The examples from `start` on that overlap those before it: of the same client, at most `window`."""
        end = int(self.starts[self._client(np.array([start]))[0] + 1])
        return slice(start, start if start in self.starts else min(start + window, end))


@dataclass(frozen=True)
class Regrouping(Named):
    """Deals all examples out to `clients` new ones, "client 0", "client 1", ..., each with examples in their order."""

    clients: int = 100

    limits: ClassVar[Mapping[str, tuple[float, float]]] = CLIENTS

    def check(self, spec: Spec) -> None:
        """ConfigError for overlapping windows."""
        if spec.window:
            raise self.refuse(
                "examples are overlapping windows, of which a random deal would put copies on every side of a split; "
                "use time_blocks"
            )

    def apply(self, spec: Spec, clients: Iterator[Client], raw: RawFiles) -> Iterator[Client]:
        """Yield the new clients; ConfigError if there are not enough examples for them."""
        with raw.scratch() as file:
            pool = Pool(spec, clients, file)
            owner = self.owners(pool, spec)
            order = np.argsort(owner, kind="stable")
            ends = np.searchsorted(owner[order], np.arange(self.clients + 1))
            digits = len(str(self.clients - 1))
            for i in range(self.clients):
                rows = order[ends[i] : ends[i + 1]]
                groups = pool.unit[rows] if spec.grouped else None
                name = f"client {i:0{digits}}"
                yield Client(name, self.environment(pool, rows), pool.x(rows), pool.y[rows], groups)

    def owners(self, pool: Pool, spec: Spec) -> np.ndarray:
        """Whose each example will be, int64 [N]; -1 for nobody's."""
        least = self.least_units()
        if pool.units < self.clients * least:
            each = f"{least} each" if least > 1 else "one each"
            raise self.refuse(f"{pool.units:,} examples are not enough for {self.clients:,} clients with {each}")
        return self.deal(pool, self.rng())[pool.unit]

    def least_units(self) -> int:
        """How many examples every client has to have."""
        return 1

    def deal(self, pool: Pool, rng: np.random.Generator) -> np.ndarray:
        """Whose each unit will be, int64 [units]."""
        raise NotImplementedError

    def environment(self, pool: Pool, rows: np.ndarray) -> str:
        """Of a client with these examples: none, as they come from anywhere."""
        return ""


@dataclass(frozen=True)
class Iid(Regrouping):
    """At random, to each as many as to any other."""

    name: ClassVar[str] = "iid"

    def deal(self, pool: Pool, rng: np.random.Generator) -> np.ndarray:
        """In equal parts of a random order."""
        return _dealt(rng.permutation(pool.units), _equal(pool.units, self.clients))


@dataclass(frozen=True)
class Dirichlet(Regrouping):
    """Each class is shared out in proportions from a symmetric Dirichlet distribution (Yurochkin et al. 2019).

    alpha: its concentration; the smaller, the fewer classes a client has. Sizes follow. All is drawn again until
    everyone has `least` examples.
    """

    alpha: float = 0.5
    least: int = 10

    name: ClassVar[str] = "dirichlet"
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {**LEAST, "alpha": (1e-3, 1e6)}

    def check(self, spec: Spec) -> None:
        """ConfigError for windows, and unless y is one class an example."""
        super().check(spec)
        self.check_classes(spec)

    def least_units(self) -> int:
        """As the option says."""
        return self.least

    def deal(self, pool: Pool, rng: np.random.Generator) -> np.ndarray:
        """Class by class, each in random order."""
        labels = pool.labels()
        counts = np.bincount(labels)
        for _ in range(DRAWS):
            shares = rng.dirichlet(np.full(self.clients, self.alpha), len(counts))
            cuts = np.rint(shares.cumsum(axis=1) * counts[:, None]).astype(np.int64)
            sizes = np.diff(cuts, axis=1, prepend=0)
            if sizes.sum(axis=0).min() >= self.least:
                break
        else:
            raise self.refuse(
                f"none of {DRAWS} draws gives each of {self.clients:,} clients {self.least} examples; "
                "raise alpha, or lower clients or least"
            )
        shuffled = np.lexsort((rng.random(pool.units), labels))
        return _dealt(shuffled, sizes.ravel(), np.tile(np.arange(self.clients), len(counts)))


@dataclass(frozen=True)
class Shards(Regrouping):
    """Examples sorted by class are cut into equal shards, and everyone gets `shards` of them (McMahan et al. 2017).

    So most clients have that many classes, and where a shard has the end of one and the beginning of another, one more.
    """

    shards: int = 2

    name: ClassVar[str] = "shards"
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {**CLIENTS, "shards": (1, 10**4)}

    def check(self, spec: Spec) -> None:
        """ConfigError for windows, and unless y is one class an example."""
        super().check(spec)
        self.check_classes(spec)

    def least_units(self) -> int:
        """One a shard."""
        return self.shards

    def deal(self, pool: Pool, rng: np.random.Generator) -> np.ndarray:
        """Shards in random order; within a class examples are in random order, too."""
        by_class = np.lexsort((rng.random(pool.units), pool.labels()))
        owners = rng.permutation(np.repeat(np.arange(self.clients), self.shards))
        return _dealt(by_class, _equal(pool.units, len(owners)), owners)


@dataclass(frozen=True)
class Quantity(Regrouping):
    """At random, but to some more than to others.

    law: of sizes, "lognormal" or "power" (Pareto's, whose exponent is 1 / spread). spread: the standard deviation of
    their logarithm, under either law. Everyone first gets `least`, and the others are dealt in the proportions drawn.
    """

    law: Literal["lognormal", "power"] = "lognormal"
    spread: float = 1.0
    least: int = 10

    name: ClassVar[str] = "quantity"
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {**LEAST, "spread": (0, 10)}

    def least_units(self) -> int:
        """As the option says."""
        return self.least

    def deal(self, pool: Pool, rng: np.random.Generator) -> np.ndarray:
        """In parts of these sizes of a random order."""
        draw = rng.standard_exponential if self.law == "power" else rng.standard_normal
        weights = np.exp(self.spread * draw(self.clients))
        others = pool.units - self.clients * self.least
        cuts = np.rint(weights.cumsum() / weights.sum() * others).astype(np.int64)
        return _dealt(rng.permutation(pool.units), self.least + np.diff(cuts, prepend=0))


@dataclass(frozen=True)
class TimeBlocks(Regrouping):
    """Contiguous blocks of the pool in its order, all of the same size, in the environment of most of their examples.

    Of overlapping windows, those that a block shares with the one before it are left out.
    """

    name: ClassVar[str] = "time_blocks"

    def check(self, spec: Spec) -> None:
        """All data have an order."""

    def owners(self, pool: Pool, spec: Spec) -> np.ndarray:
        """Whose each example will be, int64 [N]; -1 for those that are left out."""
        owner = super().owners(pool, spec)
        if spec.window:
            for start in np.flatnonzero(np.diff(owner)) + 1:
                owner[pool.overlap(int(start), spec.window)] = -1
            if len(np.unique(owner[owner >= 0])) < self.clients:
                raise self.refuse(
                    f"blocks of {pool.units // self.clients} examples are not longer than the {spec.window} by which "
                    "windows overlap; lower clients"
                )
        return owner

    def deal(self, pool: Pool, rng: np.random.Generator) -> np.ndarray:
        """In equal parts."""
        return _dealt(np.arange(pool.units), _equal(pool.units, self.clients))

    def environment(self, pool: Pool, rows: np.ndarray) -> str:
        """That of most of the examples."""
        return pool.majority(rows)


def _equal(n: int, parts: int) -> np.ndarray:
    """The sizes of so many parts of n, which differ by 1 at most."""
    return np.diff(np.arange(parts + 1) * n // parts)


def _dealt(order: np.ndarray, sizes: np.ndarray, owners: np.ndarray | None = None) -> np.ndarray:
    """Whose each unit is when they are dealt in that order, in parts of these sizes, to these owners (0, 1, ...)."""
    owner = np.empty(len(order), np.int64)
    owner[order] = np.repeat(np.arange(len(sizes)) if owners is None else owners, sizes)
    return owner
