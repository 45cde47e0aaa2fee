"""Suites: TOML files that name the grid of runs behind one table."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from metaleaf import registry
from metaleaf.config.config import (
    NewEnvironments,
    Protocol,
    RunConfig,
    Start,
    Strict,
    build,
    explain,
    override,
    resolve,
)
from metaleaf.config.labels import Label, Printable, printable
from metaleaf.config.protection import resolve_protection
from metaleaf.config.systems import resolve_systems
from metaleaf.errors import ConfigError, unknown

SUITES = Path(__file__).resolve().parent.parent / "suites"
"""Folder of the suites that come with metaleaf; their names work without a path."""


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError("give at least one seed, and each only once")
    return seeds


Seeds = Annotated[tuple[Annotated[int, Field(ge=-(2**63), lt=2**63)], ...], AfterValidator(_distinct)]


class Tuning(Strict):
    """How hyper-parameters are searched: every algorithm gets the same number of trials of the same length."""

    trials: int = Field(ge=1)
    rounds: int | None = Field(None, ge=1)
    """Length of a trial that learns from clients."""
    budget: int | None = Field(None, ge=1)
    """Client updates of a trial on the track of new environments."""
    seed: int = 0
    sampler: Literal["grid", "tpe"] = "grid"
    """A balanced draw from the grid, or one trial after the other by Optuna's TPE sampler, from the same grid."""


class DatasetEntry(Strict):
    """``[datasets.<label>]``: `name` is the plugin (default: the label); `protocol` overrides the suite's, `protection`
    and `systems` stand in its place.

    `model`: its name (default: the dataset's), or ``{ name = ..., <option> = ... }``; `task` likewise. `redraw`: the
    dataset's option `seed` is the run's seed, so that every seed is another draw of the data.
    """

    name: str | None = None
    model: str | dict[str, Any] | None = None
    task: str | dict[str, Any] | None = None
    options: dict[str, Any] = {}
    protocol: dict[str, Any] = {}
    protection: dict[str, Any] | None = None
    systems: dict[str, Any] | None = None
    redraw: bool = False


class AlgorithmEntry(Strict):
    """``[algorithms.<label>]``: `name` is the plugin (default: the label); all other keys are hyper-parameters.

    `space` replaces the plugin's own search space, `seeds` the suite's. `start`: what the run starts from, if not from
    random parameters. `hyperparameters` has those that are called like one of these keys; others may stand in it, too.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True)

    name: str | None = None
    title: Printable | None = None
    seeds: Seeds | None = None
    start: Start | None = None
    space: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] | None = None
    hyperparameters: dict[str, Any] = {}

    def given(self, plugin: str) -> dict[str, Any]:
        """The hyper-parameters that the entry gives to its plugin.

        ConfigError if one is given twice, or could be meant by a key that is the entry's own.
        """
        others = self.model_extra or {}
        if twice := sorted(others.keys() & self.hyperparameters):
            raise ConfigError(f"{plugin}: the hyper-parameter {twice[0]!r} is given twice, also in hyperparameters.")
        fields = {field.name for field in dataclasses.fields(registry.plugin("algorithms", plugin))}
        own = self.model_fields_set - others.keys()
        if meant := sorted((own & fields) - self.hyperparameters.keys()):
            raise ConfigError(
                f"{plugin}: {meant[0]!r} is a key of the suite and a hyper-parameter of {plugin}; give the latter as "
                f"hyperparameters = {{ {meant[0]} = ... }} as well."
            )
        return {**others, **self.hyperparameters}


class Suite(Strict):
    """A suite file. The grid is datasets x algorithms x seeds."""

    name: Label
    title: Printable
    description: str = ""
    seeds: Seeds = (1, 2, 3)
    protocol: dict[str, Any] = {}
    protection: dict[str, Any] = {}
    """Layers between clients and server (docs/protection.md)."""
    systems: dict[str, Any] = {}
    """Availability, devices and deadlines (docs/systems.md)."""
    datasets: dict[Label, DatasetEntry]
    algorithms: dict[Label, AlgorithmEntry]
    tuning: Tuning | None = None

    def grid(self) -> list[tuple[str, str]]:
        """All pairs of dataset label and algorithm label."""
        return [(dataset, algorithm) for dataset in self.datasets for algorithm in self.algorithms]

    def config(
        self,
        dataset: str,
        algorithm: str,
        seed: int,
        *,
        changes: Mapping[str, Any] | None = None,
        tuning: Mapping[str, Any] | None = None,
    ) -> RunConfig:
        """The resolved configuration of one cell, with hyper-parameters changed by dotted key."""
        from metaleaf import models, tasks  # only here: they import torch

        place, method = self.datasets[dataset], self.algorithms[algorithm]
        data_name, name = place.name or dataset, method.name or algorithm
        data = build("datasets", data_name, place.options)
        given = resolve("algorithms", name, method.given(name))
        options = resolve("datasets", data_name, place.options)
        if place.redraw and "seed" not in options:
            raise ConfigError(f"suite {self.name}: redraw is set, but dataset {data_name} has no option seed.")
        protocol = self.protocol_for(dataset)
        if method.start and not protocol.environments:
            raise ConfigError(f"suite {self.name}: {algorithm} has a start, which only new environments have.")
        layers = self.protection if place.protection is None else place.protection
        systems = self.systems if place.systems is None else place.systems
        if systems and protocol.environments:
            raise ConfigError(f"suite {self.name}: systems are for the tracks of clients, not for new environments.")
        return RunConfig(
            suite=self.name,
            dataset_label=dataset,
            algorithm_label=algorithm,
            title=method.title or _title_of(name),
            place=list(self.algorithms).index(algorithm),
            dataset=data_name,
            dataset_options={**options, "seed": seed} if place.redraw else options,
            model=models.resolve(place.model or data.spec.model),
            task=_other_task(tasks.resolve(place.task), tasks.resolve(data.spec.task)) if place.task else None,
            algorithm=name,
            hyperparameters=resolve("algorithms", name, override(given, changes or {})),
            protocol=protocol,
            seed=seed,
            tuning=dict(tuning) if tuning else None,
            redraw=place.redraw,
            start=method.start and _resolved_start(method.start),
            protection=resolve_protection(layers) if layers else {},
            systems=resolve_systems(systems, layers) if systems else {},
        )

    def protocol_for(self, dataset: str) -> Protocol:
        """The protocol for a dataset: the suite's, with the dataset's own changes."""
        return _protocol({**self.protocol, **self.datasets[dataset].protocol}, f"suite {self.name}")

    def seeds_for(self, algorithm: str) -> tuple[int, ...]:
        """The seeds that an algorithm runs with."""
        return self.algorithms[algorithm].seeds or self.seeds


def _other_task(given: Any, own: Any) -> Any:
    """The kind of task that is given, None where it is the data's own."""
    return None if given == own else given


