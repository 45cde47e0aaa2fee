"""The protocol's view of a dataset: who trains, who validates, who tests, and what is support and what is query."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from metaleaf.config.config import Protocol, digest
from metaleaf.data.client_store import ClientStore
from metaleaf.data.deferred import Deferred, made
from metaleaf.data.permutations import permutations
from metaleaf.data.scale import Scale
from metaleaf.errors import ConfigError
from metaleaf.seeds import derive
from metaleaf.shots import Episode, Shots

PARTS = ("train", "validation", "test")
WEIGHTINGS = ("samples", "uniform")
KEPT = 1 << 23
"""Row numbers of split clients that are kept for their next round (64 MiB); then all are forgotten."""


class Federation:
    """Clients of a store split 80/10/10, and their examples split into support and query.

    Clients are numbers into the store. Splits depend on the store, the protocol and its split seed only, so all
    algorithms and all runs see the same; cohorts and the order of batches depend on the run's seed. y_dtype: of y as
    algorithms see it (default: int64 for classes, float32 for numbers).

    What the data's spec says to standardise is scaled as it is read, by figures of what training clients learn from.
    """

    def __init__(self, store: ClientStore, protocol: Protocol, seed: int, y_dtype: str = "") -> None:
        self.store, self.protocol, self.seed = store, protocol, seed
        self.y_dtype = y_dtype or ("float32" if store.y.dtype.kind == "f" else "int64")
        self.window = int(store.about["spec"]["window"])
        self._counts = store.counts
        self._known: dict[tuple[int, float], tuple[np.ndarray, np.ndarray]] = {}
        self._known_rows = 0
        self._ends: dict[int, np.ndarray] = {}
        self.clients = dict(zip(PARTS, self._split_clients(), strict=True))
        self._trains = np.zeros(len(self._counts), dtype=bool)
        self._trains[self.clients["train"]] = True

    def _split_clients(self) -> list[np.ndarray]:
        eligible = np.flatnonzero(self._counts >= self.protocol.min_examples)
        shuffled = np.random.default_rng(derive(self.protocol.split_seed, "clients")).permutation(eligible)
        shuffled = shuffled[: self.protocol.max_clients]
        if len(shuffled) < 3:
            raise ConfigError(
                f"{self.store.about['name']} has {len(shuffled)} clients with at least {self.protocol.min_examples} "
                "examples, a federation needs 3: lower min_examples, raise max_clients or bring more clients."
            )
        held_out = max(1, round(len(shuffled) / 10))
        cut = len(shuffled) - 2 * held_out
        return [np.sort(part) for part in np.split(shuffled, [cut, cut + held_out])]

    def split_hash(self) -> str:
        """SHA-256 over the ids of the clients in each part and the rules that split their examples."""
        ids = {part: [str(self.store.ids[i]) for i in clients] for part, clients in self.clients.items()}
        rules = [
            self.protocol.split_seed,
            self.window,
            self.protocol.support,
            self.protocol.max_examples,
            self.protocol.test_supports,
            *([self.protocol.held_out] if self.protocol.held_out else []),
        ]
        return digest({"clients": ids, "rules": rules, "data": self.store.about["data_hash"]})

    @cached_property
    def scale(self) -> Scale:
        """How x and y are scaled: by what the training clients may learn from, without what they hold out."""
        return Scale.of(self.store.about["spec"], self._learnt)

    def _learnt(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for client in self.clients["train"]:
            x, y = self.store.client(client)
            rows = self._data_rows(int(client))
            yield x[rows], y[rows]

    def examples(self, part: str) -> int:
        """Examples used of all clients of a part."""
        return sum(self.size(int(i)) for i in self.clients[part])

    def size(self, client: int) -> int:
        """Examples used of one client, without those that are held out."""
        n = self._capped(client)
        return n - self._out(client, n)[0]

    def _capped(self, client: int) -> int:
        return int(min(self._counts[client], self.protocol.max_examples or self._counts[client]))

    def _out(self, client: int, n: int) -> tuple[int, int]:
        """How many of the client's n examples are not to learn from, and how many of these are held out to be scored.

        They differ by the gap of one window. Nothing is held out of a client with too few examples for both.
        """
        usable = n - self.window
        if not (self.protocol.held_out and self._trains[client]) or usable < 2:
            return 0, 0
        held = min(max(round(self.protocol.held_out * usable), 1), usable - 1)
        if self.store.groups is not None:
            held = n - self._between(client, n - held, n)
        return held + self.window, held

    def held_out(self, clients: Sequence[int]) -> list[Shots]:
        """The examples of each of these training clients that are kept out of everything (none without `held_out`).

        Of the same random order as support and query, the last ones; of windows the last in the client's own order,
        after a gap of one window.
        """
        return [held for (held,) in self._shots(clients, [(self._held_rows(client),) for client in clients], 0)]

    def _held_rows(self, client: int) -> np.ndarray:
        n = self._capped(client)
        held = self._out(client, n)[1]
        if self.window:
            return np.arange(n - held, n)
        return np.sort(next(self._orders([client]))[n - held : n])

    def cohort(self, round_number: int, among: np.ndarray | None = None, size: int | None = None) -> list[int]:
        """The training clients sampled for a round (from 1), uniformly without replacement.

        among: numbers of training clients, where not all of them can be sampled; size: how many, where not as many as
        the protocol says.
        """
        rng = np.random.default_rng(derive(self.seed, "cohort", round_number))
        clients = self.clients["train"] if among is None else among
        size = min(size or self.protocol.clients_per_round, len(clients))
        return [int(i) for i in rng.choice(clients, size, replace=False)]

    def sizes(self, client: int) -> tuple[int, int, int]:
        """How many examples the client's episode has: support, query, and all of its data."""
        n = self.size(client)
        return *self._parts(client, n), n

    def _parts(self, client: int, n: int) -> tuple[int, int]:
        """How many of n examples are support and how many query."""
        cut = self._cut(client, n, self.protocol.support)
        return cut, max(n - cut - self.window, 0)

    def weights(self, cohort: list[int], weighting: str | None = None) -> list[float]:
        """The cohort's aggregation weights, which sum to 1; by the protocol's weighting unless another is given."""
        rule = weighting or self.protocol.weighting
        if rule not in WEIGHTINGS:
            raise ConfigError(f"weighting = {rule!r}: an algorithm weighs clients by {' or '.join(WEIGHTINGS)}.")
        sizes = [self.size(i) if rule == "samples" else 1 for i in cohort]
        return [size / sum(sizes) for size in sizes]

    def split_rows(self, client: int, support: float) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of the client's support and query examples, disjoint.

        At random; for overlapping windows the first in the client's own order, then a gap of one window so that no
        character is in both. At least one support example; a client with a single example has no query.
        """
        return self._splits([client], support)[0]

    def _splits(self, clients: Sequence[int], support: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """`split_rows` of each client: those that are not known yet are split together, which takes a third as long."""
        if self._known_rows > KEPT:
            self._known.clear()
            self._known_rows = 0
        new = [client for client in clients if (client, support) not in self._known]
        for client, split in zip(new, self._split_rows(new, support), strict=True):
            self._known[client, support] = split
            self._known_rows += self.size(client)
        return [self._known[client, support] for client in clients]

    def _split_rows(self, clients: Sequence[int], support: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if self.window:
            for client in clients:
                n = self.size(client)
                cut = self._cut(client, n, support)
                yield np.arange(cut), np.arange(cut + self.window, n)
            return
        for client, order in zip(clients, self._orders(clients), strict=True):
            n = self.size(client)
            cut = self._cut(client, n, support)
            rows = order[:n].copy()
            held, query = rows[:cut], rows[cut:]
            held.sort()
            query.sort()
            yield held, query

    def _orders(self, clients: Sequence[int]) -> Iterator[np.ndarray]:
        """All of each client's examples in a random order of the split seed and its id, those of a group together."""
        chosen = np.asarray(clients, dtype=np.int64)
        ids, counts = self.store.ids[chosen].tolist(), self._counts[chosen].tolist()
        seeds = [derive(self.protocol.split_seed, "examples", name) for name in ids]
        orders = permutations(seeds, counts)
        if self.store.groups is None:
            return orders
        return (_together(order, self._groups_of(client)) for client, order in zip(clients, orders, strict=True))

    def _cut(self, client: int, n: int, support: float) -> int:
        """How many of n examples are support; those in the gap after it, of one window, are no query either."""
        usable = max(n - self.window, 1) if self.window else n
        cut = min(max(round(support * usable), 1), max(usable - 1, 1))
        return cut if self.store.groups is None else self._between(client, cut, n)

    def _between(self, client: int, cut: int, n: int) -> int:
        """Where, of the first n examples in the client's order, one group ends and another begins, nearest to `cut`.

        n if there is one group.
        """
        ends = self._group_ends(client)
        inner = ends[ends < n]
        return int(inner[np.abs(inner - cut).argmin()]) if len(inner) else n

    def _group_ends(self, client: int) -> np.ndarray:
        """Where each group ends in the client's order."""
        if client not in self._ends:
            own = self._groups_of(client)[next(self._orders([client]))]
            self._ends[client] = np.flatnonzero(np.append(own[1:] != own[:-1], True)) + 1
        return self._ends[client]

    def _groups_of(self, client: int) -> np.ndarray:
        assert self.store.groups is not None
        return np.asarray(self.store.groups[self.store.offsets[client] : self.store.offsets[client + 1]])

    def _data_rows(self, client: int) -> np.ndarray:
        n = self.size(client)
        if self.window or n == self._counts[client]:
            return np.arange(n)
        return np.sort(np.concatenate(self.split_rows(client, self.protocol.support)))

    def support_query(self, client: int, support: float, round_number: int = 0) -> tuple[Shots, Shots]:
        """The client's support and query examples."""
        return self.support_queries([client], support, round_number)[0]

    def support_queries(
        self, clients: Sequence[int], support: float, round_number: int = 0
    ) -> list[tuple[Shots, Shots]]:
        """The support and query examples of each client."""
        shots = self._shots(clients, self._splits(clients, support), round_number)
        return [(held, query) for held, query in shots]

    def episode(self, client: int, round_number: int) -> Episode:
        """What the client works with in a round (from 1), as tensors."""
        found: Episode = made(self.episodes([client], round_number)[0])
        return found

    def episodes(self, clients: Sequence[int], round_number: int) -> list[Episode]:
        """What each of the clients works with in a round (from 1).

        Supports and queries are `Deferred`, and all read when the first is asked for: some algorithms never look, and
        to split clients that are new takes as long as to read them.
        """
        support = self.protocol.support
        if any(self.size(client) < self._counts[client] for client in clients):
            self._splits(clients, support)
        data = self._shots(clients, [(self._data_rows(client),) for client in clients], round_number)
        apart = _Apart(data[0][0], lambda: self._shots(clients, self._splits(clients, support), round_number))
        places = torch.from_numpy(np.searchsorted(self.clients["train"], clients)).unbind()
        now = torch.tensor(float(round_number - 1))
        found = []
        for i, ((whole,), place) in enumerate(zip(data, places, strict=True)):
            sizes = self._parts(clients[i], whole.y.shape[0])
            held, query = (apart.part(i, part, n, whole.seed) for part, n in enumerate(sizes))
            found.append(Episode(held, query, whole, now, place))
        return found

    def _shots(
        self, clients: Sequence[int], rows: Sequence[tuple[np.ndarray, ...]], round_number: int
    ) -> list[list[Shots]]:
        """The examples at those rows of the clients, for each client as many Shots as it has arrays of rows.

        Read at once, and all are views of one tensor: a cohort of small clients takes Python longer than the disk.
        """
        starts, parts = self.store.offsets[np.asarray(clients)], len(rows[0])
        sizes = [len(part) for each in rows for part in each]
        flat = np.concatenate([part for each in rows for part in each]) + np.repeat(starts, parts).repeat(sizes)
        # Cloned into torch's memory: numpy's is aligned by chance, and kernels round by how their operands lie.
        x = torch.split(torch.from_numpy(self.scale.x(np.take(self.store.x, flat, axis=0))).clone(), sizes)
        y = torch.split(torch.from_numpy(self.scale.y(self.store.y[flat]).astype(self.y_dtype)), sizes)
        ids = self.store.ids[np.asarray(clients)].tolist()
        seeds = torch.tensor([derive(self.seed, "batches", round_number, name) for name in ids]).unbind()
        each = [Shots(a, b, seeds[i // parts]) for i, (a, b) in enumerate(zip(x, y, strict=True))]
        return [each[i : i + parts] for i in range(0, len(each), parts)]


def _together(order: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The order with the examples of a group where the first of them is; groups [n] by example."""
    first = np.full(groups.max() + 1, len(order))
    np.minimum.at(first, groups[order], np.arange(len(order)))
    return order[np.argsort(first[groups[order]], kind="stable")]


class _Apart:
    """Support and query examples of clients with such data, which `read` reads when the first are asked for."""

    def __init__(self, like: Shots, read: Callable[[], list[list[Shots]]]) -> None:
        self._like, self._read = like, read
        self._lock = Lock()
        """An engine's threads ask; Python's cached_property lets several in since 3.12."""
        self._shapes: dict[int, list[tuple[int, ...]]] = {}
        """Of x and y, by the number of examples."""

    def part(self, client: int, part: int, n: int, seed: Tensor) -> Shots:
        """Those n of the client's examples that are to be its support (0) or query (1)."""
        x, y = self._like.x, self._like.y
        if n not in self._shapes:
            self._shapes[n] = [(n, *leaf.shape[1:]) for leaf in (x, y)]
        x_shape, y_shape = self._shapes[n]
        return Shots(
            Deferred(x_shape, x.dtype, x.device, partial(self._leaf, client, part, 0)),  # type: ignore[arg-type]
            Deferred(y_shape, y.dtype, y.device, partial(self._leaf, client, part, 1)),  # type: ignore[arg-type]
            seed,
        )

    def _leaf(self, client: int, part: int, leaf: int) -> Tensor:
        with self._lock:
            shots = self._shots
        return shots[client][part][leaf]  # type: ignore[return-value]

    @cached_property
    def _shots(self) -> list[list[Shots]]:
        return self._read()
