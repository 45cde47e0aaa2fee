"""A prepared dataset on disk: flat arrays that are memory-mapped, so opening costs the same at any size."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metaleaf.data import manifest
from metaleaf.errors import DataError
from metaleaf.files.verified import Verified


@dataclass(frozen=True)
class ClientStore:
    """The clients of one prepared dataset. Client i owns the rows ``offsets[i]:offsets[i + 1]`` of x and y.

    x: [N, *x_shape]; y: [N, *y_shape]; offsets: int64 [C + 1]; ids and environments: str arrays [C]; all memory-mapped.
    groups: int32 [N] of a spec that is grouped: which of a client's examples belong together. about: the manifest
    (name, version, options, spec, hashes, counts).
    """

    x: np.ndarray
    y: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    environments: np.ndarray
    about: Mapping[str, Any]
    groups: np.ndarray | None = None

    @classmethod
    def open(cls, directory: Path) -> "ClientStore":
        """Open a prepared folder (x.npy, y.npy, offsets.npy, ids.npy, environments.npy, about.json).

        DataError if it is not whole: what its manifest says is compared with the files once, and again whenever one of
        them may have changed.
        """
        about = manifest.read(directory)
        names = manifest.arrays(bool(about["spec"].get("grouped")))
        paths = [directory / f"{name}.npy" for name in names]
        verified = Verified(directory)
        for path in paths:
            manifest.check_file(path, about["hashes"][path.name], verified)
        verified.save()
        try:
            # All of them mapped, also the ids: those of a million users take a second to read.
            x, y, offsets, ids, environments, *groups = (np.load(path, mmap_mode="r") for path in paths)
            store = cls(x, y, offsets, ids, environments, about, *groups)
            store._check_shapes()
            changed = [path.name for path in paths if not verified.known(path)]
        except Exception as error:  # numpy raises anything on a header that makes no sense
            raise DataError(f"{directory} is not a whole prepared dataset ({error}): {manifest.REMEDY}") from error
        if changed:
            raise DataError(f"{directory / changed[0]} changed while it was opened: try again.")
        return store

    def _check_shapes(self) -> None:
        spec, samples, clients = self.about["spec"], self.about["samples"], self.about["clients"]
        arrays = [self.x, self.y, self.offsets, self.ids, self.environments]
        shapes: list[tuple[int, ...]] = [
            (samples, *spec["x_shape"]),
            (samples, *spec.get("y_shape", ())),
            (clients + 1,),
            (clients,),
            (clients,),
        ]
        kinds = [np.dtype(spec["x_dtype"]).kind, _kinds(spec.get("y_dtype")), "i", "U", "U"]
        if self.groups is not None:
            arrays, shapes, kinds = [*arrays, self.groups], [*shapes, (samples,)], [*kinds, "i"]
        for name, array, shape, kind in zip(
            manifest.arrays(self.groups is not None), arrays, shapes, kinds, strict=True
        ):
            if array.shape != shape or array.dtype.kind not in kind:
                raise ValueError(f"{name}.npy is damaged: it holds {array.dtype}{array.shape}, not {shape}")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """Examples of each client, int64 [C]."""
        return np.diff(self.offsets)

    def client(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """x [n, *x_shape] and y [n, *y_shape] of client i, as views of the mapped files."""
        rows = slice(self.offsets[i], self.offsets[i + 1])
        return self.x[rows], self.y[rows]


def _kinds(y_dtype: str | None) -> str:
    """Of a dtype as numpy has them; labels without one are of any integer."""
    return np.dtype(y_dtype).kind if y_dtype else "iu"
