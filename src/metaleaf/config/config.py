"""What decides a run's numbers: dataset, model, algorithm, protocol, seed. Unknown keys are refused by name."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from metaleaf import registry
from metaleaf.dataset import Dataset, Partitioned, options_of
from metaleaf.errors import ConfigError, refuse_unknown, unknown

if TYPE_CHECKING:
    from metaleaf.algorithm import Algorithm  # imports torch, which opening prepared data does not need
    from metaleaf.dataset import Stage

THE_RUNS = "the run's"
"""In a resolved configuration: the dataset's option `seed` is the run's."""


class Strict(BaseModel):
    """A frozen configuration that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NewEnvironments(Strict):
    """The track of new environments: how methods train on some environments and are scored in others."""

    budget: int = Field(20_000, ge=0)
    """Client updates (one client's local work in one round) that every method may spend in training, in all."""
    environments_per_round: int = Field(4, ge=1)
    """Environments in a round of a method that learns from whole environments."""
    participants: int = Field(5, ge=1)
    """Clients in a cohort of a new environment."""
    train_participants: tuple[int, int] = (5, 5)
    """Least and most clients in a cohort of a training environment; drawn anew every round."""
    queries: int = Field(8, ge=1)
    """Other clients of a training environment who judge its model in a round."""
    members: int = Field(20, ge=1)
    """Clients asked when a method asks whole environments."""
    rounds: tuple[int, ...] = (0, 1, 2, 5, 10)
    """Rounds in a test environment after which its model is scored."""
    validation_rounds: tuple[int, ...] = (0, 1, 2)
    """The same in a validation environment; the mean accuracy selects the model."""
    scored: int = Field(10, ge=1)
    """Clients of a new environment who never take part and are scored."""
    draws: int = Field(2, ge=1)
    """Times that every test environment is entered, with other cohorts."""
    local_steps: int = Field(5, ge=1)
    local_lr: float = Field(0.1, gt=0)
    """Everyone's local training: steps of gradient descent on all examples, and their rate."""

    @model_validator(mode="after")
    def _sensible(self) -> "NewEnvironments":
        least, most = self.train_participants
        if not 1 <= least <= most:
            raise ValueError(f"train_participants must rise from 1 or more, got {[least, most]}")
        if self.members <= most:
            raise ValueError(f"members must be more than the {most} train_participants, so that somebody can judge")
        for name in ("rounds", "validation_rounds"):
            numbers = getattr(self, name)
            if not numbers or min(numbers) < 0 or list(numbers) != sorted(set(numbers)):
                raise ValueError(f"{name} must be rising numbers from 0, got {list(numbers)}")
        return self


class Protocol(Strict):
    """How clients are split, sampled and scored (docs/protocol.md)."""

    rounds: int = Field(100, ge=0)
    clients_per_round: int = Field(10, ge=1)
    support: float = Field(0.2, gt=0, lt=1)
    """Fraction of a client's examples that is its support set, in training and validation."""
    test_supports: tuple[float, ...] = (0.2, 0.5, 0.9)
    """Support fractions at which the test clients are scored."""
    weighting: Literal["samples", "uniform"] = "samples"
    """Weight of a client's update in the cohort's mean."""
    evaluate_every: int = Field(10, ge=1)
    """Rounds between evaluations on the validation clients; also between checkpoints."""
    min_examples: int = Field(1, ge=1)
    max_examples: int | None = Field(None, ge=1)
    """Clients with fewer examples are left out; of larger ones only this many are used."""
    max_clients: int | None = Field(None, ge=3)
    """Use only this many clients, drawn by the split seed."""
    held_out: float = Field(0.0, ge=0, lt=1)
    """Fraction of each training client's examples that is kept out of everything, to score participants on."""
    split_seed: int = 0
    """Splits clients and their examples, for all runs and all tuning: no run's test client is ever tuned on."""
    environments: NewEnvironments | None = None
    """Given: the track of new environments. Then `rounds` and `test_supports` are not used."""

    @property
    def kept(self) -> float:
        """Fraction of a training client's examples that it learns from."""
        return round(1 - self.held_out, 12)

    @model_validator(mode="after")
    def _fractions(self) -> "Protocol":
        if not self.test_supports or not all(0 < p < 1 for p in self.test_supports):
            raise ValueError(f"test_supports must be fractions between 0 and 1, got {list(self.test_supports)}")
        if len(set(self.test_supports)) < len(self.test_supports):
            raise ValueError(f"test_supports must have each fraction once, got {list(self.test_supports)}")
        if self.held_out and self.environments:
            raise ValueError("held_out is for participants; the track of new environments has none to score")
        return self


