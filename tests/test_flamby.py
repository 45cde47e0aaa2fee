"""FLamby's published numbers, by its protocol, with our data, losses, metrics and optimizers.

FLamby (Ogier du Terrail et al. 2022) trains on all centres in every round: 100 updates by SGD at each, going on in the
centre's order of batches where the round before stopped; the mean is weighted by the centres' sizes. Its numbers are
means and standard deviations over seeds 42 to 46 of the mean over the centres' test parts, from the files in its
repository (flamby/results). Starts are as there (torch's own, by the seed), batches are drawn otherwise, so that single
seeds differ by little.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn import model_selection

from metaleaf import models, tasks
from metaleaf.datasets import tcga_brca
from metaleaf.datasets.heart_disease import HOSPITALS, HeartDisease
from metaleaf.datasets.tcga_brca import TcgaBrca
from metaleaf.gradient import grad
from metaleaf.learning import fit
from metaleaf.optimizers import SGD, Adam, Adaptive, Optimizer
from metaleaf.raw import RawFiles
from metaleaf.shots import Shots, minibatches
from metaleaf.task import Params, Task
from metaleaf.trees import add, stack, subtract, weighted_sum

SEEDS = range(42, 47)
YOGI = Adaptive(lr=0.01, rule="yogi", beta2=0.999, tau=1e-8)
ADAM = Adaptive(lr=0.1, rule="adam", beta2=0.999, tau=1e-8)


class Centre(NamedTuple):
    """What a centre trains on, and what it is scored on."""

    train: Shots
    test: Shots


def needed(dataset: str, name: str) -> RawFiles:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip(f"METALEAF_RAW is not set: it names the folder with {dataset}/{name}")
    files = RawFiles(dataset, download=False)
    if not files.find(name):
        pytest.skip(f"no {name} in {files.looked_in()}")
    return files


def shots(x: np.ndarray, y: np.ndarray, seed: int = 0) -> Shots:
    return Shots(torch.from_numpy(x), torch.from_numpy(y), torch.tensor(seed))


def scaled(x: np.ndarray, by: np.ndarray) -> np.ndarray:
    found: np.ndarray = (x - by.mean(0)) / (by.std(0, ddof=1) + 1e-9)
    return found


def hospitals() -> tuple[list[Centre], Shots]:
    """As in Fed-Heart-Disease, two thirds of each hospital for training, by diagnosis where there are three of both.

    Each is scaled by its own training part; in the last, all training parts together, by all of them.
    """
    files, dataset = needed("heart_disease", "processed.va.data"), HeartDisease(form="flamby")
    found, pooled = [], []
    for hospital in HOSPITALS:
        x, y = dataset.patients(files, hospital)
        by = y if np.bincount(y, minlength=2).min() > 2 else None
        sizes = {"train_size": 0.66, "test_size": 0.34}
        parts = model_selection.train_test_split(np.arange(len(y)), **sizes, random_state=43, stratify=by)
        found.append(Centre(*(shots(scaled(x, x[parts[0]])[rows], y[rows].astype(np.int64)) for rows in parts)))
        pooled.append((x[parts[0]], y[parts[0]].astype(np.int64)))
    x, y = (np.concatenate(arrays) for arrays in zip(*pooled, strict=True))
    return found, shots(scaled(x, x), y)


def regions() -> list[Centre]:
    """As in Fed-TCGA-BRCA, which scales nothing."""
    files = needed(tcga_brca.FOLDER, tcga_brca.PATIENTS[0])
    each = tcga_brca.regions(files)
    return [Centre(*(shots(one.x[rows], one.y[rows]) for rows in (~one.test, one.test))) for one in each]


def task(spec: Any) -> Task:
    plain = vars(spec)
    kind = tasks.of(plain)
    return Task(models.build("logistic", plain, 0, kind), kind=kind)


def start(inputs: int, seed: int) -> Params:
    torch.manual_seed(seed)
    drawn = torch.nn.Linear(inputs, 1)
    return {"out.weight": drawn.weight.detach(), "out.bias": drawn.bias.detach()}


def batches(train: Shots, size: int) -> Iterator[Shots]:
    """Pass after pass without end."""
    for epoch in itertools.count():
        yield from minibatches(train, size, stream=epoch)


class Setting(NamedTuple):
    """How FLamby trains: rate and size of batches at the centres, the server's step, rounds."""

    lr: float
    batch_size: int
    rounds: int
    server: Optimizer = SGD(lr=1.0)

    def trained(self, work: Task, params: Params, centres: Sequence[Centre], seed: int) -> Params:
        endless = [
            batches(one.train._replace(seed=torch.tensor(1000 * seed + i)), self.batch_size)
            for i, one in enumerate(centres)
        ]
        sizes = torch.tensor([float(len(one.train.y)) for one in centres])
        slope, state = grad(work.loss), self.server.init(params)
        for _ in range(self.rounds):
            changes = []
            for own in endless:
                local = params
                for batch in itertools.islice(own, 100):
                    local = add(local, slope(local, batch), -self.lr)
                changes.append(subtract(params, local))
            params, state = self.server.step(params, weighted_sum(stack(changes), sizes / sizes.sum()), state)
        return params


