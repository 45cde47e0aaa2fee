import numpy as np
import pytest

from metaleaf.config.config import resolve
from metaleaf.datasets.synthetic import Synthetic, Task
from metaleaf.datasets.synthetic_environments import LIMITS, SyntheticEnvironments
from metaleaf.datasets.synthetic_shared import SyntheticShared
from metaleaf.errors import ConfigError


@pytest.fixture(scope="module")
def drawn() -> list[Task]:
    return list(SyntheticShared().draw())


def accuracy(model: np.ndarray, task: Task) -> float:
    return float(np.mean((task.x @ model[1:] + model[0]).argmax(axis=1) == task.y))


def test_it_differs_from_the_generator_with_environments_in_the_means_of_inputs_only() -> None:
    options = (30, 4, 6, 3, 11, 2, 2.0, 1.0)
    for ours, theirs in zip(SyntheticShared(*options).draw(), SyntheticEnvironments(*options).draw(), strict=True):
        assert ours.cluster == theirs.cluster
        assert np.array_equal(ours.weights, theirs.weights)
        means = theirs.x - ours.x
        np.testing.assert_allclose(means, np.broadcast_to(means[0], means.shape), atol=1e-12)
        assert np.abs(means).max() > 0.1


def test_labels_are_those_of_the_clients_models(drawn: list[Task]) -> None:
    assert np.mean([accuracy(task.weights, task) for task in drawn]) > 0.95, "but for the noise in LEAF's formula"


def test_no_single_answer_and_no_single_model_will_do(drawn: list[Task]) -> None:
    majority = [np.bincount(task.y).max() / len(task.y) for task in drawn]
    assert np.mean(majority) < 0.5
    leafs = [np.bincount(task.y).max() / len(task.y) for task in Synthetic().draw()]
    assert np.mean(leafs) > 0.85, "the reason for this dataset"
    mean = np.mean([task.weights for task in drawn], axis=0)
    assert np.mean([accuracy(mean, task) for task in drawn]) < 0.55


def test_clients_are_of_a_size_for_few_shots() -> None:
    sizes = SyntheticShared().sizes()
    assert (len(sizes), int(np.percentile(sizes, 5)) > 20, sizes.max() < 400) == (600, True, True)
    assert 60 < sizes.mean() < 75


def test_leafs_data_is_untouched_by_the_new_option() -> None:
    # Of the first client, as they were before `shift`; the records of results/synthetic name the hash of them all.
    first = next(Synthetic(tasks=1, dimension=3).clients())
    assert first.y[:3].tolist() == [4, 4, 4]
    np.testing.assert_array_equal(
        first.x[0], np.array([-1.0792863368988037, -0.7890273332595825, 1.583897352218628], np.float32)
    )


def test_options_are_those_of_the_generator_with_environments() -> None:
    assert (
        resolve("datasets", "synthetic_shared", {}).keys() == resolve("datasets", "synthetic_environments", {}).keys()
    )


@pytest.mark.parametrize("option", LIMITS)
def test_an_option_out_of_range_is_named(option: str) -> None:
    with pytest.raises(ConfigError, match=f"synthetic_shared: {option} is "):
        SyntheticShared(**{option: LIMITS[option][1] + 1})
