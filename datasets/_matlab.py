"""MATLAB's files (version 5): an array of numbers, or a cell array with a matrix for each task.

Read here rather than by scipy, whose reader ends the process at some damaged files. The format is that of MathWorks'
"MAT-File Format" (R2018a), level 5: elements with a tag each, of which a matrix holds others.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metaleaf.errors import DataError

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

MAX_BYTES = 64 << 20
"""Most bytes of such a file, packed and unpacked (64 MiB); the largest that is known here has 1.1 MB."""

_HEADER = 128
_TAG = 8
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""What numbers are stored as, which may be smaller than what MATLAB makes of them."""

_CELL, _NUMERIC, _COMPLEX = 1, range(6, 16), 0x800


def cells(raw: "RawFiles", path: Path, name: str, tasks: int, columns: int, remedy: str) -> list[np.ndarray]:
    """The matrices [n, columns] in the cell array of that name, one a task, n > 0; finite float64.

    DataError if the file is damaged, larger than `MAX_BYTES`, or holds something else.
    """
    with _told(path, remedy):
        found = _cell_array(_bytes(raw, path), name)
    if len(found) != tasks:
        raise DataError(f"{path}: {name} has {len(found)} matrices, not {tasks}: {remedy}")
    for number, matrix in enumerate(found, 1):
        rows, width = matrix.shape
        if not rows or width != columns:
            raise DataError(f"{path}: {name}{{{number}}} is {rows} x {width}, not rows of {columns}: {remedy}")
        if not np.isfinite(matrix).all():
            raise DataError(f"{path}: {name}{{{number}}} has a number that is not finite: {remedy}")
    return found


def array(raw: "RawFiles", path: Path, name: str, shape: Sequence[int], remedy: str) -> np.ndarray:
    """The array of numbers of that name and shape, float64. DataError as for `cells`."""
    with _told(path, remedy):
        found = _numbers(*_variable(_bytes(raw, path), name), what=name)
    if found.shape != tuple(shape):
        raise DataError(f"{path} holds numbers of shape {list(found.shape)}, not {list(shape)}: {remedy}")
    return found


def _bytes(raw: "RawFiles", path: Path) -> bytes:
    with raw.open(path, limit=MAX_BYTES) as stream:
        return stream.read()


@contextmanager
def _told(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path} is not a whole MATLAB file of version 5 ({error}): {remedy}") from error


def _cell_array(data: bytes, name: str) -> list[np.ndarray]:
    content, order = _variable(data, name)
    what, _, shape, values = _taken_apart(content, order)
    if what != _CELL or len(values) != math.prod(shape) or any(kind != _MATRIX for kind, _ in values):
        raise ValueError(f"{name} is no array of cells")
    matrices = [_numbers(cell, order, what="a cell") for _, cell in values]
    if any(matrix.ndim != 2 for matrix in matrices):
        raise ValueError("a cell is no matrix of numbers")
    return matrices


def _variable(data: bytes, name: str) -> tuple[bytes, str]:
    """The content of the variable of that name, and the order of bytes; all others must be whole, too."""
    order = {b"IM": "<", b"MI": ">"}.get(data[_HEADER - 2 : _HEADER])
    if order is None:
        raise ValueError("it does not begin as one")
    found, left = None, MAX_BYTES
    for kind, content in _elements(data[_HEADER:], order):
        if kind == _COMPRESSED:
            packed = zlib.decompressobj()
            content = packed.decompress(content, left)
            left -= len(content)
            if not packed.eof:
                raise ValueError(f"a variable is cut off, or they unpack to more than {MAX_BYTES:,} bytes")
            content = _only(content, order)
        if _taken_apart(content, order)[1] == name.encode():
            found = content
    if found is None:
        raise ValueError(f"it has no variable {name}")
    return found, order


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each element; those of four bytes or fewer lie in their own tag."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + _TAG
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        end = start + size
        if end > len(data) or (start == at + 4 and size > 4):
            raise ValueError(f"an element of {size:,} bytes is cut off")
        yield kind, data[start:end]
        at = end if kind == _COMPRESSED else end + -end % _TAG


def _only(data: bytes, order: str) -> bytes:
    """The content of the one matrix that a compressed variable is."""
    ((kind, content),) = _elements(data, order)
    if kind != _MATRIX:
        raise ValueError("a compressed variable is no matrix")
    return content


def _taken_apart(content: bytes, order: str) -> tuple[int, bytes, list[int], list[tuple[int, bytes]]]:
    """A matrix's class, name, shape, and the elements with its values."""
    (_, flags), (_, shape), (_, name), *values = _elements(content, order)
    (flag,) = struct.unpack_from(f"{order}I", flags)
    what = -1 if flag & _COMPLEX else flag & 0xFF
    return what, name, np.frombuffer(shape, f"{order}i4").tolist(), values


def _numbers(content: bytes, order: str, what: str) -> np.ndarray:
    """A matrix's numbers, float64 [rows, columns, ...]."""
    kind_of_matrix, _, shape, values = _taken_apart(content, order)
    if kind_of_matrix not in _NUMERIC or len(shape) < 2 or len(values) != 1 or values[0][0] not in _STORED:
        raise ValueError(f"{what} is no matrix of numbers")
    kind, numbers = values[0]
    found = np.frombuffer(numbers, f"{order}{_STORED[kind]}").astype(np.float64)
    return found.reshape([max(side, 0) for side in shape], order="F")
