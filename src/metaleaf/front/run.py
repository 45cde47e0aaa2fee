"""One run, or a table of many: from Python as from the command line, which calls the same."""

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metaleaf import registry
from metaleaf.config.config import RunConfig, flattened, resolve
from metaleaf.config.sources import Choice
from metaleaf.config.suite import Suite, one_cell, suite_of
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError, UserError, refuse_unknown
from metaleaf.front.clients import Clients, dataset_entry
from metaleaf.front.plugins import model_entry, named, plain
from metaleaf.front.records import Records
from metaleaf.front.result import Result
from metaleaf.jobs import execute, tune
from metaleaf.jobs.cells import cells_of
from metaleaf.jobs.execute import Settings
from metaleaf.records.records import Record, in_order, read_all
from metaleaf.runs.store import Cell
from metaleaf.terminal.display import Display, display_of

OnRound = Callable[[int, dict[str, Any]], None]
"""Called after every round with its number and its row of `Result.rounds`."""

Data = Clients | str
"""Clients, or the name of a dataset."""


def run(
    algorithm: Any,
    clients: Data = "synthetic",
    *,
    model: Any = None,
    task: str | Mapping[str, Any] | None = None,
    protection: Mapping[str, Any] | None = None,
    systems: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    seed: int = 1,
    name: str = "runs",
    results: str | os.PathLike[str] | None = None,
    save: bool = True,
    progress: bool = True,
    on_round: OnRound | None = None,
    engine: Mode = "auto",
    device: str = "cpu",
    threads: int | None = None,
    stale: Choice = "refuse",
    **protocol: Any,
) -> Result:
    """Train an algorithm on clients and score it on clients that it has not seen.

    algorithm: an object such as ``MAML(inner_lr=0.01)``, of any class that fits the contract (`metaleaf.algorithm`), a
    class, or a name; hyperparameters changes some of it by dotted key. model, task: as suites have them
    (docs/models.md, docs/tasks.md), or a torch module or class; by default the data's. protection: layers between
    clients and server, such as {"clip": {"norm": 1.0}} (docs/protection.md); systems: who is there, on what devices
    (docs/systems.md). protocol: settings such as rounds=300 and held_out=0.2 (docs/protocol.md).

    results: the store that keeps the record, under the suite `name`: a run that is there already is not made again,
    one that was stopped goes on. By default all lies in a temporary folder until `Result.save`. save: keep the model.
    stale: what becomes of a record that other code has made: "refuse", "again" or "keep".

    UserError says in a sentence what is wrong; an algorithm's own error is its cause. A run that diverges is a result.
    """
    plugin, options = named("algorithms", algorithm)
    label, entry = dataset_entry(clients)
    config = one_cell(
        (label, _place(entry, model=model, task=task, protection=protection, systems=systems)),
        plugin,
        name=name,
        seed=seed,
        protocol=protocol,
        given=options,
        changes=plain(hyperparameters or {}),
    )
    keep, root = _root(results)
    settings = Settings(root, engine, device, 1, threads, _raw(clients), save=save, stale=stale).checked()
    display = display_of(1, shown=progress)
    _do([config], settings, _Watched(display, on_round) if on_round else display)
    return Result(Cell(root, config).record_path, keep)


def compare(
    algorithms: Sequence[Any] | Mapping[str, Any],
    clients: Data | Mapping[str, Data] = "synthetic",
    *,
    model: Any = None,
    task: str | Mapping[str, Any] | None = None,
    protection: Mapping[str, Any] | None = None,
    systems: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 3,
    tune: int = 0,
    tune_rounds: int | None = None,
    spaces: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
    name: str = "comparison",
    results: str | os.PathLike[str] | None = None,
    save: bool = False,
    progress: bool = True,
    engine: Mode = "auto",
    device: str = "cpu",
    workers: int = 1,
    threads: int | None = None,
    stale: Choice = "refuse",
    **protocol: Any,
) -> Records:
    """Run algorithms on the same clients under the same seeds, for tables, figures and tests on what they left.

    algorithms: as in `run`, or a dict of them by the title that tables have. clients: or several, by label. seeds: how
    many, from 1, or which. tune: trials for each algorithm, drawn from its `space`, the same number for all, on
    validation clients, of tune_rounds rounds (default: as many as a run has). spaces: other values to try, by label and
    hyper-parameter; where the best is at an edge of its space, that is said. workers: processes at a time.

    Trials replace what an object says of the hyper-parameters in its space. All else is as in `run`, but models are
    kept only if asked for.
    """
    algorithms = algorithms if isinstance(algorithms, Mapping | Sequence) else [algorithms]
    algorithms = [algorithms] if isinstance(algorithms, str) else algorithms
    titled = algorithms.items() if isinstance(algorithms, Mapping) else ((None, one) for one in algorithms)
    if not algorithms or not clients:
        raise ConfigError("there is nothing to compare: give algorithms and clients.")
    given = [(title, *named("algorithms", one)) for title, one in titled]
    methods: dict[str, dict[str, Any]] = {}
    for title, plugin, options in given:
        others = [theirs for _, name, theirs in given if name == plugin and theirs != options]
        entry = {"name": plugin, "hyperparameters": options, "title": title or _title(plugin, options, others)}
        methods[_label(title or plugin, methods)] = entry
    refuse_unknown("algorithm of spaces", spaces or {}, methods)
    for label, space in (spaces or {}).items():
        methods[label]["space"] = dict(space)
    places = list(clients.items()) if isinstance(clients, Mapping) else [("", clients)]
    entries = [(label, *dataset_entry(one)) for label, one in places]
    content: dict[str, Any] = {
        "name": name,
        "title": name,
        "seeds": list(range(1, seeds + 1)) if isinstance(seeds, int) else list(seeds),
        "protocol": protocol,
        "datasets": {
            called or label: _place(entry, model=model, task=task, protection=protection, systems=systems)
            for called, label, entry in entries
        },
        "algorithms": methods,
    }
    if tune:
        content["tuning"] = {"trials": tune, "rounds": 1 if tune_rounds is None else tune_rounds}
    elif tune_rounds is not None or spaces:
        raise ConfigError("tune_rounds and spaces are of a search: say with tune= how many trials it has.")
    suite = suite_of(content, "the comparison")
    if suite.tuning and tune_rounds is None:
        longest = max(suite.protocol_for(label).rounds for label in suite.datasets)
        tuning = suite.tuning.model_copy(update={"rounds": longest})
        suite = suite.model_copy(update={"tuning": tuning})
    keep, root = _root(results)
    raw = next((_raw(one) for _, one in places if _raw(one)), None)
    settings = Settings(root, engine, device, workers, threads, raw, save=save, stale=stale).checked()
    return _compared(suite, settings, progress, keep)


