"""Survival: Cox's partial likelihood and the C-index beside their definitions, one example after the other."""

import math
from typing import Any

import numpy as np
import pytest
import task_cases
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from metaleaf import tasks
from metaleaf.engine.padding import pad
from metaleaf.errors import ConfigError
from metaleaf.shots import Shots
from metaleaf.tasks.survival import Survival

KIND = Survival()


def drawn(n: int, seed: int, whole: bool = False) -> tuple[Tensor, Tensor]:
    """Risks [n, 1] and y [n, 2]; whole: times are few whole numbers, 0 among those without event, so that many tie."""
    rng = np.random.default_rng(seed)
    event = (rng.random(n) < 0.6).astype(float)
    times = rng.integers(0, 5, n) + event * 1.0 if whole else rng.uniform(0.1, 9, n)
    risks = rng.integers(0, 4, n).astype(float) if whole else rng.normal(size=n)
    return torch.from_numpy(risks).unsqueeze(-1), torch.from_numpy(np.stack([times, event], 1))


def by_definition(outputs: Tensor, y: Tensor) -> list[float]:
    """Each example's term of the partial likelihood."""
    risk, rows = outputs[:, 0].tolist(), y.tolist()
    terms = []
    for own, (time, event) in zip(risk, rows, strict=True):
        among = sum(math.exp(other) for other, (later, _) in zip(risk, rows, strict=True) if later >= time)
        terms.append(-math.log(math.exp(own) / among) if event else 0.0)
    return terms


def c_index(outputs: Tensor, y: Tensor, real: Tensor | None = None) -> float:
    real = torch.ones(len(y), dtype=torch.bool) if real is None else real
    concordant, comparable = KIND.summed(outputs, y, real).tolist()
    return float(KIND.measured[0].score(concordant, comparable))


