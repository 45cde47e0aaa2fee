"""Datasets of Hugging Face's on disk, and Parquet; and from Python those in memory, with the real packages."""

import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exchange_cases import damaged, elsewhere, imported, outcome, prepared, toys  # noqa: F401
from PIL import Image

import metaleaf as ml
from metaleaf.data.client_store import ClientStore
from metaleaf.data.exchange import export
from metaleaf.errors import ConfigError, DataError
from metaleaf.front.foreign import as_parquet, is_dataset, kind_of

X = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
ROWS: dict[str, Any] = {"client": list("babbca"), "x": X.tolist(), "y": [0, 1, 2, 0, 1, 2]}
"""Three clients, whose rows do not lie together."""


def parquet(path: str = "mine.parquet", **columns: Any) -> Path:
    made = {name: values for name, values in {**ROWS, **columns}.items() if values is not None}
    pq.write_table(pa.table(made), path)
    return Path(path)


def check(store: ClientStore) -> None:
    assert store.ids.tolist() == ["b", "a", "c"]
    assert store.client(0)[0].tolist() == X[[0, 2, 3]].tolist()
    assert store.client(1)[1].tolist() == [1, 2]
    assert store.x.dtype == np.float32


@pytest.fixture(name="datasets")
def _datasets(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("datasets.arrow_dataset", reason="the real package is what is tested here")
    return importlib.import_module("datasets")  # which alone could be our own folder of that name


def saved(datasets: Any) -> Any:
    """As Hugging Face has it."""
    features = datasets.Features(
        client=datasets.Value("string"), x=datasets.Array2D((2, 2), "float32"), y=datasets.ClassLabel(names=[*"uvw"])
    )
    return datasets.Dataset.from_dict(ROWS, features=features)


def picture(value: int, mode: str = "L", form: str = "PNG", side: int = 4) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), value).save(buffer, form)
    return {"bytes": buffer.getvalue(), "path": None}


def test_rows_become_clients() -> None:
    check(imported("huggingface", parquet()))


def test_columns_are_chosen_by_name() -> None:
    path = parquet(client=None, y=None, who=[2, 1, 2, 2, 3, 1], town=[*"uvuuvv"], yes=[True, False] * 3, p=[5] * 6)
    store = imported("huggingface", path, client="who", y="yes", environment="town", group="p")
    assert (store.ids.tolist(), store.environments.tolist()) == (["2", "1", "3"], ["u", "v", "v"])
    assert store.about["spec"]["labels"] == [False, True]
    assert store.groups is not None