def load_suite(name_or_path: str) -> Suite:
    """Read and check a suite: a path, or the name of one that comes with metaleaf.

    ConfigError names a key that does not exist, a value that does not fit, or an unknown plugin.
    """
    path = _find(name_or_path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}.") from None
    except OSError as error:
        raise ConfigError(f"cannot read the suite {path}: {error.strerror}.") from None
    suite = suite_of(raw, str(path))
    for dataset, algorithm in suite.grid():
        space = suite.algorithms[algorithm].space or {}
        suite.config(dataset, algorithm, 0, changes={key: values[0] for key, values in space.items()})
    return suite


def order_of(*folders: Path) -> tuple[str, ...]:
    """The algorithms in the order of the suites that come under the folders' names, where there are any."""
    paths = (SUITES / f"{folder.resolve().name}.toml" for folder in folders)
    labels = (label for path in paths if path.is_file() for label in load_suite(str(path)).algorithms)
    return tuple(dict.fromkeys(labels))


def one_cell(
    dataset: tuple[str, Mapping[str, Any]],
    algorithm: str,
    *,
    name: str,
    seed: int,
    protocol: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The only cell of a suite that nobody has written down.

    dataset: its label and entry. algorithm: the plugin's name; given: its hyper-parameters; changes: some of them by
    dotted key. ConfigError says what is wrong in "the run".
    """
    label, entry = dataset
    content = {
        "name": name,
        "title": f"{algorithm} on {label}",
        "seeds": [seed],
        "protocol": protocol,
        "datasets": {label: entry},
        "algorithms": {algorithm: {"hyperparameters": given or {}}},
    }
    return suite_of(content, "the run").config(label, algorithm, seed, changes=changes)


def suite_of(raw: Mapping[str, Any], where: str) -> Suite:
    """The suite that a TOML file with this content would be; ConfigError says what is wrong in `where`."""
    try:
        return Suite.model_validate(dict(raw))
    except ValidationError as error:
        raise _refused(error, raw, where) from None


def _title_of(plugin: str) -> str:
    title = registry.plugin("algorithms", plugin).title
    try:
        return printable(title)
    except ValueError as error:
        raise ConfigError(f"{plugin}: its title {title!r} {error}.") from None


def _resolved_start(start: Start) -> Start:
    found = {"hyperparameters": resolve("algorithms", start.name, start.hyperparameters)}
    return start.model_copy(update={**found, "start": start.start and _resolved_start(start.start)})


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        return path
    shipped = sorted(file.stem for file in SUITES.glob("*.toml"))
    if name_or_path not in shipped:
        raise unknown("suite", name_or_path, shipped)
    return SUITES / f"{name_or_path}.toml"


def _protocol(values: Mapping[str, Any], where: str) -> Protocol:
    try:
        return Protocol.model_validate(dict(values))
    except ValidationError as error:
        raise _refused(error, {"protocol": values}, where, prefix=("protocol",)) from None


def _refused(error: ValidationError, raw: Mapping[str, Any], where: str, prefix: tuple[str, ...] = ()) -> ConfigError:
    problem = error.errors()[0]
    place = (*prefix, *problem["loc"])
    if problem["type"] != "extra_forbidden":
        return ConfigError(explain(error, where))
    known = {
        (): Suite.model_fields,
        ("protocol",): Protocol.model_fields,
        ("protocol", "environments"): NewEnvironments.model_fields,
        ("tuning",): Tuning.model_fields,
    }.get(tuple(str(part) for part in place[:-1]), DatasetEntry.model_fields)
    table = ".".join(str(part) for part in place[:-1])
    return unknown(f"key in {where}{f' [{table}]' if table else ''}", str(place[-1]), known)
