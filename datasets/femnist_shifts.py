"""FEMNIST under shifts: environments of writers whose images or labels are all changed in the same way.

The writers and their characters are those of `metaleaf.datasets.femnist`. Each environment draws its shift::

    rotation      degrees, anticlockwise about the centre, uniform in [-rotation, rotation)
    inversion     with this probability light ink on dark paper
    stroke        uniform in -stroke..stroke: ink grown (or, below 0, thinned) by so many half pixels a side
    permutation   one of a few renamings of the classes, which all environments share; the first changes nothing

An image's stroke is changed first, then it is turned, inverted and at last made smaller. Environments are declared
60/20/20 as train, validation and test, and no writer is in two of these parts; within a part, environments
share writers. Shifts depend on the options only, not on the data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import factorial, prod
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.dataset.images import inked, inverted, turned
from metaleaf.datasets.femnist import SIDE, Femnist
from metaleaf.errors import ConfigError, DataError, unknown
from metaleaf.raw import RawFiles
from metaleaf.seeds import derive

PAPER = 255
"""Grey of the paper, and of what a turn brings into the image."""

PARTS = ("train", "validation", "test")
CHOICES = {
    "characters": ("digits", "all"),
    "held_out": ("none", "rotation", "inversion", "permutation"),
    "source": ("auto", "nist", "leaf", "writers"),
}
LIMITS = {
    "environments": (5, 10**4),
    "writers": (1, 10**4),
    "images": (1, 10**4),
    "crop": (8, SIDE),
    "rotation": (0, 180),
    "inversion": (0, 1),
    "stroke": (0, 3),
    "permutations": (1, 1000),
    "seed": (0, 2**32 - 1),
}
"""Least and greatest value of each option that is a number."""

CONFUSABLE = {"digits": ("06", "17", "358", "49"), "all": ("0Oo", "1Il", "2Zz", "5Ss", "8B", "9gq", "Cc", "Uu", "Vv")}
"""Characters that look alike."""

_NAMES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Shift(NamedTuple):
    """What one environment does: degrees, whether inverted, half pixels of ink added a side, row of `label_maps`."""

    rotation: float
    inverted: bool
    stroke: int
    permutation: int


@dataclass(frozen=True)
class FemnistShifts:
    """Digits of FEMNIST's writers in environments that turn, invert or rename them; one client per writer.

    environments: how many, 60/20/20 in the three parts. writers: clients of each. images: examples of each
    client, drawn in random order from the writer's; writers who have fewer are left out.

    crop: pixels a side that are kept, of 28 about the centre; an even number. A digit's ink is 10 high (median)
    and, for 97 in 100, no further than 8 from the centre. side: pixels a side of the result, as many as crop or,
    for means of 2 x 2, half as many.

    rotation: degrees. inversion: a probability. stroke: half pixels of the 28. permutations: how many renamings
    there are, 1 for none. confusable: rename only among characters that look alike. characters: "digits"
    (10 classes) or "all" (62). held_out: this kind of shift is in no environment of training and validation;
    those of test have it as they would otherwise, so that their data stays the same.

    source: as `Femnist`'s. ConfigError for an option outside `LIMITS` or `CHOICES`, or that contradicts another.
    """

    environments: int = 100
    writers: int = 20
    images: int = 55
    crop: int = SIDE
    side: int = 14
    rotation: float = 180.0
    inversion: float = 0.5
    stroke: int = 0
    permutations: int = 4
    confusable: bool = False
    characters: Literal["digits", "all"] = "digits"
    held_out: Literal["none", "rotation", "inversion", "permutation"] = "none"
    source: Literal["auto", "nist", "leaf", "writers"] = "auto"
    seed: int = 0

    spec: ClassVar[Spec] = replace(
        Femnist.spec, version="1.0.0", x_shape=(14, 14), classes=10, model="small_cnn", published=None
    )

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise unknown(f"{name} of femnist_shifts", getattr(self, name), choices)
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"femnist_shifts: {name} is {getattr(self, name)}, not from {low} to {high}.")
        if self.crop % 2 or self.side not in (self.crop, self.crop // 2):
            raise ConfigError(
                f"femnist_shifts: side is {self.side} and crop {self.crop}: make crop even and side that or half of it."
            )
        possible = prod(factorial(len(group)) for group in self._groups())
        if self.permutations > possible:
            raise ConfigError(f"femnist_shifts: permutations is {self.permutations}, but there are only {possible}.")
        amount = {"rotation": self.rotation, "inversion": self.inversion, "permutation": self.permutations - 1}
        if amount.get(self.held_out, 1) == 0:
            raise ConfigError(f"femnist_shifts: held_out is {self.held_out!r}, which the other options rule out.")
        # Shapes are options here, so an instance has its own spec.
        own = replace(self.spec, x_shape=(self.side, self.side), classes=self._classes())
        object.__setattr__(self, "spec", own)

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        """Yield clients "<environment>/<writer>" in environments "<part>/<number>", by writer, then environment.

        x uint8 [images, side, side], y uint8 [images]. FEMNIST's files are read twice, so that one writer is
        in memory at a time. DataError if they are not there or damaged, or a part has too few writers.
        """
        files, femnist = raw.of("femnist"), Femnist(source=self.source)
        eligible = [writer.id for writer in femnist.clients(files) if len(self._usable(writer)) >= self.images]
        environments = self._environments_of(eligible)
        shifts, maps = self.shifts(), self.label_maps()
        for writer in femnist.clients(files):
            for environment in environments.get(writer.id, ()):
                shift, name = shifts[environment], f"{environment}/{writer.id}"
                rows = self._rng("images", name).permutation(self._usable(writer))[: self.images]
                x = pooled(shifted(writer.x[rows], shift), self.crop, self.side)
                yield Client(name, environment, x, maps[shift.permutation][writer.y[rows]])

    def shifts(self) -> dict[str, Shift]:
        """Each environment's shift, training first; known without reading any data."""
        drawn = {}
        for name in self._environments():
            # One number for every kind, wanted or not: switching one kind off leaves the others as they were.
            turn, dark, ink, names = self._rng("shift", name).random(4)
            shift = Shift(
                rotation=float((2 * turn - 1) * self.rotation),
                inverted=bool(dark < self.inversion),
                stroke=int(ink * (2 * self.stroke + 1)) - self.stroke,
                permutation=int(names * self.permutations),
            )
            drawn[name] = shift if _part(name) == "test" else _without(shift, self.held_out)
        return drawn

    def label_maps(self) -> np.ndarray:
        """What every label becomes under each permutation, uint8 [permutations, classes]; all rows differ."""
        rng = self._rng("permutations")
        maps = [list(range(self._classes()))]
        while len(maps) < self.permutations:
            renamed = np.arange(self._classes())
            for group in self._groups():
                renamed[group] = rng.permutation(group)
            if renamed.tolist() not in maps:
                maps.append(renamed.tolist())
        return np.array(maps, np.uint8)

    def _environments(self) -> list[str]:
        held_out = self.environments // 5
        counts = (self.environments - 2 * held_out, held_out, held_out)
        return [f"{part}/{i:03}" for part, count in zip(PARTS, counts, strict=True) for i in range(count)]

    def _environments_of(self, eligible: Sequence[str]) -> dict[str, list[str]]:
        """The environments of each writer; writers who are in none are missing."""
        shuffled = self._rng("parts").permutation(np.array(sorted(eligible), str))
        held_out = len(shuffled) // 5
        cut = len(shuffled) - 2 * held_out
        pools = dict(zip(PARTS, np.split(shuffled, [cut, cut + held_out]), strict=True))
        for part, pool in pools.items():
            if len(pool) < self.writers:
                raise DataError(
                    f"femnist_shifts: {part} has {len(pool)} writers with {self.images} images or more, fewer than "
                    f"the {self.writers} of an environment: lower writers or images."
                )
        environments: dict[str, list[str]] = {}
        for name in self._environments():
            for writer in self._rng("writers", name).choice(pools[_part(name)], self.writers, replace=False):
                environments.setdefault(str(writer), []).append(name)
        return environments

    def _usable(self, writer: Client) -> np.ndarray:
        """Rows of the writer's characters that are among the classes."""
        return np.flatnonzero(writer.y < self._classes())

    def _classes(self) -> int:
        return 10 if self.characters == "digits" else len(_NAMES)

    def _groups(self) -> list[list[int]]:
        """The classes that may take each other's names."""
        groups = CONFUSABLE[self.characters] if self.confusable else (_NAMES[: self._classes()],)
        return [[_NAMES.index(character) for character in group] for group in groups]

    def _rng(self, *purpose: str) -> np.random.Generator:
        return np.random.default_rng(derive(self.seed, "femnist_shifts", *purpose))


def shifted(x: np.ndarray, shift: Shift) -> np.ndarray:
    """Images uint8 [n, 28, 28] under a shift."""
    x = turned(inked(x, shift.stroke), shift.rotation, fill=PAPER)
    return inverted(x) if shift.inverted else x


def pooled(x: np.ndarray, crop: int, side: int) -> np.ndarray:
    """The middle crop x crop pixels of images, in means of squares, halves rounded up: uint8 [n, side, side]."""
    edge, factor = (x.shape[1] - crop) // 2, crop // side
    middle = x[:, edge : edge + crop, edge : edge + crop]
    sums = middle.reshape(len(x), side, factor, side, factor).sum(axis=(2, 4), dtype=np.uint32)
    means: np.ndarray = (sums + factor**2 // 2) // factor**2
    return means.astype(np.uint8)


def _without(shift: Shift, kind: str) -> Shift:
    """The shift without one of its kinds; with all for kind "none"."""
    return Shift(
        0.0 if kind == "rotation" else shift.rotation,
        shift.inverted and kind != "inversion",
        shift.stroke,
        0 if kind == "permutation" else shift.permutation,
    )


def _part(environment: str) -> str:
    return environment.split("/")[0]
