"""What one round computes: models, algorithms, and cohorts of generated clients that are in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from metaleaf import models
from metaleaf.algorithm import Algorithm
from metaleaf.bench import textbook
from metaleaf.config import config
from metaleaf.engine.cost import ClientFlops
from metaleaf.engine.scoring import score
from metaleaf.shots import Episode, Shots
from metaleaf.task import Task
from metaleaf.trees import Tree

SPECS: Mapping[str, Mapping[str, Any]] = {
    "cnn": {"classes": 62, "x_shape": (28, 28), "x_dtype": "uint8"},
    "small_cnn": {"classes": 62, "x_shape": (28, 28), "x_dtype": "uint8"},
    "lstm": {"classes": 80, "x_shape": (80,), "x_dtype": "uint8"},
    "logistic": {"classes": 5, "x_shape": (60,), "x_dtype": "float32"},
}
"""Examples of LEAF's FEMNIST, Shakespeare and Synthetic."""


_SGD = {"name": "sgd", "lr": 0.01}
_ADAM = {"name": "adam", "lr": 0.0005}
"""On clients, as Chen et al. (2018) train FedAvg."""


@dataclass(frozen=True)
class Goal:
    """Times the speed of `against` that are wanted, and which share of the hardware's limit: (least, hoped for)."""

    against: str
    ratio: tuple[float, float]
    share: tuple[float, float] | None = None


