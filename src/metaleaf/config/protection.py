"""What stands in [protection]: the options of a layer or, where there are several of a kind, its name and options."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metaleaf.config.config import made
from metaleaf.dataset import options_of
from metaleaf.errors import ConfigError, refuse_unknown, unknown

if TYPE_CHECKING:
    from metaleaf.protection.pipeline import Pipeline  # imports torch

LAYERS = ("attack", "compress", "clip", "noise", "secure", "aggregate")


def pipeline_of(given: Mapping[str, Any]) -> "Pipeline":
    """The layers that are declared; ConfigError names what does not exist or does not fit."""
    from metaleaf.protection.pipeline import Pipeline

    refuse_unknown("layer in [protection]", given, LAYERS)
    return Pipeline(**{layer: _layer(layer, options) for layer, options in given.items()})


def resolve_protection(given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the layers, defaults written out, as plain JSON values."""
    pipeline, kinds = pipeline_of(given), _kinds()
    found: dict[str, Any] = {}
    for layer in given:
        options = json.loads(json.dumps(options_of(getattr(pipeline, layer))))
        found[layer] = (
            options if not isinstance(kinds[layer], Mapping) else {"name": _name(layer, given[layer]), **options}
        )
    return found


def _layer(layer: str, given: Any) -> Any:
    kind = _kinds()[layer]
    if not isinstance(kind, Mapping):
        if not isinstance(given, Mapping):
            raise ConfigError(f"protection: {layer} = {given!r}: give its options, as {layer} = {{ ... }}.")
        return made(kind, f"protection.{layer}", given)
    name = _name(layer, given)
    if name not in kind:
        raise unknown(f"protection.{layer}", name, kind)
    options = {} if isinstance(given, str) else {key: value for key, value in given.items() if key != "name"}
    return made(kind[name], f"protection.{layer} {name}", options)


def _name(layer: str, given: Any) -> str:
    name = given if isinstance(given, str) else given.get("name") if isinstance(given, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(f"protection: {layer} = {given!r}: give its name and options, as {{ name = ..., ... }}.")
    return name


def _kinds() -> Mapping[str, Any]:
    """The class of each layer, or its classes by name."""
    from metaleaf.protection.aggregation import RULES  # only here: they import torch
    from metaleaf.protection.attacks import ATTACKS
    from metaleaf.protection.clipping import Clip
    from metaleaf.protection.compression import COMPRESSORS
    from metaleaf.protection.noise import Noise
    from metaleaf.protection.secure import SecureAggregation

    several = {"attack": ATTACKS, "compress": COMPRESSORS, "aggregate": RULES}
    return {**several, "clip": Clip, "noise": Noise, "secure": SecureAggregation}
