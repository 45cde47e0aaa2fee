"""Algorithms, datasets and models that are given as objects or classes, by the names that suites have for them."""

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from metaleaf import registry
from metaleaf.dataset import options_of, parts_of
from metaleaf.errors import ConfigError


def named(kind: str, given: Any) -> tuple[str, dict[str, Any]]:
    """The plugin's name and its options: of a name, a plugin class, or an object of one.

    ConfigError for anything else. A class that is not known by a name yet is known by one in this process from now on.
    """
    if isinstance(given, str):
        registry.plugin(kind, given)  # an unknown one is said to be that
        return given, {}
    cls = given if isinstance(given, type) else type(parts_of(given)[0])
    if not hasattr(cls, registry.METHOD[kind]):
        own = ", or your data to metaleaf.clients" if kind == "datasets" else ""
        raise ConfigError(f"{cls.__name__} is no {kind[:-1]}: give a name, a plugin class or an object of one{own}.")
    name = registry.bring(kind, cls)
    if isinstance(given, type):
        return name, {}
    return name, plain(options_of(given))


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them; numbers of numpy's are numbers. ConfigError for what is none of that."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(options), default=_of_numpy))
    except TypeError as error:
        raise ConfigError(f"the options {sorted(options)} must be numbers, texts and lists of them: {error}.") from None
    return found


def _of_numpy(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"not {type(value).__name__}")


def model_entry(given: Any) -> str | dict[str, Any] | None:
    """A model as suites have it: of a name, a dict with one, a module class, or a module, which is its own start."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        name, options = given.get("name"), {key: value for key, value in given.items() if key != "name"}
        return {"name": registry.bring("models", name) if isinstance(name, type) else name, **options}
    if isinstance(given, type) and issubclass(given, nn.Module):
        return registry.bring("models", given)
    if isinstance(given, nn.Module):
        return _as_it_is(given)
    raise ConfigError(
        f"model = a {type(given).__name__}: give a name, a dict with one, a torch module or a class of them."
    )


def _as_it_is(module: nn.Module) -> str:
    """The name of a model that starts as this module is, its parameters included: others have another name."""
    kept, cls = copy.deepcopy(module), type(module)

    def made(_: type) -> nn.Module:
        return copy.deepcopy(kept)

    content = hashlib.sha256()
    for name, leaf in kept.state_dict().items():
        content.update(f"{name} {leaf.dtype} {tuple(leaf.shape)}\n".encode())
        content.update(leaf.detach().cpu().contiguous().numpy().tobytes())
    copied = type(cls.__name__, (cls,), {"__new__": made, "__init__": _nothing, "__module__": cls.__module__})
    return registry.bring("models", copied, f"{cls.__name__.lower()}_{content.hexdigest()[:8]}")


def _nothing(self: nn.Module) -> None:
    """The module is made already."""
