"""Robust aggregation: rules that make one update of a cohort's, of whom some may send anything.

A rule is a frozen dataclass of options, and pure: ``aggregate, state = rule(updates, weights, state)`` takes the
updates of k clients stacked (leaves [k, ...]), their weights (float64 [k], which sum to 1, none of them negative) and
what the rule keeps between rounds, which before the first is ``rule.start(update)``, and ``()`` for most.
``rule.check(k)`` refuses numbers that do not fit a cohort of k.

Results are in the dtype of the leaves; lengths and distances are over the whole tree, summed in float64.

Robust rules mostly ignore the weights: these come from what clients say of themselves. Those that count by weight say
so, and bear what they say for the attackers' share of the weight.

An update is void if its squared length is no finite float64: NaN, infinite, or beyond 1e154. Rules by length or
distance leave void updates out (to the Krum family they are infinitely far from everyone); to rules by coordinate NaN
is one more greatest value. If more clients are void than a rule bears, the aggregate is not finite, which is seen.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf.errors import ConfigError
from metaleaf.trees import Tree, add, leaves, take, tree_map, weighted_sum, zeros_like

NUMBERS = 1 << 22
"""Numbers of a leaf that are worked on at once: bounds the memory of copies (32 MiB in float64)."""


@dataclass(frozen=True)
class Rule:
    """What all rules have."""

    name: ClassVar[str]

    def least(self) -> int:
        """The smallest cohort that the rule makes sense for."""
        return 1

    def check(self, clients: int) -> None:
        """ConfigError unless a cohort of so many clients is large enough."""
        if clients < self.least():
            raise self.refuse(
                f"needs at least {self.least()} clients a round, but {clients} take part: raise clients_per_round"
            )

    def refuse(self, why: str) -> ConfigError:
        """The error for numbers that do not fit together."""
        options = ", ".join(f"{field.name} = {getattr(self, field.name)}" for field in fields(self))
        return ConfigError(f"aggregation {self.name}{f' with {options}' if options else ''} {why}.")

    def start(self, like: Tree) -> Tree:
        """What is kept before the first round; like: one client's update."""
        return ()

    def __call__(self, updates: Tree, weights: Tensor, state: Tree) -> tuple[Tree, Tree]:
        """The aggregate of updates [k, ...], and what is kept for the next round."""
        raise NotImplementedError


@dataclass(frozen=True)
class Median(Rule):
    """Coordinate-wise median; of an even number the mean of the middle two (Yin et al. 2018, arXiv 1803.01498).

    Ignores weights. Bears fewer than half of the clients, NaN and infinite ones too.
    """

    name: ClassVar[str] = "median"

    def __call__(self, updates: Tree, weights: Tensor, state: Tree) -> tuple[Tree, Tree]:
        """See `Rule`."""
        return _by_columns(updates, lambda x: _middle(x.sort(0).values)), state


@dataclass(frozen=True)
class TrimmedMean(Rule):
    """Coordinate-wise mean without the least and the greatest values (Yin et al. 2018, arXiv 1803.01498).

    share: of the clients, left out at either end, rounded up to whole clients. Ignores weights. Bears as many attackers
    as are left out at one end, NaN and infinite ones too.
    """

    share: Annotated[float, Field(ge=0, lt=0.5)] = 0.2

    name: ClassVar[str] = "trimmed_mean"

    def check(self, clients: int) -> None:
        """ConfigError if nothing would be left."""
        if 2 * self.trimmed(clients) >= clients:
            raise self.refuse(f"leaves nobody of {clients} clients: lower share or raise clients_per_round")

    def trimmed(self, clients: int) -> int:
        """Clients left out at either end."""
        return math.ceil(self.share * clients - 1e-9)  # 0.1 * 30 is a little more than 3

    def __call__(self, updates: Tree, weights: Tensor, state: Tree) -> tuple[Tree, Tree]:
        """See `Rule`."""
        ends = self.trimmed(len(weights))
        return _by_columns(updates, lambda x: _trimmed_mean(x, ends)), state


