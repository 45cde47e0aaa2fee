"""A suite's cells with what its search chose, and some of them."""

from collections.abc import Sequence
from pathlib import Path

from metaleaf.config.config import RunConfig
from metaleaf.config.suite import Suite
from metaleaf.errors import ConfigError, refuse_unknown
from metaleaf.jobs import tune


def cells_of(suite: Suite, results: Path, algorithms: Sequence[str] = ()) -> list[RunConfig]:
    """The suite's cells, seed by seed so that a table is comparable as early as possible.

    If algorithms are named, the others need not have been searched; those that were not are left out.
    """
    cells = []
    for dataset, algorithm in suite.grid():
        try:
            tuning = tune.chosen(results, suite, dataset, algorithm) if suite.tuning else None
        except ConfigError:
            if not algorithms or algorithm in algorithms:
                raise
            continue
        changes = tuning["chosen"] if tuning else None
        for seed in suite.seeds_for(algorithm):
            cells.append(suite.config(dataset, algorithm, seed, changes=changes, tuning=tuning))
    return sorted(cells, key=lambda config: config.seed)


def select(
    suite: Suite, cells: Sequence[RunConfig], algorithms: Sequence[str], seeds: Sequence[int]
) -> list[RunConfig]:
    """The cells of these algorithms and seeds, or all; ConfigError names one that the suite does not have."""
    refuse_unknown("algorithm of the suite", algorithms, suite.algorithms)
    known = {seed for label in suite.algorithms for seed in suite.seeds_for(label)}
    refuse_unknown("seed of the suite", seeds, known)
    return [
        cell
        for cell in cells
        if (not algorithms or cell.algorithm_label in algorithms) and (not seeds or cell.seed in seeds)
    ]
