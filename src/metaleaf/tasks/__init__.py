"""Kinds of tasks by name: a file of this folder, or an entry point of another package, with options from a suite."""

import dataclasses
import json
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from metaleaf import registry
from metaleaf.errors import ConfigError, refuse_unknown
from metaleaf.tasks._kind import Kind, Spec, finite, over

Given = str | Mapping[str, Any]
"""A kind's name, or ``{"name": ..., <option>: ...}``."""

__all__ = ["DEFAULT", "Given", "Kind", "Spec", "build", "finite", "of", "over", "resolve"]

DEFAULT = "multiclass"


def build(given: Given) -> Kind:
    """The kind with those options; ConfigError names a kind or an option that does not exist or does not fit."""
    options: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"task = {given!r}: give its name, or {{ name = ..., and its options }}.")
    cls = registry.plugin("tasks", name)
    refuse_unknown(f"option of {name}", options, [field.name for field in dataclasses.fields(cls)])
    try:
        made: Kind = _adapter(cls).validate_python(options)  # type: ignore[arg-type]
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"task {name}: {place} = {problem['input']!r}: {problem['msg']}.") from None
    object.__setattr__(made, "_named", name)
    return made


@cache  # to make one takes as long as to make a small model
def _adapter(cls: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cls)  # type: ignore[arg-type]


def of(spec: Spec, given: Given | None = None) -> Kind:
    """The kind that is given, or the data's own; ConfigError if it does not fit the data."""
    kind = build(given or spec.get("task") or DEFAULT)
    kind.check(spec)
    return kind


def resolve(given: Given) -> str | dict[str, Any]:
    """The same as plain JSON values, without the options that are as by default; the name alone where all are."""
    kind = build(given)
    plain = {field.name: json.loads(json.dumps(getattr(kind, field.name))) for field in dataclasses.fields(kind)}
    usual = {field.name: json.loads(json.dumps(field.default)) for field in dataclasses.fields(kind)}
    changed = {key: value for key, value in plain.items() if value != usual[key]}
    return {"name": kind.name, **changed} if changed else kind.name