def score(work: Task, params: Params, centres: Sequence[Centre]) -> float:
    """The task's main metric, mean over the centres' test parts."""
    metric, columns = work.kind.measured[0], ("n", *work.kind.columns, "loss")
    each = [dict(zip(columns, work.score(params, one.test).tolist(), strict=True)) for one in centres]
    return float(np.mean([metric.score(sums[metric.total], sums[metric.weight]) for sums in each]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "theirs", "spread", "single"),
    [
        (Setting(0.001, 4, 15), 0.685, 0.028, {42: 0.6915, 43: 0.7199, 45: 0.6943}),
        (Setting(0.003162, 4, 15, YOGI), 0.731, 0.013, {}),
    ],
    ids=["fedavg", "fedyogi"],
)
def test_heart_disease(setting: Setting, theirs: float, spread: float, single: dict[int, float]) -> None:
    """Single seeds agree, too, up to a patient or two."""
    (centres, _), work = hospitals(), task(HeartDisease(form="flamby").spec)
    assert [(len(one.train.y), len(one.test.y)) for one in centres] == [(199, 104), (172, 89), (30, 16), (85, 45)]
    ours = {seed: score(work, setting.trained(work, start(13, seed), centres, seed), centres) for seed in SEEDS}
    assert np.mean(list(ours.values())) == pytest.approx(theirs, abs=spread), ours
    assert {seed: ours[seed] for seed in single} == pytest.approx(single, abs=0.01)


@pytest.mark.slow
def test_heart_disease_pooled() -> None:
    """50 passes of Adam over all training parts; scored on test parts that are scaled by their own hospitals."""
    (centres, pooled), work = hospitals(), task(HeartDisease(form="flamby").spec)
    ours = []
    for seed in SEEDS:
        own = pooled._replace(seed=torch.tensor(seed))
        found = fit(work, start(13, seed), own, Adam(lr=0.001), epochs=50, batch_size=4)
        ours.append(score(work, found, centres))
    assert np.mean(ours) == pytest.approx(0.735, abs=0.01), ours


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "theirs", "spread"),
    [(Setting(0.1, 16, 5), 0.732, 0.181), (Setting(0.01, 16, 5, ADAM), 0.815, 0.026)],
    ids=["fedavg", "fedadam"],
)
def test_tcga_brca(setting: Setting, theirs: float, spread: float) -> None:
    """FLamby's spread of FedAvg would be that of four seeds like its 42 (0.812) and 45 (0.820), and one at 0.41."""
    centres, work = regions(), task(TcgaBrca().spec)
    assert [len(one.train.y) for one in centres] == [248, 156, 164, 129, 129, 40]
    ours = [score(work, setting.trained(work, start(39, seed), centres, seed), centres) for seed in SEEDS]
    assert np.mean(ours) == pytest.approx(theirs, abs=spread), ours
