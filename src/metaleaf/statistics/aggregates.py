"""One number or curve over several datasets: interquartile mean, performance profiles, ranks.

Interquartile mean and profiles as in Agarwal et al. (2021), arXiv 2108.13264; ranks with Friedman's test and Nemenyi's
critical difference as in Demsar (2006), Journal of Machine Learning Research 7.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from metaleaf.errors import DataError
from metaleaf.metrics import Values
from metaleaf.statistics.intervals import DRAWS, LEVEL, Estimate


def interquartile_mean(values: Values, weights: Values | None = None) -> Values:
    """Mean of the middle half along the last axis; a value at its edge counts by the part that is inside.

    `weights`, of the values' shape or of its last axis, say how much each counts (default: the same).
    """
    order = np.argsort(values, axis=-1)
    weight = np.take_along_axis(np.broadcast_to(1.0 if weights is None else weights, values.shape), order, -1)
    share = weight / weight.sum(-1, keepdims=True)
    end = share.cumsum(-1)
    inside = np.clip(end, 0.25, 0.75) - np.clip(end - share, 0.25, 0.75)
    found: Values = (np.take_along_axis(values, order, -1) * inside).sum(-1) / 0.5
    return found


def overall(scores: Mapping[str, Values], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> Estimate:
    """Interquartile mean over datasets and seeds of one algorithm's mean over clients; every dataset counts once.

    scores: by dataset those of one metric, [seeds, clients]. The bootstrap draws seeds and clients within a dataset, as
    in `metaleaf.statistics.intervals`.
    """
    rng = np.random.default_rng(seed)
    weights = np.concatenate([np.full(len(values), 1 / len(values)) for values in scores.values()])
    drawn = np.concatenate([_drawn(values, draws, rng) for values in scores.values()], axis=1)
    value = interquartile_mean(np.concatenate([values.mean(1) for values in scores.values()]), weights)
    low, high = np.percentile(interquartile_mean(drawn, weights), [50 * (1 - level), 50 * (1 + level)])
    return Estimate(float(value), float(low), float(high))


def _drawn(values: Values, draws: int, rng: np.random.Generator) -> Values:
    """Means over drawn clients under drawn seeds, [draws, seeds], of values [seeds, clients]."""
    seeds, clients = values.shape
    times = rng.multinomial(clients, [1 / clients] * clients, size=draws)  # each client comes up
    means = times @ values.T / clients
    found: Values = np.take_along_axis(means, rng.integers(seeds, size=(draws, seeds)), axis=1)
    return found


def performance_profile(values: Values, thresholds: Values) -> Values:
    """Share of the values above each threshold."""
    found: Values = (values[:, None] > thresholds).mean(0)
    return found


def profile_interval(
    values: Values, thresholds: Values, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> tuple[Values, Values]:
    """Ends of the interval, at each threshold, of the share of the values [seeds, clients] above it.

    The bootstrap draws seeds and clients as `metaleaf.statistics.intervals` does; each threshold has an interval of its
    own.
    """
    rng = np.random.default_rng(seed)
    seeds, clients = (rng.multinomial(count, [1 / count] * count, size=draws) for count in values.shape)
    above = (values[..., None] > thresholds).astype(float)
    drawn = sum(seeds[:, [i]] * (clients @ above[i]) for i in range(len(above))) / values.size
    low, high = np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)], axis=0)
    return low, high


class Ranking(NamedTuple):
    """Mean ranks (1 is best; ties share) of algorithms over blocks, whether they differ, and from where two do.

    `p` of Friedman's test; `critical`: the difference in mean rank that Nemenyi's test calls significant; `groups`:
    algorithms, best first, that lie within it, none within another.
    """

    ranks: dict[str, float]
    p: float
    critical: float
    groups: list[tuple[str, ...]]
    blocks: int


def ranking(names: Sequence[str], scores: Values, alpha: float = 0.05) -> Ranking:
    """Rank algorithms by scores [blocks, algorithms], larger being better; a block is a dataset, or a client.

    Raises DataError for fewer than two algorithms or two blocks.
    """
    blocks, algorithms = scores.shape
    if algorithms < 2 or blocks < 2:
        raise DataError(f"ranks need two algorithms and two datasets or clients, got {algorithms} and {blocks}")
    each = stats.rankdata(-scores.round(12), axis=1)  # a mean of the same numbers in another order is no gain
    ranks = dict(sorted(zip(names, each.mean(0).tolist(), strict=True), key=lambda item: item[1]))
    studentised = float(stats.studentized_range.ppf(1 - alpha, algorithms, np.inf))
    critical = studentised / np.sqrt(2) * np.sqrt(algorithms * (algorithms + 1) / (6 * blocks))
    return Ranking(ranks, _friedman(each), float(critical), _groups(ranks, float(critical)), blocks)


def _friedman(each: Values) -> float:
    """p value of Friedman's test on ranks [blocks, algorithms], corrected for ties; also for two algorithms."""
    blocks, algorithms = each.shape
    spread = float(((each - (algorithms + 1) / 2) ** 2).sum()) / (algorithms - 1)
    if spread == 0:  # all tie
        return 1.0
    statistic = float(((each.sum(0) - blocks * (algorithms + 1) / 2) ** 2).sum()) / spread
    return float(stats.chi2.sf(statistic, algorithms - 1))


def _groups(ranks: Mapping[str, float], critical: float) -> list[tuple[str, ...]]:
    names = list(ranks)
    groups: list[tuple[str, ...]] = []
    for i, first in enumerate(names):
        group = tuple(name for name in names[i:] if ranks[name] - ranks[first] < critical)
        if len(group) > 1 and not (groups and group[-1] in groups[-1]):
            groups.append(group)
    return groups
