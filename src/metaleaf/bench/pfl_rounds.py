"""FedAvg in Apple's pfl-research, run by the Python that has it: ``torchrun pfl_rounds.py FOLDER``, a process a core.

FOLDER holds x.npy, y.npy, offsets.npy and work.json (model, spec, lr, batch_size, clients). For every line on standard
input a round runs and "ROUND seconds" is printed; at the end of the input "MEMORY MiB", the peak over all processes.
`metaleaf.bench.pfl` is at the other end; of metaleaf nothing but the models beside it is imported here.
"""

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from textbook import MODELS

FIRST = int(os.environ.get("RANK", "0")) == 0


class Net(torch.nn.Module):
    """The model as pfl wants it: with its loss and its metrics."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> Any:
        """Logits."""
        return self.model(x)

    def loss(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> torch.Tensor:
        """Mean cross-entropy."""
        return torch.nn.functional.cross_entropy(self.model(x), y)

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> dict[str, Any]:
        """The loss."""
        return {"loss": Weighted(float(self.loss(x, y)) * len(y), len(y))}


class Turns(TrainingProcessCallback):  # type: ignore[misc]
    """Runs a round when asked for one, and says how long it took."""

    def _asked(self) -> bool:
        asked = torch.tensor(len(sys.stdin.readline()) if FIRST else 0)
        torch.distributed.broadcast(asked, 0)
        self.begun = time.perf_counter()
        return bool(asked)

    def on_train_begin(self, *, model: Any) -> Any:
        """Wait for the first."""
        self._asked()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
        """Answer, and wait for the next."""
        if FIRST:
            print("ROUND", time.perf_counter() - self.begun, flush=True)
        return not self._asked(), Metrics()


def main(folder: Path) -> None:
    """Rounds until the input ends."""
    np.random.seed(0)  # noqa: NPY002  (pfl's samplers have to agree between the processes)
    torch.set_num_threads(1)
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    x, y, offsets = (np.load(folder / f"{name}.npy") for name in ("x", "y", "offsets"))

    def client(i: int) -> Any:
        rows = slice(offsets[i], offsets[i + 1])
        order = torch.randperm(int(offsets[i + 1] - offsets[i]))
        return PyTorchTensorDataset((torch.from_numpy(x[rows])[order], torch.from_numpy(y[rows])[order]))

    turns = itertools.cycle(range(work["clients"]))
    clients = FederatedDataset(client, lambda: next(turns), dict(enumerate(np.diff(offsets).tolist())))
    net = Net(MODELS[work["model"]](work["spec"]))
    trained = [p for p in net.parameters() if p.requires_grad]
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=10**6,
            evaluation_frequency=10**6,
            train_cohort_size=work["clients"],
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=clients, val_data=None, postprocessors=[WeightByDatapoints()]),
        model=PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(trained, 1.0)),
        model_train_params=NNTrainHyperParams(
            local_learning_rate=work["lr"], local_num_epochs=1, local_batch_size=work["batch_size"]
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[Turns()],
    )
    peak = torch.tensor(_status("VmHWM") - (0 if FIRST else _status("RssFile")))  # files in memory are there once
    torch.distributed.all_reduce(peak)
    if FIRST:
        print("MEMORY", float(peak) / 1024, flush=True)


def _status(key: str) -> float:
    """An entry of Linux's /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