@dataclass(frozen=True)
class Krum(Rule):
    """The one update with the least sum of squared distances to its k - attackers - 2 nearest others.

    Blanchard et al. 2017 (arXiv 1703.02757), who need k > 2 attackers + 2. Ignores weights. Bears as many attackers as
    it is told, NaN and infinite ones too.
    """

    attackers: NonNegativeInt = 1

    name: ClassVar[str] = "krum"

    def least(self) -> int:
        """The paper's bound."""
        return 2 * self.attackers + 3

    def __call__(self, updates: Tree, weights: Tensor, state: Tree) -> tuple[Tree, Tree]:
        """See `Rule`."""
        return take(updates, _krum_order(_distances_of(updates, weights), self.attackers)[0]), state


@dataclass(frozen=True)
class MultiKrum(Rule):
    """The plain mean of the `kept` updates that are best by the sum of `Krum` (Blanchard et al. 2017).

    kept: by default k - attackers - 2, the most for which Damaskinos et al. 2019 (AggregaThor) prove resilience; at
    most k - attackers, as more would have an attacker among them. Ignores weights, bears what `Krum` does.
    """

    attackers: NonNegativeInt = 1
    kept: PositiveInt | None = None

    name: ClassVar[str] = "multi_krum"

    def least(self) -> int:
        """That of `Krum`."""
        return 2 * self.attackers + 3

    def check(self, clients: int) -> None:
        """ConfigError if the cohort is too small, or too many are kept."""
        super().check(clients)
        if self.kept and self.kept > clients - self.attackers:
            raise self.refuse(f"keeps more of {clients} clients than can be honest: lower kept or attackers")

    def __call__(self, updates: Tree, weights: Tensor, state: Tree) -> tuple[Tree, Tree]:
        """See `Rule`."""
        kept = self.kept or len(weights) - self.attackers - 2
        chosen = _krum_order(_distances_of(updates, weights), self.attackers)[:kept]
        return tree_map(lambda x: x.index_select(0, chosen).mean(0), updates), state


@dataclass(frozen=True)
class Bulyan(Rule):
    """Of k - 2 attackers updates that `Krum` chooses one after the other, the mean of the values next to the median.

    El Mhamdi et al. 2018 (arXiv 1802.07927), who need k >= 4 attackers + 3. Coordinate by coordinate the
    k - 4 attackers values nearest to the median of the chosen ones are averaged. Krum judges each choice among those
    that are left, by one neighbour at least. Ignores weights. Bears as many attackers as it is told, NaN and infinite
    ones too.
    """

    attackers: NonNegativeInt = 1

    name: ClassVar[str] = "bulyan"

    def least(self) -> int:
        """The paper's bound."""
        return 4 * self.attackers + 3

    def __call__(self, updates: Tree, weights: Tensor, state: Tree) -> tuple[Tree, Tree]:
        """See `Rule`."""
        size = len(weights) - 2 * self.attackers
        rows = self._chosen(updates, weights, size).to(weights.device)
        chosen = tree_map(lambda x: x.index_select(0, rows), updates)
        kept = size - 2 * self.attackers
        return _by_columns(chosen, lambda x: _next_to_median(x, kept).mean(0)), state

    def _chosen(self, updates: Tree, weights: Tensor, size: int) -> Tensor:
        """The rows that Krum chooses, int64 [size]."""
        squared = _distances_of(updates, weights).cpu()
        left, chosen = torch.arange(len(squared)), []
        for _ in range(size):
            best = left[_krum_order(squared[left][:, left], self.attackers)[0]]
            chosen.append(best)
            left = left[left != best]
        return torch.stack(chosen)


