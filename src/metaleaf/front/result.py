"""What a run leaves: scores as DataFrames, the trained model, and a new client's predictions."""

import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from metaleaf.data.prepare import load as open_prepared
from metaleaf.dataset import Dataset, parts_of
from metaleaf.errors import DataError, of_system, refuse_unknown
from metaleaf.front.html import as_text
from metaleaf.records.records import MODELS, Model, Record, read_record, tidy
from metaleaf.reuse.export import Trained, state_dict, trained
from metaleaf.seeds import derive
from metaleaf.shots import Shots
from metaleaf.submission.entry import read_one
from metaleaf.task import Params
from metaleaf.trees import Tree


class Predictor:
    """A client's own model: called with x [n, ...] it answers as y does.

    steps: how many models adaptation went through, the one before it included.
    """

    def __init__(self, of: Trained, model: Tree, steps: int, plugin: Dataset) -> None:
        self._of, self._model, self.steps, self._plugin = of, model, steps, plugin

    def outputs(self, x: Any) -> np.ndarray:
        """The model's own: of classes a score each, [n, classes]; a logit of yes-or-no answers; numbers as they are."""
        task, algorithm = self._of.task, self._of.algorithm
        given = _x(x, self._of, self._plugin)
        with torch.no_grad():
            if hasattr(algorithm, "predict"):
                found = algorithm.predict(task, self._model, given, None)
            else:
                found = task.logits(self._model, given)
        return self._of.scale.in_units(np.asarray(found))

    def __call__(self, x: Any) -> np.ndarray:
        """The answers: classes by their labels if they have any, or numbers, in y's shape; of survival, log risks."""
        outputs = torch.from_numpy(self.outputs(x))
        kind = self._of.task.kind
        found = np.asarray(kind.answers(outputs)).reshape(len(outputs), *kind.answer_shape(self._of.spec))
        labels = self._of.spec["labels"]
        return np.array(labels)[found] if labels else found


