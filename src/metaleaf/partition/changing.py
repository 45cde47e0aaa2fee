"""Stages that change clients' examples: each client in its own way, or those of an environment or group alike."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import factorial
from typing import ClassVar, Literal

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.dataset.images import inked, inverted, turned
from metaleaf.partition.stage import Named, fitting
from metaleaf.raw import RawFiles

GROUPS = {"groups": (0, 10**6)}


@dataclass(frozen=True)
class Changing(Named):
    """by: whether every "client" or every "environment" draws a change of its own.

    groups: if not 0, it is drawn which of so many groups a client (or environment) is in, and it is each group that has
    a change of its own. Then the group's name is added to that of the environment.
    """

    by: Literal["client", "environment"] = "client"
    groups: int = 0

    limits: ClassVar[Mapping[str, tuple[float, float]]] = GROUPS

    def apply(self, spec: Spec, clients: Iterator[Client], raw: RawFiles) -> Iterator[Client]:
        """Yield every client, changed."""
        for client in clients:
            who: str | int = client.id if self.by == "client" else client.environment
            if self.groups:
                who = self.drawn("group", who) % self.groups
                place = ", ".join(filter(None, (client.environment, f"{self.name} {who}")))
                client = client._replace(environment=place)
            yield self.changed(spec, fitting(client, spec), who)

    def changed(self, spec: Spec, client: Client, who: str | int) -> Client:
        """The client under the change of that client, environment or (by its number) group."""
        raise NotImplementedError


@dataclass(frozen=True)
class OfImages(Changing):
    """Changes images, uint8 [n, side, side] or [n, side, side, 3]."""

    def check(self, spec: Spec) -> None:
        """ConfigError unless x are images."""
        if not _are_images(spec):
            raise self.refuse(f"it is for images, uint8 [n, side, side] or [n, side, side, 3], but x is {_of(spec)}")


@dataclass(frozen=True)
class Rotation(OfImages):
    """Turned by an angle that is uniform in [-degrees, degrees), anticlockwise. fill: grey of what comes in."""

    degrees: float = 180.0
    fill: int = 255

    name: ClassVar[str] = "rotation"
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {**GROUPS, "degrees": (0, 180), "fill": (0, 255)}

    def changed(self, spec: Spec, client: Client, who: str | int) -> Client:
        """Turned."""
        angle = self.rng(who).uniform(-self.degrees, self.degrees)
        return client._replace(x=turned(client.x, angle, self.fill))


@dataclass(frozen=True)
class Inversion(OfImages):
    """With this probability light for dark."""

    probability: float = 0.5

    name: ClassVar[str] = "inversion"
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {**GROUPS, "probability": (0, 1)}

    def changed(self, spec: Spec, client: Client, who: str | int) -> Client:
        """Inverted or as it was."""
        return client._replace(x=inverted(client.x)) if self.rng(who).random() < self.probability else client


@dataclass(frozen=True)
class Stroke(OfImages):
    """Dark ink grown or thinned by a whole number of half pixels a side, uniform in -half_pixels..half_pixels."""

    half_pixels: int = 2

    name: ClassVar[str] = "stroke"
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {**GROUPS, "half_pixels": (0, 3)}

    def changed(self, spec: Spec, client: Client, who: str | int) -> Client:
        """With other ink."""
        stroke = int(self.rng(who).integers(-self.half_pixels, self.half_pixels, endpoint=True))
        return client._replace(x=inked(client.x, stroke))


@dataclass(frozen=True)
class Noise(Changing):
    """Gaussian noise on every number of x, with a level that is uniform in [0, level).

    Its standard deviation is that many times 255 for images, and for floats that many times the number's own standard
    deviation among the client's examples.
    """

    level: float = 0.2

    name: ClassVar[str] = "noise"
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {**GROUPS, "level": (0, 10)}

    def check(self, spec: Spec) -> None:
        """ConfigError unless x are images or floats."""
        if not (_are_images(spec) or _are_floats(spec)):
            raise self.refuse(f"it is for images and floats, but x is {_of(spec)}")

    def changed(self, spec: Spec, client: Client, who: str | int) -> Client:
        """With noise, which differs between clients of one level."""
        x, level = client.x, self.rng(who).uniform(0, self.level)
        noise = level * self.rng("examples", client.id).standard_normal(x.shape, np.float32)
        if _are_floats(spec):
            return client._replace(x=(x + noise * _sd(x)).astype(x.dtype))
        return client._replace(x=np.rint(x + 255 * noise).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Scaling(Changing):
    """Each feature (of series, each channel) multiplied by a factor, lognormal with this sd of its logarithm.

    Where series continue into y, y is multiplied by the factor of the first channel.
    """

    spread: float = 0.5

    name: ClassVar[str] = "scaling"
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {**GROUPS, "spread": (0, 10)}

    def check(self, spec: Spec) -> None:
        """ConfigError unless x is of floats."""
        if not _are_floats(spec):
            raise self.refuse(f"it is for floats, but x is {_of(spec)}")

    def changed(self, spec: Spec, client: Client, who: str | int) -> Client:
        """With features of another scale."""
        x, y, series = client.x, client.y, spec.standardise == "series"
        features = () if series and x.ndim == 2 else x.shape[-1:]
        factors = np.exp(self.spread * self.rng(who).standard_normal(features))
        y = (y * np.ravel(factors)[0]).astype(y.dtype) if series else y
        return client._replace(x=(x * factors).astype(x.dtype), y=y)


@dataclass(frozen=True)
class LabelPermutation(Changing):
    """Classes renamed, by a permutation of one's own or one of `groups` different ones, whose first changes nothing."""

    name: ClassVar[str] = "label_permutation"

    def check(self, spec: Spec) -> None:
        """ConfigError unless y is one class an example, and there are as many permutations as groups."""
        self.check_classes(spec)
        if self.groups > factorial(min(spec.classes, 12)):
            raise self.refuse(f"groups is {self.groups}, but {spec.classes} classes have fewer permutations")

    def changed(self, spec: Spec, client: Client, who: str | int) -> Client:
        """With other names of classes; -1 stays."""
        of_groups = self._of_groups(spec.classes)
        renamed = of_groups[who] if isinstance(who, int) else self.rng(who).permutation(spec.classes)
        return client._replace(y=np.where(client.y < 0, client.y, renamed[client.y]).astype(client.y.dtype))

    def _of_groups(self, classes: int) -> list[np.ndarray]:
        """Different permutations, one a group."""
        rng = self.rng("permutations")
        found = {tuple(range(classes)): None}
        while len(found) < self.groups:
            found[tuple(rng.permutation(classes).tolist())] = None
        return [np.array(permutation) for permutation in found]


def _are_images(spec: Spec) -> bool:
    side, *others = spec.x_shape or (0,)
    return spec.x_dtype == "uint8" and others in ([side], [side, 3])


def _are_floats(spec: Spec) -> bool:
    return np.dtype(spec.x_dtype).kind == "f"


def _of(spec: Spec) -> str:
    return f"{spec.x_dtype} [{', '.join(map(str, ('n', *spec.x_shape)))}]"


def _sd(x: np.ndarray) -> np.ndarray:
    """The standard deviation of each number over the examples, of what is measured (NaN: not measured)."""
    seen = np.isfinite(x)
    n = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, x, 0).sum(axis=0) / n
    found: np.ndarray = np.sqrt((np.where(seen, x - mean, 0) ** 2).sum(axis=0) / n)
    return found
