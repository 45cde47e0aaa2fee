"""Steps in a history of gate runs: optimal segmentation into levels (PELT).

Killick, Fearnhead, Eckley (2012), Journal of the American Statistical Association 107(500), arXiv 1101.1438. The cost
of a segment is the sum of squared distances from its mean, each in standard errors (which the history has from the
baselines), and every step costs a penalty: the chi-square quantile (one degree of freedom) that one given place of one
series exceeds, without any step, with the declared rate of false alarms divided by all places of all series.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from metaleaf.gate.history import Entry


class Step(NamedTuple):
    """A measure's level changed; `at` is the first entry of the history on the new level."""

    name: str
    at: int
    before: float
    after: float


def steps(entries: Sequence[Entry], false_alarm: float) -> list[Step]:
    """All steps of all measures, oldest first."""
    series = _series(entries)
    places = sum(max(len(points) - 1, 0) for points in series.values())
    found = []
    for name, points in series.items():
        numbers, values, errors = (np.array(column) for column in zip(*points, strict=True))
        cuts = segment(values, errors, penalty(places, false_alarm))
        levels = [_mean(values[a:b], errors[a:b]) for a, b in zip([0, *cuts], [*cuts, len(values)], strict=True)]
        changes = zip(cuts, levels[:-1], levels[1:], strict=True)
        found += [Step(name, int(numbers[cut]), old, new) for cut, old, new in changes]
    return sorted(found, key=lambda step: (step.at, step.name))


def _series(entries: Sequence[Entry]) -> Mapping[str, list[tuple[int, float, float]]]:
    """(position in the history, mean, standard error) of each measure wherever it was measured."""
    series: dict[str, list[tuple[int, float, float]]] = {}
    for number, entry in enumerate(entries):
        for name, value in entry.values.items():
            if value.error > 0:
                series.setdefault(name, []).append((number, value.mean, value.error))
    return series


def penalty(places: int, false_alarm: float) -> float:
    """What a step has to explain to be one."""
    return float(stats.chi2.isf(false_alarm / max(places, 1), 1))


def segment(values: np.ndarray, errors: np.ndarray, penalty: float) -> list[int]:
    """Positions at which a new level starts, float64 [n] values with standard errors [n]."""
    weights, centred = 1 / errors**2, values - values.mean()  # centred: squares of large numbers would lose digits
    w, wx, wxx = (np.concatenate([[0.0], np.cumsum(weights * centred**power)]) for power in range(3))

    def cost(start: int, end: int) -> float:
        return float(wxx[end] - wxx[start] - (wx[end] - wx[start]) ** 2 / (w[end] - w[start]))

    best, last, candidates = [-penalty], [0], [0]
    for end in range(1, len(values) + 1):
        costs = [best[start] + cost(start, end) for start in candidates]
        chosen = int(np.argmin(costs))
        best.append(costs[chosen] + penalty)
        last.append(candidates[chosen])
        candidates = [start for start, c in zip(candidates, costs, strict=True) if c <= best[end]] + [end]
    cuts, end = [], last[-1]
    while end > 0:
        cuts.append(end)
        end = last[end]
    return cuts[::-1]


def _mean(values: np.ndarray, errors: np.ndarray) -> float:
    return float(np.average(values, weights=1 / errors**2))