def test_the_loss_by_hand() -> None:
    """Of three patients the first dies at 1, the second leaves at 2, the third dies at 3."""
    outputs = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    y = torch.tensor([[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    assert KIND.losses(outputs, y).tolist() == pytest.approx([math.log(1 + math.e + math.e**2), 0.0, 0.0])


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_losses_are_those_of_the_definition(seed: int, whole: bool) -> None:
    outputs, y = drawn(20, seed, whole)
    assert KIND.losses(outputs, y).tolist() == pytest.approx(by_definition(outputs, y))


def test_where_no_times_are_equal_the_mean_is_that_of_a_running_sum() -> None:
    """As FLamby computes it: by falling time, events less the log of the sum so far, over all examples."""
    outputs, y = drawn(30, 7)
    falling = y[:, 0].argsort(descending=True)
    risk, event = outputs[falling, 0], y[falling, 1]
    assert_close(KIND.losses(outputs, y).mean(), -((risk - risk.exp().cumsum(0).log()) * event).mean())


def test_the_loss_is_of_order_alone() -> None:
    """Neither a number added to all risks nor other units of time change it, and rows may stand in any order."""
    outputs, y = drawn(15, 1, whole=True)
    losses = KIND.losses(outputs, y)
    assert_close(KIND.losses(outputs + 300, y), losses)
    assert_close(KIND.losses(outputs, torch.stack([y[:, 0] ** 2 * 365, y[:, 1]], 1)), losses)
    order = torch.from_numpy(np.random.default_rng(0).permutation(15))
    assert_close(KIND.losses(outputs[order], y[order]), losses[order])


def test_an_event_alone_in_its_batch_teaches_nothing() -> None:
    outputs = torch.tensor([[3.0]], requires_grad=True)
    loss = KIND.losses(outputs, torch.tensor([[5.0, 1.0]])).sum()
    assert loss.item() == 0.0
    assert torch.autograd.grad(loss, outputs)[0].item() == 0.0


@given(st.integers(1, 12), st.integers(0, 6), st.integers(0, 1000), st.booleans())
@settings(max_examples=60, deadline=None)
def test_rows_that_pad_a_client_change_nothing(n: int, more: int, seed: int, whole: bool) -> None:
    """Nor where somebody was observed for no time, as padding seems to be."""
    outputs, y = drawn(n, seed, whole)
    rows = pad(Shots(outputs, y, torch.tensor(0)), n + more)
    assert rows.mask is not None
    filled = torch.where(rows.mask.unsqueeze(-1), rows.x, 50.0)
    alone, padded = KIND.losses(outputs, y), KIND.losses(filled, rows.y, padded=True)
    assert_close(padded[:n], alone)
    assert_close(KIND.summed(filled, rows.y, rows.mask), KIND.summed(outputs, y, torch.ones(n, dtype=torch.bool)))


@pytest.mark.parametrize("whole", [False, True])
def test_first_and_second_derivatives(whole: bool) -> None:
    outputs, y = drawn(6, 3, whole)
    rows = pad(Shots(outputs, y, torch.tensor(0)), 8)
    start = rows.x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda risk: KIND.losses(risk, rows.y, padded=True), start)
    assert torch.autograd.gradgradcheck(lambda risk: KIND.losses(risk, rows.y, padded=True), start)


def test_side_by_side_as_alone() -> None:
    several = [drawn(7, seed, whole=True) for seed in range(3)]
    outputs, y = (torch.stack(parts) for parts in zip(*several, strict=True))
    together = torch.func.vmap(lambda risk, rows: KIND.losses(risk, rows, padded=True))(outputs, y)
    assert_close(together, torch.stack([KIND.losses(*one) for one in several]))


class TestCIndex:
    """Pairs in order among those that can be compared."""

    def test_by_hand(self) -> None:
        """Deaths at 1 and 4, leavers at 2 and 4: 1-2, 1-4, 1-4' and 4-4' can be compared."""
        y = torch.tensor([[1.0, 1.0], [2.0, 0.0], [4.0, 1.0], [4.0, 0.0]])
        assert c_index(torch.tensor([[3.0], [3.0], [1.0], [2.0]]), y) == (0.5 + 1 + 1 + 0) / 4

    @pytest.mark.parametrize("seed", range(5))
    def test_as_counted_pair_by_pair(self, seed: int) -> None:
        outputs, y = drawn(25, seed, whole=True)
        risk, total, weight = outputs[:, 0].tolist(), 0.0, 0
        for i, (time, event) in enumerate(y.tolist()):
            for j, (later, other) in enumerate(y.tolist()):
                if event and (time < later or (time == later and not other)):
                    weight += 1
                    total += 1 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0
        assert c_index(outputs, y) == pytest.approx(total / weight)

    def test_the_other_way_round_is_the_rest(self) -> None:
        outputs, y = drawn(25, 2, whole=True)
        assert c_index(outputs, y) + c_index(-outputs, y) == pytest.approx(1.0)

    def test_the_constant_answer_has_a_half(self) -> None:
        support, query = task_cases.shots("survival", 5, 1), task_cases.shots("survival", 9, 2)
        assert c_index(KIND.constant(support, query), query.y) == 0.5

    def test_a_model_that_has_become_nan_orders_nothing(self) -> None:
        outputs, y = drawn(8, 4)
        assert c_index(torch.full_like(outputs, math.nan), y) == 0.0
        partly = outputs.clone()
        partly[0] = math.inf
        assert c_index(partly, y) < 1.0

    def test_who_was_only_observed_gives_no_pair(self) -> None:
        outputs, y = drawn(8, 4)
        y[:, 1] = 0
        assert math.isnan(c_index(outputs, y))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"y_shape": []}, r"needs time and event, shape \[2\]; the data have y of numbers, shape \[\]"),
        ({"y_shape": [3]}, r"needs time and event, shape \[2\]"),
        ({"classes": 2, "y_dtype": ""}, r"needs time and event, shape \[2\]; the data have y of 2 classes"),
        ({"standardise": "xy"}, "needs times and events as they are: standardise x alone"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"task 'survival' {sentence}"):
        tasks.of({**task_cases.spec("survival"), **changes})
