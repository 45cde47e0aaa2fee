"""How long one round takes in each engine: ``pytest benchmarks``.

The ratio within a group is the result; the times themselves belong to the machine.
"""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from metaleaf import models, registry
from metaleaf.engine import Mode, engine
from metaleaf.shots import Episode, Shots
from metaleaf.task import Task

SPECS = {
    "logistic": ({"classes": 5, "x_shape": (60,), "x_dtype": "uint8"}, 100),
    "cnn": ({"classes": 62, "x_shape": (28, 28), "x_dtype": "uint8"}, 4),
}
"""Model: its spec, and clients a round."""


def _shots(n: int, spec: dict[str, object], seed: int) -> Shots:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 255, (n, *spec["x_shape"]), dtype=torch.uint8, generator=generator)  # type: ignore[misc]
    return Shots(x, torch.randint(0, 5, (n,), generator=generator), torch.tensor(seed))


def _episode(seed: int, spec: dict[str, object]) -> Episode:
    n = 20 + 13 * seed % 30
    support, query = _shots(n // 5, spec, seed), _shots(n - n // 5, spec, seed + 1000)
    return Episode(support, query, _shots(n, spec, seed), torch.tensor(0.0))


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        ("logistic", "sequential"),
        ("logistic", "vectorised"),
        ("cnn", "sequential"),
        ("cnn", "lowrank"),
        ("cnn", "vectorised"),
    ],
)
@pytest.mark.parametrize("algorithm", ["fedavg", "maml"])
def test_round(benchmark: BenchmarkFixture, model: str, algorithm: str, mode: Mode) -> None:
    benchmark.group = f"{model} {algorithm}"
    spec, clients = SPECS[model]
    task = Task(models.build(model, spec, seed=0))
    plugin = registry.plugin("algorithms", algorithm)()
    broadcast = plugin.init(task, task.params()).broadcast
    episodes = [_episode(seed, spec) for seed in range(clients)]
    runner = engine(task, plugin, mode)
    weights = [1 / clients] * clients
    benchmark.pedantic(runner.gather, (broadcast, episodes, weights), rounds=3, warmup_rounds=1)  # type: ignore[no-untyped-call]
