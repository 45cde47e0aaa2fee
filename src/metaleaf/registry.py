"""Find plugins by name: a file of ours in ``algorithms``, ``datasets``, ``models`` or ``tasks``, or an entry point.

Or a class that a session (a script, a notebook) has brought: that is known to its process only.
"""

import dataclasses
import importlib
import pkgutil
import re
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeGuard

from metaleaf.errors import ConfigError, UserError, unknown

METHOD = {"algorithms": "adapt", "datasets": "clients", "models": "forward", "tasks": "losses"}
"""The method that tells the plugin class from its file's other classes."""

NAMED = {"algorithms": "title", "datasets": "spec", "models": "parameters", "tasks": "metrics"}
"""What a plugin class has before it is made."""


@cache
def built_in(kind: str) -> frozenset[str]:
    """Names of the plugins of a kind that come with metaleaf."""
    package = importlib.import_module(f"metaleaf.{kind}")
    return frozenset(name for _, name, _ in pkgutil.iter_modules(package.__path__) if not name.startswith("_"))


@cache
def _third_party(kind: str) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"metaleaf.{kind}"):
        found.setdefault(point.name, []).append(point)
    return found


_brought: dict[tuple[str, str], type[Any]] = {}
"""Classes of this session by kind and name."""


def bring(kind: str, cls: type[Any], name: str = "") -> str:
    """The name of a plugin class, which is known by it from now on.

    That of a class that comes with metaleaf or is an entry point. Another one gets `name`, by default its own in small
    letters; one that was brought earlier under that name is replaced, as when a cell of a notebook is run again.
    ConfigError if it is no plugin of the kind.
    """
    if not name and (known := _name_of(kind, cls)):
        return known
    name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
    if name in built_in(kind) or name in _third_party(kind):
        name = f"own_{name}"
    _brought[kind, name] = _checked(kind, f"class {cls.__name__}", cls)
    return name


def was_brought(kind: str, name: str) -> bool:
    """Whether only this process knows the plugin of that name."""
    return (kind, name) in _brought


def _name_of(kind: str, cls: type[Any]) -> str | None:
    parts = cls.__module__.split(".")
    if parts[:2] == ["metaleaf", kind] and len(parts) > 2 and parts[2] in built_in(kind):
        return parts[2]
    places = {cls.__module__, f"{cls.__module__}:{cls.__qualname__}"}
    points = (point for found in _third_party(kind).values() for point in found)
    return next((point.name for point in points if point.value in places), None)


def names(kind: str) -> list[str]:
    """Names of all plugins of a kind (of `METHOD`), sorted."""
    return sorted(built_in(kind) | _third_party(kind).keys() | {name for of, name in _brought if of == kind})


def plugin(kind: str, name: str) -> type[Any]:
    """The plugin class of that name.

    ConfigError with the nearest names if there is none, with the reason if it cannot be loaded, and with the packages
    if several have it. One that is named like one of ours is not used, with a warning.
    """
    others = _third_party(kind).get(name, [])
    packages = " and ".join(sorted(point.dist.name if point.dist else point.value for point in others))
    if name in built_in(kind):
        if others:
            _say_unused(kind, name, packages)
        return _loaded(kind, name, lambda: importlib.import_module(f"metaleaf.{kind}.{name}"))
    if (kind, name) in _brought:
        return _brought[kind, name]
    if len(others) > 1:
        raise ConfigError(f"{packages} both have {kind[:-1]} {name!r}: rename an entry point, or uninstall one.")
    if others:
        return _loaded(kind, f"{name} of {packages}", others[0].load)
    raise unknown(kind[:-1], name, names(kind))


@cache  # once a process
def _say_unused(kind: str, name: str, packages: str) -> None:
    message = f"the {kind[:-1]} {name!r} of {packages} is not used, metaleaf's own is: rename the entry point."
    warnings.warn(message, stacklevel=3)


def distribution(kind: str, name: str) -> Distribution | None:
    """The installed package that a plugin came with; None if it is metaleaf's own."""
    points = [] if name in built_in(kind) else _third_party(kind).get(name, [])
    return points[0].dist if points else None


def loadable(kind: str) -> tuple[dict[str, type[Any]], list[str]]:
    """All plugins that can be loaded, by name, and a sentence on each that cannot: one must not hide the others."""
    found, refused = {}, []
    for name in names(kind):
        try:
            found[name] = plugin(kind, name)
        except UserError as error:
            refused.append(str(error))
    return found, refused


def _loaded(kind: str, what: str, load: Callable[[], Any]) -> type[Any]:
    """The plugin class that is loaded, or the only one of the module; ConfigError says what is wrong with it."""
    try:
        found = load()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may fail in any way
        frames = traceback.extract_tb(error.__traceback__)
        last = next((frame for frame in reversed(frames) if not frame.filename.startswith("<frozen")), frames[-1])
        reason = f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
        raise ConfigError(f"the {kind[:-1]} {what} cannot be loaded: {reason}.") from error
    return _checked(kind, what, _plugin_class(found, kind) if isinstance(found, ModuleType) else found)


def _checked(kind: str, what: str, found: Any) -> type[Any]:
    """The class; ConfigError if it is no plugin of the kind."""
    if not _is_plugin(found, kind):
        raise ConfigError(f"the {kind[:-1]} {what} is {found!r}, not {_wanted(kind)}.")
    if not hasattr(found, NAMED[kind]):
        raise ConfigError(f"the {kind[:-1]} {what} has no {NAMED[kind]!r}: give its class {found.__name__} one.")
    return found


def _plugin_class(module: ModuleType, kind: str) -> type[Any]:
    own = [
        value
        for value in vars(module).values()
        if _is_plugin(value, kind)
        and value.__module__ == module.__name__
        and (kind != "models" or hasattr(value, "features"))  # not a model's blocks
    ]
    if len(own) != 1:
        raise ConfigError(f"{module.__file__} must define exactly one, {_wanted(kind)}; it has {len(own)}.")
    return own[0]


def _is_plugin(found: Any, kind: str) -> TypeGuard[type[Any]]:
    is_class = isinstance(found, type) and hasattr(found, METHOD[kind])
    return is_class and (kind == "models" or dataclasses.is_dataclass(found))


def _wanted(kind: str) -> str:
    return f"a {'torch module' if kind == 'models' else 'dataclass'} with a method {METHOD[kind]!r}"
