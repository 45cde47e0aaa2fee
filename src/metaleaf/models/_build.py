"""Models by name: a file of this folder, or an entry point of another package, with options from a suite."""

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from metaleaf import registry, tasks
from metaleaf.errors import ConfigError, refuse_unknown
from metaleaf.models._model import Model
from metaleaf.models._seeded import drawing
from metaleaf.tasks import Kind

Spec = Mapping[str, Any]

Given = str | Mapping[str, Any]
"""A model's name, or ``{"name": ..., <option>: ...}``."""

OF_DATA = ("outputs", "positions", "x_shape", "x_dtype")
"""Parameters of a model's constructor that the data give; all others are options, with defaults.

``outputs``: numbers that make a prediction. ``positions``: predictions that are made of one example, one at each
position of a sequence; 0 where an example has one prediction.
"""


def build(model: Given, spec: Spec, seed: int, kind: Kind | None = None) -> Model:
    """The model for a prepared dataset's spec, with initial parameters that depend on the seed only.

    kind: of the task, if it is not the data's own. A spec may give `OF_DATA` itself.
    ConfigError names a model or an option that does not exist or does not fit, and examples that it cannot read.
    """
    name, cls, options = _asked(model)
    taken = _of_data(name, cls, spec, kind)
    make: Callable[[], Model] = partial(cls, **taken, **options)
    try:
        with drawing(seed):
            made = make()
    except ValueError as error:
        raise ConfigError(
            f"model {name!r} cannot read {spec['x_dtype']} examples of shape {tuple(spec['x_shape'])}: {error}"
        ) from error
    made.remake = make
    return made


def _of_data(name: str, cls: type[Model], spec: Spec, kind: Kind | None) -> dict[str, Any]:
    """What the constructor asks for; ConfigError if a sequence needs more predictions than the model makes."""
    asked = inspect.signature(cls).parameters.keys() & set(OF_DATA)
    known = {"positions": 0, **spec}
    if "outputs" not in spec and "classes" in spec:
        kind = kind or tasks.of(spec)
        known = {"outputs": kind.outputs(spec), "positions": kind.positions(spec), **spec}
    if known["positions"] and "positions" not in asked:
        raise ConfigError(
            f"model {name!r} makes one prediction an example, and the data ask for {known['positions']}, one at each "
            "position: choose a model whose constructor takes `positions`."
        )
    return {key: known[key] for key in sorted(asked)}


def resolve(model: Given) -> str | dict[str, Any]:
    """The same as plain JSON values, without the options that are as by default; the name alone where all are."""
    name, cls, options = _asked(model)
    defaults = {key: _plain(parameter.default) for key, parameter in _options(cls).items()}
    changed = {key: plain for key, value in options.items() if (plain := _plain(value)) != defaults[key]}
    return {"name": name, **changed} if changed else name


def _asked(model: Given) -> tuple[str, type[Model], dict[str, Any]]:
    """The name, the class, and all options."""
    given = {"name": model} if isinstance(model, str) else dict(model)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"model = {model!r}: give its name, or {{ name = ..., and its options }}.")
    cls = registry.plugin("models", name)
    found = _options(cls)
    refuse_unknown(f"option of {name}", given, found)
    try:
        hints = get_type_hints(cls.__init__, include_extras=True)
    except NameError:  # annotations for type checkers only: whatever is given will do
        hints = {}
    values = {key: parameter.default for key, parameter in found.items()} | given
    return name, cls, {key: _checked(name, key, value, hints.get(key, Any)) for key, value in values.items()}


def _options(cls: type[Any]) -> dict[str, inspect.Parameter]:
    anything = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(cls).parameters.items()
    found = {key: one for key, one in parameters if key not in OF_DATA and one.kind not in anything}
    for key, one in found.items():
        if one.default is one.empty or one.kind is one.POSITIONAL_ONLY:
            raise ConfigError(
                f"{cls.__name__}'s constructor asks for {key!r}, which nobody gives: give it a default, or call it "
                f"{', '.join(OF_DATA[:-1])} or {OF_DATA[-1]}, which are the dataset's."
            )
    return found


def _checked(name: str, key: str, value: Any, kind: Any) -> Any:
    try:
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"model {name}: {key} = {value!r}: {problem['msg']}.") from None


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def redrawn(model: Model, seed: int) -> nn.Module:
    """Another model like this one, whose initial parameters depend on the seed only.

    By its method `reset_parameters` if it has one, otherwise made once more as `build` made it.
    """
    with drawing(seed):
        if hasattr(model, "reset_parameters"):
            other: nn.Module = copy.deepcopy(model)
            cast(Any, other).reset_parameters()
            return other
        if remake := getattr(model, "remake", None):  # a module that `build` did not make has none
            other = remake()
            return other.to(next(model.parameters()))
    raise ConfigError(
        f"{type(model).__name__} cannot be drawn once more, which the algorithm asks for: make it by its name, or give "
        "it a method reset_parameters."
    )
