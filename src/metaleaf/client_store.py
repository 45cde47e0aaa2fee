"""A prepared dataset on disk: flat arrays that are memory-mapped, so opening costs the same at any size."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metaleaf.errors import DataError

FORMAT = 1
"""Version of the on-disk layout; a store of another version has to be prepared again."""


@dataclass(frozen=True)
class ClientStore:
    """The clients of one prepared dataset. Client i owns the rows ``offsets[i]:offsets[i + 1]`` of x and y.

    x: [N, *x_shape]; y: [N]; offsets: int64 [C + 1]; ids and environments: str arrays [C]; all memory-mapped.
    about: the manifest (name, version, options, spec, hashes, counts).
    """

    x: np.ndarray
    y: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    environments: np.ndarray
    about: Mapping[str, Any]

    @classmethod
    def open(cls, directory: Path) -> "ClientStore":
        """Open a prepared folder (x.npy, y.npy, offsets.npy, ids.npy, environments.npy, about.json)."""
        try:
            about = json.loads((directory / "about.json").read_text())
            if about["format"] != FORMAT:
                found = about["format"]
                raise DataError(f"{directory} has format {found}, not {FORMAT}: prepare it again.")
            # All of them mapped, also the ids: those of a million users take a second to read.
            names = ("x", "y", "offsets", "ids", "environments")
            arrays = (np.load(directory / f"{name}.npy", mmap_mode="r") for name in names)
            x, y, offsets, ids, environments = arrays
        except (OSError, ValueError, KeyError, TypeError) as error:
            remedy = "delete it and prepare it again."
            raise DataError(f"{directory} is not a whole prepared dataset ({error}): {remedy}") from error
        return cls(x, y, offsets, ids, environments, about)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """Examples of each client, int64 [C]."""
        return np.diff(self.offsets)

    def client(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """x [n, *x_shape] and y [n] of client i, as views of the mapped files."""
        rows = slice(self.offsets[i], self.offsets[i + 1])
        return self.x[rows], self.y[rows]
