import numpy as np
import pytest

from metaleaf.config.config import resolve
from metaleaf.datasets.synthetic import Synthetic, Task
from metaleaf.datasets.synthetic_environments import LIMITS, SyntheticEnvironments
from metaleaf.errors import ConfigError


@pytest.fixture(scope="module")
def drawn() -> list[Task]:
    return list(SyntheticEnvironments(tasks=1500, clusters=50, size_sd=0).draw())


def test_models_of_all_environments_span_latent_dimensions(drawn: list[Task]) -> None:
    means = [
        np.mean([task.weights.ravel() for task in drawn if task.cluster == cluster], axis=0) for cluster in range(50)
    ]
    values = np.linalg.svd(np.stack(means), compute_uv=False)
    assert values[6] < 1e-10 * values[5], "W = Q u: the clients' noise is in u"
    assert values[5] > 0.05 * values[0]


def test_one_model_serves_an_environment_but_not_another(drawn: list[Task]) -> None:
    centres = [np.mean([task.weights for task in drawn if task.cluster == cluster], axis=0) for cluster in range(50)]

    def accuracy(shift: int) -> float:
        models = [centres[(task.cluster + shift) % 50] for task in drawn]
        right = [((task.x @ w[1:] + w[0]).argmax(axis=1) == task.y) for task, w in zip(drawn, models, strict=True)]
        return float(np.concatenate(right).mean())

    assert accuracy(0) > 0.9
    assert accuracy(1) < 0.5


def naive(
    sizes: list[int], classes: int, dimension: int, clusters: int, latent: int, seed: int
) -> list[tuple[int, list[list[float]], list[int]]]:
    """The formulas number by number, drawn one by one; slow, and shares no code with the module."""
    rng = np.random.RandomState(seed)
    gauss = rng.standard_normal
    q = [[[gauss() for _ in range(latent)] for _ in range(classes)] for _ in range(dimension + 1)]
    centres = []
    for _ in range(clusters):
        b = gauss()
        centres.append([b + gauss() for _ in range(latent)])
    clients = []
    for n in sizes:
        cluster = min(int(rng.random_sample() * clusters), clusters - 1)
        b = gauss()
        mean = [b + gauss() for _ in range(dimension)]
        x = [[gauss() for _ in range(dimension)] for _ in range(n)]
        x = [[m + z * (j + 1) ** -0.6 for j, (m, z) in enumerate(zip(mean, row, strict=True))] for row in x]
        u = [m + 0.1 * gauss() for m in centres[cluster]]
        y = []
        for row in x:
            logits = [0.0] * classes
            for k in range(classes):
                for i, value in enumerate([1.0, *row]):
                    logits[k] += value * sum(a * c for a, c in zip(q[i][k], u, strict=True))
                logits[k] += 0.1 * gauss()
            y.append(logits.index(max(logits)))
        clients.append((cluster, x, y))
    return clients


@pytest.mark.parametrize(("classes", "dimension", "clusters", "latent"), [(2, 3, 9, 1), (5, 4, 2, 3), (3, 7, 4, 2)])
def test_every_number_is_that_of_the_formulas(classes: int, dimension: int, clusters: int, latent: int) -> None:
    data = SyntheticEnvironments(30, classes, dimension, clusters, 7, latent, size_mean=2.0, size_sd=1.0)
    rng = np.random.RandomState(7)
    sizes = [min(int(np.exp(2 + rng.standard_normal())) + 5, 1000) for _ in range(30)]
    assert data.sizes().tolist() == sizes
    theirs = naive(sizes, classes, dimension, clusters, latent, seed=7)
    for i, (client, (cluster, x, y)) in enumerate(zip(data.clients(), theirs, strict=True)):
        assert (client.id, client.environment) == (str(i), f"cluster-{cluster}")
        np.testing.assert_allclose(client.x, x, rtol=1e-5, atol=1e-6)
        assert client.y.tolist() == y


def test_with_as_many_dimensions_as_clusters_it_is_leafs() -> None:
    ours = SyntheticEnvironments(tasks=40, clusters=3, latent=3).clients()
    for one, other in zip(ours, Synthetic(tasks=40, clusters=3).clients(), strict=True):
        assert one[:2] == other[:2]
        assert np.array_equal(one.x, other.x)
        assert np.array_equal(one.y, other.y)


def test_sizes_are_leafs_unless_changed() -> None:
    assert np.array_equal(SyntheticEnvironments(tasks=1000).sizes(), Synthetic().sizes())
    assert set(SyntheticEnvironments(size_mean=0.0, size_sd=0.0).sizes()) == {6}
    largest = SyntheticEnvironments(size_mean=7.0, size_sd=3.0).sizes()
    assert (largest.min() >= 5, largest.max()) == (True, 1000)


def test_every_cluster_is_an_environment_with_clients() -> None:
    data = SyntheticEnvironments(dimension=2, size_mean=0.0, size_sd=0.0)
    counts: dict[str, int] = {}
    for client in data.clients():
        counts[client.environment] = counts.get(client.environment, 0) + 1
    assert counts.keys() == {f"cluster-{k}" for k in range(100)}
    assert sum(counts.values()) == 3000
    assert min(counts.values()) >= 10


def test_leafs_own_options_are_untouched() -> None:
    # They are hashed into the records of results/synthetic and into the names of prepared folders.
    expected = {"tasks": 1000, "classes": 5, "dimension": 60, "clusters": 2, "seed": 931231}
    assert resolve("datasets", "synthetic", {}) == expected


def test_spec_fits_the_options() -> None:
    data = SyntheticEnvironments(tasks=1000, classes=3, dimension=4)
    assert (data.spec.x_shape, data.spec.classes, data.spec.published) == ((4,), 3, None)
    assert SyntheticEnvironments().spec == SyntheticEnvironments.spec


@pytest.mark.parametrize("option", LIMITS)
def test_an_option_out_of_range_is_named(option: str) -> None:
    low, high = LIMITS[option]
    for value in (low - 1, high + 1):
        message = f"synthetic_environments: {option} is {value}, not from {low} to {high}"
        with pytest.raises(ConfigError, match=message):
            SyntheticEnvironments(**{option: value})
