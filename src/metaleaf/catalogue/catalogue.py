"""The list of all algorithms: what each is, and what it really sends, counted on tensors without data.

Every plugin's `init` and `client` run once, with default hyper-parameters, for one client on the device "meta". A
plugin that cannot serve a model gets a row that says so: one that fails must not hide the others.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch

import metaleaf
from metaleaf import models, registry, tasks, trees
from metaleaf.algorithm import About, Algorithm, Family, received, respond, sent
from metaleaf.catalogue.starter import checkout
from metaleaf.config.config import build
from metaleaf.engine.cost import empty_episode, exchanged
from metaleaf.errors import ConfigError, UserError
from metaleaf.task import Task
from metaleaf.terminal.visible import visible

CLIENTS, COHORT = 100, 10
"""Training clients and clients a round of the federation that is counted for."""

CLIENT = "client"
"""The unit that `Algorithm.client` works with, unless a plugin declares another: then no bytes are counted here."""

README_PLACES = (("synthetic", "logistic"), ("femnist", "cnn"))
"""Datasets and models on which ``algorithms/README.md`` counts bytes."""

RENEW = "metaleaf algorithms --write"

INTRO = f"""\
# Algorithms

One file each, written for one client. The contract, with a complete toy algorithm, is in `src/metaleaf/algorithm.py`;
[docs/write-an-algorithm.md](../docs/write-an-algorithm.md) goes from nothing to a table with an algorithm of your own,
and `metaleaf new algorithm NAME` writes one to start from.

Order is the highest order of derivatives. Bytes are what one client receives and sends in a round, relative to the
model going down and up once (FedAvg), with default hyper-parameters and {CLIENTS} training clients.

This file is written by `{RENEW}`.
"""


class Place(NamedTuple):
    """Where bytes are counted: a model for the examples of a dataset."""

    dataset: str
    model: str
    spec: Mapping[str, Any]


class Cost(NamedTuple):
    """What one client receives and sends in a round, and keeps between rounds, in bytes of the model.

    memory is None for an algorithm without one.
    """

    down: float
    up: float
    memory: float | None

    @property
    def relative(self) -> float:
        """Both directions, relative to FedAvg: the model down and up."""
        return (self.down + self.up) / 2


@dataclass(frozen=True)
class Entry:
    """One algorithm. sends: the mean or each of the updates. costs: by place, or why there are none."""

    name: str
    title: str
    about: About | None
    sends: str
    unit: str
    costs: tuple[Cost | str, ...]


def place(dataset: str | None = None, model: str | None = None) -> Place:
    """The dataset with that model; with one of them missing, a dataset with its own model."""
    if model is not None:
        registry.plugin("models", model)  # an unknown one is said to be that
    if dataset is None:
        own, _ = registry.loadable("datasets")
        found = [name for name, plugin in own.items() if getattr(plugin.spec, "model", None) == model]
        if not found:
            raise ConfigError(f"no dataset has {model!r} as its own model: name one with --dataset.")
        dataset = found[0]
    spec = build("datasets", dataset, {}).spec
    return Place(dataset, model or spec.model, dataclasses.asdict(spec))


def entries(names: Iterable[str], places: Sequence[Place]) -> list[Entry]:
    """The algorithms by family, then by name."""
    served = [_task(one) for one in places]
    found = [_entry(name, places, served) for name in names]
    families = get_args(Family)
    return sorted(found, key=lambda e: (families.index(e.about.family) if e.about else len(families), e.name))


def _task(one: Place) -> Task:
    kind = tasks.of(one.spec)
    return Task(models.build(one.model, one.spec, 0, kind).to("meta"), kind=kind, clients=CLIENTS, cohort=COHORT)


def _entry(name: str, places: Sequence[Place], served: Sequence[Task]) -> Entry:
    try:
        plugin = registry.plugin("algorithms", name)
    except Exception as error:
        return Entry(name, name, None, "–", CLIENT, (_sentence(error),) * len(places))
    sends = "each" if getattr(plugin, "each", False) else "mean"
    if not getattr(plugin, "federated", True):
        sends = "nothing"
    title, about, unit = getattr(plugin, "title", name), getattr(plugin, "about", None), getattr(plugin, "unit", CLIENT)
    costs: tuple[Cost | str, ...] = ()
    if unit == CLIENT:
        costs = tuple(_measured(plugin, one, task) for one, task in zip(places, served, strict=True))
    return Entry(name, title, about, sends, unit, costs)


def _measured(plugin: type[Any], one: Place, task: Task) -> Cost | str:
    try:
        return cost(plugin(), task, one.spec)
    except Exception as error:
        return f"cannot serve {one.model} on {one.dataset}: {_sentence(error)}"


def _sentence(error: Exception) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def cost(algorithm: Algorithm, task: Task, spec: Mapping[str, Any]) -> Cost:
    """What one client of the algorithm costs in a round; the task's model lies on the device "meta"."""
    if not getattr(algorithm, "federated", True):
        return Cost(0.0, 0.0, None)
    model = trees.nbytes(task.params())
    state = algorithm.init(task, task.params())
    episode = trees.to(empty_episode(spec, task.kind, 2, 2, 4), torch.device("meta"))
    episode = episode._replace(received=sent(algorithm, task, state, episode.client))
    kept = None
    if hasattr(algorithm, "memory"):
        episode = episode._replace(memory=algorithm.memory(task, state.broadcast))
        update, memory = respond(algorithm, task, state.broadcast, episode)
        kept = trees.nbytes(memory) / model
    else:
        update = respond(algorithm, task, state.broadcast, episode)
    traffic = exchanged(algorithm, received(algorithm, state.broadcast, episode), update)
    return Cost(trees.nbytes(traffic.down) / model, trees.nbytes(traffic.up) / model, kept)