@dataclass(frozen=True)
class GeometricMedian(Rule):
    """The point with the least weighted sum of distances to the updates, by Weiszfeld's iteration.

    Smoothed as in RFA (Pillutla et al. 2022, arXiv 1912.13445). smoothing: distances below it count as that much, in
    the updates' own unit. It starts from the coordinate-wise weighted median and not from the mean, which one attacker
    moves so far that no small number of iterations comes back. Counts by weight, and bears attackers with less than
    half of it; void updates are left out.
    """

    iterations: PositiveInt = 8
    smoothing: PositiveFloat = 1e-6

    name: ClassVar[str] = "geometric_median"

    def __call__(self, updates: Tree, weights: Tensor, state: Tree) -> tuple[Tree, Tree]:
        """See `Rule`."""
        clean, weights, _ = _cleaned(updates, weights)
        centre = _by_columns(clean, lambda x: _weighted_median(x, weights))
        for _ in range(self.iterations):
            away = _squared_lengths(clean, weights, centre).sqrt()
            pull = weights / away.clamp(min=self.smoothing)
            centre = weighted_sum(clean, pull / pull.sum())
        return centre, state


@dataclass(frozen=True)
class NormClipping(Rule):
    """The weighted mean of the updates, each of them shortened to a quantile of the cohort's lengths.

    Bounds of length against attacks are of Sun et al. 2019 (arXiv 1911.07963), whose bound is fixed; here it is that of
    the cohort's lengths below which is a share `quantile` (1 shortens nothing). Counts by weight. While fewer than a
    share 1 - quantile of the clients attack, the aggregate is no longer than the longest honest update; void updates
    are left out.
    """

    quantile: Annotated[float, Field(gt=0, le=1)] = 0.5

    name: ClassVar[str] = "norm_clipping"

    def __call__(self, updates: Tree, weights: Tensor, state: Tree) -> tuple[Tree, Tree]:
        """See `Rule`."""
        clean, weights, lengths = _cleaned(updates, weights)
        rank = math.floor(self.quantile * max(int(lengths.isfinite().sum()) - 1, 0))
        return weighted_sum(clean, weights * _shortening(lengths, lengths.sort().values[rank])), state


@dataclass(frozen=True)
class CentredClipping(Rule):
    """The last aggregate, moved by the weighted mean of the differences to it, each shortened to `radius`.

    Karimireddy et al. 2021 (arXiv 2012.10333), from zeros before the first round. radius: in the updates' own unit.
    Counts by weight: an iteration moves the aggregate by at most radius, of which attackers have their weight's share.
    Void updates are left out.
    """

    radius: PositiveFloat = 10.0
    iterations: PositiveInt = 1

    name: ClassVar[str] = "centred_clipping"

    def start(self, like: Tree) -> Tree:
        """Zeros."""
        return zeros_like(like)

    def __call__(self, updates: Tree, weights: Tensor, state: Tree) -> tuple[Tree, Tree]:
        """See `Rule`."""
        clean, weights, _ = _cleaned(updates, weights)
        radius = weights.new_tensor(self.radius)
        for _ in range(self.iterations):
            away = _squared_lengths(clean, weights, state).sqrt()
            shares = weights * _shortening(away, radius)
            state = add(weighted_sum(clean, shares), state, 1 - shares.sum())
        return state, state


@dataclass(frozen=True)
class NearestNeighbours(Rule):
    """Each update is averaged with its k - attackers - 1 nearest others, then the trimmed mean is taken.

    Nearest-neighbour mixing with the coordinate-wise trimmed mean, `attackers` at either end (Allouah et al. 2023,
    arXiv 2302.01772), which bears clients that differ better than the trimmed mean alone. Ignores weights. Bears as
    many attackers as it is told, NaN and infinite ones too.
    """

    attackers: NonNegativeInt = 1

    name: ClassVar[str] = "nearest_neighbours"

    def least(self) -> int:
        """An honest majority."""
        return 2 * self.attackers + 1

    def __call__(self, updates: Tree, weights: Tensor, state: Tree) -> tuple[Tree, Tree]:
        """See `Rule`."""
        clean, _, lengths = _cleaned(updates, weights)
        near = squared_distances(clean, lengths).argsort(dim=1, stable=True)[:, : len(weights) - self.attackers]
        mixing = torch.zeros_like(lengths).expand(len(lengths), -1).scatter(1, near, 1 / near.shape[1])
        mixing = torch.where(lengths.isfinite()[:, None], mixing, torch.nan)  # void stays void
        return _by_columns(clean, lambda x: _trimmed_mean(mixing.to(x) @ x, self.attackers)), state


