"""FEMNIST from its three sources: archives and JSON made here in their formats, and real data if there."""

import io
import json
import lzma
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metaleaf.data.prepare import load
from metaleaf.dataset import Client
from metaleaf.datasets.femnist import LEAF, WRITERS, Femnist, environment_of
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles
from metaleaf.raw import leaf as leaf_module


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))


@pytest.fixture
def no_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METALEAF_RAW", raising=False)


def real(*names: str) -> RawFiles:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: no real data")
    raw = RawFiles("femnist", download=False)
    if missing := [name for name in names if raw.find(name) is None]:
        pytest.skip(f"METALEAF_RAW has no {' or '.join(missing)}")
    return raw


def clients_of(dataset: Femnist, raw: RawFiles | Path) -> dict[str, Client]:
    if isinstance(raw, Path):
        raw = RawFiles("femnist", raw, download=False)
    clients = list(dataset.clients(raw))
    assert [client.id for client in clients] == sorted(client.id for client in clients)
    return {client.id: client for client in clients}


def png(seed: int, size: int = 128) -> bytes:
    """A black blot on white, in NIST's format: 128 x 128, 1 bit."""
    pixels = np.ones((size, size), bool)
    top, left = np.random.default_rng(seed).integers(20, 70, 2)
    pixels[top : top + 30, left : left + 30] = False
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def nist(folder: Path, class_of: dict[str, tuple[str, bytes]], writers: dict[str, list[str]]) -> Path:
    """by_class.zip and by_write.zip. class_of: image -> hex code, file; writers: partition/id -> images."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "by_class.zip", "w") as archive:
        for i, (code, data) in enumerate(class_of.values()):
            archive.writestr(f"by_class/{code}/hsf_0/hsf_0_{i:05}.png", data)
        archive.writestr("by_class/7a/train_7a/train_7a_00000.png", next(iter(class_of.values()))[1])
        archive.writestr("by_class/7a/hsf_0.mit", b"listing")
    with zipfile.ZipFile(folder / "by_write.zip", "w") as archive:
        for writer, images in writers.items():
            form = writer.split("/")[1].replace("f", "d")
            for i, image in enumerate(images):
                archive.writestr(f"by_write/{writer}/{form}/{form}_{i:05}.png", class_of[image][1])
    return folder


def bomb() -> bytes:
    """A small picture whose header says that it is 60,000 pixels wide and high."""
    data = bytearray(png(5))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


IMAGES = {"zero": ("30", png(0)), "nine": ("39", png(1)), "A": ("41", png(2)), "z": ("7a", png(3))}
HANDS = {"hsf_4/f2100_11": ["zero", "z"], "hsf_0/f0001_10": ["A", "nine", "zero"]}


@pytest.mark.usefixtures("no_raw")
def test_nists_archives_are_joined_by_the_image_files(tmp_path: Path) -> None:
    clients = clients_of(Femnist(), nist(tmp_path, IMAGES, HANDS))
    assert {name: client.y.tolist() for name, client in clients.items()} == {
        "f0001_10": [10, 9, 0],
        "f2100_11": [0, 61],
    }
    assert [client.environment for client in clients.values()] == ["hsf_0", "hsf_4"]
    x = clients["f0001_10"].x
    assert x.shape == (3, 28, 28)
    assert x.dtype == np.uint8
    expected = Image.open(io.BytesIO(IMAGES["A"][1])).convert("L")
    expected.thumbnail((28, 28), Image.Resampling.LANCZOS)
    assert np.array_equal(x[0], np.asarray(expected))
    assert x[0, 0, 0] == 255, "paper is white"
    assert x[0].min() == 0, "ink is black"


@pytest.mark.usefixtures("no_raw")
def test_leafs_doubled_first_image_can_be_kept(tmp_path: Path) -> None:
    clients = clients_of(Femnist(keep_duplicates=True), nist(tmp_path, IMAGES, HANDS))
    assert clients["f0001_10"].y.tolist() == [10, 9, 0], "LEAF spares the very first writer"
    assert clients["f2100_11"].y.tolist() == [0, 0, 61]
    assert np.array_equal(clients["f2100_11"].x[0], clients["f2100_11"].x[1])


@pytest.mark.usefixtures("no_raw")
def test_an_image_in_two_classes_has_the_first(tmp_path: Path) -> None:
    images = {"o": ("6f", png(0)), "O": ("4f", png(0))}
    clients = clients_of(Femnist(), nist(tmp_path, images, {"hsf_0/f0001_10": ["o"]}))
    assert clients["f0001_10"].y.tolist() == [24]


@pytest.mark.usefixtures("no_raw")
def test_archives_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    nist(tmp_path, IMAGES, HANDS)
    nist(tmp_path / "other", {"A": ("41", png(9))}, {})
    (tmp_path / "other/by_class.zip").rename(tmp_path / "by_class.zip")
    with pytest.raises(DataError, match=r"by_write/hsf_0/f0001_10/.* is not in by_class\.zip"):
        clients_of(Femnist(), tmp_path)


@pytest.mark.usefixtures("no_raw")
@pytest.mark.parametrize(
    ("data", "message"), [(png(5, 64), "64 x 64"), (png(5)[:60], "not a whole PNG"), (bomb(), "not a whole PNG")]
)
def test_bad_images_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    folder = nist(tmp_path, {"A": ("41", data)}, {"hsf_0/f0001_10": ["A"]})
    with pytest.raises(DataError, match=rf"by_write\.zip: by_write/hsf_0/f0001_10/d0001_10/.*{message}"):
        clients_of(Femnist(), folder)


def leaf(path: Path, users: dict[str, tuple[Any, Any]], counts: list[int] | None = None) -> None:
    """A shard in LEAF's format. users: name -> x uint8 [n, 28, 28], y [n]."""
    data = {
        user: {"x": (np.asarray(x).reshape(len(x), 784) / 255).tolist(), "y": np.asarray(y).tolist()}
        for user, (x, y) in users.items()
    }
    if counts is None:
        counts = [len(y) for _, y in users.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"users": list(users), "num_samples": counts, "user_data": data}))


