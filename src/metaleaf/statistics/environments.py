"""How sure a mean over test environments is: every environment of every seed counts once."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from metaleaf.errors import DataError

DRAWS = 10_000
"""Of the bootstrap."""

Values = npt.NDArray[np.float64]


def mean_and_two_errors(values: Values) -> tuple[float, float]:
    """Mean and two standard errors, for a 95 % interval; the latter is nan for fewer than two values."""
    if not len(values):
        return math.nan, math.nan
    errors = 2 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), errors


def bootstrap_means(seeds: Sequence[Values], draws: int = DRAWS, seed: int = 0) -> Values:
    """Means of the hierarchical bootstrap, [draws, k]: seeds are drawn, then environments within each of them.

    seeds: of every seed its environments' values, [environments, k]; the k columns are drawn together. A seed's
    environments are drawn by how often each comes up, which has a multinomial distribution.
    """
    rng = np.random.default_rng(seed)
    times = rng.multinomial(draws * [len(seeds)], [1 / len(seeds)] * len(seeds))
    total, count = np.zeros((draws, seeds[0].shape[1])), np.zeros((draws, 1))
    for values, picked in zip(seeds, times.T, strict=True):
        environments = len(values)
        weights = rng.multinomial(picked * environments, [1 / environments] * environments)
        total += weights @ values
        count += picked[:, None] * environments
    return total / count


def differences(method: pd.DataFrame, baseline: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    """`method` minus `baseline`, both indexed by seed and environment, in the columns that both have.

    Raises DataError if a pair of seed and environment is missing in one of them; `names` are theirs.
    """
    for name, one, other in zip(names, (method, baseline), (baseline, method), strict=True):
        for seed, environment in other.index.difference(one.index):
            raise DataError(f"{name} lacks environment {environment} of seed {seed} and cannot be paired; run it again")
    columns = [column for column in method if column in baseline]
    return method[columns] - baseline.loc[method.index, columns]


def paired(difference: pd.DataFrame, draws: int = DRAWS, *, higher_is_better: bool = True) -> pd.DataFrame:
    """What `differences` amount to: a row per column of them.

    Columns: `pairs`, `difference` (mean), `low` and `high` (95 % interval of the hierarchical bootstrap), `errors` (two
    standard errors over pairs of seed and environment), `gains` (pairs in which the method is better).
    """
    seeds = [part.to_numpy(dtype=float) for _, part in difference.groupby(level="seed")]
    low, high = np.percentile(bootstrap_means(seeds, draws), [2.5, 97.5], axis=0)
    means, errors = zip(*(mean_and_two_errors(difference[c].to_numpy(dtype=float)) for c in difference), strict=True)
    # a mean of the same numbers in another order is no gain
    gains = ((difference if higher_is_better else -difference) > 1e-12).sum().to_numpy()
    columns = {"pairs": len(difference), "difference": means, "low": low, "high": high, "errors": errors}
    return pd.DataFrame({**columns, "gains": gains}, index=difference.columns)