class Start(Strict):
    """Where a run starts from instead of random parameters: what another algorithm makes of a part of the budget."""

    name: str
    share: float = Field(gt=0, lt=1)
    """Part of the budget that is spent when the start is reached."""
    hyperparameters: dict[str, Any] = {}
    start: "Start | None" = None
    """What the start itself starts from; its share is included."""

    @model_validator(mode="after")
    def _rising(self) -> "Start":
        if self.start and self.start.share >= self.share:
            raise ValueError(f"share {self.share} of a start must be above {self.start.share}, its own start's")
        return self

    def resolved(self) -> dict[str, Any]:
        """All of it as plain values; a start's own start only where there is one."""
        plain: dict[str, Any] = self.model_dump(mode="json", exclude={"start"})
        return {**plain, "start": self.start.resolved()} if self.start else plain


class RunConfig(Strict):
    """One cell of a suite. `dataset` and `algorithm` are resolved: every option is written out."""

    suite: str
    dataset_label: str
    algorithm_label: str
    title: str
    place: int | None = None
    """Of the algorithm in its suite, from 0: the order of tables."""
    dataset: str
    dataset_options: dict[str, Any]
    model: str | dict[str, Any]
    """Its name, or a dict with its `name` and the options that are not as by default (`metaleaf.models.resolve`)."""
    task: str | dict[str, Any] | None = None
    """The same (`metaleaf.tasks.resolve`) of another kind of task than the data's own."""
    algorithm: str
    hyperparameters: dict[str, Any]
    protocol: Protocol
    seed: int
    tuning: dict[str, Any] | None = None
    redraw: bool = False
    """The dataset's own `seed` is the run's: every seed is another draw of the data."""
    start: Start | None = None
    protection: dict[str, Any] = {}
    """The layers between clients and server, resolved (`metaleaf.protection.pipeline`)."""
    systems: dict[str, Any] = {}
    """Availability, devices and deadlines, resolved (`metaleaf.systems.fleet`)."""

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the numbers, except the seed. What is not used is not there."""
        protocol = self.protocol.model_dump(mode="json")
        for optional in ("environments", "held_out"):
            if not protocol[optional]:
                del protocol[optional]
        options = {**self.dataset_options, "seed": THE_RUNS} if self.redraw else self.dataset_options
        found = {
            "dataset": {"name": self.dataset, "options": options},
            "model": self.model,
            "algorithm": {"name": self.algorithm, "hyperparameters": self.hyperparameters},
            "protocol": protocol,
        }
        if self.task is not None:
            found["task"] = self.task
        if self.protection:
            found["protection"] = self.protection
        if self.systems:
            found["systems"] = self.systems
        return found if self.start is None else {**found, "start": self.start.resolved()}

    def config_hash(self) -> str:
        """12 hexadecimal digits that name the configuration."""
        return digest(self.resolved())[:12]

    def algorithms(self) -> list[str]:
        """The plugins that take part: the algorithm, and those that make what it starts from."""
        found, start = [self.algorithm], self.start
        while start:
            found.append(start.name)
            start = start.start
        return found

    @property
    def model_name(self) -> str:
        """The model's, without its options."""
        return self.model if isinstance(self.model, str) else str(self.model["name"])

    def build_dataset(self) -> Dataset:
        """The dataset plugin with these options."""
        return cast(Dataset, build("datasets", self.dataset, self.dataset_options))

    def build_algorithm(self) -> "Algorithm":
        """The algorithm plugin with these hyper-parameters."""
        return cast("Algorithm", build("algorithms", self.algorithm, self.hyperparameters))


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