def pictures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)


@pytest.mark.usefixtures("no_raw")
def test_leafs_train_and_test_parts_are_merged_in_order(tmp_path: Path) -> None:
    x = pictures(6)
    leaf(tmp_path / "test/all_data_0_niid_1_keep_0_test_9.json", {"f0002_00": (x[4:6], [4, 5])})
    train = {"f0002_00": (x[:3], [1, 2, 3]), "f0001_00": (x[3:4], [9])}
    leaf(tmp_path / "train/all_data_0_niid_1_keep_0_train_9.json", train)
    clients = clients_of(Femnist(), tmp_path)
    assert list(clients) == ["f0001_00", "f0002_00"]
    assert clients["f0002_00"].y.tolist() == [1, 2, 3, 4, 5]
    assert np.array_equal(clients["f0002_00"].x, x[[0, 1, 2, 4, 5]])


@pytest.mark.usefixtures("no_raw")
def test_second_copies_are_dropped_from_leafs_json_unless_kept(tmp_path: Path) -> None:
    x = pictures(2)
    leaf(tmp_path / "all_data/all_data_0.json", {"f0002_00": (x[[0, 0, 1, 0]], [1, 1, 2, 3])})
    assert clients_of(Femnist(), tmp_path)["f0002_00"].y.tolist() == [1, 2, 3]
    assert clients_of(Femnist(keep_duplicates=True), tmp_path)["f0002_00"].y.tolist() == [1, 1, 2, 3]


@pytest.mark.usefixtures("no_raw")
def test_of_leafs_data_folder_the_earliest_stage_is_read(tmp_path: Path) -> None:
    for stage, n in ("all_data", 5), ("sampled_data", 4), ("train", 3):
        leaf(tmp_path / f"data/{stage}/all_data_0.json", {"f0002_00": (pictures(n), range(n))})
    assert len(clients_of(Femnist(), tmp_path)["f0002_00"].y) == 5


@pytest.mark.usefixtures("no_raw")
def test_files_of_two_leaf_runs_are_refused(tmp_path: Path) -> None:
    for run in "01":
        leaf(tmp_path / f"all_data_{run}.json", {"f0002_00": (pictures(2), [1, 2])})
    with pytest.raises(DataError, match=r"all_data_1\.json: writer f0002_00 is in another file too"):
        clients_of(Femnist(), tmp_path)


@pytest.mark.usefixtures("no_raw")
@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_a_shard_cut_in_half_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "all_data_0.json"
    leaf(path, {"f0002_00": (pictures(20), range(20))})
    data = lzma.compress(path.read_bytes()) if suffix else path.read_bytes()
    path.unlink()
    path.with_name(path.name + suffix).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"all_data_0\.json{suffix} is "):
        clients_of(Femnist(), tmp_path)


@pytest.mark.usefixtures("no_raw")
def test_a_shard_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    leaf(tmp_path / "all_data_0.json", {"f0002_00": (pictures(2), [1, 2])}, counts=[3])
    with pytest.raises(DataError, match=r"all_data_0\.json is damaged: its users, num_samples"):
        clients_of(Femnist(), tmp_path)


