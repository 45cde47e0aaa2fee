"""The data of the track of new environments: who trains, who takes part and who is scored, in which environment."""

from functools import cached_property

import numpy as np
import torch

from metaleaf import trees
from metaleaf.config.config import NewEnvironments, Protocol, digest
from metaleaf.data.client_store import ClientStore
from metaleaf.data.federation import PARTS, Federation
from metaleaf.errors import ConfigError
from metaleaf.seeds import derive
from metaleaf.shots import EnvironmentEpisode, Shots

Visit = tuple[str, int]
"""A new environment and which of its draws."""


class EnvironmentFederation(Federation):
    """Environments of a store split 60/20/20, and their clients.

    A dataset may declare the split itself, by environments called ``train/...``, ``validation/...`` and ``test/...``
    (where clients of different environments share something that must not be in two parts). The examples of all
    clients are padded to one length and held in memory.
    """

    def __init__(
        self, store: ClientStore, protocol: Protocol, rules: NewEnvironments, seed: int, y_dtype: str = ""
    ) -> None:
        self.rules = rules
        super().__init__(store, protocol, seed, y_dtype)

    def _split_clients(self) -> list[np.ndarray]:
        eligible = np.flatnonzero(self.store.counts >= self.protocol.min_examples)
        names = np.asarray(self.store.environments)[eligible]
        self.members: dict[str, np.ndarray] = {}
        """Eligible clients of each environment that is large enough."""
        # The same number in every part, so that the parts are alike; in training at least one client has to judge.
        needed = max(self.rules.scored + self.rules.participants, self.rules.train_participants[1] + 1)
        for name in np.unique(names):
            members = eligible[names == name]
            if len(members) >= needed:
                self.members[str(name)] = members
        if len(self.members) < 5:
            raise ConfigError(
                f"{self.store.about['name']} has {len(self.members)} environments with at least {needed} clients "
                f"(scored + participants, or train_participants + 1) of {self.protocol.min_examples} examples; new "
                "environments need 5 of them: lower scored, participants, train_participants or min_examples."
            )
        self.environments = dict(zip(PARTS, self._split_environments(sorted(self.members)), strict=True))
        return [np.sort(np.concatenate([self.members[e] for e in self.environments[part]])) for part in PARTS]

    def _split_environments(self, names: list[str]) -> list[list[str]]:
        declared = [[name for name in names if name.startswith(f"{part}/")] for part in PARTS]
        if any(declared):
            if sum(len(part) for part in declared) < len(names):
                raise ConfigError(f"{self.store.about['name']} declares the part of some environments but not of all.")
            if not all(declared):
                raise ConfigError(f"{self.store.about['name']} declares parts of which one has no environment left.")
            return declared
        shuffled = np.random.default_rng(derive(self.protocol.split_seed, "environments")).permutation(names)
        held_out = max(1, round(len(names) / 5))
        cut = len(names) - 2 * held_out
        return [[str(name) for name in part] for part in np.split(shuffled, [cut, cut + held_out])]

    def split_hash(self) -> str:
        """See `Federation.split_hash`; here also over the environments."""
        return digest({"environments": self.environments, "clients": super().split_hash()})

    # ---- learning from whole environments

    def environment_cohort(self, number: int) -> list[str]:
        """The training environments of a round (from 1), without replacement."""
        rng = np.random.default_rng(derive(self.seed, "environments", number))
        names = self.environments["train"]
        size = min(self.rules.environments_per_round, len(names))
        return [names[i] for i in rng.choice(len(names), size, replace=False)]

    def participants(self, number: int) -> int:
        """Participants in each training environment of a round."""
        least, most = self.rules.train_participants
        return int(np.random.default_rng(derive(self.seed, "participants", number)).integers(least, most + 1))

    def chosen(self, name: str) -> np.ndarray:
        """The clients of a training environment that are ever asked: up to `members`, in a fixed random order."""
        rng = np.random.default_rng(derive(self.seed, "members", name))
        return rng.permutation(self.members[name])[: self.rules.members]

    def turn(self, name: str, number: int) -> np.ndarray:
        """The places among `chosen` of those whose turn it is in a round (from 1): participants, then judges."""
        rng = np.random.default_rng(derive(self.seed, "environment", number, name))
        return rng.permutation(len(self.chosen(name)))[: self.participants(number) + self.rules.queries]

    def environment_episode(self, name: str, number: int) -> EnvironmentEpisode:
        """Participants and judges of a training environment in a round (from 1); as many in every environment."""
        size, clients = self.participants(number), self.chosen(name)[self.turn(name, number)]
        return self._episode(clients[:size], size, clients[size:], number)

    def whole_environment(self, name: str) -> EnvironmentEpisode:
        """All clients of a training environment that are ever asked, as participants."""
        members = self.chosen(name)
        return self._episode(members, self.rules.members, members[:0], 0)

    def _episode(self, participants: np.ndarray, size: int, queries: np.ndarray, number: int) -> EnvironmentEpisode:
        shots, weights = self.stacked(participants, size)
        judges, shares = self.stacked(queries, self.rules.queries)
        return EnvironmentEpisode(shots, weights, judges, shares, torch.tensor(float(number - 1)))

    # ---- in a new environment

    def roles(self, name: str, draw: int) -> tuple[np.ndarray, np.ndarray]:
        """(clients who may take part, clients who are scored) in a new environment; the same for every method."""
        rng = np.random.default_rng(derive(self.protocol.split_seed, "roles", name))
        shuffled = rng.permutation(self.members[name])
        scored, others = shuffled[: self.rules.scored], shuffled[self.rules.scored :]
        order = np.random.default_rng(derive(self.protocol.split_seed, "draw", name, draw))
        return order.permutation(others), scored

    def new_cohort(self, name: str, draw: int, number: int) -> np.ndarray:
        """The participants of a round in a new environment; number 0 is the first meeting."""
        pool, _ = self.roles(name, draw)
        rng = np.random.default_rng(derive(self.protocol.split_seed, "newcomers", name, draw, number))
        return rng.choice(pool, self.rules.participants, replace=False)

    # ---- examples as tensors

    def stacked(self, clients: np.ndarray, size: int) -> tuple[Shots, torch.Tensor]:
        """All examples of the clients, stacked and padded to `size` clients; their weights, which sum to 1."""
        return _select(self._whole, clients, size), self._weights(clients, size)

    def stacked_halves(self, clients: np.ndarray) -> tuple[Shots, Shots]:
        """The clients' support and query examples, stacked."""
        support, query = self._halves
        return _select(support, clients, len(clients)), _select(query, clients, len(clients))

    def _weights(self, clients: np.ndarray, size: int) -> torch.Tensor:
        weights = torch.zeros(size)
        if len(clients):
            weights[: len(clients)] = torch.tensor(self.weights([int(i) for i in clients]))
        return weights

    @cached_property
    def _whole(self) -> Shots:
        return self._table([episode.data for episode in self.episodes(self._used, 0)])

    @cached_property
    def _halves(self) -> tuple[Shots, Shots]:
        pairs = self.support_queries(self._used, self.protocol.support)
        return self._table([support for support, _ in pairs]), self._table([query for _, query in pairs])

    @cached_property
    def _used(self) -> list[int]:
        return sorted({int(i) for members in self.members.values() for i in members})

    def _table(self, used: list[Shots]) -> Shots:
        """One row a client of the store, padded to the longest; a last row of padding only."""
        clients, rows = len(self.store), max(len(shots.y) for shots in used)
        x = torch.zeros((clients + 1, rows, *used[0].x.shape[1:]), dtype=used[0].x.dtype)
        y = torch.zeros((clients + 1, rows, *used[0].y.shape[1:]), dtype=used[0].y.dtype)
        mask = torch.zeros((clients + 1, rows), dtype=torch.bool)
        for i, shots in zip(self._used, used, strict=True):
            n = len(shots.y)
            x[i, :n], y[i, :n], mask[i, :n] = shots.x, shots.y, True
        return Shots(x, y, torch.arange(clients + 1), mask)


def _select(table: Shots, clients: np.ndarray, size: int) -> Shots:
    padding = np.full(size - len(clients), len(table.y) - 1)
    rows = torch.from_numpy(np.concatenate([clients, padding]).astype(np.int64))
    chosen: Shots = trees.tree_map(lambda leaf: leaf[rows], table)
    return chosen
