"""The protocol's view of a dataset: who trains, who validates, who tests, and what is support and what is query."""

import numpy as np
import torch

from metaleaf.client_store import ClientStore
from metaleaf.config import Protocol, digest
from metaleaf.errors import ConfigError
from metaleaf.seeds import derive
from metaleaf.shots import Episode, Shots

PARTS = ("train", "validation", "test")


class Federation:
    """Clients of a store split 80/10/10, and their examples split into support and query.

    Clients are numbers into the store. Splits depend on the store, the protocol and its split seed only, so all
    algorithms and all runs see the same; cohorts and the order of batches depend on the run's seed.
    """

    def __init__(self, store: ClientStore, protocol: Protocol, seed: int) -> None:
        self.store, self.protocol, self.seed = store, protocol, seed
        self.window = int(store.about["spec"]["window"])
        self.clients = dict(zip(PARTS, self._split_clients(), strict=True))

    def _split_clients(self) -> list[np.ndarray]:
        eligible = np.flatnonzero(self.store.counts >= self.protocol.min_examples)
        shuffled = np.random.default_rng(derive(self.protocol.split_seed, "clients")).permutation(eligible)
        shuffled = shuffled[: self.protocol.max_clients]
        if len(shuffled) < 3:
            raise ConfigError(
                f"{self.store.about['name']} has {len(shuffled)} clients with at least {self.protocol.min_examples} "
                "examples, a federation needs 3: lower min_examples or raise max_clients."
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
        ]
        return digest({"clients": ids, "rules": rules, "data": self.store.about["data_hash"]})

    def examples(self, part: str) -> int:
        """Examples used of all clients of a part."""
        return sum(self.size(int(i)) for i in self.clients[part])

    def size(self, client: int) -> int:
        """Examples used of one client."""
        return int(min(self.store.counts[client], self.protocol.max_examples or self.store.counts[client]))

    def cohort(self, round_number: int) -> list[int]:
        """The training clients sampled for a round (from 1), uniformly without replacement."""
        rng = np.random.default_rng(derive(self.seed, "cohort", round_number))
        train = self.clients["train"]
        size = min(self.protocol.clients_per_round, len(train))
        return [int(i) for i in rng.choice(train, size, replace=False)]

    def weights(self, cohort: list[int]) -> list[float]:
        """The cohort's aggregation weights, which sum to 1."""
        sizes = [self.size(i) if self.protocol.weighting == "samples" else 1 for i in cohort]
        return [size / sum(sizes) for size in sizes]

    def split_rows(self, client: int, support: float) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of the client's support and query examples, disjoint.

        At random; for overlapping windows the first in the client's own order, then a gap of one window so that no
        character is in both. At least one support example; a client with a single example has no query.
        """
        n = self.size(client)
        if self.window:
            usable = max(n - self.window, 1)
            cut = min(max(round(support * usable), 1), max(usable - 1, 1))
            return np.arange(cut), np.arange(cut + self.window, n)
        order = self._order(client)[:n]
        cut = min(max(round(support * n), 1), max(n - 1, 1))
        return np.sort(order[:cut]), np.sort(order[cut:])

    def support_query(self, client: int, support: float, round_number: int = 0) -> tuple[Shots, Shots]:
        """The client's support and query examples."""
        rows = self.split_rows(client, support)
        return self._shots(client, rows[0], round_number), self._shots(client, rows[1], round_number)

    def episode(self, client: int, round_number: int) -> Episode:
        """What the client works with in a round (from 1)."""
        support, query = self.support_query(client, self.protocol.support, round_number)
        n = self.size(client)
        rows = np.arange(n) if self.window else np.sort(self._order(client)[:n])
        data = self._shots(client, rows, round_number)
        place = torch.tensor(np.searchsorted(self.clients["train"], client))
        return Episode(support, query, data, torch.tensor(float(round_number - 1)), place)

    def _order(self, client: int) -> np.ndarray:
        rng = np.random.default_rng(derive(self.protocol.split_seed, "examples", str(self.store.ids[client])))
        return rng.permutation(int(self.store.counts[client]))

    def _shots(self, client: int, rows: np.ndarray, round_number: int) -> Shots:
        x, y = self.store.client(client)
        seed = derive(self.seed, "batches", round_number, str(self.store.ids[client]))
        return Shots(torch.from_numpy(x[rows]), torch.from_numpy(y[rows].astype(np.int64)), torch.tensor(seed))