@dataclass(frozen=True)
class FLTrust(Rule):
    """Updates count by their cosine to one that the server knows to be honest, and are made as long as that.

    Cao et al. 2021 (arXiv 2012.13995): negative cosines count as 0, and where none is positive the aggregate is 0.
    Ignores weights; bears any number of attackers, void updates too. trusted: how many honest clients there are of whom
    the server has the examples, fixed by the run's seed; the honest update is the mean of theirs (the paper's server
    gathers a hundred examples by hand). state: that update, which whoever calls the rule puts there.
    """

    trusted: PositiveInt = 1

    name: ClassVar[str] = "fltrust"

    def start(self, like: Tree) -> Tree:
        """Zeros."""
        return zeros_like(like)

    def __call__(self, updates: Tree, weights: Tensor, state: Tree) -> tuple[Tree, Tree]:
        """See `Rule`."""
        clean, _, lengths = _cleaned(updates, weights)
        own = _squared_lengths(tree_map(lambda leaf: leaf[None], state), weights.new_ones(1)).sqrt()
        along = _products(clean, state) / (own * lengths)
        trust = torch.where(along > 0, along, 0)  # nan: of zeros; nothing: of void ones
        shares = trust / trust.sum() * own / lengths
        return weighted_sum(clean, torch.where(trust > 0, shares, 0)), state


_ALL: tuple[type[Rule], ...] = (
    Median,
    TrimmedMean,
    Krum,
    MultiKrum,
    Bulyan,
    GeometricMedian,
    NormClipping,
    CentredClipping,
    NearestNeighbours,
    FLTrust,
)

RULES: Mapping[str, type[Rule]] = {rule.name: rule for rule in _ALL}
"""The rules by name."""


