"""What all stages of a partition have: a name, limits of their options, and a seed that is split by purpose."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.errors import ConfigError, DataError
from metaleaf.seeds import derive


@dataclass(frozen=True)
class Named:
    """A stage of a partition. ConfigError for an option outside `limits`."""

    seed: int = 0

    name: ClassVar[str]
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Least and greatest value of each option that is a number."""

    def __post_init__(self) -> None:
        for option, (low, high) in {"seed": (0, 2**32 - 1), **self.limits}.items():
            value = getattr(self, option)
            if not low <= value <= high:
                raise ConfigError(f"partition {self.name}: {option} is {value}, not from {low} to {high}.")

    def drawn(self, *purpose: str | int) -> int:
        """A seed for a purpose."""
        return derive(self.seed, "partition", self.name, *purpose)

    def rng(self, *purpose: str | int) -> np.random.Generator:
        """Random numbers for a purpose."""
        return np.random.default_rng(self.drawn(*purpose))

    def refuse(self, why: str) -> ConfigError:
        """The error for data that this makes no sense for."""
        return ConfigError(f"partition {self.name}: {why}.")

    def check_classes(self, spec: Spec) -> None:
        """ConfigError unless y is one class an example."""
        if not spec.classes or spec.y_shape:
            y = ", ".join(map(str, ("n", *spec.y_shape)))
            kind = f"of {spec.classes} classes" if spec.classes else "of numbers"
            raise self.refuse(f"it needs one class an example, but y is [{y}] {kind}")


def fitting(client: Client, spec: Spec) -> Client:
    """The client; DataError unless x and y are what the spec says, before bytes are copied or classes renamed."""
    for what, array, shape in ("x", client.x, spec.x_shape), ("y", client.y, spec.y_shape):
        if array.shape != (wanted := (len(client.y), *shape)):
            raise DataError(f"{what} of client {client.id!r} has shape {list(array.shape)}, not {list(wanted)}.")
    if client.x.dtype != spec.x_dtype:
        raise DataError(f"x of client {client.id!r} is {client.x.dtype}, not {spec.x_dtype}.")
    if spec.classes and client.y.max(initial=0) >= spec.classes:
        raise DataError(f"client {client.id!r} has a label that is not in 0..{spec.classes - 1}.")
    return client