def test_batches_and_files_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaleaf.datasets.huggingface.BATCH", 2)
    table = pq.read_table(parquet())
    Path("hub/data").mkdir(parents=True)
    pq.write_table(table.slice(4), "hub/data/test-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 4), "hub/data/train-00000-of-00001.parquet")
    check(imported("huggingface", "hub"))


@pytest.mark.parametrize(
    ("columns", "options", "sentence"),
    [
        ({}, {"client": "clinet"}, "unknown column of mine.parquet 'clinet': did you mean 'client'"),
        ({"client": [*"babbc", None]}, {}, "'client' has something other than texts and whole numbers"),
        ({"y": [0, 1, 2, 0, 1, None]}, {}, "'y' has gaps"),
        ({"y": [*"uvwuv", None]}, {}, "'y' has gaps"),
        ({"x": [*"uvwuvw"]}, {}, "'x' is of string: give numbers, lists of numbers of one shape, or images"),
        ({"x": [[1], [1, 2], [1], [1], [1], [1]]}, {}, "'x' has lists of different lengths"),
        ({"x": [[1], None, [1], [1], [1], [1]]}, {}, "'x' has gaps"),
        ({"x": [[1], [None], [1], [1], [1], [1]]}, {}, "'x' has gaps"),
        ({"x": [{"a": 1}] * 6}, {}, "'x' is of struct<a: int64>: give numbers"),
        ({"town": [*"uvuuvu"]}, {"environment": "town"}, "client 'a' is in several environments"),
        ({"p": [0.5] * 6}, {"group": "p"}, "client 'b' has not one group, a whole number, for each example"),
        ({"x": [picture(0), picture(1, side=5)] * 3}, {}, "all input arrays must have the same shape"),
        ({"x": [{"bytes": b"GIF89a", "path": None}] * 6}, {}, "cannot identify image file"),
        ({"x": [{"bytes": None, "path": "/etc/hostname"}] * 6}, {}, "'x' has an image that is not in the file itself"),
    ],
)
def test_what_is_refused(columns: dict[str, Any], options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((DataError, ConfigError), match=sentence):
        imported("huggingface", parquet(**columns), **options)


def test_environments_are_of_clients_in_other_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaleaf.datasets.huggingface.BATCH", 1)
    with pytest.raises(DataError, match="client 'a' is in several environments, v and u"):
        imported("huggingface", parquet(town=[*"uvuuvu"]), environment="town")


def test_images() -> None:
    grey = imported("huggingface", parquet(x=[picture(i) for i in range(6)]))
    assert (grey.x.dtype.name, grey.x.shape) == ("uint8", (6, 4, 4))
    assert grey.x[:, 0, 0].tolist() == [0, 2, 3, 1, 5, 4]
    colour = imported("huggingface", parquet(x=[picture(9, "RGB", "JPEG")] * 5 + [picture(0, "P")]))
    assert colour.x.shape == (6, 4, 4, 3)


def test_a_large_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaleaf.datasets.huggingface.MOST_PIXELS", 15)
    with pytest.raises(DataError, match="'x' has an image of 4 x 4"):
        imported("huggingface", parquet(x=[picture(0)] * 6))


@pytest.mark.parametrize("whole", [False, True], ids=["one split", "several"])
def test_what_save_to_disk_writes(datasets: Any, whole: bool) -> None:
    dataset = saved(datasets)
    if whole:
        dataset = datasets.DatasetDict(train=dataset.select(range(4)), test=dataset.select(range(4, 6)))
    dataset.save_to_disk("saved")
    store = imported("huggingface", "saved")
    check(store)
    assert store.about["spec"]["labels"] == ["u", "v", "w"]
    with pytest.raises(ConfigError, match="saved: x has shape"):
        imported("huggingface", "saved", shape=[3])


@pytest.mark.parametrize("name", ["floats", "images", "labels", "multilabel", "grouped", "unicode"])
def test_hugging_face_reads_what_we_write(datasets: Any, name: str) -> None:
    toy, store = toys()[name], prepared(toys()[name])
    whole = datasets.load_from_disk(str(export(store, "huggingface", Path("out"))))
    export(store, "parquet", Path("out.parquet"))
    table = datasets.Dataset.from_parquet("out.parquet", cache_dir="cache")
    for found in (whole["train"].with_format("numpy"), table.with_format("numpy")):
        np.testing.assert_array_equal(np.stack([row["x"] for row in found]), store.x)
        np.testing.assert_array_equal(np.stack([row["y"] for row in found]), store.y)
        assert list(dict.fromkeys(found["client"])) == [client.id for client in toy.made]
        if toy.spec.labels:
            assert found.features["y"].names == [*toy.spec.labels]


def test_what_hugging_face_has_changed_is_found_out_anew(datasets: Any) -> None:
    export(prepared(toys()["labels"]), "huggingface", Path("out"))
    fewer = datasets.load_from_disk("out")["train"].filter(lambda row: row["client"] != "a")
    fewer.save_to_disk("fewer")
    store = imported("huggingface", "fewer")
    assert store.ids.tolist() == ["b", "c"]
    assert store.about["spec"]["labels"] == ["no", "ja", "vielleicht"]


def test_a_dataset_in_memory(datasets: Any) -> None:
    dataset = saved(datasets)
    clients = ml.clients(dataset.select([5, 1, 0, 3]), name="mine")
    assert (clients.label, clients.ids, clients["a"].y.tolist()) == ("mine", ["a", "b"], ["w", "v"])
    both = datasets.DatasetDict(train=dataset, test=dataset)
    assert is_dataset(both)
    Path("both.parquet").write_bytes(as_parquet(both, "client"))
    assert imported("huggingface", "both.parquet").counts.tolist() == [6, 4, 2]


@pytest.mark.parametrize("by", ["client", "number"])
def test_partitions_of_flwr_datasets(datasets: Any, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flwr = pytest.importorskip("flwr_datasets", reason="the real package is what is tested here")
    partitioner = pytest.importorskip("flwr_datasets.partitioner")
    whole = datasets.DatasetDict(train=saved(datasets))
    monkeypatch.setattr("flwr_datasets.federated_dataset.datasets.load_dataset", lambda **_: whole)
    cut = partitioner.NaturalIdPartitioner("client") if by == "client" else partitioner.IidPartitioner(2)
    with pytest.warns(UserWarning, match="tested"):
        federated = flwr.FederatedDataset(dataset="mine", partitioners={"train": cut}, shuffle=False)
    with pytest.raises(ConfigError, match="the dataset has a column 'client' already: client = another name for ours"):
        ml.clients(federated)
    clients = ml.clients(federated, client="owner")
    if by == "client":
        assert (clients.ids, clients["b"].y.tolist()) == (["b", "a", "c"], ["u", "w", "u"])
    else:
        assert clients.ids == ["0", "1"]
        assert clients["1"].x.tolist() == X[3:].tolist()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("dataset_dict.json", {"splits": ["../elsewhere"]}, "splits are not names in its folder"),
        ("dataset_dict.json", {"splits": []}, "splits are not names in its folder"),
        ("dataset_dict.json", [], "dataset_dict.json is damaged"),
        ("train/state.json", {"_data_files": [{"filename": "/etc/hostname"}]}, "not names in its folder"),
        ("train/state.json", {"_data_files": [{"filename": ".."}]}, "not names in its folder"),
        ("train/state.json", {"_data_files": [{"filename": "gone.arrow"}]}, "gone.arrow is missing"),
        ("train/state.json", {}, "state.json is damaged"),
    ],
)
def test_folders_that_make_no_sense(name: str, content: Any, sentence: str) -> None:
    folder = export(prepared(toys()["floats"]), "huggingface", Path("out"))
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=sentence):
        imported("huggingface", folder)


