"""Export the model that a run kept as a plain ``state_dict``, with a loader that needs torch and `metaleaf.models`.

What is exported is the model before adaptation: the first that the algorithm's `adapt` yields, if it yields that
without a look at a client's examples. A method whose models hold more than parameters (it has `predict`) gives the
parameters in its broadcast instead, as on the track of new environments (`metaleaf.environments.newcomers`). Others,
which choose or write a model for each client, have no one model to export.
"""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from metaleaf import models, tasks
from metaleaf.algorithm import Algorithm
from metaleaf.data.scale import Scale
from metaleaf.environments.newcomers import sent_params
from metaleaf.errors import ConfigError, DataError
from metaleaf.files import tensor_files
from metaleaf.files.whole_files import write_atomically
from metaleaf.records.records import Model
from metaleaf.runs.saved import load_state
from metaleaf.seeds import derive
from metaleaf.shots import Shots
from metaleaf.submission.entry import Entry, read_one
from metaleaf.task import Params, Task
from metaleaf.trees import Tree

FORMATS = {
    ".safetensors": ("from safetensors.torch import load_file", "load_file(path)"),
    ".pt": ("import torch", "torch.load(path, weights_only=True)"),
}
"""By the end of a file's name: what its loader imports and calls."""

WRITTEN_BY = '"""Written by metaleaf export'
"""How a loader begins."""


def export(path: Path, output: Path | None = None, model: Model = "selected") -> tuple[Path, Path]:
    """Write the model of the record at `path`, and beside it ``load_<name>.py``; the paths of both.

    output: a .safetensors file, or a .pt file as of `torch.save`; by default named after the run, in this folder.
    ConfigError or DataError names what is wrong with the record, its model or the file's name.
    """
    given = read_one(path)
    output = output or Path(_name(given, model))
    if output.suffix not in FORMATS:
        raise ConfigError(f"--output {output}: choose a name that ends in {' or '.join(FORMATS)}.")
    loader = output.with_name(f"load_{output.stem}.py")
    if loader.exists() and not loader.read_text(encoding="utf-8", errors="replace").startswith(WRITTEN_BY):
        raise ConfigError(f"{loader} is there and no loader of ours: choose another --output.")
    state, spec = state_dict(given, model)
    text = _loader(given, model, spec, output)
    write = torch.save if output.suffix == ".pt" else lambda tensors, file: tensor_files.write(file, tensors)
    write_atomically(output, lambda temporary: write(state, temporary))
    write_atomically(loader, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return output, loader


def _loader(given: Entry, model: Model, spec: Mapping[str, Any], output: Path) -> str:
    needed, load = FORMATS[output.suffix]
    kind = tasks.of(spec, given.config.task)
    predictions = {"outputs": kind.outputs(spec), "positions": kind.positions(spec)}
    built_from = {**predictions, "x_shape": spec["x_shape"], "x_dtype": spec["x_dtype"]}
    out = ", ".join(map(str, ["n", *filter(None, [predictions["positions"]]), predictions["outputs"]]))
    shape = ", ".join(["n", *map(str, spec["x_shape"])])
    scale = given.content.data.scale
    scaled = f"model = Standardised(model, {', '.join(f'{k}={v!r}' for k, v in scale.items())})\n" if scale else ""
    return f"""\
{WRITTEN_BY}: {given.cell}, {model} model, x {spec["x_dtype"]} [{shape}] -> predictions [{out}].\"""
from pathlib import Path

{needed}
from metaleaf.models import {"Standardised, build" if scale else "build"}

path = Path(__file__).with_name({output.name!r})
model = build({given.config.model!r}, {built_from!r}, seed=0)
model.load_state_dict({load})
{scaled}model.eval()
"""


class Trained(NamedTuple):
    """A run's model as it can be used: what it was trained for, by what, what clients receive of it, and the data's
    spec and scale.
    """

    task: Task
    algorithm: Algorithm
    broadcast: Tree
    spec: dict[str, Any]
    scale: Scale


def trained(given: Entry, model: Model) -> Trained:
    """The model that the record's run kept, on the CPU; DataError if there is none.

    Needs no data: shapes are the dataset's, which its plugin declares.
    """
    config = given.config
    if given.content.status == "diverged":
        raise DataError(f"the run of {given.where} diverged: it has no model.")
    spec = dataclasses.asdict(config.build_dataset().spec)
    kind, algorithm = tasks.of(spec, config.task), config.build_algorithm()
    module = models.build(config.model, spec, derive(config.seed, "model"), kind)
    task = Task(module, kind=kind, seed=config.seed, clients=given.content.data.clients.train)
    # Of the state only the shapes are needed, and a record may claim any number of clients.
    shapes = Task(copy.deepcopy(module).to("meta"), kind=kind, seed=task.seed, clients=task.clients)
    like = algorithm.init(shapes, shapes.params())
    broadcast = load_state(given.record.path, given.content, like).broadcast(model)
    return Trained(task, algorithm, broadcast, spec, Scale.from_record(given.content.data.scale))


def state_dict(given: Entry, model: Model) -> tuple[Params, dict[str, Any]]:
    """The module's whole ``state_dict``, parameters that are never trained included, and the spec it is built from."""
    task, algorithm, broadcast, spec, _ = trained(given, model)
    whole = {**task.model.state_dict(), **model_params(task, algorithm, broadcast)}
    return {name: leaf.contiguous().clone() for name, leaf in whole.items()}, spec


def model_params(task: Task, algorithm: Algorithm, broadcast: Tree) -> Params:
    """The parameters of the model before adaptation in what the algorithm broadcasts; ConfigError if there is none."""
    with torch.no_grad():
        if hasattr(algorithm, "predict"):
            params, why = sent_params(task, algorithm, broadcast), "predicts from more than a model's parameters"
        else:
            params, why = _adapted_to_nobody(task, algorithm, broadcast), "chooses or writes a model for each client"
    if params is None:
        raise ConfigError(
            f"{type(algorithm).__name__} {why}, so there is no one model to export; metaleaf evaluate scores them."
        )
    return params


def _adapted_to_nobody(task: Task, algorithm: Algorithm, broadcast: Tree) -> Params | None:
    """The first model that `adapt` yields; None if that takes a look at a client's examples."""
    try:
        return next(iter(algorithm.adapt(task, broadcast, cast(Shots, _Nobodys()))))
    except _LookedError:
        return None


class _LookedError(Exception):
    """Somebody asked for examples where there is no client."""


class _Nobodys:
    """The support set of nobody: whoever looks at it makes a model for a client."""

    def __getattr__(self, name: str) -> Any:
        raise _LookedError

    def __iter__(self) -> Any:
        raise _LookedError

    def __getitem__(self, key: object) -> Any:
        raise _LookedError

    def __len__(self) -> int:
        raise _LookedError


def _name(given: Entry, model: Model) -> str:
    content = given.content
    words = f"{content.dataset}_{content.algorithm}_seed_{content.seed}_{model}"
    return "".join(c if c.isalnum() else "_" for c in words) + ".safetensors"