@pytest.mark.usefixtures("no_raw")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            '{"users": ["a"], "num_samples": [1], "user_data": {"a": {"x": [[1.0]], "y": [0]}}}',
            r"x has the shape \[1, 1\]",
        ),
        ('{"users": ["a"], "num_samples": [1], "user_data": {"a": {"x": [], "y": []}, "a": {}}}', "'a' is there twice"),
        ('{"users": ["a"], "users": [], "num_samples": [], "user_data": {}}', "'users' is there twice"),
        ('{"users": ["a"], "num_samples": [1], "user_data": {}}', "'a'"),
        ("[" * 100_000, "ecursion|nest|not a whole"),
        ("[1, 2]", "indices"),
    ],
)
def test_json_of_another_form_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "all_data_0.json").write_text(text)
    with pytest.raises(DataError, match=rf"not a whole LEAF file .*({why})"):
        clients_of(Femnist(), tmp_path)


@pytest.mark.usefixtures("no_raw")
def test_labels_of_another_shape_are_refused(tmp_path: Path) -> None:
    one_hot = np.eye(62, dtype=int)[[5, 9]]
    leaf(tmp_path / "all_data_0.json", {"f0002_00": (pictures(2), one_hot)})
    with pytest.raises(DataError, match=r"all_data_0\.json .*shape \[2, 62\], not one label for each of 2 examples"):
        clients_of(Femnist(), tmp_path)


@pytest.mark.usefixtures("no_raw")
def test_a_writer_who_is_listed_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "all_data_0.json"
    leaf(path, {"f0001_00": (pictures(1), [1]), "f0002_00": (pictures(1), [2])})
    path.write_text(path.read_text(encoding="utf-8").replace('["f0001_00", "f', '["f0002_00", "f'), encoding="utf-8")
    with pytest.raises(DataError, match=r"all_data_0\.json is damaged: its users"):
        clients_of(Femnist(), tmp_path)


@pytest.mark.usefixtures("no_raw")
@pytest.mark.parametrize("keep", [True, False])
def test_a_writer_without_images_is_left_to_be_left_out(tmp_path: Path, keep: bool) -> None:
    leaf(tmp_path / "all_data_0.json", {"f0001_00": (np.zeros((0, 28, 28)), []), "f0002_00": (pictures(1), [2])})
    clients = clients_of(Femnist(keep_duplicates=keep), tmp_path)
    assert {name: len(client.y) for name, client in clients.items()} == {"f0001_00": 0, "f0002_00": 1}
    store = load("femnist", Femnist(keep_duplicates=keep), raw=tmp_path, progress=False)
    assert (store.ids.tolist(), store.about["empty_clients"]) == (["f0002_00"], ["f0001_00"])


def test_a_given_folder_is_read_through_a_link_and_never_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf(tmp_path / "other/femnist/all_data_0.json", {"f0009_00": (pictures(1), [9])})
    monkeypatch.setenv("METALEAF_RAW", str(tmp_path / "other"))
    leaf(tmp_path / "disk/all_data_0.json", {"f0001_00": (pictures(1), [1])})
    (tmp_path / "given/femnist").mkdir(parents=True)
    (tmp_path / "given/femnist/all_data").symlink_to(tmp_path / "disk")
    assert list(clients_of(Femnist(), tmp_path / "given")) == ["f0001_00"]
    (tmp_path / "given/femnist/all_data").unlink()
    for source in "auto", "leaf":
        with pytest.raises(DataError, match=r"femnist: no .* in \S+/given/femnist or \S+/given: "):
            clients_of(Femnist(source), tmp_path / "given")


@pytest.mark.usefixtures("no_raw")
def test_pixels_and_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    leaf(tmp_path / "all_data_0.json", {"f0002_00": (pictures(2), [1, 62])})
    with pytest.raises(DataError, match="label"):
        clients_of(Femnist(), tmp_path)
    leaf(tmp_path / "all_data_0.json", {"f0002_00": (pictures(2) * 0.5, [1, 2])})
    with pytest.raises(DataError, match="pixel"):
        clients_of(Femnist(), tmp_path)


@pytest.mark.usefixtures("no_raw")
def test_no_data_at_all_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"femnist: no by_class.zip in .*METALEAF_RAW/femnist/"):
        list(Femnist().clients(RawFiles("femnist", download=False)))
    with pytest.raises(DataError, match=rf"femnist: no by_class.zip in .* into {re.escape(str(tmp_path))}/\.$"):
        clients_of(Femnist(), tmp_path)  # where nothing else is looked into
    with pytest.raises(DataError, match=r"femnist: no femnist_writers.npz"):
        clients_of(Femnist(source="writers"), tmp_path)
    with pytest.raises(DataError, match=r"femnist: no .*all_data"):
        clients_of(Femnist(source="leaf"), tmp_path)


