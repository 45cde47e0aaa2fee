"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn once by 20 people.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction", Science 350,
2015. A client has classes of its own, its characters, numbered from 0; so what a class looks like differs between
alphabets, and no single model can know it.

An environment is an alphabet, named after its part: "test/..." for the publisher's 20 evaluation alphabets, "train/..."
and "validation/..." for the 30 background alphabets, of which the seed draws a fifth to validate.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
from PIL import Image

from metaleaf.dataset import Client, Spec
from metaleaf.errors import ConfigError, DataError, unknown
from metaleaf.raw import RawFiles, ZipReader
from metaleaf.seeds import derive

SETS = {"images_background": 30, "images_evaluation": 20}
"""The publisher's archives and the alphabets in each."""
DRAWERS = 20
"""People who drew an alphabet, each all of its characters. Who drew another alphabet is not known."""
LARGEST = 55
"""Characters of the largest alphabet."""
SIZE = (105, 105)
"""Width and height of a drawing."""
LIMITS = {"classes": (0, LARGEST), "side": (14, SIZE[0]), "seed": (0, 2**32 - 1)}
"""Least and greatest value of each option that is a number; classes is not 1."""

REMEDY = "put images_background.zip and images_evaluation.zip (https://github.com/brendenlake/omniglot) into " + (
    "$METALEAF_RAW/omniglot/."
)

Holder = Literal["drawer", "characters"]
_DRAWING = re.compile(r"images_\w+/([^/]+)/character(\d\d)/\d{4}_(\d\d)\.png", re.ASCII)


