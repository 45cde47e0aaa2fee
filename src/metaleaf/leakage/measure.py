"""How near what an attacker found is to what is true: images, features, tokens."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def squared_errors(found: Array, true: Array) -> Array:
    """The mean squared error of each pair of examples found [n, *shape] and true [m, *shape], [n, m]."""
    rows, columns = (each.reshape(len(each), -1) for each in (found, true))
    return np.stack([np.square(rows - column).mean(1) for column in columns], 1)


def matched(errors: Array) -> Array:
    """Which of those found stands for each true one, int [m]: each for one, so that the errors [m, m] sum to the least.

    An update does not say in which order a client's examples were.
    """
    from scipy.optimize import linear_sum_assignment  # only here: it takes long to import

    found: Array = linear_sum_assignment(errors.T)[1]
    return found


def psnr(errors: Array) -> Array:
    """Peak signal-to-noise ratios, in dB, of images whose pixels are between 0 and 1, from mean squared errors.

    -10 log10 of the error: 20 where the root mean squared error is a tenth of the range; infinite where it is 0.
    """
    with np.errstate(divide="ignore"):
        found: Array = -10 * np.log10(errors)
    return found


class Recovered(NamedTuple):
    """Of a set of tokens: the share of them that is true, the share of the true ones that is there, and F1.

    All are 0 of no tokens.
    """

    precision: float
    recall: float
    f1: float


def recovered(found: Collection[int], true: Collection[int]) -> Recovered:
    """How well a set of tokens is another."""
    both = len(set(found) & set(true))
    return Recovered(both / max(len(found), 1), both / max(len(true), 1), 2 * both / max(len(found) + len(true), 1))