def test_where_nothing_is() -> None:
    Path("empty").mkdir()
    with pytest.raises(DataError, match="empty has neither Parquet files nor what save_to_disk"):
        imported("huggingface", "empty")
    with pytest.raises(ConfigError, match="huggingface: say where it is"):
        imported("huggingface", "")


def test_paths_say_what_they_are() -> None:
    store = prepared(toys()["labels"])
    export(store, "leaf", Path("leaf"))
    export(store, "huggingface", Path("hf"))
    export(store, "parquet", Path("out.parquet"))
    parquet("plain.parquet")
    Path("tff").mkdir()
    Path("tff/train.h5").touch()
    Path("damaged.parquet").touch()
    kinds = {
        "leaf_json": ["leaf", "leaf/all_data_0.json"],
        "huggingface": ["hf", "hf/train", "out.parquet"],
        "table": ["plain.parquet", "damaged.parquet", "mine.csv", "nowhere.parquet"],
        "tff": ["tff", "tff/train.h5", "mine.sqlite", "mine.sqlite.lzma"],
        "arrays": ["mine.npz"],
    }
    assert {path: kind for kind, paths in kinds.items() for path in paths} == {
        path: kind_of(Path(path)) for paths in kinds.values() for path in paths
    }
    clients = ml.clients("out.parquet")
    assert clients["a"].y.tolist() == np.array(["no", "ja", "vielleicht"])[store.client(1)[1]].tolist()


@pytest.mark.parametrize("form", ["parquet", "arrow", "images", "exported"])
def test_damage_is_found_or_does_no_harm(form: str) -> None:
    place = path = parquet(x=[picture(i) for i in range(6)] if form == "images" else ROWS["x"])
    if form == "exported":
        path.unlink()
        export(prepared(toys()["grouped"]), "parquet", path)
    if form == "arrow":
        place = export(prepared(toys()["grouped"]), "huggingface", Path("mine"))
        path = place / "train/data-00000-of-00001.arrow"
    whole, draw = path.read_bytes(), np.random.default_rng(3)
    found = []
    for _ in range(150):
        path.write_bytes(damaged(whole, draw))
        found.append(outcome("huggingface", place))
    for each in found:
        assert isinstance(each, ClientStore) or "mine" in each or "huggingface" in each
    assert sum(isinstance(each, str) for each in found) > 40