@dataclass(frozen=True)
class Omniglot:
    """Drawings of an alphabet's characters; 1,000 drawers of 50 alphabets by default.

    client: "drawer", a person with one drawing of each character of an alphabet, for the track of new environments; or
    "characters", all drawings of an alphabet's characters, for the others: there, a drawer's are never divided between
    support and query.

    classes: deal each alphabet's characters, in an order that the seed draws, into sets of so many, each an alphabet of
    its own ("Greek 2"); what is left over is dropped. 0: all characters of an alphabet, 14 to 55, in the publisher's
    order. side: pixels a side. ConfigError for an option outside `LIMITS`.
    """

    client: Holder = "drawer"
    classes: int = 0
    side: int = 28
    seed: int = 0

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(28, 28),
        x_dtype="uint8",
        classes=LARGEST,
        model="small_cnn",
        licence="MIT",
        homepage="https://github.com/brendenlake/omniglot",
        citation="""@article{lake2015omniglot,
  title = {Human-level concept learning through probabilistic program induction},
  author = {Lake, Brenden M. and Salakhutdinov, Ruslan and Tenenbaum, Joshua B.},
  journal = {Science},
  volume = {350},
  number = {6266},
  pages = {1332--1338},
  year = {2015}
}""",
    )

    def __post_init__(self) -> None:
        if self.client not in get_args(Holder):
            raise unknown("client of omniglot", self.client, get_args(Holder))
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"omniglot: {name} is {getattr(self, name)}, not from {low} to {high}.")
        if self.classes == 1:
            raise ConfigError(
                "omniglot: classes is 1, which leaves nothing to tell apart: give 2 or more, or 0 for all."
            )
        # All of this is up to options, so an instance has its own spec.
        shape, classes = (self.side, self.side), self.classes or LARGEST
        own = replace(self.spec, x_shape=shape, classes=classes, grouped=self.client == "characters")
        object.__setattr__(self, "spec", own)

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        """Yield clients by archive, background first, then by alphabet, set of characters and drawer.

        Drawers are called "Greek/drawer01", sets of characters "Greek" or "Greek 2". x uint8 [n, side, side], paper 255
        and ink 0; y uint8 [n], drawer after drawer, in the order of the classes. DataError if an archive is not there
        or not whole.
        """
        paths = {name: raw.require([f"{name}.zip"], REMEDY) for name in SETS}
        for name, path in paths.items():
            with raw.zip(path) as archive:
                alphabets = _alphabets(archive, path, SETS[name])
                parts = self.parts(sorted(alphabets)) if name == "images_background" else {}
                for alphabet, members in sorted(alphabets.items()):
                    drawings = self._drawings(archive, path, members)
                    for called, characters in self._dealt(alphabet, len(drawings)):
                        environment = f"{parts.get(alphabet, 'test')}/{called}"
                        yield from self._of(called, environment, drawings[characters])

    def parts(self, alphabets: list[str]) -> dict[str, str]:
        """The part, train or validation, of each of the background alphabets."""
        shuffled = np.random.default_rng(derive(self.seed, "omniglot")).permutation(alphabets)
        cut = len(shuffled) // 5
        return {str(name): "validation" if i < cut else "train" for i, name in enumerate(shuffled)}

    def _dealt(self, alphabet: str, characters: int) -> Iterator[tuple[str, np.ndarray]]:
        """The sets that an alphabet's characters are dealt into: a name, and which characters are the classes."""
        if not self.classes:
            yield alphabet, np.arange(characters)
            return
        order = np.random.default_rng(derive(self.seed, "omniglot", alphabet)).permutation(characters)
        for i in range(characters // self.classes):
            yield f"{alphabet} {i + 1}", order[i * self.classes : (i + 1) * self.classes]

    def _of(self, called: str, environment: str, drawings: np.ndarray) -> Iterator[Client]:
        """The clients with drawings [classes, drawers, side, side]."""
        by_drawer = drawings.swapaxes(0, 1)
        y = np.arange(len(drawings), dtype=np.uint8)
        if self.client == "drawer":
            for i, x in enumerate(by_drawer, 1):
                yield Client(f"{called}/drawer{i:02}", environment, x, y)
            return
        x, drawer = by_drawer.reshape(-1, self.side, self.side), np.repeat(np.arange(DRAWERS), len(y))
        yield Client(called, environment, x, np.tile(y, DRAWERS), drawer)

    def _drawings(self, archive: ZipReader, path: Path, members: list[list[str]]) -> np.ndarray:
        """Drawings uint8 [characters, drawers, side, side] of members [characters][drawers]."""
        images = [[_image(archive, path, name, self.side) for name in drawers] for drawers in members]
        return np.array(images)


def _alphabets(archive: ZipReader, path: Path, count: int) -> dict[str, list[list[str]]]:
    """Each alphabet's members [characters][drawers]; DataError if any alphabet, character or drawing is not there."""
    found: dict[str, dict[tuple[int, int], str]] = {}
    for name in archive.names():
        if match := _DRAWING.fullmatch(name):
            found.setdefault(match[1], {})[int(match[2]), int(match[3])] = name
    if len(found) != count:
        raise DataError(f"{path} has drawings of {len(found)} alphabets, not of {count}: {REMEDY}")
    alphabets = {}
    for alphabet, drawings in found.items():
        characters, drawers = (range(1, end + 1) for end in (max(drawings)[0], DRAWERS))
        if drawings.keys() != {(i, j) for i in characters for j in drawers}:
            raise DataError(f"{path} does not have {DRAWERS} drawings of each character of {alphabet}: {REMEDY}")
        alphabets[alphabet] = [[drawings[i, j] for j in drawers] for i in characters]
    return alphabets


def _image(archive: ZipReader, path: Path, name: str, side: int) -> np.ndarray:
    """A drawing as uint8 [side, side]: of each pixel's area how much is paper."""
    try:
        with Image.open(io.BytesIO(archive.read(name)), formats=["PNG"]) as image:
            if image.size != SIZE or image.mode != "1":
                size = f"{image.size[0]} x {image.size[1]} in mode {image.mode}"
                raise DataError(f"{path}: {name} is {size}, not {SIZE[0]} x {SIZE[1]} in mode 1 (black and white).")
            grey = image.convert("L").resize((side, side), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {name} is not a whole PNG image ({error}): fetch the archive again.") from error
    return np.asarray(grey)
