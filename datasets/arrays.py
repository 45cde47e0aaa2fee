"""Arrays of one's own in one .npz file, as `numpy.savez` writes it: x, y, and whose each example is.

``x [n, ...]``, ``y [n]`` or ``[n, ...]`` and ``client [n]``; where clients form groups, ``environment [n]``. What y is,
and with it the task, is found out (`metaleaf.datasets._own`).
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.datasets._own import Own, Target, inferred, spec_of
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import brought, stamp_of

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles


@dataclass(frozen=True)
class Arrays:
    """Clients out of one .npz file of your own with x, y and client.

    ordered: a client's rows are in its own order; then support and query are not drawn, the past adapts to the future.
    target_type: whether y is of classes or numbers, where it could be either.
    """

    path: str = ""
    ordered: bool = False
    target_type: Target | None = None

    @property
    def spec(self) -> Spec:
        """As the file has it; DataError if it cannot be read or makes no sense."""
        return spec_of(self._read(), ordered=self.ordered)

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """In the order of their first rows."""
        raw.use(self._file())
        return self._read().by_client()

    def _file(self) -> Path:
        if not self.path:
            raise ConfigError('arrays: say where they are, options = { path = "mine.npz" }.')
        return brought(self.path)

    def _read(self) -> Own:
        path = self._file()
        return _read(self, path, stamp_of(path))


@lru_cache(maxsize=2)
def _read(arrays: Arrays, path: Path, stamp: tuple[int, ...]) -> Own:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in ("x", "y", "client", "environment") if name in file}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz file without pickled objects: {error}.") from error
    if missing := sorted({"x", "y", "client"} - found.keys()):
        raise DataError(
            f"{path} has no array {missing[0]!r}: save it with numpy.savez(path, x=..., y=..., client=...)."
        )
    x, y, client = found["x"], found["y"], found["client"]
    lengths = [array.shape[:1] for array in found.values()]
    if len(set(lengths)) > 1 or x.ndim < 2 or client.ndim != 1 or not len(x):
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
        raise DataError(f"{path}: {shapes}; they must be [n, ...], [n] or [n, ...], and [n], with n of 1 or more.")
    environment = found.get("environment", np.full(len(x), ""))
    return Own(
        client.astype(str), environment.astype(str), _numbers(x, path), inferred(y, f"{path}: y", arrays.target_type)
    )


def _numbers(x: np.ndarray, path: Path) -> np.ndarray:
    """x as it is stored: bytes stay what they are (images, symbols), all else becomes float32."""
    if x.dtype.kind not in "biuf":
        raise DataError(f"{path}: x is {x.dtype}, not numbers.")
    if x.dtype == np.uint8:
        return x
    found = x.astype(np.float32)
    if not np.isfinite(found).all():
        raise DataError(f"{path}: x has a value that is not finite in float32.")
    return found