PARTITION = "partition"
"""The option of every dataset that has none of that name itself: what its clients become (`metaleaf.partition`)."""


def build(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    """The plugin `name` with those options; ConfigError names an option that does not exist or does not fit.

    A dataset with a `partition` is a `metaleaf.dataset.Partitioned`.
    """
    cls = registry.plugin(kind, name)
    if kind != "datasets" or PARTITION in _fields(cls):
        return made(cls, name, options)
    refuse_unknown(f"option of {name}", options, [*_fields(cls), PARTITION])
    own = made(cls, name, {key: value for key, value in options.items() if key != PARTITION})
    stages = _stages(name, options.get(PARTITION, ()))
    return Partitioned(own, stages) if stages else own


def _stages(dataset: str, given: Any) -> tuple["Stage", ...]:
    """The stages of a partition: a list of them, or one; each its name, or a table with its `name` and options."""
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return tuple(_stage(dataset, one) for one in several)


def _stage(dataset: str, given: Any) -> "Stage":
    from metaleaf.partition.partition import STAGES  # only here: it imports torch and Pillow

    options = {"name": given} if isinstance(given, str) else given
    if not isinstance(options, Mapping) or not isinstance(name := options.get("name"), str):
        example = '{ name = "dirichlet", alpha = 0.3 }'
        raise ConfigError(f"{dataset}: partition = {given!r}: give a stage by its name and options, as {example}.")
    if name not in STAGES:
        raise unknown(f"partition of {dataset}", name, STAGES)
    stage: Stage = made(STAGES[name], name, {key: value for key, value in options.items() if key != "name"})
    return stage


def _fields(cls: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def made(cls: type[Any], name: str, options: Mapping[str, Any]) -> Any:
    """The dataclass with those options, checked; ConfigError names one that does not exist or does not fit."""
    refuse_unknown(f"option of {name}", options, _fields(cls))
    try:
        json.dumps(dict(options), allow_nan=False)
    except ValueError:
        raise ConfigError(f"{name}: {dict(options)!r} holds a number that is not finite.") from None
    try:
        return TypeAdapter(cls).validate_python(dict(options))
    except ValidationError as error:
        raise ConfigError(explain(error, name)) from None


def resolve(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the plugin, defaults written out, as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(options_of(build(kind, name, options))))
    return plain


def override(options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The options with changes by dotted key, e.g. ``{"client_optimizer.lr": 0.1}``.

    Another ``client_optimizer.name`` is another optimizer: it keeps nothing of the one it replaces, its rate neither.
    """
    changed = json.loads(json.dumps(dict(options)))
    for key in sorted(changes, key=lambda key: not key.endswith(".name")):
        *path, leaf = key.split(".")
        place = changed
        for part in path:
            if not isinstance(place.get(part), dict):
                raise unknown("option", key, options)
            place = place[part]
        if path and leaf == "name" and place.get(leaf) != changes[key]:
            place.clear()
        place[leaf] = changes[key]
    return cast(dict[str, Any], changed)


def flattened(options: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Options by dotted key: the opposite of `override`."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        found |= flattened(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def explain(error: ValidationError, where: str) -> str:
    """The first problem that pydantic found, as one sentence."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: unknown key {place!r}."
    if problem["type"] == "missing":
        return f"{where}: {place!r} is missing."
    if problem["type"] == "union_tag_invalid":
        tag, known = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
        return f"{where}: {place or 'value'}: unknown name {tag!r}; known: {known}."
    if problem["type"] in ("union_tag_not_found", "model_attributes_type"):
        return f"{where}: {place or 'value'}: give its name and options, as {{ name = ..., ... }}."
    given = f" = {problem['input']!r}" if not isinstance(problem["input"], Mapping) else ""
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    if not place and not given:
        return f"{where}: {message}."
    return f"{where}: {place or 'value'}{given}: {message}."
