"""Files of TensorFlow Federated: its HDF5 and its SQLite, as it writes them."""

import lzma
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange_cases import damaged, elsewhere, imported, outcome  # noqa: F401

from metaleaf.data.client_store import ClientStore
from metaleaf.errors import ConfigError, DataError

Features = Mapping[str, Any]

IMAGES = np.linspace(0, 1, 5 * 28 * 28, dtype=np.float32).reshape(5, 28, 28)
LABELS = np.array([3, 0, 9, 1, 3], np.int32)
EMNIST = {
    "f1_02": {"pixels": IMAGES[:2], "label": LABELS[:2]},
    "f0_01": {"pixels": IMAGES[2:], "label": LABELS[2:]},
}


def hdf5(path: str, clients: Mapping[str, Features]) -> Path:
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
    with h5py.File(path, "w") as file:
        for name, features in clients.items():
            group = file.create_group(f"examples/{name}")
            for feature, values in features.items():
                group.create_dataset(feature, data=values)
    return Path(path)


def example(**features: Any) -> bytes:
    """A serialised tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_pb2  # type: ignore[import-untyped]

    made = tf_example_pb2.Example()
    for name, values in features.items():
        kind = made.features.feature[name]
        array = np.asarray(values).ravel()
        if array.dtype.kind in "SU":
            kind.bytes_list.value.extend([str(value).encode() for value in array])
        elif array.dtype.kind == "f":
            kind.float_list.value.extend(array.tolist())
        else:
            kind.int64_list.value.extend(array.tolist())
    return bytes(made.SerializeToString())


SCHEMA = """
CREATE TABLE examples (
  split_name TEXT NOT NULL, client_id TEXT NOT NULL, serialized_example_proto BLOB NOT NULL);
