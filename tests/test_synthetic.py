import numpy as np
import pytest

from metaleaf.datasets.synthetic import LIMITS, Synthetic, Task
from metaleaf.errors import ConfigError


@pytest.fixture(scope="module", params=[1, 2], ids=["one cluster", "two clusters"])
def drawn(request: pytest.FixtureRequest) -> list[Task]:
    return list(Synthetic(clusters=request.param).draw())


def accuracy(tasks: list[Task], weights: list[np.ndarray]) -> float:
    """Share of all examples that each client's given model gets right."""
    right = sum(
        int((np.argmax(task.x @ w[1:] + w[0], axis=1) == task.y).sum()) for task, w in zip(tasks, weights, strict=True)
    )
    return right / sum(len(task.y) for task in tasks)


def test_sizes_are_those_that_leaf_publishes() -> None:
    sizes = Synthetic(clusters=1).sizes()
    published = Synthetic.spec.published
    assert published is not None
    assert (len(sizes), sizes.sum()) == (published.clients, published.samples)
    assert (round(sizes.mean(), 2), round(sizes.std(), 2)) == (published.mean, published.sd)
    assert (sizes.min(), sizes.max()) == (5, 1000)
    assert np.array_equal(Synthetic(clusters=3, dimension=2).sizes(), sizes)


def test_one_model_serves_all_clients_of_one_cluster_but_not_of_two(drawn: list[Task]) -> None:
    average = np.mean([task.weights for task in drawn], axis=0)
    shared = accuracy(drawn, [average] * len(drawn))
    own = accuracy(drawn, [task.weights for task in drawn])
    assert own > 0.99  # the noise on the logits moves few labels
    clusters = len({task.cluster for task in drawn})
    assert shared == pytest.approx({1: 0.995, 2: 0.551}[clusters], abs=5e-4)


def test_inputs_and_models_have_the_stated_distributions(drawn: list[Task]) -> None:
    # Within a client x is N(v, diag(j^-1.2)): pool the deviations from each client's own mean.
    degrees = sum(len(task.y) - 1 for task in drawn)
    pooled = sum(((task.x - task.x.mean(axis=0)) ** 2).sum(axis=0) for task in drawn) / degrees
    np.testing.assert_allclose(pooled, np.arange(1, 61) ** -1.2, rtol=0.05)
    for cluster in {task.cluster for task in drawn}:
        flat = np.stack([task.weights.ravel() for task in drawn if task.cluster == cluster])
        assert np.linalg.matrix_rank(flat) == len({task.cluster for task in drawn})  # W = Q u: u has s entries


def naive(
    tasks: int, classes: int, dimension: int, clusters: int, seed: int
) -> list[tuple[int, list[list[float]], list[int]]]:
    """The module's formulas number by number, drawn one by one; slow, and shares no code with it."""
    rng = np.random.RandomState(seed)
    sizes = [min(int(np.exp(3 + 2 * rng.standard_normal())) + 5, 1000) for _ in range(tasks)]
    rng = np.random.RandomState(seed)
    gauss = rng.standard_normal
    q = [[[gauss() for _ in range(clusters)] for _ in range(classes)] for _ in range(dimension + 1)]
    centres = []
    for _ in range(clusters):
        b = gauss()
        centres.append([b + gauss() for _ in range(clusters)])
    clients = []
    for n in sizes:
        cluster = min(int(rng.random_sample() * clusters), clusters - 1)
        b = gauss()
        mean = [b + gauss() for _ in range(dimension)]
        # Standard normals in x's shape; the variances fall with j, so the eigenvectors are in order.
        x = [[gauss() for _ in range(dimension)] for _ in range(n)]
        x = [[m + z * (j + 1) ** -0.6 for j, (m, z) in enumerate(zip(mean, row, strict=True))] for row in x]
        u = [m + 0.1 * gauss() for m in centres[cluster]]
        w = [
            [sum(a * c for a, c in zip(q[i][k], u, strict=True)) for k in range(classes)] for i in range(dimension + 1)
        ]
        y = []
        for row in x:
            logits = [
                sum(w[i][k] * value for i, value in enumerate([1.0, *row])) + 0.1 * gauss() for k in range(classes)
            ]
            y.append(logits.index(max(logits)))
        clients.append((cluster, x, y))
    return clients


@pytest.mark.parametrize(("classes", "dimension", "clusters"), [(2, 3, 1), (5, 4, 2), (3, 7, 4)])
def test_every_number_is_that_of_the_formulas(classes: int, dimension: int, clusters: int) -> None:
    ours = list(Synthetic(30, classes, dimension, clusters, seed=7).clients())
    theirs = naive(30, classes, dimension, clusters, seed=7)
    assert len(ours) == len(theirs)
    for i, (client, (cluster, x, y)) in enumerate(zip(ours, theirs, strict=True)):
        assert (client.id, client.environment) == (str(i), f"cluster-{cluster}")
        np.testing.assert_allclose(client.x, x, rtol=1e-5, atol=1e-6)
        assert client.y.tolist() == y


def test_clients_fit_the_spec_of_their_options() -> None:
    data = Synthetic(tasks=6, classes=3, dimension=4)
    for client in data.clients():
        assert (client.x.shape[1:], str(client.x.dtype)) == (data.spec.x_shape, data.spec.x_dtype)
        assert client.y.dtype == np.uint8
        assert client.y.max() < data.spec.classes
    assert (data.spec.x_shape, data.spec.classes, data.spec.published) == ((4,), 3, None)
    assert Synthetic().spec == Synthetic.spec


def test_same_seed_same_data_and_other_seed_other_data() -> None:
    first, again, other = (next(Synthetic(tasks=3, seed=seed).clients()) for seed in (1, 1, 2))
    assert np.array_equal(first.x, again.x)
    assert not np.array_equal(first.x[:5], other.x[:5])


@pytest.mark.parametrize("option", LIMITS)
def test_an_option_out_of_range_is_named(option: str) -> None:
    low, high = LIMITS[option]
    for value in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=f"{option} is {value}, not from {low} to {high}"):
            Synthetic(**{option: value})
