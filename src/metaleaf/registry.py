"""Find plugins by name: a file in ``algorithms/`` or ``datasets/``, or an entry point of another package."""

import dataclasses
import importlib
import pkgutil
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from types import ModuleType
from typing import Any

from metaleaf.errors import ConfigError, unknown

METHOD = {"algorithms": "adapt", "datasets": "clients"}
"""The method that tells the plugin class from its file's other classes."""


@cache
def _builtin(kind: str) -> frozenset[str]:
    package = importlib.import_module(f"metaleaf.{kind}")
    return frozenset(module.name for module in pkgutil.iter_modules(package.__path__))


@cache
def _third_party(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"metaleaf.{kind}")}


def names(kind: str) -> list[str]:
    """Names of all plugins of a kind (``"algorithms"`` or ``"datasets"``), sorted."""
    return sorted(_builtin(kind) | _third_party(kind).keys())


def plugin(kind: str, name: str) -> type[Any]:
    """The plugin class of that name; a ConfigError with the nearest names if there is none."""
    if name in _builtin(kind):
        return _plugin_class(importlib.import_module(f"metaleaf.{kind}.{name}"), METHOD[kind])
    if name in _third_party(kind):
        found: type[Any] = _third_party(kind)[name].load()
        return found
    raise unknown(kind[:-1], name, names(kind))


def distribution(kind: str, name: str) -> Distribution | None:
    """The installed package that a plugin came with; None if it is metaleaf's own."""
    point = None if name in _builtin(kind) else _third_party(kind).get(name)
    return point.dist if point else None


def _plugin_class(module: ModuleType, method: str) -> type[Any]:
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and dataclasses.is_dataclass(value)
        and hasattr(value, method)
    ]
    if len(own) != 1:
        raise ConfigError(
            f"{module.__file__} must define exactly one dataclass with a method {method!r}; it has {len(own)}."
        )
    return own[0]