@pytest.mark.usefixtures("no_raw")
def test_an_npz_with_pickles_or_odd_shapes_is_refused(tmp_path: Path) -> None:
    whole = {
        "images": pictures(2),
        "labels": np.array([1, 2], np.uint8),
        "writer": np.array([0, 0], np.int16),
        "duplicate": np.array([False, False]),
        "writers": np.array(["f0002_00"]),
        "writer_truncated": np.array([False]),
    }
    np.savez(tmp_path / WRITERS, **whole)  # type: ignore[arg-type]
    assert clients_of(Femnist(), tmp_path)["f0002_00"].y.tolist() == [1, 2]
    np.savez(tmp_path / WRITERS, **whole | {"writers": np.array(["f0002_00"], object)})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"is damaged: writers.npy is not a whole array"):
        clients_of(Femnist(), tmp_path)
    for odd in (
        {"labels": np.array([1], np.uint8)},
        {"images": np.array(1, np.uint8)},
        {"writers": np.array("f0002_00")},
        {"writers": np.array([7])},
        {"writer": np.array([0, 1], np.int16)},
        {"writer": np.array([-1, 0], np.int16)},
        {"writer": np.array([0.0, 0.0])},
    ):
        np.savez(tmp_path / WRITERS, **whole | odd)
        with pytest.raises(DataError, match="do not fit together"):
            clients_of(Femnist(), tmp_path)


@pytest.mark.usefixtures("no_raw")
def test_leafs_json_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "all_data_0.json"
    leaf(path, {"f0002_00": (pictures(2), [1, 2])})
    assert clients_of(Femnist(), tmp_path)
    monkeypatch.setattr(leaf_module, "MAX_VALUES", 32 * 2 * 784)
    with pytest.raises(
        DataError, match=r"all_data_0.json is not used: its values could take [\d,]+ bytes of memory; 50,176"
    ):
        clients_of(Femnist(), tmp_path)
    monkeypatch.setattr(leaf_module, "MAX_TEXT", 1000)
    with pytest.raises(DataError, match=r"all_data_0.json unpacks to more than 1,000 bytes"):
        clients_of(Femnist(), tmp_path)


def test_environments_follow_nists_numbers() -> None:
    ids = ("f0000_14", "f2099_00", "f2100_00", "f2599_99", "f3100_45", "stranger")
    environments = ["hsf_0-3", "hsf_0-3", "hsf_4", "hsf_4", "hsf_6-8", "nist"]
    assert [environment_of(writer) for writer in ids] == environments


@pytest.mark.parametrize(
    ("options", "writers", "images"),
    [
        ({}, 405, 66_512),
        ({"keep_duplicates": True}, 405, 66_917),
        ({"whole_writers": False}, 489, 74_659),
        ({"whole_writers": False, "keep_duplicates": True}, 489, 75_150),
    ],
)
def test_counts_of_the_writers_archive(options: dict[str, bool], writers: int, images: int) -> None:
    clients = clients_of(Femnist(source="writers", **options), real(WRITERS))
    assert len(clients) == writers
    assert sum(len(client.y) for client in clients.values()) == images
    assert {int(label) for client in clients.values() for label in np.unique(client.y)} == set(range(62))
    edges = np.concatenate([client.x[:, 0] for client in clients.values()])
    assert (edges == 255).mean() > 0.99, "paper is white"


def test_leafs_json_and_the_writers_archive_agree() -> None:
    raw = real(LEAF, WRITERS)
    for keep in False, True:
        from_json = clients_of(Femnist(source="leaf", keep_duplicates=keep), raw)
        archive = clients_of(Femnist(source="writers", whole_writers=False, keep_duplicates=keep), real(WRITERS))
        assert sum(len(client.y) for client in from_json.values()) == (838 if keep else 833)
        assert from_json.keys() <= archive.keys()
        for name, client in from_json.items():
            # LEAF's sampling cut the last writer of this file short; another run had the whole.
            assert len(client.y) == (155 + keep if name == "f2417_81" else len(archive[name].y))
            assert furthest_match(client, archive[name]) <= 17, "as far apart as Pillow's versions"


def furthest_match(one: Client, other: Client) -> int:
    """Pair each image with the nearest of its class: the largest difference of a pixel. Orders may differ."""
    worst = 0
    for x, label in zip(one.x.astype(int), one.y, strict=True):
        distances = np.abs(other.x[other.y == label].astype(int) - x).max((1, 2))
        worst = max(worst, int(distances.min()))
    return worst