# ------------------------------------------------------------------------------------------------------ as text

COLUMNS: dict[str, Callable[[Entry], str]] = {
    "name": lambda entry: entry.name,
    "title": lambda entry: entry.title,
    "what": lambda entry: entry.about.sentence if entry.about else "–",
    "family": lambda entry: entry.about.family if entry.about else "–",
    "paper": lambda entry: entry.about.paper if entry.about else "–",
    "order": lambda entry: str(entry.about.order) if entry.about else "–",
    "memory": lambda entry: _memory(entry),
    "sends": lambda entry: entry.sends,
    "bytes": lambda entry: _relative(entry),
}


def _memory(entry: Entry) -> str:
    found = entry.costs[0] if entry.costs else "–"
    if isinstance(found, str):
        return "–"
    return "no" if found.memory is None else f"{found.memory:.2f}"


def _relative(entry: Entry, i: int = 0) -> str:
    if entry.unit != CLIENT:
        return f"– (per {entry.unit})"
    found = entry.costs[i]
    return "–" if isinstance(found, str) else f"{found.relative:.2f}"


def _notes(found: Sequence[Entry]) -> list[str]:
    whys = ((entry.name, why) for entry in found for why in dict.fromkeys(entry.costs))
    return [visible(f"{name}: {why}") for name, why in whys if isinstance(why, str)]


def text(found: Sequence[Entry], one: Place) -> str:
    """A table for a terminal."""
    # The paper, which is longest, is last.
    names = ("name", "title", "family", "order", "memory", "sends", "bytes", "paper")
    rows = [list(names), *([COLUMNS[name](entry) for name in names] for entry in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", _legend(one), *_notes(found)])


def markdown(found: Sequence[Entry], one: Place) -> str:
    """The same table as Markdown."""
    names = ("name", "title", "family", "paper", "order", "memory", "sends", "bytes")
    rows = [[COLUMNS[name](entry) for name in names] for entry in found]
    return "\n".join([*_markdown(names, rows), "", _legend(one), *(f"\n{note}" for note in _notes(found))])


def _legend(one: Place) -> str:
    return (
        f"memory: what a client keeps, in models; bytes: down and up per client and round, relative to FedAvg; "
        f"both for {one.model} on {one.dataset}."
    )


def readme() -> str:
    """The text of ``algorithms/README.md``: the algorithms that come with metaleaf."""
    places = [place(*names) for names in README_PLACES]
    found = entries(sorted(registry.built_in("algorithms")), places)
    names = ("what", "family", "paper", "order")
    rows = [
        [
            f"[{entry.name}]({_where(entry.name)})",
            *(COLUMNS[name](entry) for name in names),
            *(_relative(entry, i) for i in range(len(places))),
        ]
        for entry in found
    ]
    head = ("name", *names, *(f"bytes, {one.model}" for one in places))
    notes = [f"- {note}" for note in _notes(found)]
    return "\n".join([INTRO, *_markdown(head, rows), *(["", *notes] if notes else []), ""])


def _where(name: str) -> str:
    """The plugin's file or folder."""
    folder = (Path(metaleaf.__file__).parent / "algorithms" / name).is_dir()
    return f"{name}/" if folder else f"{name}.py"


def write_readme() -> Path:
    """Renew ``algorithms/README.md`` of the checkout."""
    path = checkout() / "algorithms" / "README.md"
    path.write_text(readme(), encoding="utf-8")
    return path


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
