"""Two algorithms on the same clients under the same seeds: how much better is one, and could that be chance?

The differences in the metric, [seeds, clients], vary by seed, by client, and by what is left; seeds and clients are
both a sample. Their mean has the variance of the two-way layout with random effects and one value a cell (Scheffe 1959,
The Analysis of Variance, chapter 7),

    var = (MS_seeds + MS_clients - MS_rest) / (seeds * clients),

with Satterthwaite's degrees of freedom. With one seed that is the paired t test over clients, which then says nothing
of other seeds.
"""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from metaleaf.errors import DataError
from metaleaf.metrics import Values
from metaleaf.records.client_scores import ClientScores
from metaleaf.statistics.intervals import LEVEL, Estimate


@dataclass(frozen=True)
class Comparison:
    """How `name` does beside `other`. All are over clients, each counting once.

    `difference` in the mean of the metric, whichever direction is better; `improvement`: the probability that a client
    is better off, ties counting half (0.5: neither); `p` of the two-sided test of no difference; `seeds` that both
    have.
    """

    name: str
    other: str
    difference: Estimate
    improvement: float
    p: float
    seeds: int


def compare(one: ClientScores, other: ClientScores, side: str = "after", level: float = LEVEL) -> Comparison:
    """Compare `one` with `other`, before or after adaptation, under the seeds that both have.

    Raises DataError if they have no seed in common or scored different clients.
    """
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    if not seeds:
        raise DataError(f"{one.name} and {other.name} have no seed in common and cannot be paired; run one of them")
    one, other = one.of(seeds), other.of(seeds)
    if one.metric != other.metric:
        raise DataError(f"{one.name} and {other.name} have other metrics and cannot be paired")
    if one.clients != other.clients or not np.array_equal(one.n, other.n):
        raise DataError(f"{one.name} and {other.name} were scored on different clients; run the older one again")
    difference = one.scores(side) - other.scores(side)
    mean, half, p = mean_of_two_samples(difference, level)
    better = one.metric.better(difference, 0.0).mean() + (difference == 0).mean() / 2
    return Comparison(
        one.name, other.name, Estimate(mean, mean - half, mean + half), float(better), p, seeds=len(seeds)
    )


def mean_of_two_samples(values: Values, level: float = LEVEL) -> tuple[float, float, float]:
    """Mean of values [seeds, clients], half its interval's width, and the p value of a mean of zero."""
    mean = float(values.mean())
    variance, freedom = _variance(values)
    if math.isnan(variance):
        return mean, math.nan, math.nan
    if variance == 0:
        return mean, 0.0, 1.0 if mean == 0 else 0.0
    error = math.sqrt(variance)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return mean, half, float(2 * stats.t.sf(abs(mean) / error, freedom))


def _variance(values: Values) -> tuple[float, float]:
    """Variance of the mean, and its degrees of freedom; nan for fewer than two clients."""
    seeds, clients = values.shape
    if clients < 2:
        return math.nan, math.nan
    by_client = seeds * float(values.mean(0).var(ddof=1))
    if seeds == 1:
        return by_client / clients, clients - 1
    by_seed = clients * float(values.mean(1).var(ddof=1))
    left = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    rest = float((left**2).sum()) / ((seeds - 1) * (clients - 1))
    # A negative estimate of a variance component is no reason to be surer than without it.
    if by_seed <= rest:
        return by_client / (seeds * clients), clients - 1
    if by_client <= rest:
        return by_seed / (seeds * clients), seeds - 1
    total = by_seed + by_client - rest
    spread = by_seed**2 / (seeds - 1) + by_client**2 / (clients - 1) + rest**2 / ((seeds - 1) * (clients - 1))
    return total / (seeds * clients), total**2 / spread


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in their order; nan stays (Holm 1979, Scandinavian J. of Statistics 6)."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[i] = largest
    return corrected


def all_pairs(scores: Sequence[ClientScores], side: str = "after") -> list[tuple[Comparison, float]]:
    """Every two algorithms that share a seed, once, the earlier first; with p Holm-corrected for all these pairs."""
    found = [compare(one, other, side) for one, other in combinations(scores, 2) if set(one.seeds) & set(other.seeds)]
    return list(zip(found, holm([pair.p for pair in found]), strict=True))


def against_best(
    scores: Sequence[ClientScores], side: str = "after", alpha: float = 0.05, competes: Container[str] | None = None
) -> set[str]:
    """The algorithm with the best mean over clients, and all that the Holm-corrected test cannot tell from it.

    `competes` has the names that may be among them (default: all). The correction is for all pairs of `scores`: which
    one is best is seen in the same data, so correcting for the pairs with it alone would find too many differences.
    """
    names = {each.name for each in scores if competes is None or each.name in competes}
    if not names:
        return set()
    sign = 1 if scores[0].metric.higher_is_better else -1
    competing = (each for each in scores if each.name in names)
    best = max(competing, key=lambda each: sign * float(each.scores(side).mean()))
    pairs = [({pair.name, pair.other}, p) for pair, p in all_pairs(scores, side)]
    # One that shares no seed with the best cannot be compared, and so is no tie.
    tied = [pair for pair, p in pairs if best.name in pair and not p < alpha]
    return names & {best.name}.union(*tied)
