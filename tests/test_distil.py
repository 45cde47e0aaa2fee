"""Principal directions, against numpy's singular value decomposition, and fitting where the truth is known."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.algorithms.learned_start.distil import fit_coefficients, principal
from metaleaf.algorithms.learned_start.writers import SetNetwork


def data(n: int, total: int, rank: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(n, rank)) @ np.diag(np.arange(rank, 0, -1.0)) @ rng.normal(size=(rank, total)))


@pytest.mark.parametrize(("n", "total"), [(20, 50), (30, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_of_rank_k_is_reproduced(n: int, total: int, dtype: torch.dtype) -> None:
    rows = data(n, total, 4).to(dtype)
    directions, coefficients, unit = principal(rows, 4)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    assert directions.dtype == coefficients.dtype == unit.dtype == dtype
    assert_close(coefficients @ directions, rows, rtol=0, atol=tolerance * float(rows.abs().max()))
    assert_close(coefficients.square().mean(0), torch.ones(4, dtype=dtype), rtol=tolerance, atol=0)
    assert_close(unit @ unit.T, torch.eye(4, dtype=dtype), rtol=0, atol=10 * tolerance)
    assert_close(torch.nn.functional.normalize(directions), unit, rtol=0, atol=10 * tolerance)


def test_is_the_best_approximation() -> None:
    rows = data(25, 40, 9)
    directions, coefficients, _ = principal(rows, 3)
    u, s, v = np.linalg.svd(rows.numpy(), full_matrices=False)
    best = u[:, :3] * s[:3] @ v[:3]
    np.testing.assert_allclose((coefficients @ directions).numpy(), best, atol=1e-9 * np.abs(best).max())
    np.testing.assert_allclose(directions.norm(dim=1).numpy(), s[:3] / 5, rtol=1e-9)


def test_directions_beyond_the_rank_stay_small() -> None:
    rows = data(12, 30, 2)
    directions, coefficients, unit = principal(rows, 6)
    assert all(bool(found.isfinite().all()) for found in (directions, coefficients, unit))
    assert directions[2:].norm() < 1e-5 * directions[0].norm()
    assert_close(coefficients @ directions, rows, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ fitting


def fitted(network: SetNetwork, steps: int = 400, n: int = 150, seed: int = 5, noise: float = 0.0) -> Any:
    """A truth that is linear in the mean sketch of any cohort: all members of an environment are alike, but padding."""
    rng = torch.Generator().manual_seed(0)
    truth = torch.randn(network.outputs, network.inputs, generator=rng)
    centre = torch.randn(n, 1, network.inputs, generator=rng)
    sketches = centre + noise * torch.randn(n, 12, network.inputs, generator=rng)
    shares = torch.rand(n, 12, generator=rng) + 0.1
    shares[::2, 4:] = 0
    sketches[shares == 0] = 100.0  # padding is never read
    shares = shares / shares.sum(1, keepdim=True)
    targets = centre[:, 0] @ truth.T
    weights = network.init(torch.Generator().manual_seed(1))
    found = fit_coefficients(
        network, weights, sketches, shares, targets, importance=torch.tensor([3.0, 1.0]), steps=steps, seed=seed
    )
    fresh = torch.randn(50, 1, network.inputs, generator=rng)
    reads = torch.stack([network.read(found, one.expand(5, -1), torch.full((5,), 0.2)) for one in fresh])
    return found, truth, (reads - fresh[:, 0] @ truth.T).square().mean() / (fresh[:, 0] @ truth.T).square().mean()


def test_a_linear_truth_is_recovered() -> None:
    found, truth, error = fitted(SetNetwork(4, 2, 8, "linear"), steps=3000)
    assert error < 1e-3
    assert_close(found["linear"], truth, rtol=0, atol=0.1)


@pytest.mark.parametrize("reader", ["set", "mean"])
def test_perceptrons_find_it_too(reader: Any) -> None:
    _, _, error = fitted(SetNetwork(4, 2, 16, reader), steps=1500)
    assert error < 0.02
    assert fitted(SetNetwork(4, 2, 16, reader), steps=0)[2] == pytest.approx(1)


def test_no_steps_change_nothing() -> None:
    network = SetNetwork(4, 2, 8, "set")
    found, _, _ = fitted(network, steps=0)
    assert_close(found, network.init(torch.Generator().manual_seed(1)), rtol=0, atol=0)


def test_the_same_seed_gives_the_same_bits() -> None:
    network = SetNetwork(4, 2, 8, "set")
    a, b, c = (fitted(network, steps=20, seed=s, noise=0.5)[0] for s in (5, 5, 6))
    assert_close(a, b, rtol=0, atol=0)
    assert trees.length(trees.subtract(a, c)) > 0
    assert not any(leaf.requires_grad for leaf in trees.leaves(a))


def test_important_outputs_are_fitted_first() -> None:
    """The error is weighted: an output of no importance stays as it was."""
    network = SetNetwork(3, 2, 8, "linear")
    rng = torch.Generator().manual_seed(0)
    sketches = torch.randn(40, 5, 3, generator=rng)
    weights = network.init(rng)
    found = fit_coefficients(
        network,
        weights,
        sketches,
        torch.full((40, 5), 0.2),
        torch.randn(40, 2, generator=rng),
        importance=torch.tensor([1.0, 0.0]),
        steps=30,
        seed=1,
    )
    assert found["linear"][0].norm() > 0.01
    assert not found["linear"][1].any()
