"""What decides a run's numbers: dataset, model, algorithm, protocol, seed. Unknown keys are refused by name."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from metaleaf import registry
from metaleaf.algorithm import Algorithm
from metaleaf.dataset import Dataset
from metaleaf.errors import ConfigError, unknown


class Strict(BaseModel):
    """A frozen configuration that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    split_seed: int = 0
    """Splits clients and their examples, for all runs and all tuning: no run's test client is ever tuned on."""

    @model_validator(mode="after")
    def _fractions(self) -> "Protocol":
        if not self.test_supports or not all(0 < p < 1 for p in self.test_supports):
            raise ValueError(f"test_supports must be fractions between 0 and 1, got {list(self.test_supports)}")
        return self


class RunConfig(Strict):
    """One cell of a suite. `dataset` and `algorithm` are resolved: every option is written out."""

    suite: str
    dataset_label: str
    algorithm_label: str
    title: str
    dataset: str
    dataset_options: dict[str, Any]
    model: str
    algorithm: str
    hyperparameters: dict[str, Any]
    protocol: Protocol
    seed: int
    tuning: dict[str, Any] | None = None

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the numbers, except the seed."""
        return {
            "dataset": {"name": self.dataset, "options": self.dataset_options},
            "model": self.model,
            "algorithm": {"name": self.algorithm, "hyperparameters": self.hyperparameters},
            "protocol": self.protocol.model_dump(mode="json"),
        }

    def config_hash(self) -> str:
        """12 hexadecimal digits that name the configuration."""
        return digest(self.resolved())[:12]

    def build_dataset(self) -> Dataset:
        """The dataset plugin with these options."""
        return cast(Dataset, build("datasets", self.dataset, self.dataset_options))

    def build_algorithm(self) -> Algorithm:
        """The algorithm plugin with these hyper-parameters."""
        return cast(Algorithm, build("algorithms", self.algorithm, self.hyperparameters))


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def build(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    """The plugin `name` with those options; ConfigError names an option that does not exist or does not fit."""
    cls = registry.plugin(kind, name)
    fields = [field.name for field in dataclasses.fields(cls)]
    for key in options:
        if key not in fields:
            raise unknown(f"option of {name}", key, fields)
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
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(build(kind, name, options))))
    return plain


def override(options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The options with changes by dotted key, e.g. ``{"client_optimizer.lr": 0.1}``."""
    changed = json.loads(json.dumps(dict(options)))
    for key, value in changes.items():
        *path, leaf = key.split(".")
        place = changed
        for part in path:
            if not isinstance(place.get(part), dict):
                raise unknown("option", key, options)
            place = place[part]
        place[leaf] = value
    return cast(dict[str, Any], changed)


def explain(error: ValidationError, where: str) -> str:
    """The first problem that pydantic found, as one sentence."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: unknown key {place!r}."
    if problem["type"] == "missing":
        return f"{where}: {place!r} is missing."
    given = f" = {problem['input']!r}" if not isinstance(problem["input"], Mapping) else ""
    return f"{where}: {place or 'value'}{given}: {problem['msg']}."
