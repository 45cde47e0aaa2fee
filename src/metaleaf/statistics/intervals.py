"""How sure a table's numbers are: bootstrap intervals over seeds and clients together.

A number in a table is a statistic of the test clients' scores, averaged over seeds. Other seeds would have trained
other models, and other test clients could have been drawn. The bootstrap repeats both: it draws seeds and, for all of
them together (they score the same clients), clients, each with replacement (the pigeonhole bootstrap; Owen 2007,
Annals of Applied Statistics 1(2)). With one seed it is over clients alone. With few seeds it is, like every bootstrap,
too narrow where seeds matter most, and so is that of the worst tenth of few clients (docs/protocol.md has figures).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from metaleaf.metrics import Metric, Values
from metaleaf.records.client_scores import ClientScores, Counts
from metaleaf.statistics.statistics import worst_tenth

DRAWS = 2000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A number with its interval; nan where there is none."""

    value: float
    low: float
    high: float


Statistic = Callable[[Metric, Values, Values], Values]
"""From a metric and its two sums, both [..., clients], to [...]."""


def _percentile(percent: float) -> Statistic:
    return lambda metric, total, weight: np.percentile(metric.score(total, weight), percent, axis=-1)


STATISTICS: dict[str, Statistic] = {
    "pooled": lambda metric, total, weight: metric.score(total.sum(-1), weight.sum(-1)),
    "client_mean": lambda metric, total, weight: metric.score(total, weight).mean(-1),
    "bottom10": lambda metric, total, weight: worst_tenth(metric.score(total, weight), metric),
    "p10": _percentile(10),
    "p50": _percentile(50),
    "p90": _percentile(90),
}
"""By the names of `metaleaf.statistics.statistics.summarise`."""


def estimate(scores: ClientScores, metric: str, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> Estimate:
    """A metric's mean over seeds, with its percentile interval.

    metric: ``<side>_<statistic>`` as in `metaleaf.records.records.tidy`, e.g. ``after_pooled``, or ``after_hurt``,
    the share of clients whom adaptation made worse.
    """
    shown = _statistic(scores, metric)
    value = float(shown(np.arange(len(scores.clients))).mean())
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(scores.seeds), [1 / len(scores.seeds)] * len(scores.seeds), size=draws)
    drawn = np.empty(draws)
    chunk = max(1, 2_000_000 // (len(scores.seeds) * len(scores.clients)))  # bounds memory
    for start in range(0, draws, chunk):
        count = min(chunk, draws - start)
        picked = rng.integers(len(scores.clients), size=(count, len(scores.clients)))
        drawn[start : start + count] = (shown(picked) * times[start : start + count].T).sum(0) / len(scores.seeds)
    outside = 100 * (1 - level) / 2
    low, high = np.percentile(drawn, [outside, 100 - outside]) if len(scores.clients) > 1 else (math.nan, math.nan)
    return Estimate(value, float(low), float(high))


def _statistic(scores: ClientScores, metric: str) -> Callable[[Counts], Values]:
    """The metric of chosen clients: from positions [..., clients] to [seeds, ...]."""
    side, _, name = metric.partition("_")
    if name == "hurt":
        fell = scores.metric.better(scores.scores("before"), scores.scores("after"))
        return lambda picked: fell[:, picked].mean(-1)
    total, weight = scores.total(side), scores.weight(side)
    return lambda picked: STATISTICS[name](scores.metric, total[:, picked], weight[:, picked])