class Result:
    """A finished run, by the path of its record; with the model if it was kept.

    keep: what holds the files if they lie in a temporary folder.
    """

    def __init__(self, path: str | os.PathLike[str], keep: Any = None) -> None:
        self.path, self._keep = Path(path), keep
        self.record = read_record(Record, self.path)

    @property
    def status(self) -> str:
        """finished, or diverged with the reason."""
        content = self.record.content
        return "finished" if content.status == "finished" else f"diverged ({content.reason})"

    @property
    def clients(self) -> pd.DataFrame:
        """A row a model, support fraction, test client and step of adaptation; docs/records.md names the columns."""
        return self.record.clients

    @property
    def rounds(self) -> pd.DataFrame:
        """A row a round: costs, and the validation clients' scores where they were scored."""
        return self.record.rounds

    @property
    def participants(self) -> pd.DataFrame:
        """As `clients`, of the training clients on what they held out; empty unless held_out was given."""
        return self.record.participants

    @property
    def scores(self) -> pd.DataFrame:
        """A row a model, kind of client and support fraction: before, after and constant answer, over points
        (`pooled`), over clients, of the worst tenth, and the share that adaptation hurt.
        """
        columns = ["model", "who", "support"]
        found = tidy([self.record])
        return found[[*columns, *(name for name in found if str(name).startswith(("before_", "after_", "majority_")))]]

    def params(self, model: Model = "selected") -> Params:
        """The trained model's ``state_dict``; ConfigError where each client has a model of its own."""
        refuse_unknown("model", [model], MODELS)
        return state_dict(read_one(self.path), model)[0]

    @cached_property
    def _trained(self) -> Trained:
        return trained(read_one(self.path), "selected")

    @cached_property
    def _plugin(self) -> Dataset:
        """The dataset plugin, whose data are those of the run; DataError or StaleError if they are not."""
        config = read_one(self.path).config
        dataset = config.build_dataset()
        plugin: Dataset = parts_of(dataset)[0]
        if hasattr(plugin, "x_of") and open_prepared(config.dataset, dataset, progress=False).about["data_hash"] != (
            self.record.content.data.data_hash
        ):
            raise DataError(f"{self.path} was made from other data than what is there now.")
        return plugin

    def adapt(self, x: Any, y: Any, *, seed: int = 0) -> Predictor:
        """The model of a new client with these examples, x [n, ...] and y [n, ...] as the clients' are.

        Where the clients came out of a table, x may be rows of such a table, from which x is made as theirs was. seed:
        of the order of batches. DataError if something does not fit, or the run kept no model.
        """
        of = self._trained
        given, answers = _x(x, of, self._plugin), _y(y, of)
        if len(given) != len(answers):
            raise DataError(f"x has {len(given)} examples and y {len(answers)}: give one y for each.")
        support = Shots(given, answers, torch.tensor(derive(seed, "adapt")))
        models = list(of.algorithm.adapt(of.task, of.broadcast, support))
        return Predictor(of, models[-1], len(models), self._plugin)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Copy record and model into a result store, where reports, `metaleaf verify` and `read` find them."""
        return copied(self.record, Path(folder).expanduser())

    def __repr__(self) -> str:
        content, metric = self.record.content, self.record.content.metric
        head = f"{content.title} on {content.dataset}, seed {content.seed}: {self.status}, {content.rounds} rounds"
        lines = [head, f"{metric.label}, selected model, round {content.selected_round}"]
        for support, found in content.scores.get("selected", {}).items():
            lines.append(f"  new clients at {100 * float(support):g} % support: {_sides(found, metric)}")
        if content.participants and "selected" in content.participants:
            lines.append(f"  participants: {_sides(content.participants['selected'], metric)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return as_text(repr(self))


def copied(record: Record, store: Path) -> Path:
    """The path of a copy of record and model in a store; DataError if there is no record any more."""
    content, suffixes = record.content, (".clients.csv", ".rounds.csv", ".participants.csv", ".safetensors")
    place = store / content.suite / content.dataset / content.algorithm / content.config_hash
    if not record.path.exists():
        raise DataError(f"{record.path} is gone: a run of its own folder lives as long as its result.")
    try:
        place.mkdir(parents=True, exist_ok=True)
        for file in [*map(record.path.with_suffix, suffixes), record.path]:  # the record last: what exists is whole
            if file.exists():
                shutil.copy2(file, place / file.name)
    except OSError as error:
        raise of_system(error) from error
    return place / record.path.name


def _sides(scores: Any, metric: Any) -> str:
    before, after, constant = (metric.text(side.pooled) for side in (scores.before, scores.after, scores.majority))
    return f"{before} before, {after} after adaptation (a constant answer: {constant})"


def _x(x: Any, of: Trained, plugin: Dataset) -> torch.Tensor:
    """X as the prepared data have it; DataError if its shape is another, or a value is missing."""
    given = plugin.x_of(x) if isinstance(x, pd.DataFrame) and hasattr(plugin, "x_of") else _numbers(x, "x")
    if given.shape[1:] != tuple(of.spec["x_shape"]):
        raise DataError(f"x has shape {list(given.shape)}, not {['n', *of.spec['x_shape']]}.")
    known = np.isfinite(given) | (np.isnan(given) if of.spec["standardise"] else False)
    if given.dtype.kind == "f" and not known.all():
        raise DataError("x has a value that is missing or not finite.")
    return torch.from_numpy(np.ascontiguousarray(of.scale.x(given.astype(of.spec["x_dtype"]))))


def _numbers(values: Any, what: str) -> np.ndarray:
    try:
        found = np.asarray(values)
        found = found.astype(float) if found.dtype == object else found
    except (ValueError, TypeError) as error:
        raise DataError(f"{what} is no array of numbers: {error}.") from None
    if found.dtype.kind not in "biuf":
        raise DataError(f"{what} is of {found.dtype}, not of numbers.")
    return found


def _y(y: Any, of: Trained) -> torch.Tensor:
    """Y as the prepared data have it; DataError for a class that there is not, or another shape."""
    classes, shape, labels = int(of.spec["classes"]), tuple(of.spec["y_shape"]), of.spec["labels"]
    if labels:
        places = {label: place for place, label in enumerate(labels)}
        asked = np.asarray(y).ravel().tolist()
        if strange := [value for value in asked if value not in places]:
            raise DataError(f"y has {strange[0]!r}, which is none of the classes {', '.join(map(repr, labels))}.")
        given = np.array([places[value] for value in asked], dtype=np.int64).reshape(np.shape(y))
    else:
        given = _numbers(y, "y")
        least = -1 if str(of.spec.get("y_dtype", "")).startswith("int") else 0
        if classes and not np.isin(given, np.arange(least, classes)).all():
            raise DataError(f"y has a class that is not in {least}..{classes - 1}.")
    if given.shape[1:] != shape:
        raise DataError(f"y has shape {list(given.shape)}, not {['n', *shape]}.")
    return torch.from_numpy(np.ascontiguousarray(of.scale.y(given).astype(of.task.kind.y_dtype)))
