"""The command that makes a run: of a suite that comes with metaleaf where it has the run, else complete.

A command is built from what a record says, which anyone may have written, and is made to be pasted into a shell. So it
names only what is installed here, is quoted, and resolves to the very configuration of the record.
"""

import json
import shlex
import tomllib
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from metaleaf.config.suite import SUITES, Suite, load_suite
from metaleaf.errors import ConfigError
from metaleaf.jobs.from_record import config_of
from metaleaf.records.records import Head


class Command(NamedTuple):
    """Lines for a shell, and what to know about them."""

    lines: tuple[str, ...]
    note: str = ""


@cache
def shipped_suite(name: str) -> Suite | None:
    """The suite of that name that comes with metaleaf."""
    known = {path.stem: path for path in SUITES.glob("*.toml")}  # a name may be anyone's text, and is no path
    return load_suite(str(known[name])) if name in known else None


def command(content: Head, seeds: Sequence[int]) -> Command:
    """What makes these seeds of a record's configuration; without lines, the note says why there are none."""
    try:
        return _of_suite(content, seeds) or _complete(content, seeds)
    except ConfigError as error:
        return Command((), f"No command makes this run here: {error}")


def _of_suite(content: Head, seeds: Sequence[int]) -> Command | None:
    suite = shipped_suite(content.suite)
    if suite is None or content.dataset not in suite.datasets or content.algorithm not in suite.algorithms:
        return None
    if not set(seeds) <= set(suite.seeds_for(content.algorithm)):
        return None
    chosen = (content.tuning or {}).get("chosen")
    changes = chosen if suite.tuning and isinstance(chosen, dict) else {}
    try:
        config = suite.config(content.dataset, content.algorithm, content.seed, changes=changes)
        if config.config_hash() != content.config_hash or config.resolved() != content.config:
            return None
    except (ConfigError, ValueError):
        return None
    words = ["metaleaf", "suite", suite.name, "--algorithms", content.algorithm, "--seeds", *map(str, seeds)]
    if not suite.tuning:
        return Command((shlex.join(words),))
    # A suite that is tuned reads the outcome of every algorithm's trials.
    return Command((f"metaleaf tune {suite.name}", shlex.join(words)), "The first line does what trials are missing.")


def _complete(content: Head, seeds: Sequence[int]) -> Command:
    config = config_of(content)
    if config.config_hash() != content.config_hash:
        raise ConfigError(f"its configuration has the hash {config.config_hash()}, not {content.config_hash}.")
    for given, what in ((config.start, "a start"), (config.redraw, "data drawn anew for every seed")):
        if given:
            raise ConfigError(
                f"it has {what}, which only a suite file can say; metaleaf verify runs a record again as it is."
            )
    parts = {
        "--options": _set(config.dataset_options),
        "--set": _set(config.hyperparameters),
        "--protocol": _set(content.config["protocol"]),
        "--protection": _set(config.protection),
        "--systems": _set(config.systems),
    }
    _check(content, config.dataset, config.algorithm, parts)
    words = ["metaleaf", "run", "--dataset", config.dataset, "--algorithm", config.algorithm]
    words += [
        "--seed",
        str(seeds[0]),
        "--name",
        content.suite,
        "--model",
        config.model if isinstance(config.model, str) else _toml(config.model),
    ]
    for option, values in parts.items():
        for key, value in values.items():
            words += [option, f"{key}={_toml(value)}"]
    others = ", ".join(f"--seed {seed}" for seed in seeds[1:])
    return Command((shlex.join(words),), f"Likewise with {others}." if others else "")


def _check(content: Head, dataset: str, algorithm: str, parts: dict[str, dict[str, Any]]) -> None:
    """ConfigError if the run that ``metaleaf run`` makes of this is another."""
    method = {"name": algorithm, **parts["--set"]}
    given = {name: parts[f"--{name}"] for name in ("options", "protection", "systems")}
    place = {"name": dataset, "model": content.config["model"], **given}
    cell = {"name": "runs", "title": "runs", "protocol": parts["--protocol"], "datasets": {"data": place}}
    suite = Suite.model_validate(cell | {"algorithms": {"method": method}})
    if suite.config("data", "method", content.seed).resolved() != content.config:
        raise ConfigError("it leaves out a setting that has a default, which only a suite file can say.")


def _set(values: Any) -> Any:
    """What is set: TOML has no null, and what is null by default need not be said."""
    if isinstance(values, dict):
        return {key: _set(value) for key, value in values.items() if value is not None}
    return values


def _toml(value: Any) -> str:
    """A value as TOML on one line; ConfigError for one that TOML or a person who reads it cannot tell."""
    text = _inline(value)
    try:
        same = tomllib.loads(f"v = {text}")["v"] == value
    except tomllib.TOMLDecodeError:
        same = False
    if not same or not text.isprintable():
        raise ConfigError("it has a text that cannot be written on a command line; use its suite file.")
    return text


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
