"""Every summary against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from metaleaf.errors import DataError
from metaleaf.statistics.statistics import over_seeds, summarise


def test_four_clients_by_hand() -> None:
    clients = pd.DataFrame(
        {
            "n": [10, 4, 2, 4],
            "correct": [5, 4, 0, 3],  # accuracies 0.5, 1, 0, 0.75
            "loss": [1.0, 0.0, 3.0, 0.5],
        }
    )
    before = np.array([0.6, 1.0, 0.0, 0.25])  # the first client is hurt, the last is helped
    summary = summarise(clients, before=before)
    assert summary["clients"] == 4
    assert summary["points"] == 20
    assert summary["pooled"] == pytest.approx(12 / 20)
    assert summary["client_mean"] == pytest.approx(2.25 / 4)
    # deviations from 0.5625: -.0625, .4375, -.5625, .1875; their squares sum to .546875
    assert summary["client_sd"] == pytest.approx(math.sqrt(0.546875 / 4))
    assert summary["p10"] == pytest.approx(0.15)  # rank 0.3 of 0..3: 0 + 0.3 * 0.5
    assert summary["p50"] == pytest.approx(0.625)
    assert summary["p90"] == pytest.approx(0.925)  # 0.75 + 0.7 * 0.25
    assert summary["bottom10"] == 0.0
    assert summary["loss"] == pytest.approx((10 * 1.0 + 2 * 3.0 + 4 * 0.5) / 20)
    assert summary["hurt"] == 0.25


def test_bottom_tenth_of_twenty_five_clients_is_two() -> None:
    clients = pd.DataFrame({"n": [100] * 25, "correct": range(50, 75), "loss": [0.0] * 25})
    assert summarise(clients)["bottom10"] == pytest.approx(0.505)


def test_clients_without_query_examples_are_left_out() -> None:
    clients = pd.DataFrame({"n": [0, 2], "correct": [0, 1], "loss": [math.nan, 0.7]})
    summary = summarise(clients, before=np.array([math.nan, 0.0]))
    assert (summary["clients"], summary["points"]) == (1, 2)
    assert summary["client_mean"] == 0.5
    assert summary["loss"] == pytest.approx(0.7)
    assert summary["hurt"] == 0.0


def test_hurt_only_with_scores_before() -> None:
    assert "hurt" not in summarise(pd.DataFrame({"n": [1], "correct": [1], "loss": [0.0]}))


def test_nobody_to_score_is_an_error() -> None:
    with pytest.raises(DataError, match="query"):
        summarise(pd.DataFrame({"n": [0], "correct": [0], "loss": [0.0]}))


def test_over_seeds() -> None:
    assert over_seeds([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, math.sqrt(7 / 3)))
    mean, sd = over_seeds([0.5])
    assert mean == 0.5
    assert math.isnan(sd)
    assert all(math.isnan(value) for value in over_seeds([]))
