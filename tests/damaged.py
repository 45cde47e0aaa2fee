"""Publishers' files with damage, and what may come of them: data as a dataset declares them, or a DataError."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from metaleaf.dataset import Client, Dataset
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""Every example overwrites the file, so that a fixture's folder may be shared by them."""


@st.composite
def damages(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some overwritten, cut out, put in, or the end cut off."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        match draw(st.sampled_from(("overwrite", "cut", "insert", "end"))):
            case "overwrite":
                found[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del found[at : at + draw(st.integers(1, 40))]
            case "insert":
                found[at:at] = draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b'"', b",", b"\n", b"nan"]))
            case "end":
                del found[at:]
    return bytes(found)


def check_whole_or_refused(dataset: Dataset, path: Path, damaged: bytes) -> None:
    """What a dataset makes of its file with these bytes is as its spec says, or a sentence that names the file."""
    path.write_bytes(damaged)
    said = None
    try:
        clients = list(dataset.clients(RawFiles(path.parent.name, path.parent.parent, download=False)))
    except DataError as error:
        clients, said = [], str(error)
    assert said is None or (path.name in said and said.endswith("."))
    assert len({client.id for client in clients}) == len(clients)
    for client in clients:
        check_as_declared(dataset, client)


def check_as_declared(dataset: Dataset, client: Client) -> None:
    spec = dataset.spec
    n = len(client.y)
    assert n > 0
    assert client.id
    assert client.environment
    assert client.x.shape == (n, *spec.x_shape)
    assert client.x.dtype == spec.x_dtype
    assert not np.isinf(client.x).any()
    assert client.y.shape == (n,)
    assert client.y.dtype == spec.stored
    assert client.y.max() < spec.classes if spec.classes else np.isfinite(client.y).all()


def refusal(dataset: Dataset, path: Path, content: str | bytes) -> str:
    """What is said of a file with this content."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        list(dataset.clients(RawFiles(path.parent.name, path.parent.parent, download=False)))
    return str(caught.value)


def real(folder: str, file: str) -> RawFiles:
    """The publishers' own files; skips where they are not there."""
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip(f"METALEAF_RAW is not set: it names the folder with {folder}/{file}")
    raw = RawFiles(folder, download=False)
    if not raw.find(file):
        pytest.skip(f"no {file} in {raw.looked_in()}")
    return raw


def read(dataset: Dataset, raw: RawFiles) -> dict[str, Client]:
    """All clients by id, each as the spec declares."""
    found = {}
    for client in dataset.clients(raw):
        check_as_declared(dataset, client)
        assert client.id not in found
        found[client.id] = client
    return found


def placed(tmp_path: Path, folder: str, file: str) -> Path:
    """Where a file of this name has to lie so that `RawFiles(folder, tmp_path)` finds it; its folder is made."""
    (tmp_path / folder).mkdir()
    return tmp_path / folder / file


def read_file(dataset: Any, path: Path) -> dict[str, Client]:
    """`read`, of a file that was `placed`."""
    return read(dataset, RawFiles(path.parent.name, path.parent.parent, download=False))
