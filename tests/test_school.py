"""Schools' exam scores, and MATLAB's cell arrays: files made here, faults planted in them, the real file if there."""

import io
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged import FUZZ, check_whole_or_refused, damages, placed, read, read_file, real, refusal
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from metaleaf.datasets import _matlab, school
from metaleaf.datasets._matlab import cells
from metaleaf.datasets.school import School
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles

SIZES = (3, 1, 2)
"""Pupils of the schools made here: a mixed one, one for girls, one for boys."""


def mat(compressed: bool = True, **variables: list[np.ndarray] | np.ndarray) -> bytes:
    """A MATLAB file; a list becomes an array of cells, 1 x as many."""
    file = io.BytesIO()
    savemat(file, {name: _cells_of(value) for name, value in variables.items()}, do_compression=compressed)  # type: ignore[arg-type]
    return file.getvalue()


def _cells_of(value: list[np.ndarray] | np.ndarray) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    found = np.empty((1, len(value)), object)
    found[0, :] = [None] * len(value)
    for i, cell in enumerate(value):
        found[0, i] = cell
    return found


def pupils() -> list[np.ndarray]:
    """In the first year, of the 3rd school 20 % with free meals."""
    found = []
    for kind, n in zip((0, 2, 1), SIZES, strict=True):
        x = np.zeros((n, 28), np.uint8)
        x[:, [0, 6 - (kind == 2), 9, 10, 21 + kind, 24, 27]] = 1
        x[:, 3], x[:, 4] = 20 + kind, range(n)
        found.append(x)
    return found


def scores() -> list[np.ndarray]:
    return [np.arange(10 * i, 10 * i + n, dtype=np.uint8)[:, None] for i, n in enumerate(SIZES, 1)]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(school, "SCHOOLS", 3)
    monkeypatch.setattr(school, "PUPILS", sum(SIZES))
    path = placed(tmp_path, "multitask", "school.mat")
    path.write_bytes(mat(X=pupils(), Y=scores()))
    return path


