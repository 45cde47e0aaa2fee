"""What a record says was run, as a configuration that can be checked and run again.

A record is untrusted text. Its configuration is taken for nothing but the one cell of a suite: the same checks refuse
what does not exist, labels are folder names, plugins are found by name among those installed, and options are those of
their dataclasses.
"""

from typing import Any

from pydantic import ValidationError

from metaleaf.config.config import THE_RUNS, RunConfig, Strict, explain
from metaleaf.config.suite import Suite
from metaleaf.errors import ConfigError
from metaleaf.records.records import Head


class _Data(Strict):
    name: str
    options: dict[str, Any]


class _Method(Strict):
    name: str
    hyperparameters: dict[str, Any]


class _Resolved(Strict):
    """`metaleaf.config.config.RunConfig.resolved`, as read from a record."""

    dataset: _Data
    model: str | dict[str, Any]
    task: str | dict[str, Any] | None = None
    algorithm: _Method
    protocol: dict[str, Any]
    start: dict[str, Any] | None = None
    protection: dict[str, Any] = {}
    systems: dict[str, Any] = {}


def config_of(content: Head) -> RunConfig:
    """The run that a record's JSON describes.

    ConfigError names what does not exist here or does not fit, or says that this version resolves the configuration
    to another one, e.g. because a plugin has a further option by now.
    """
    where = f"{content.algorithm} on {content.dataset}, config"
    try:
        given = _Resolved.model_validate(content.config)
        suite = Suite.model_validate(_one_cell(content, given))
    except ValidationError as error:
        raise ConfigError(explain(error, where)) from None
    config = suite.config(content.dataset, content.algorithm, content.seed, tuning=content.tuning)
    try:
        config.config_hash()
    except ValueError:
        raise ConfigError(f"{where}: holds a number that is not finite.") from None
    if config.resolved() != content.config:
        raise ConfigError(
            f"{where}: this version of metaleaf and its plugins resolve it to another one (hash "
            f"{config.config_hash()}): check it with the version that the record names."
        )
    return config


def _one_cell(content: Head, given: _Resolved) -> dict[str, Any]:
    """The suite file, as read, whose only cell this is."""
    options = dict(given.dataset.options)
    redraw = options.get("seed") == THE_RUNS
    if redraw:
        del options["seed"]
    data = {"name": given.dataset.name, "model": given.model, "options": options, "redraw": redraw}
    if given.task is not None:
        data["task"] = given.task
    method = {
        "name": given.algorithm.name,
        "title": content.title,
        "hyperparameters": given.algorithm.hyperparameters,
    }
    return {
        "name": content.suite,
        "title": content.suite,
        "seeds": [content.seed],
        "protocol": given.protocol,
        "protection": given.protection,
        "systems": given.systems,
        "datasets": {content.dataset: data},
        "algorithms": {content.algorithm: {**method, "start": given.start} if given.start else method},
    }
