"""Secure aggregation: the server learns the cohort's sum and nothing else of anyone, though some clients drop out.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth 2017 (eprint 2017/281), for a server that is
curious and honest. Simulated are the numbers that travel and what the server can do with them: masks, shares,
drop-outs, recovery. Key agreement and encryption are not: both ends of a pair draw the seed that they would agree on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from metaleaf import seeds, trees
from metaleaf.errors import ConfigError
from metaleaf.trees import Tree

PRIME = 2**61 - 1
"""Of the field in which seeds are shared; a seed is a number below it."""
KEY, SHARE = 32, 48
"""Bytes of a public key (Curve25519), and of a share of a secret of 32 bytes, encrypted (16 more)."""


class Round(NamedTuple):
    """One round's masked messages int64 [k, n] modulo 2**bits, and the secrets behind them.

    own: everyone's seed of the mask that only the server takes off; pairs: the seed of each pair, below the diagonal.
    """

    messages: Tensor
    own: list[int]
    pairs: dict[tuple[int, int], int]


@dataclass(frozen=True)
class SecureAggregation:
    """Masks on quantised updates, of which only the sum of those who stay comes out.

    bits: of a number that travels; updates are rounded to as many steps as leave room for the cohort's sum. threshold:
    the share of the cohort that has to stay, and any smaller group of which learns nothing. drop_outs: the share of the
    cohort that is lost in every round after masks were agreed on.
    """

    bits: Annotated[int, Field(ge=8, le=32)] = 32
    threshold: Annotated[float, Field(gt=0.5, le=1)] = 0.67
    drop_outs: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def check(self, clients: int) -> None:
        """ConfigError if too few of a cohort of so many stay."""
        stay, needed = clients - self.lost(clients), self.needed(clients)
        if stay < needed or needed < 2:
            raise ConfigError(
                f"protection: secure aggregation needs {max(needed, 2)} of {clients} clients to stay, and {stay} do: "
                "lower drop_outs or threshold, or raise clients_per_round."
            )

    def needed(self, clients: int) -> int:
        """How many shares bring a secret back."""
        return -int(-self.threshold * clients // 1)

    def lost(self, clients: int) -> int:
        """How many of a cohort drop out."""
        return int(self.drop_outs * clients)

    def __call__(self, updates: Tree, weights: Tensor, bound: Tensor, seed: Tensor) -> Tree:
        """The weighted mean over those who stay of stacked updates [k, ...] that are no longer than the bound.

        weights float64 [k]. What a client sends is its update times its weight, in whole steps.
        """
        clients = len(weights)
        dropped = sorted(seeds.choice(seed, clients, self.lost(clients), stream=1).tolist())
        stay = [i for i in range(clients) if i not in dropped]
        vectors = torch.stack([trees.flatten(one).to(torch.float64) for one in trees.unstack(updates)])
        step = self.step(bound, weights)
        masked = self.mask(torch.round(vectors * weights[:, None] / step).to(torch.int64), seed)
        total = self.unmask(masked, stay)
        mean = total.to(torch.float64) * step / weights[stay].sum()
        like = trees.unstack(updates)[0]
        return trees.tree_map(lambda a, b: a.to(b.dtype), trees.unflatten(mean, like), like)

    def step(self, bound: Tensor, weights: Tensor) -> Tensor:
        """What one unit of a message stands for: no sum of rounded numbers leaves the range of `bits` bits."""
        steps = (1 << (self.bits - 1)) - 1 - len(weights)
        return bound * weights.sum() / steps

    def mask(self, numbers: Tensor, seed: Tensor) -> Round:
        """Messages of whole numbers int64 [k, n]."""
        count, size = numbers.shape
        places = torch.arange(count * count, device=seed.device).reshape(count, count)
        drawn = (seeds.mix(seed + places) & (PRIME - 1)).tolist()
        own = [drawn[i][i] for i in range(count)]
        pairs = {(i, j): drawn[i][j] for i in range(count) for j in range(i)}
        messages = numbers.clone()
        for i in range(count):
            messages[i] += self._mask(own[i], size, seed)
        for (i, j), secret in pairs.items():
            shared = self._mask(secret, size, seed)
            messages[i] += shared
            messages[j] -= shared
        return Round(messages & self._all, own, pairs)

    def unmask(self, round_: Round, stay: Sequence[int]) -> Tensor:
        """The sum of the numbers of those who stay, int64 [n], from their messages and their shares of secrets.

        Of those who stay the server asks for the seeds of their own masks, of those who are gone for the seeds of their
        pairs; never both of one client.
        """
        count, size = round_.messages.shape
        needed, total = self.needed(count), round_.messages[list(stay)].sum(0)
        holders = list(stay)[:needed]
        for i in stay:
            own = recovered(shared(round_.own[i], needed, count), holders)
            total -= self._mask(own, size, round_.messages)
        for (i, j), secret in round_.pairs.items():
            if (i in stay) != (j in stay):
                mask = self._mask(recovered(shared(secret, needed, count), holders), size, round_.messages)
                total += mask if j in stay else -mask
        total = total & self._all
        found: Tensor = total - ((total >> (self.bits - 1)) << self.bits)  # the upper half is negative
        return found

    def nbytes(self, like: Tree, clients: int) -> tuple[int, int]:
        """Bytes that one client receives beside the broadcast, and sends, in the four steps of a round."""
        numbers = sum(leaf.numel() for leaf in trees.leaves(like))
        keys_and_shares = 2 * KEY + 2 * (clients - 1) * SHARE
        asked = clients * SHARE
        return clients * 2 * KEY + 2 * (clients - 1) * SHARE, keys_and_shares + -(-numbers * self.bits // 8) + asked

    def _mask(self, secret: int, size: int, like: Tensor) -> Tensor:
        key = torch.tensor(secret, device=like.device)
        return seeds.integers(key, (size,), 0, 2**self.bits)

    @property
    def _all(self) -> int:
        return (1 << self.bits) - 1


def shared(secret: int, needed: int, count: int) -> Mapping[int, int]:
    """Shamir's shares of a secret for clients 0 to count - 1, of which any `needed` bring it back (1979).

    The polynomial's other coefficients are hashes of the secret, so that a simulation can be repeated.
    """
    hashed = seeds.mix(torch.tensor(secret) + 1 + torch.arange(needed - 1)) & (PRIME - 1)
    coefficients = [secret, *(int(value) for value in hashed)]
    return {i: sum(a * pow(i + 1, power, PRIME) for power, a in enumerate(coefficients)) % PRIME for i in range(count)}


def recovered(shares: Mapping[int, int], holders: Sequence[int]) -> int:
    """The secret, from the shares of enough holders (Lagrange's polynomial at 0)."""
    total: int = 0
    for i in holders:
        above = below = 1
        for j in holders:
            if j != i:
                above, below = above * (j + 1) % PRIME, below * (j - i) % PRIME
        total += shares[i] * above * int(pow(below, -1, PRIME))
    return total % PRIME