def test_a_client_is_a_school(file: Path) -> None:
    found = read_file(School(), file)
    assert {name: (client.environment, client.y.tolist()) for name, client in found.items()} == {
        "school 001": ("mixed", [10, 11, 12]),
        "school 002": ("girls", [20]),
        "school 003": ("boys", [30, 31]),
    }
    x = found["school 003"].x
    expected = np.zeros(27)
    expected[[0, 6, 9, 10, 22, 24]] = 1
    expected[3] = 21
    assert x[0].tolist() == expected.tolist()
    assert x[:, 4].tolist() == [0, 1]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_cells_are_read_as_scipy_reads_them(file: Path, compressed: bool, dtype: Any) -> None:
    wanted = [np.arange(-6, 6).reshape(4, 3).astype(dtype), np.array([[1, 2, 250]], dtype)]
    file.write_bytes(mat(compressed, other=np.eye(3), ab=wanted))
    found = cells(RawFiles("multitask", file.parent), file, "ab", 2, 3, "")
    assert all(np.array_equal(a, b) and a.dtype == np.float64 for a, b in zip(found, wanted, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(found, loadmat(file)["ab"][0], strict=True))


def big_endian(matrix: np.ndarray) -> bytes:
    """A file that a machine of the other order has written: one cell, called X."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    def array(what: int, name: bytes, shape: tuple[int, int], values: bytes) -> bytes:
        parts = [(6, struct.pack(">II", what, 0)), (5, struct.pack(">ii", *shape)), (1, name)]
        return element(14, b"".join(element(*part) for part in parts) + values)

    inner = array(6, b"", (len(matrix), matrix.shape[1]), element(9, matrix.T.astype(">f8").tobytes()))
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI" + array(1, b"X", (1, 1), inner)


def test_the_other_order_of_bytes_is_read(file: Path) -> None:
    matrix = np.array([[1.5, -2], [3, 4]])
    file.write_bytes(big_endian(matrix))
    (found,) = cells(RawFiles("multitask", file.parent), file, "X", 1, 2, "")
    assert np.array_equal(found, matrix)
    assert np.array_equal(loadmat(file)["X"][0, 0], matrix), "scipy agrees that it is such a file"


def changed(part: int, column: int | tuple[int, ...], value: float) -> bytes:
    x = pupils()
    x[part] = x[part].astype(np.float64)
    x[part][0, column] = value
    return mat(X=x, Y=scores())


def score(value: float) -> bytes:
    y = [column.astype(np.float64) for column in scores()]
    y[0][0] = value
    return mat(X=pupils(), Y=y)


FAULTS: dict[str, tuple[bytes, str]] = {
    "no MATLAB file": (b"X" * 200, "school.mat is not a whole MATLAB file of version 5 (it does not begin as one): "),
    "empty": (b"", "(it does not begin as one): "),
    "cut off": (mat(X=pupils(), Y=scores())[:-9], "is not a whole MATLAB file of version 5 ("),
    "a variable missing": (mat(X=pupils()), "(it has no variable Y): "),
    "a school missing": (mat(X=pupils()[1:], Y=scores()), "school.mat: X has 2 matrices, not 3: "),
    "no cells": (mat(X=np.eye(28), Y=scores()), "(X is no array of cells): "),
    "text in a cell": (mat(X=[*pupils()[:2], np.array(["a"])], Y=scores()), "(a cell is no matrix of numbers): "),
    "complex": (mat(X=[x + 1j for x in pupils()], Y=scores()), "(a cell is no matrix of numbers): "),
    "a column missing": (mat(X=[x[:, 1:] for x in pupils()], Y=scores()), "X{1} is 3 x 27, not rows of 28: "),
    "an empty school": (mat(X=[pupils()[0][:0], *pupils()[1:]], Y=scores()), "X{1} is 0 x 28, not rows of 28: "),
    "a pupil missing": (mat(X=[pupils()[0][1:], *pupils()[1:]], Y=scores()), "has 5 pupils, not 6: it is cut off"),
    "a score missing": (mat(X=pupils(), Y=[*scores()[:2], scores()[2][1:]]), "school 3 has 2 pupils and 1 scores: "),
    "not finite": (changed(1, 3, np.nan), "school.mat: X{2} has a number that is not finite: "),
    "no score": (score(0), "school 1 has a score that is not from 1 to 70: "),
    "a high score": (score(71), "school 1 has a score that is not from 1 to 70: "),
    "no per cents": (changed(1, 4, 101), "school 2 has a share of pupils that is not from 0 to 100 %: "),
    "no mark": (changed(2, 12, 2), "school 3 has something else than 0 or 1 among its marks"),
    "no one": (changed(2, 27, 0), "or not 1 in the last: "),
    "two kinds": (changed(0, (21, 22), 1), "school 1 is not one for boys, one for girls or a mixed one: "),
    "pupils of two kinds": (changed(0, (21, 22), (0, 1)), "school 1 is not one for boys"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_said(file: Path, fault: str) -> None:
    content, said = FAULTS[fault]
    found = refusal(School(), file, content)
    assert said in found
    assert str(file) in found
    assert found.endswith("into $METALEAF_RAW/multitask/.")


def test_variables_may_not_unpack_to_more_than_allowed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_matlab, "MAX_BYTES", 20_000)
    content = mat(Z=[np.zeros((100, 100))], X=pupils(), Y=scores())
    assert len(content) < 20_000
    assert "or they unpack to more than 20,000 bytes" in refusal(School(), file, content)
    file.write_bytes(mat(Z=[np.zeros((10, 100))], X=pupils(), Y=scores()))
    assert len(read_file(School(), file)) == 3


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"multitask: no school.mat in .*https://github.com/jiayuzhou/MALSAR"):
        list(School().clients(RawFiles("school", tmp_path, download=False)))


@FUZZ
@given(st.data(), st.booleans())
def test_damage_is_refused_or_harmless(file: Path, data: st.DataObject, compressed: bool) -> None:
    check_whole_or_refused(School(), file, data.draw(damages(mat(compressed, X=pupils(), Y=scores()))))


def test_the_real_file() -> None:
    found = read(School(), real("multitask", "school.mat"))
    sizes = [len(client.y) for client in found.values()]
    assert (len(found), sum(sizes), min(sizes), max(sizes)) == (139, 15_362, 22, 251)
    assert Counter(client.environment for client in found.values()) == {"mixed": 64, "girls": 42, "boys": 33}
    y = np.concatenate([client.y for client in found.values()])
    assert (y.min(), y.max(), y.sum()) == (1, 70, 316_416)
    girls = np.concatenate([client.x[:, 5] for client in found.values() if client.environment == "girls"])
    assert girls.all(), "the columns of schools and of pupils agree"
