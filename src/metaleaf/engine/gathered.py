"""What the clients of a cohort send and keep, and what comes of it for the server."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch

from metaleaf import trees
from metaleaf.algorithm import Algorithm, Replies
from metaleaf.engine.factored import dense
from metaleaf.trees import Tree


class Gathered(NamedTuple):
    """What a cohort's work comes to.

    update: what `Algorithm.server` reads, the mean of what the clients send or all of it (`Replies`). memories: for
    algorithms with a memory, what each client keeps.
    """

    update: Tree
    memories: list[Tree]


class Part(NamedTuple):
    """What is needed of some clients' replies: their weighted sum or, by client, each of them; and the memories."""

    total: Tree
    updates: dict[int, Tree]
    memories: dict[int, Tree]


class Sent:
    """Takes the clients' replies in parts, in any order, and keeps only what is needed."""

    def __init__(self, algorithm: Algorithm, weights: Sequence[float]) -> None:
        self.weights = weights
        self.each, self.remembers = getattr(algorithm, "each", False), hasattr(algorithm, "memory")
        self.total: Tree = None
        self.updates: dict[int, Tree] = {}
        self.memories: dict[int, Tree] = {}

    def part(self, clients: Sequence[int], replies: Sequence[Any]) -> Part:
        """Of these clients' replies. Any thread may ask: nothing is kept yet."""
        memories: dict[int, Tree] = {}
        if self.remembers:
            memories = {i: dense(memory) for i, (_, memory) in zip(clients, replies, strict=True)}
            replies = [reply for reply, _ in replies]
        if self.each:
            return Part(None, {i: dense(reply) for i, reply in zip(clients, replies, strict=True)}, memories)
        scaled = [
            trees.tree_map(lambda leaf, i=i: self.weights[i] * leaf, reply)
            for i, reply in zip(clients, replies, strict=True)
        ]
        return Part(dense(reduce(trees.add, scaled)), {}, memories)

    def stacked_part(self, clients: Sequence[int], replies: Any) -> Part:
        """The same of replies that are stacked."""
        memories: dict[int, Tree] = {}
        if self.remembers:
            replies, stacked = replies
            memories = dict(zip(clients, _apart(stacked, len(clients)), strict=True))
        if self.each:
            return Part(None, dict(zip(clients, _apart(replies, len(clients)), strict=True)), memories)
        weights = torch.tensor([self.weights[i] for i in clients], dtype=torch.float64)
        return Part(trees.weighted_sum(replies, weights), {}, memories)

    def add(self, part: Part) -> None:
        """Keep a part."""
        self.updates |= part.updates
        self.memories |= part.memories
        if not self.each:
            self.total = part.total if self.total is None else trees.add(self.total, part.total)

    def gathered(self, device: torch.device) -> Gathered:
        """What came of it, in the cohort's order."""
        memories = [self.memories[i] for i in sorted(self.memories)]
        if not self.each:
            return Gathered(self.total, memories)
        stacked = trees.stack([self.updates[i] for i in sorted(self.updates)])
        weights = torch.tensor(self.weights, dtype=torch.float64, device=device)
        return Gathered(Replies(stacked, weights), memories)


def _apart(stacked: Tree, count: int) -> list[Tree]:
    """The clients' trees; those of a part that the model does not have are empty."""
    return trees.unstack(stacked) if trees.leaves(stacked) else [stacked] * count
