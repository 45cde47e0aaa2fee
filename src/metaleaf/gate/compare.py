"""Compare new runs with a baseline, at a declared rate of false alarms.

The mean of k new seeds is compared with that of the baseline's n seeds by a two-sided prediction interval: it lies
within t(n - 1) * sd * sqrt(1 / k + 1 / n) of the baseline's mean with the probability that t stands for, if nothing
has changed and seeds are normally distributed. sd is the baseline's alone, not pooled with that of the new seeds: a
mistake that makes runs erratic would otherwise widen the very tolerance that it is judged by; and so the tolerance is
known, and can be reviewed, before anything runs. The rate of false alarms is for a whole run of the gate; it is shared
equally among all measures of all suites (Bonferroni), which holds however they depend on one another.

Counts (query examples, bytes, parameters) do not depend on the seed and have to be equal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from metaleaf.gate import measures
from metaleaf.gate.baseline import Baseline, Cell
from metaleaf.gate.measures import Found, better

Verdict = Literal["ok", "regression", "suspicious improvement", "count changed", "not measured"]

ROUNDING = 1e-5
"""Least tolerance, relative: what another machine's float32 may do to a measure that hardly varies with the seed."""


@dataclass(frozen=True)
class Comparison:
    """One measure or count of one cell (``<suite>/<dataset>/<algorithm>``), or why a cell has none.

    tolerance: 0 for counts. noise: standard error of `found` by the baseline's sd.
    """

    cell: str
    measure: str
    verdict: Verdict
    baseline: float = 0
    found: float = 0
    tolerance: float = 0
    noise: float = 0
    reason: str = ""

    @property
    def alarm(self) -> bool:
        """Whether something moved that should not have."""
        return self.verdict not in ("ok", "not measured")

    def sentence(self) -> str:
        """What moved, by how much, against what tolerance."""
        where = f"{self.cell} {self.measure}".strip()
        if self.reason:
            return f"{where}: {self.verdict}: {self.reason}"
        old, new = measures.text(self.measure, self.baseline), measures.text(self.measure, self.found)
        if self.verdict == "count changed":
            return f"{where}: count changed: {new}, was {old}"
        within = measures.text(self.measure, self.tolerance)
        hint = "; a leak? if it is meant, run --update" if self.verdict == "suspicious improvement" else ""
        return f"{where}: {self.verdict}: {new}, was {old}, tolerance {within}{hint}"


def tolerance(sd: float, n: int, k: int, false_alarm: float) -> float:
    """How far the mean of k new seeds may be from that of the baseline's n, whose sample standard deviation is sd."""
    quantile = float(stats.t.isf(false_alarm / 2, n - 1))
    return float(quantile * sd * (1 / k + 1 / n) ** 0.5)


def spread(measure: str, cell: Cell) -> float:
    """The sd of a measure over seeds: the baseline's, but for an accuracy no less than that of independent draws.

    There are as many of these as query examples, or for a mean over clients as clients. An accuracy that is the same in
    nearly all of the baseline's seeds, because it can only move by whole examples, says little about the next seed.
    """
    name, _, support = measure.partition("@")
    unit = "clients" if name.endswith("client_mean") else "points"
    found, draws = cell.measures[measure], cell.counts.get(f"{unit}@{support}", 0)
    if not name.endswith(measures.ACCURACIES) or not draws:
        return found.sd
    return max(found.sd, math.sqrt(found.mean * (1 - found.mean) / draws))


def number_of_measures(baselines: Sequence[Baseline]) -> int:
    """Measures that share the rate of false alarms: all of the baselines, whatever of them can be run here."""
    return sum(len(cell.measures) for baseline in baselines for cell in baseline.cells.values())


def compare(name: str, cell: Cell | None, runs: Sequence[Found], false_alarm: float) -> list[Comparison]:
    """All comparisons of one cell; `false_alarm` is what is left for each measure."""
    if cell is None:
        return [_unmeasured(name, "the baseline lacks it: run `metaleaf gate --update` and have the change reviewed")]
    if not runs:
        return [_unmeasured(name, "not all of its runs have finished")]
    for run in runs:
        if changed := [what for what, digest in cell.hashes.items() if run.hashes.get(what) != digest]:
            what = " and ".join(changed)
            reason = f"the {what} changed since the baseline was made: run `metaleaf gate --update`, have it reviewed"
            return [_unmeasured(name, reason)]
        if run.diverged:
            return [Comparison(name, "", "regression", reason=f"seed {run.seed} diverged: {run.diverged}")]
    return [*_counts(name, cell, runs), *_measures(name, cell, runs, false_alarm)]


def _unmeasured(name: str, reason: str) -> Comparison:
    return Comparison(name, "", "not measured", reason=reason)


def _counts(name: str, cell: Cell, runs: Sequence[Found]) -> list[Comparison]:
    found = []
    for count, expected in cell.counts.items():
        other = [run.counts.get(count, 0) for run in runs if run.counts.get(count) != expected]
        verdict: Verdict = "count changed" if other else "ok"
        found.append(Comparison(name, count, verdict, expected, other[0] if other else expected))
    return found


def _measures(name: str, cell: Cell, runs: Sequence[Found], false_alarm: float) -> list[Comparison]:
    compared = []
    for measure, old in cell.measures.items():
        values = [run.measures[measure] for run in runs]
        new = sum(values) / len(values)
        sd = spread(measure, cell)
        allowed = max(tolerance(sd, old.n, len(runs), false_alarm), ROUNDING * abs(old.mean))
        noise = sd / len(runs) ** 0.5
        compared.append(
            Comparison(name, measure, _verdict(measure, new - old.mean, allowed), old.mean, new, allowed, noise)
        )
    return compared


def _verdict(measure: str, change: float, allowed: float) -> Verdict:
    if abs(change) <= allowed:
        return "ok"
    return "suspicious improvement" if change == change and better(measure, change) else "regression"
