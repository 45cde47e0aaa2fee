"""The networks that write starts: nothing untrained, no order, no padding; formulas of the small ones by hand."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.algorithms.learned_start import writers
from metaleaf.algorithms.learned_start.writers import (
    Basis,
    Coordinate,
    Dense,
    Reader,
    SetNetwork,
    Writer,
    mlp,
    perceive,
)

LAYERS = (6, 1, 8)
TOTAL = 15
READERS: tuple[Reader, ...] = get_args(Reader)
WRITERS: dict[str, Writer] = {
    **{f"basis-{reader}": Basis(LAYERS, 3, 6, 5, reader) for reader in READERS},
    **{f"dense-{reader}": Dense(LAYERS, 8, reader) for reader in READERS},
    "coordinate": Coordinate(LAYERS, 5),
}
every = pytest.mark.parametrize("name", WRITERS)
SHARES = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def initial(writer: Any) -> Any:
    found = writer.init(torch.Generator().manual_seed(1))
    return trees.tree_map(lambda leaf: leaf.double(), found)


def shaken(writer: Any) -> Any:
    rng = torch.Generator().manual_seed(2)
    return trees.tree_map(
        lambda leaf: leaf + 0.5 * torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype), initial(writer)
    )


@every
def test_untrained_they_write_exactly_nothing(name: str) -> None:
    writer = WRITERS[name]
    found = writer.change(initial(writer), numbers(TOTAL), numbers(3, TOTAL, seed=1), SHARES)
    assert found.shape == (TOTAL,)
    assert not found.any()


@every
def test_training_can_begin(name: str) -> None:
    """Some weight feels the output, although it is zero."""
    writer = WRITERS[name]

    def output(weights: Any) -> Tensor:
        found = writer.change(weights, numbers(TOTAL), numbers(3, TOTAL, seed=1), SHARES)
        return (found * numbers(TOTAL, seed=2)).sum()

    assert trees.length(torch.func.grad(output)(initial(writer))) > 0.01


@every
def test_trained_they_write_something_that_depends_on_the_updates(name: str) -> None:
    writer = WRITERS[name]
    weights = shaken(writer)
    a, b = (writer.change(weights, numbers(TOTAL), numbers(3, TOTAL, seed=s), SHARES) for s in (1, 5))
    assert (a - b).norm() > 0.01


@every
def test_the_order_of_participants_does_not_matter(name: str) -> None:
    writer, order = WRITERS[name], torch.tensor([2, 0, 1])
    weights, updates = shaken(writer), numbers(3, TOTAL, seed=1)
    found = writer.change(weights, numbers(TOTAL), updates, SHARES)
    assert_close(writer.change(weights, numbers(TOTAL), updates[order], SHARES[order]), found, rtol=1e-12, atol=1e-12)
    other = writer.change(weights, numbers(TOTAL), updates, SHARES[order])
    assert (other - found).norm() > 1e-3, "their weights do"


@every
def test_participants_who_only_pad_do_not_matter(name: str) -> None:
    writer = WRITERS[name]
    weights, updates = shaken(writer), numbers(3, TOTAL, seed=1)
    found = writer.change(weights, numbers(TOTAL), updates, SHARES)
    more = torch.cat([updates, 9 * numbers(2, TOTAL, seed=4)])
    padded = writer.change(weights, numbers(TOTAL), more, torch.cat([SHARES, torch.zeros(2).double()]))
    assert_close(padded, found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reader", ["mean", "linear"])
@pytest.mark.parametrize("kind", ["basis", "dense"])
def test_readers_of_the_mean_see_only_the_mean(kind: str, reader: str) -> None:
    writer, whole = WRITERS[f"{kind}-{reader}"], WRITERS[f"{kind}-set"]
    updates = numbers(3, TOTAL, seed=1)
    mean = (SHARES @ updates).expand(3, -1)
    params = numbers(TOTAL)
    found = writer.change(shaken(writer), params, updates, SHARES)
    assert_close(writer.change(shaken(writer), params, mean, SHARES), found, rtol=1e-11, atol=1e-12)
    by_set = [whole.change(shaken(whole), params, u, SHARES) for u in (updates, mean)]
    assert (by_set[0] - by_set[1]).norm() > 1e-3, "the set's reader sees more"


@pytest.mark.parametrize("kind", ["basis", "dense"])
def test_the_linear_reader_is_linear(kind: str) -> None:
    writer = WRITERS[f"{kind}-linear"]
    weights, params = shaken(writer), numbers(TOTAL)
    a, b = numbers(3, TOTAL, seed=1), numbers(3, TOTAL, seed=2)
    nothing, of_a, of_b, of_both = (writer.change(weights, params, u, SHARES) for u in (0 * a, a, b, 2 * a - 3 * b))
    assert_close(of_both - nothing, 2 * (of_a - nothing) - 3 * (of_b - nothing), rtol=1e-10, atol=1e-12)
    other = WRITERS[f"{kind}-mean"]
    curved = [other.change(shaken(other), params, u, SHARES) for u in (0 * a, a, 2 * a)]
    assert (curved[2] - 2 * curved[1] + curved[0]).norm() > 1e-3


def test_a_linear_basis_by_hand() -> None:
    writer = Basis(LAYERS, 3, 6, 5, "linear")
    weights, updates = shaken(writer), numbers(3, TOTAL, seed=1)
    s, c, m, d = (
        x.numpy() for x in (weights["sketch"], weights["centre"], weights["network"]["linear"], weights["directions"])
    )
    mean = SHARES.numpy() @ updates.numpy()
    expected = (m @ (s @ mean - c)) @ d
    np.testing.assert_allclose(writer.change(weights, numbers(TOTAL), updates, SHARES).numpy(), expected, rtol=1e-11)


def dense_layers(layers: Any, x: np.ndarray) -> np.ndarray:
    for i, layer in enumerate(layers):
        x = x @ layer["weight"].numpy().T + layer["bias"].numpy()
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def test_reading_a_set_by_hand() -> None:
    network = SetNetwork(4, 2, 5, "set")
    weights, sketches = shaken(network), numbers(3, 4, seed=1)
    x, w = sketches.numpy(), SHARES.numpy()
    each = np.maximum(dense_layers(weights["each"], x), 0)
    pooled = np.concatenate([each.mean(0), w @ each, w @ x])
    expected = weights["linear"].numpy() @ (w @ x) + dense_layers(weights["after"], pooled)
    np.testing.assert_allclose(network.read(weights, sketches, SHARES).numpy(), expected, rtol=1e-11)


def test_coordinates_by_hand() -> None:
    writer = Coordinate(LAYERS, 5)
    weights, params, updates = shaken(writer), numbers(TOTAL), numbers(3, TOTAL, seed=1)
    u, w, p = updates.numpy(), SHARES.numpy()[:, None], params.numpy()
    mean = (w * u).sum(0)
    features = []
    start = 0
    for i, n in enumerate(LAYERS):
        rows = slice(start, start + n)
        start += n
        size, weight = (np.sqrt((v[rows] ** 2).mean()) for v in (mean, p))
        block = [
            mean[rows],
            np.sqrt((w * (u[:, rows] - mean[rows]) ** 2).sum(0)),
            (w * np.sign(u[:, rows])).sum(0),
            mean[rows] / size,
            np.full(n, np.log(size)),
            p[rows] / weight,
            *np.tile(weights["layers"][i].numpy(), (n, 1)).T,
        ]
        features.append(np.stack(block, axis=1))
    found = dense_layers(weights["network"], np.concatenate(features))
    np.testing.assert_allclose(
        writer.change(weights, params, updates, SHARES).numpy(), found[:, 0] * mean + found[:, 1], rtol=1e-9
    )


@every
def test_gradients_are_finite_where_updates_vanish(name: str) -> None:
    """Participants may all agree, or not move at all."""
    writer = WRITERS[name]
    weights = shaken(writer)
    for updates in (torch.zeros(3, TOTAL).double(), numbers(TOTAL, seed=1).expand(3, -1)):

        def output(updates: Tensor, weights: Any) -> Tensor:
            return writer.change(weights, numbers(TOTAL), updates, SHARES).square().sum()

        for found in torch.func.grad(output, argnums=(0, 1))(updates.clone(), weights):
            assert all(bool(leaf.isfinite().all()) for leaf in trees.leaves(found))


def test_he_normal_weights() -> None:
    first, second = mlp([200, 300, 100], torch.Generator().manual_seed(0))
    for layer, inputs in ((first, 200), (second, 300)):
        assert float(layer["weight"].std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.02)
        assert not layer["bias"].any()
    zero = mlp([4, 5, 3], torch.Generator().manual_seed(0), zero_end=True)
    assert not perceive(zero, torch.randn(2, 4)).any()


def test_coordinates_in_pieces_are_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Coordinate(LAYERS, 5)
    weights, params, updates = shaken(writer), numbers(TOTAL, seed=3), numbers(3, TOTAL, seed=4)
    expected = writer.change(weights, params, updates, SHARES)
    monkeypatch.setattr(writers, "ROWS", 4)
    assert_close(writer.change(weights, params, updates, SHARES), expected, rtol=1e-12, atol=1e-14)