@dataclass(frozen=True)
class Workload:
    """A round of `algorithm` with `clients` clients, or, if `scores`, adapting and scoring them.

    Client sizes are log-normal with mean `mean` and shape `sigma`; a fifth of a client's examples is its support.
    """

    name: str
    algorithm: str
    model: str
    clients: int
    mean: int = 200
    sigma: float = 0.5
    options: Mapping[str, Any] = field(default_factory=dict)
    goals: tuple[Goal, ...] = ()
    scores: bool = False
    shape: Mapping[str, Any] = field(default_factory=dict)
    """What is different from the model's entry in SPECS."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The examples' shape and classes."""
        return {**SPECS[self.model], **self.shape}

    @property
    def is_fedavg(self) -> bool:
        """Whether it is FedAvg as first written, with SGD on clients."""
        return self.algorithm == "fedavg" and self.options.get("client_optimizer", _SGD)["name"] == "sgd"

    def build_algorithm(self) -> Algorithm:
        """The plugin."""
        found: Algorithm = config.build("algorithms", self.algorithm, self.options)
        return found

    def build_model(self) -> models.Model:
        """The model, the same every time."""
        return models.build(self.model, self.spec, seed=0)

    def build_textbook(self) -> nn.Module:
        """The same model as a plain module, with the same parameters."""
        model = textbook.MODELS[self.model](self.spec)
        model.load_state_dict(self.build_model().state_dict())
        return model

    def sizes(self) -> np.ndarray:
        """Examples of each client, int64 [clients]."""
        mu = np.log(self.mean) - self.sigma**2 / 2
        drawn = np.random.default_rng(7).lognormal(mu, self.sigma, self.clients)
        return np.clip(drawn, 10, 20 * self.mean).astype(np.int64)

    def cohort(self) -> list[Episode]:
        """The clients."""
        return [self._episode(i, int(n)) for i, n in enumerate(self.sizes())]

    def _episode(self, client: int, n: int) -> Episode:
        rng, shape = np.random.default_rng([11, client]), (n, *self.spec["x_shape"])
        x: np.ndarray
        if self.spec["x_dtype"] == "uint8":
            x = rng.integers(0, self.spec["classes"] if self.model == "lstm" else 256, shape, dtype=np.uint8)
        else:
            x = rng.standard_normal(shape, dtype=np.float32)
        y = torch.from_numpy(rng.integers(0, self.spec["classes"], n))
        data = Shots(torch.from_numpy(x), y, torch.tensor(client))
        rows, cut = torch.arange(n), max(1, n // 5)
        return Episode(data.take(rows[:cut]), data.take(rows[cut:]), data, torch.tensor(0.0), torch.tensor(client))

    def weights(self) -> list[float]:
        """Weights of the clients' updates, by size."""
        sizes = self.sizes()
        return [float(size / sizes.sum()) for size in sizes]

    def flops(self, cohort: Sequence[Episode]) -> int:
        """FLOPs of the clients' work in a round: forward and backward, and what scores them."""
        task, algorithm = Task(self.build_model()), self.build_algorithm()
        broadcast = algorithm.init(task, task.params()).broadcast
        counted: Any = _Scoring(algorithm) if self.scores else algorithm
        count = ClientFlops(task, counted, broadcast, self.spec)
        return sum(count(episode) for episode in cohort)


class _Scoring:
    """An algorithm's adapting and scoring as if it were its local training."""

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm = algorithm

    def client(self, task: Task, broadcast: Tree, episode: Episode) -> Tree:
        """The client's scores."""
        return score(task, self.algorithm, broadcast, (episode.support, episode.query), every_step=False)


def _fedavg(
    name: str,
    model: str,
    clients: int,
    goals: tuple[Goal, ...],
    batch: int = 10,
    optimizer: Mapping[str, Any] = _SGD,
    **rest: Any,
) -> Workload:
    options = {"client_optimizer": optimizer, "batch_size": batch}
    return Workload(f"fedavg-{name}", "fedavg", model, clients, options=options, goals=goals, **rest)


def _meta(name: str, algorithm: str, model: str, clients: int, goal: Goal, steps: int = 1, **rest: Any) -> Workload:
    options = {"inner_lr": 0.001, "inner_steps": steps, "server_optimizer": {"name": "adam", "lr": 0.0001}}
    return Workload(name, algorithm, model, clients, options=options, goals=(goal,), **rest)


def _evaluation(model: str, clients: int, goal: Goal, **rest: Any) -> Workload:
    return Workload(f"evaluate-{model}", "fedavg_meta", model, clients, goals=(goal,), scores=True, **rest)


def _ditto(name: str, model: str, clients: int, goal: Goal) -> Workload:
    options = {"client_optimizer": _SGD, "batch_size": 10}
    return Workload(name, "ditto", model, clients, options=options, goals=(goal,))


_CNN, _LOOP = Goal("pfl", (2.2, 3), (0.5, 0.75)), Goal("loop", (2, 4))
_LITE = Goal("loop", (4, 8))
_READ = Goal("loop", (1, 1.5))
"""Of rules that read every entry of every matrix: nothing of a client's work is spared."""
_VARIANT, _SMALL = Goal("pfl", (2, 3)), (Goal("loop", (40, 100)), Goal("pfl", (40, 100)))

CPU = (
    _fedavg("cnn-10", "cnn", 10, (_CNN,)),
    _fedavg("cnn-50", "cnn", 50, (_CNN,)),
    _fedavg("cnn-batch-20", "cnn", 10, (_VARIANT,), batch=20),
    _fedavg("cnn-sigma-1", "cnn", 10, (_VARIANT,), sigma=1.0),
    _fedavg("cnn-adam-4", "cnn", 4, (_READ,), optimizer=_ADAM),
    _fedavg("cnn-adam-10", "cnn", 10, (_READ,), optimizer=_ADAM),
    _meta("maml-cnn-4", "maml", "cnn", 4, _LOOP),
    _meta("maml-cnn-8", "maml", "cnn", 8, _LOOP),
    _meta("maml-cnn-4-5-steps", "maml", "cnn", 4, _LOOP, steps=5),
    _meta("maml-cnn-8-5-steps", "maml", "cnn", 8, _LOOP, steps=5),
    _meta("fomaml-cnn", "fomaml", "cnn", 8, _LOOP),
    _meta("meta-sgd-cnn", "meta_sgd", "cnn", 8, _LOOP),
    Workload("reptile-cnn", "reptile", "cnn", 8, goals=(_LOOP,)),
    _fedavg("small-cnn", "small_cnn", 10, (_LITE,)),
    _meta("maml-small-cnn", "maml", "small_cnn", 10, _LITE),
    _meta("maml-small-cnn-5-steps", "maml", "small_cnn", 10, _LITE, steps=5),
    _ditto("ditto-small-cnn", "small_cnn", 10, _LITE),
    _fedavg("lstm", "lstm", 10, (Goal("pfl", (1.2, 1.6)),), mean=60),
    _meta("maml-lstm", "maml", "lstm", 4, Goal("loop", (3, 8)), mean=60),
    _fedavg("logistic", "logistic", 100, _SMALL, mean=110),
    _evaluation("cnn", 20, _LOOP),
    _evaluation("logistic", 100, Goal("loop", (40, 100)), mean=110),
)

_META = "maml-cnn", "maml-small"

CUDA = (
    _fedavg("cnn-100", "cnn", 100, (Goal("loop", (20, 20)),)),
    *(replace(work, goals=(Goal("loop", (10, 10)),)) for work in CPU if work.name.endswith("lstm")),
    *(replace(work, goals=(Goal("loop", (10, 10)),)) for work in CPU if work.name.startswith(_META)),
    *(
        replace(work, goals=())
        for work in CPU
        if work.model != "lstm" and not work.name.startswith(("fedavg-cnn", "maml"))
    ),
)


def quick(work: Workload) -> Workload:
    """The same kind of work in a second: with two small clients (if the model is small, with all of them)."""
    return replace(work, clients=work.clients if work.model == "logistic" else 2, mean=20)