def squared_distances(updates: Tree, lengths: Tensor) -> Tensor:
    """Squared distances between updates [k, ...] of these lengths, float64 [k, k].

    Infinite from and to an update whose length is infinite, and the update itself is not looked at (it may not be NaN).
    """
    # By Gram matrices, of differences to an update of middling length: these lose no digits, even if others are huge.
    centre = lengths.argsort(stable=True)[(len(lengths) - 1) // 2]
    gram = lengths.new_zeros(len(lengths), len(lengths))
    for piece in _all_pieces(updates):
        apart = piece.double() - piece[centre].double()
        gram += apart @ apart.T
    squares = gram.diagonal()
    found = (squares[:, None] + squares - (gram + gram.T)).clamp(min=0)
    void = ~lengths.isfinite()
    found = torch.where(void[:, None] | void | found.isnan(), torch.inf, found)
    return found.fill_diagonal_(0)


def _distances_of(updates: Tree, weights: Tensor) -> Tensor:
    """`squared_distances` of updates that may be void."""
    clean, _, lengths = _cleaned(updates, weights)
    return squared_distances(clean, lengths)


def _cleaned(updates: Tree, weights: Tensor) -> tuple[Tree, Tensor, Tensor]:
    """The updates with zeros in place of void ones, the weights without theirs, and lengths, infinite for those.

    Weights of nobody are NaN.
    """
    squares = _squared_lengths(updates, weights)
    sound = squares.isfinite()
    if sound.all():
        return updates, weights, squares.sqrt()
    kept = torch.where(sound, weights, 0)
    clean = tree_map(lambda x: torch.where(sound.view(-1, *[1] * (x.dim() - 1)), x, 0), updates)
    return clean, kept / kept.sum(), torch.where(sound, squares.sqrt(), torch.inf)


def _squared_lengths(updates: Tree, weights: Tensor, centre: Tree | None = None) -> Tensor:
    """Of updates [k, ...], or of their differences to the centre, float64 [k]."""
    found = torch.zeros_like(weights)
    if centre is None:
        for piece in _all_pieces(updates):
            found += piece.double().square().sum(1)
        return found
    for leaf, other in zip(leaves(updates), leaves(centre), strict=True):
        for piece, part in zip(_pieces(leaf), _pieces(other.expand_as(leaf)), strict=True):
            found += (piece.double() - part[0].double()).square().sum(1)
    return found


def _products(updates: Tree, other: Tree) -> Tensor:
    """The inner products of updates [k, ...] with another update, float64 [k]."""
    found = [
        piece.double() @ part[0].double()
        for leaf, own in zip(leaves(updates), leaves(other), strict=True)
        for piece, part in zip(_pieces(leaf), _pieces(own.expand_as(leaf)), strict=True)
    ]
    return torch.stack(found).sum(0)


def _shortening(lengths: Tensor, bound: Tensor) -> Tensor:
    """Factors that make none longer than the bound."""
    return torch.where(lengths > bound, bound / lengths, 1.0)


def _krum_order(squared: Tensor, attackers: int) -> Tensor:
    """Rows with these squared distances [k, k] from the best to the worst by Krum's sum, int64 [k].

    Where one neighbour counts, two next to one another have the same sum: the one whose next neighbour is nearer wins.
    """
    near = min(max(len(squared) - attackers - 2, 1), len(squared) - 1)
    others = squared.clone().fill_diagonal_(torch.inf).sort(1).values
    by_next = others[:, near].argsort(stable=True)
    return by_next[others[by_next, :near].sum(1).argsort(stable=True)]


def _middle(values: Tensor) -> Tensor:
    """The median of sorted values [k, d]; halved first, as a sum may overflow."""
    k = len(values)
    return 0.5 * values[(k - 1) // 2] + 0.5 * values[k // 2]


def _trimmed_mean(x: Tensor, ends: int) -> Tensor:
    """Of x [k, d] without so many values at either end; NaN is at the upper one."""
    return x.sort(0).values[ends : len(x) - ends].mean(0)


def _next_to_median(x: Tensor, kept: int) -> Tensor:
    """The values nearest to the median, [kept, d]; of two as near the lesser."""
    values = x.sort(0).values
    nearest = (values - _middle(values)).abs().argsort(dim=0, stable=True)[:kept]
    return values.gather(0, nearest)


def _weighted_median(x: Tensor, weights: Tensor) -> Tensor:
    """The least value at or below which lies half of the weight, in every column of x [k, d]."""
    values, order = x.sort(0)
    before = (weights[order].cumsum(0) < 0.5 - 1e-12).sum(0)
    return values.gather(0, before.clamp(max=len(x) - 1)[None])[0]


def _by_columns(updates: Tree, rule: Callable[[Tensor], Tensor]) -> Tree:
    """The tree that a rule makes of columns [k, d] -> [d]."""
    return tree_map(lambda leaf: torch.cat([rule(piece) for piece in _pieces(leaf)]).view(leaf.shape[1:]), updates)


def _all_pieces(updates: Tree) -> Iterator[Tensor]:
    for leaf in leaves(updates):
        yield from _pieces(leaf)


def _pieces(leaf: Tensor) -> tuple[Tensor, ...]:
    """The leaf [k, ...] as [k, d], cut into some columns at a time."""
    k = len(leaf)
    return torch.split(leaf.reshape(k, math.prod(leaf.shape[1:])), max(NUMBERS // k, 1), dim=1)
