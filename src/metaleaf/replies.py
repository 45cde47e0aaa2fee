"""What the clients of a cohort send and keep, and what comes of it for the server."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from metaleaf import trees
from metaleaf.algorithm import Algorithm, Replies
from metaleaf.factored import dense
from metaleaf.trees import Tree


class Gathered(NamedTuple):
    """What a cohort's work comes to.

    update: what `Algorithm.server` reads, the mean of what the clients send or all of it (`Replies`). memories: for
    algorithms with a memory, what each client keeps.
    """

    update: Tree
    memories: list[Tree]


class Sent:
    """Takes the clients' replies in any order and keeps only what is needed: their mean, or each of them."""

    def __init__(self, algorithm: Algorithm, weights: Sequence[float]) -> None:
        self.weights = weights
        self.each, self.remembers = getattr(algorithm, "each", False), hasattr(algorithm, "memory")
        self.total: Tree = None
        self.updates: dict[int, Tree] = {}
        self.memories: dict[int, Tree] = {}

    def one(self, i: int, reply: Any) -> None:
        """The reply of client i."""
        if self.remembers:
            reply, memory = reply
            self.memories[i] = dense(memory)
        if self.each:
            self.updates[i] = dense(reply)
        else:
            self._add(trees.tree_map(lambda leaf: self.weights[i] * leaf, reply))

    def several(self, chosen: Sequence[int], replies: Any) -> None:
        """The replies of the clients `chosen`, stacked."""
        if self.remembers:
            replies, memories = replies
            self.memories.update(zip(chosen, _apart(memories, len(chosen)), strict=True))
        if self.each:
            self.updates.update(zip(chosen, _apart(replies, len(chosen)), strict=True))
            return
        weights = torch.tensor([self.weights[i] for i in chosen], dtype=torch.float64)
        self._add(trees.weighted_sum(replies, weights))

    def _add(self, part: Tree) -> None:
        self.total = part if self.total is None else trees.add(self.total, part)

    def gathered(self, device: torch.device) -> Gathered:
        """What came of it, in the cohort's order."""
        memories = [self.memories[i] for i in sorted(self.memories)]
        if not self.each:
            return Gathered(dense(self.total), memories)
        stacked = trees.stack([self.updates[i] for i in sorted(self.updates)])
        weights = torch.tensor(self.weights, dtype=torch.float64, device=device)
        return Gathered(Replies(stacked, weights), memories)


def _apart(stacked: Tree, count: int) -> list[Tree]:
    """The clients' trees; those of a part that the model does not have are empty."""
    return trees.unstack(stacked) if trees.leaves(stacked) else [stacked] * count