CREATE INDEX idx_examples_client_id ON examples (client_id);
CREATE INDEX idx_examples_client_id_split ON examples (split_name, client_id);
CREATE TABLE client_metadata (client_id TEXT NOT NULL, split_name TEXT NOT NULL, num_examples INTEGER NOT NULL);
"""


def sqlite(path: str, rows: list[tuple[str, Any, Any]]) -> Path:
    counts = Counter((client, split) for split, client, _ in rows)
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(SCHEMA)
        database.executemany("INSERT INTO examples VALUES (?, ?, ?)", rows)
        database.executemany("INSERT INTO client_metadata VALUES (?, ?, ?)", [(*of, n) for of, n in counts.items()])
    return Path(path)


def rows(clients: Mapping[str, Features], split: str = "train") -> list[tuple[str, Any, Any]]:
    return [
        (split, name, example(**{feature: values[i] for feature, values in features.items()}))
        for name, features in clients.items()
        for i in range(len(next(iter(features.values()))))
    ]


def check_emnist(store: ClientStore, ids: list[str]) -> None:
    assert store.ids.tolist() == ids
    for i, name in enumerate(ids):
        x, y = store.client(i)
        np.testing.assert_array_equal(x, EMNIST[name]["pixels"])
        assert np.array([0, 1, 3, 9])[y].tolist() == EMNIST[name]["label"].tolist()
    assert store.x.dtype == np.float32
    assert store.about["spec"]["labels"] == [0, 1, 3, 9]


def test_hdf5() -> None:
    check_emnist(imported("tff", hdf5("fed_emnist_train.h5", EMNIST)), ["f0_01", "f1_02"])


def test_bytes_stay_bytes() -> None:
    images = np.arange(2 * 32 * 32 * 3).reshape(2, 32, 32, 3).astype(np.uint8)
    path = hdf5("fed_cifar100.h5", {"0": {"image": images, "label": [7, 0], "coarse_label": [1, 1]}})
    store = imported("tff", path, x="image")
    assert store.x.dtype == np.uint8
    np.testing.assert_array_equal(store.x, images)
    assert imported("tff", path, x="image", y="label", target_type="numbers").y.tolist() == [7, 0]


def test_train_and_test_are_joined() -> None:
    Path("emnist").mkdir()
    for part, rows in (("test", slice(1, 2)), ("train", slice(0, 1))):
        hdf5(f"emnist/fed_{part}.h5", {"a": {"pixels": np.array([[1], [2]], np.float32)[rows], "label": [0, 1][rows]}})
    store = imported("tff", "emnist")
    assert (store.ids.tolist(), store.x.ravel().tolist(), store.y.tolist()) == (["a"], [1, 2], [0, 1])


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_sqlite(packed: bool) -> None:
    path = sqlite("emnist.sqlite", rows(EMNIST))
    if packed:
        packed_path = Path("emnist.sqlite.lzma")
        packed_path.write_bytes(lzma.compress(path.read_bytes(), format=lzma.FORMAT_ALONE))
        path = packed_path
    check_emnist(imported("tff", path, shape=[28, 28]), ["f1_02", "f0_01"])
    assert not list(Path("data").glob("*.sqlite"))


def test_sqlite_joins_what_lies_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaleaf.datasets.tff.TOGETHER", 2)
    one = {"b": {"pixels": [[1.0, 2], [3, 4], [5, 6]], "label": [0, 1, 2]}, "a": {"pixels": [[7.0, 8]], "label": [1]}}
    more = {"b": {"pixels": [[9.0, 10]], "label": [0]}}
    store = imported("tff", sqlite("mine.sqlite", [*rows(one), *rows(more, "test")]))
    assert store.ids.tolist() == ["b", "a"]
    assert store.client(0)[0].tolist() == [[1, 2], [3, 4], [5, 6], [9, 10]]
    assert store.y.tolist() == [0, 1, 2, 0, 1]


def test_integers_of_sqlite_are_what_they_are_said_to_be() -> None:
    images = {"0": {"image": np.arange(24).reshape(2, 12), "label": [0, 1]}}
    store = imported("tff", sqlite("cifar.sqlite", rows(images)), x="image", shape=[2, 2, 3], dtype="uint8")
    assert (store.x.dtype.name, store.x.shape) == ("uint8", (2, 2, 2, 3))


@pytest.mark.parametrize(
    ("features", "options", "sentence"),
    [
        ({"pixels": [[1.0]], "label": [0]}, {"x": "image"}, "/examples/a has no 'image', but label, pixels"),
        ({"pixels": [b"text"], "label": [0]}, {}, "/examples/a/pixels is of texts or other values, only numbers"),
        ({"pixels": [[1.0], [2.0]], "label": [0]}, {}, "x of clients 'a' and 'a' is .*unlike"),
        ({"pixels": 1.0, "label": [0]}, {}, "/examples/a/pixels is no array in this file"),
        ({"pixels": [[1.0], [2.0]], "label": [0.5, np.nan]}, {}, "y has a value that is missing or not finite"),
    ],
)
def test_what_hdf5_is_refused_for(features: Features, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        imported("tff", hdf5("mine.h5", {"a": features}), **options)


def test_hdf5_reads_nothing_from_elsewhere() -> None:
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
    hdf5("other.h5", EMNIST)
    with h5py.File("link.h5", "w") as file:
        file["examples"] = h5py.ExternalLink("other.h5", "examples")
    with h5py.File("soft.h5", "w") as file:
        file.create_group("examples/a")
        file["examples/a/pixels"] = h5py.SoftLink("/examples/a/other")
        file["examples/a/other"] = np.ones((2, 2))
    Path("raw").write_bytes(bytes(99))
    with h5py.File("outside.h5", "w") as file:
        group = file.create_group("examples/a")
        group.create_dataset("pixels", (2, 2), np.uint8, external=[("raw", 0, 4)])
        group["label"] = [0, 1]
    with h5py.File("virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((2, 28, 28), np.float32)
        layout[:] = h5py.VirtualSource("other.h5", "examples/f1_02/pixels", (2, 28, 28))
        file.create_group("examples/a").create_virtual_dataset("pixels", layout)
        file["examples/a/label"] = [0, 1]
    for name, sentence in {
        "link": "'examples' is a link, which is not followed",
        "soft": "'pixels' is a link, which is not followed",
        "outside": "/examples/a/pixels is no array in this file",
        "virtual": "/examples/a/pixels is no array in this file",
    }.items():
        with pytest.raises(DataError, match=sentence):
            imported("tff", f"{name}.h5")


def test_an_array_that_only_claims_to_be_large_is_refused() -> None:
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
    with h5py.File("large.h5", "w") as file:
        group = file.create_group("examples/a")
        group.create_dataset("pixels", (10**7, 10**4), np.float32, chunks=(1, 10**4))
        group["label"] = [0, 1]
    with pytest.raises(DataError, match=r"pixels has 400,000,000,000 bytes, 2,147,483,648 are allowed"):
        imported("tff", "large.h5")


@pytest.mark.parametrize(
    ("made", "options", "sentence"),
    [
        ([("train", "a", example(x=[1.0], label=0))], {}, "an example has no feature 'pixels', but label, x"),
        ([("train", "a", example(pixels=["t"], label=0))], {}, "the feature 'pixels' is of texts or other bytes"),
        ([("train", "a", example(pixels=[], label=0))], {}, "the feature 'pixels' is of texts or other bytes|"),
        ([("train", "a", b"\x0a\xff")], {}, "damaged, or not of TFF's layout"),
        ([("train", "a", "text")], {}, "a client is str, its example str"),
        ([("train", 7.5, b"")], {}, "an example has no feature"),
        ([], {}, "holds no client with examples"),
        (rows({"a": {"pixels": [[1.0, 2.0], [3.0, 4.0]], "label": [0, 1]}}), {"shape": [3]}, "which is not"),
    ],
)
def test_what_sqlite_is_refused_for(made: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((DataError, ConfigError), match=sentence):
        imported("tff", sqlite("mine.sqlite", made), **options)


def test_examples_of_different_shapes_are_refused() -> None:
    made = [("train", "a", example(pixels=[1.0, 2], label=0)), ("train", "a", example(pixels=[1.0, 2, 3], label=1))]
    with pytest.raises(DataError, match="all input arrays must have the same shape"):
        imported("tff", sqlite("mine.sqlite", made))


@pytest.mark.parametrize(
    "endless",
    [
        "CREATE VIEW examples AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT '' AS split_name, 'a' AS client_id, x'00' AS serialized_example_proto FROM n",
        "CREATE TABLE examples (client_id TEXT, serialized_example_proto BLOB AS (zeroblob(1000000)))",
        "CREATE TABLE other (client_id TEXT)",
    ],
)
def test_a_database_that_computes_is_refused(endless: str) -> None:
    with closing(sqlite3.connect("mine.sqlite")) as database:
        database.execute(endless)
    with pytest.raises(DataError, match="it has no table `examples`"):
        imported("tff", "mine.sqlite")


def test_examples_that_are_gone_are_missed() -> None:
    path = sqlite("mine.sqlite", rows(EMNIST))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM examples WHERE client_id = 'f1_02'")
    with pytest.raises(DataError, match="it has 3 examples, where its client_metadata counts 5"):
        imported("tff", path)


def test_where_nothing_is() -> None:
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no file that ends in \.h5"):
        imported("tff", "empty")
    Path("mine.csv").touch()
    with pytest.raises(DataError, match=r"mine\.csv: a file of TFF ends in"):
        imported("tff", "mine.csv")
    for name in ("mine.h5", "mine.sqlite", "mine.sqlite.lzma"):
        Path(name).write_text("neither", encoding="ascii")
        if name.endswith("h5"):
            pytest.importorskip("h5py", reason="HDF5 needs h5py")
        with pytest.raises(DataError, match=f"{name} is damaged, or not of TFF's layout"):
            imported("tff", name)


@pytest.mark.parametrize("form", ["hdf5", "sqlite", "lzma"])
def test_damage_is_found_or_does_no_harm(form: str) -> None:
    small = {name: {"pixels": np.array([[1, 2], [3, 4]], np.float32), "label": [0, 1]} for name in ("a", "b")}
    if form == "hdf5":
        path = hdf5("mine.h5", small)
    else:
        path = sqlite("mine.sqlite", rows(small))
        if form == "lzma":
            path = Path("mine.sqlite.lzma")
            path.write_bytes(lzma.compress(Path("mine.sqlite").read_bytes()))
    whole, draw = path.read_bytes(), np.random.default_rng(2)
    found = []
    for _ in range(150):
        path.write_bytes(damaged(whole, draw))
        found.append(outcome("tff", path))
    for each in found:
        assert isinstance(each, ClientStore) or "mine." in each or "tff" in each
    assert sum(isinstance(each, str) for each in found) > 40
