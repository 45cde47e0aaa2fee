"""What stands in [systems] (docs/systems.md)."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from metaleaf.config.config import made
from metaleaf.errors import ConfigError

if TYPE_CHECKING:
    from metaleaf.systems.fleet import Fleet, Systems


def systems_of(given: Mapping[str, Any]) -> "Systems":
    """The systems that are declared; ConfigError names what does not exist or does not fit."""
    from metaleaf.systems.fleet import Systems  # only here: a run without systems has none of it among its sources

    found: Systems = made(Systems, "systems", given)
    return found


def resolve_systems(given: Mapping[str, Any], layers: Mapping[str, Any]) -> dict[str, Any]:
    """All options, defaults written out, as plain JSON values, with the hash of a trace.

    layers: of protection, in the same run. ConfigError if they make no sense together.
    """
    systems = systems_of(given)
    if "noise" in layers:
        raise ConfigError(
            "systems: the epsilon of protection.noise counts cohorts of one size, drawn from all clients: leave out "
            "noise or systems."
        )
    if "secure" in layers:
        raise ConfigError(
            "systems: masks are agreed on before anybody is late, and protection.secure has drop_outs of its own: "
            "leave out secure or systems."
        )
    if systems.availability is not None:
        systems = replace(systems, availability=systems.availability.resolved())
    found: dict[str, Any] = json.loads(json.dumps(asdict(systems)))
    return found


def fleet_of(given: Mapping[str, Any], clients: Mapping[str, Any], wanted: int) -> "Fleet":
    """The systems with a run's clients, `wanted` of them a round.

    clients: what `metaleaf.systems.availability.Clients` has, by name.
    """
    from metaleaf.systems.availability import Clients
    from metaleaf.systems.fleet import Fleet

    return Fleet(systems_of(given), Clients(**clients), wanted)