def _compared(suite: Suite, settings: Settings, progress: bool, keep: Any) -> Records:
    """The suite's records, after its search and its runs."""
    if suite.tuning:
        with display_of(tune.length(suite, suite.grid()), "trials", shown=progress) as display:
            tune.search(suite, suite.grid(), settings, display)
            for pair in suite.grid():
                display.say(tune.best_in_words(settings.root, suite, *pair))
    cells = cells_of(suite, settings.root)
    _do(cells, settings, display_of(len(cells), shown=progress))
    only = {cell.config_hash() for cell in cells}
    records = read_all(Record, settings.root / suite.name, only)
    if keep is not None:
        for record in records:  # what is taken out of them stays when the folder goes
            _ = record.clients, record.rounds, record.participants
    return Records(tuple(in_order(records, tuple(suite.algorithms))), folder=keep)


def _place(entry: Mapping[str, Any], *, model: Any, **others: Any) -> dict[str, Any]:
    return {**entry, "model": model_entry(model), **others}


def _title(plugin: str, options: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """The algorithm's, with the hyper-parameters in which it differs from others of the same."""
    cls = registry.plugin("algorithms", plugin)
    own = flattened(resolve("algorithms", plugin, options))
    theirs = [flattened(resolve("algorithms", plugin, other)) for other in others]
    differs = [f"{key} {value}" for key, value in own.items() if any(other.get(key) != value for other in theirs)]
    return f"{cls.title} ({', '.join(differs)})" if differs else str(cls.title)


def _label(text: str, taken: Mapping[str, Any]) -> str:
    """A name of a folder that is like the text and not taken."""
    short = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_.-").lower() or "algorithm"
    numbered = (f"{short}_{number}" for number in range(2, len(taken) + 3))
    return short if short not in taken else next(label for label in numbered if label not in taken)


def _raw(clients: Data) -> Path | None:
    return clients.raw if isinstance(clients, Clients) else None


def _root(results: str | os.PathLike[str] | None) -> tuple[Any, Path]:
    """What holds a temporary folder for as long as it is needed, and the store."""
    if results is not None:
        return None, Path(results).expanduser()
    folder = tempfile.TemporaryDirectory(prefix="metaleaf-")
    return folder, Path(folder.name)


def _do(cells: Sequence[RunConfig], settings: Settings, display: Display) -> None:
    for cell in cells:
        _check_session(cell, settings)
    with display:
        execute.run_all(execute.named(cells), execute.compute, settings, display)
    for cell in cells:
        if not Cell(settings.root, cell).done():
            raise UserError(
                f"another process is computing {cell.dataset_label} {cell.algorithm_label} seed {cell.seed} in "
                f"{settings.root}: call this again when it is done."
            )


def _check_session(config: RunConfig, settings: Settings) -> None:
    """What this session alone knows runs in this process."""
    used = [("algorithms", config.algorithm), ("datasets", config.dataset), ("models", config.model_name)]
    own = [(kind, name) for kind, name in used if registry.was_brought(kind, name)]
    if own and settings.workers > 1:
        kind, name = own[0]
        raise ConfigError(
            f"only this process knows the {kind[:-1]} {name!r}, so workers must be 1; an entry point of a package, "
            f"metaleaf.{kind}, makes it known to all."
        )


class _Watched(Display):
    """A display that also tells somebody of every round."""

    def __init__(self, display: Display, on_round: OnRound) -> None:
        self._display, self._on_round = display, on_round

    def __getattr__(self, name: str) -> Any:
        return getattr(self._display, name)

    def __enter__(self) -> "_Watched":
        self._display.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._display.__exit__(*error)

    def round(self, name: str, number: int, rounds: int, row: dict[str, Any]) -> None:
        """See `Display`."""
        self._display.round(name, number, rounds, row)
        self._on_round(number, row)

    def done(self, name: str, result: str) -> None:
        """See `Display`."""
        self._display.done(name, result)

    def say(self, line: str) -> None:
        """See `Display`."""
        self._display.say(line)
