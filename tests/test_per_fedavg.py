"""Per-FedAvg against softmax regression's gradients and Hessians in numpy."""

import numpy as np
import pytest
from small_tasks import reference_order
from softmax_by_hand import (
    ALL,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    adapted,
    array,
    as_shots,
    assert_models,
    assert_rounds,
    both,
    descended,
    episodes,
    gradient,
    hessian_product,
    mean,
    tensors,
    tiny,
)

from metaleaf import trees
from metaleaf.algorithms.per_fedavg import PerFedAvg, _batch
from metaleaf.engine.engine import Mode

ALPHA, BETA, SIZE = 0.8, 0.5, 2


def batch(data: Data, seed: int, stream: int) -> Data:
    """Rows of the documented order, which starts over where it ends."""
    order = reference_order(seed, stream, len(data[1]))
    rows = [order[i % len(order)] for i in range(SIZE)]
    return data[0][rows], data[1][rows]


def local(theta: Array, data: Data, seed: int, steps: int, delta: float | None) -> Array:
    """delta: of the finite differences; 0 for the exact Hessian product, None for first order."""
    for t in range(steps):
        first, second, third = (batch(data, seed, 3 * t + i) for i in range(3))
        g = gradient(theta - ALPHA * gradient(theta, first), second)
        if delta is None:
            product = np.zeros_like(g)
        elif delta == 0:
            product = hessian_product(theta, third, g)
        else:
            product = (gradient(theta + delta * g, third) - gradient(theta - delta * g, third)) / (2 * delta)
        theta = theta - BETA * (g - ALPHA * product)
    return theta


def one_round(theta: Array, steps: int, delta: float | None) -> Array:
    return mean([local(theta, d, seed, steps, delta) for d, seed in zip(ALL, SEEDS, strict=True)])


def algorithm(steps: int, delta: float | None) -> PerFedAvg:
    variant = "fo" if delta is None else "hf"
    return PerFedAvg(variant, ALPHA, BETA, steps, SIZE, delta or 1e-3)  # type: ignore[arg-type]


@both
@pytest.mark.parametrize("delta", [None, 0.3], ids=["fo", "hf"])
def test_two_rounds_by_hand(delta: float | None, mode: Mode) -> None:
    first = one_round(THETA, 3, delta)
    assert_rounds(algorithm(3, delta), mode, [first, one_round(first, 3, delta)])


def test_hf_is_the_exact_hessian_product_up_to_delta_squared() -> None:
    exact, first_order = one_round(THETA, 1, 0), one_round(THETA, 1, None)
    assert np.abs(exact - first_order).max() > 0.01

    def error(delta: float) -> float:
        sent = [algorithm(1, delta).client(tiny(), tensors(THETA), one) for one in episodes()]
        return float(np.abs(THETA - mean([array(update) for update in sent]) - exact).max())

    assert error(1e-3) < 1e-7
    assert error(0.2) / error(0.1) == pytest.approx(4, rel=0.1)


def test_batches_are_of_real_rows_and_of_one_size() -> None:
    """Padding changes no batch, and no batch depends on the client's size but in its rows."""
    shots = as_shots(ALL[0], 5)
    padded = as_shots((np.vstack([ALL[0][0], np.full((4, 2), 9.0)]), np.append(ALL[0][1], [0] * 4)), 5)
    padded = padded._replace(mask=padded.x[:, 0] != 9)
    for stream in range(4):
        one, other = _batch(shots, 7, stream), _batch(padded, 7, stream)
        assert one.x.tolist() == other.x.tolist()
        assert other.mask is not None
        assert other.mask.all()
        assert len(one.y) == 7
        assert sorted(np.unique(one.x.numpy()[:, 0], return_counts=True)[1].tolist()) == [2, 2, 3]


def test_a_new_client_takes_inner_steps_on_its_whole_support_set() -> None:
    for client in (0, 1):
        expected = descended(THETA, SUPPORTS[client], ALPHA, 2)
        assert_models(adapted(PerFedAvg(inner_lr=ALPHA), tensors(THETA), client), expected[:2])
        assert_models(adapted(PerFedAvg(inner_lr=ALPHA, adapt_steps=2), tensors(THETA), client), expected)


def test_a_model_travels_both_ways() -> None:
    state = PerFedAvg().init(tiny(), tensors(THETA))
    update = PerFedAvg().client(tiny(), state.broadcast, episodes()[0])
    assert trees.nbytes(state.broadcast) == trees.nbytes(update) == 9 * 8
