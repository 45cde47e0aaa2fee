"""CelebA from its three sources: small files made here in their formats, and the real ones if they are there."""

import io
import json
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from metaleaf.data.prepare import load
from metaleaf.dataset import Client
from metaleaf.datasets.celeba import ATTRIBUTES, FACES, IDENTITIES, IMAGES, CelebA
from metaleaf.errors import ConfigError, DataError, UserError
from metaleaf.models import build as build_model
from metaleaf.raw import RawFiles
from metaleaf.task import Task

OWNERS = {"000001.jpg": 12, "000002.jpg": 7, "000003.jpg": 12, "000004.jpg": 7, "000005.jpg": 7, "000006.jpg": 101}
SMILES = [1, -1, -1, 1, 1, 1]
MEN = [-1, 1, -1, 1, 1, -1]
# Half red on the left, half of another colour on the right: one for each image.
RIGHTS = {name: (40 * i, 255 - 40 * i, 90) for i, name in enumerate(OWNERS)}


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("METALEAF_RAW", raising=False)


def jpeg(right: tuple[int, int, int], size: tuple[int, int]) -> bytes:
    picture = Image.new("RGB", size, (200, 0, 0))
    picture.paste(right, (size[0] // 2, 0, *size))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=100, subsampling=0)
    return file.getvalue()


def zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def images(folder: Path, size: tuple[int, int] = (178, 218)) -> None:
    zipped(folder / IMAGES, {f"img_align_celeba/{name}": jpeg(right, size) for name, right in RIGHTS.items()})


def identities(names: Sequence[str] = tuple(OWNERS)) -> str:
    return "".join(f"{name} {OWNERS[name]}\n" for name in names)


def attributes(count: int = 6) -> str:
    """As published: the number of images, the names, then a row of 1 and -1 for each image; Windows' line ends."""
    rows = [f"{name} {smile:2} {man:2}\r\n" for name, smile, man in zip(OWNERS, SMILES, MEN, strict=True)]
    return f"{count}\r\nSmiling Male \r\n" + "".join(rows)


def published(folder: Path) -> Path:
    (folder / IDENTITIES).write_text(identities(), newline="")
    (folder / ATTRIBUTES).write_text(attributes(), newline="")
    images(folder)
    return folder


def leaf(path: Path, users: dict[str, tuple[list[Any], list[Any]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {user: {"x": x, "y": y} for user, (x, y) in users.items()}
    counts = [len(y) for _, y in users.values()]
    path.write_text(json.dumps({"users": list(users), "num_samples": counts, "user_data": data}))


ROWS = ["000001.jpg,12,1,0,1", "000002.jpg,7,0,1,2", "000003.jpg,12,0,0,1", "000004.jpg,7,1,1,1"]
HEAD = "file,identity,smiling,male,faces_detected"


def crops(folder: Path, rows: Sequence[str] = tuple(ROWS), names: Sequence[str] = tuple(OWNERS)[:4]) -> Path:
    members = {f"faces84/{name}": jpeg(RIGHTS[name], (84, 84)) for name in names}
    zipped(folder / FACES, {**members, "faces84.csv": "\r\n".join([HEAD, *rows, ""]).encode()})
    return folder


def clients_of(dataset: CelebA, folder: Path) -> list[Client]:
    return list(dataset.clients(RawFiles("celeba", folder, download=False)))


def test_the_publishers_files_are_joined_by_the_images_names(tmp_path: Path) -> None:
    published(tmp_path)
    (tmp_path / IDENTITIES).write_text(identities(sorted(OWNERS, reverse=True)))  # its order says nothing
    found = clients_of(CelebA(min_images=2), tmp_path)
    assert [client.id for client in found] == ["7", "12"], "by number; 101 has one image only"
    assert [client.y.tolist() for client in found] == [[0, 1, 1], [1, 0]]
    assert [client.y.dtype for client in found] == [np.uint8] * 2
    assert {client.environment for client in found} == {"celeba"}
    for client, names in zip(found, [["000002", "000004", "000005"], ["000001", "000003"]], strict=True):
        assert client.x.shape == (len(names), 84, 84, 3)
        assert client.x.dtype == np.uint8
        for x, name in zip(client.x.astype(int), names, strict=True):
            assert np.abs(x[:, :40] - (200, 0, 0)).max() <= 3, "channels are red, green, blue, from 0 to 255"
            assert np.abs(x[:, 44:] - RIGHTS[f"{name}.jpg"]).max() <= 3


def test_another_attribute_and_another_size(tmp_path: Path) -> None:
    (client,) = clients_of(CelebA(attribute="Male", side=32, min_images=3), published(tmp_path))
    assert (client.id, client.y.tolist(), client.x.shape) == ("7", [1, 1, 1], (3, 32, 32, 3))
    with pytest.raises(ConfigError, match=r"unknown attribute of list_attr_celeba.txt 'Smileing': did you mean 'Smil"):
        clients_of(CelebA(attribute="Smileing"), tmp_path)


def test_who_smiles_is_known_without_an_image(tmp_path: Path) -> None:
    (published(tmp_path) / IMAGES).unlink()
    raw = RawFiles("celeba", tmp_path, download=False)
    assert [tuple(person) for person in CelebA(min_images=2).persons(raw, "raw")] == [
        ("7", ["000002.jpg", "000004.jpg", "000005.jpg"], [0, 1, 1]),
        ("12", ["000001.jpg", "000003.jpg"], [1, 0]),
    ]


def test_leafs_train_and_test_parts_are_joined(tmp_path: Path) -> None:
    images(tmp_path)
    leaf(tmp_path / "train/all_data_niid_1_keep_0_train_9.json", {"12": (["000003.jpg"], [0.0]), "101": ([], [])})
    leaf(
        tmp_path / "test/all_data_niid_1_keep_0_test_9.json",
        {"12": (["000001.jpg"], [1.0]), "101": (["000006.jpg"], [1])},
    )
    first, second = clients_of(CelebA(min_images=1), tmp_path)
    assert [(first.id, first.y.tolist()), (second.id, second.y.tolist())] == [("12", [1, 0]), ("101", [1])]
    assert np.abs(first.x[:, 42, 60].astype(int) - [RIGHTS["000001.jpg"], RIGHTS["000003.jpg"]]).max() <= 3
    leaf(tmp_path / "all_data/all_data.json", {"7": (["000002.jpg"], [0.0])})
    assert [client.id for client in clients_of(CelebA(min_images=1), tmp_path)] == ["7"], "what was split is passed by"
    with pytest.raises(ConfigError, match="unknown attribute of celeba with source"):
        clients_of(CelebA(attribute="Male"), tmp_path)


@pytest.mark.parametrize(
    ("users", "why"),
    [
        ({"12": (["000003.jpg"], [2])}, r"not a whole LEAF file \(a label is neither 0 nor 1"),
        ({"12": (["000003.jpg"], ["1"])}, "a label is neither 0 nor 1"),
        ({"12": (["../000003.jpg"], [1])}, "'../000003.jpg' is not the name of an image"),
        ({"12": (["000003.jpg", "000004.jpg"], [1])}, "one label for each of 2 examples"),
        ({"f0001_00": (["000003.jpg"], [1])}, "user 'f0001_00' is no identity of CelebA"),
        ({"12": (["000003.jpg"], [1]), "7": (["000003.jpg"], [1])}, "000003.jpg is there twice: use the files of one"),
    ],
)
def test_leafs_files_of_another_form_are_refused(tmp_path: Path, users: Any, why: str) -> None:
    images(tmp_path)
    leaf(tmp_path / "all_data.json", users)
    with pytest.raises(DataError, match=rf"all_data\.json.*{why}"):
        clients_of(CelebA(min_images=1), tmp_path)


def test_face_crops_are_a_source_of_their_own(tmp_path: Path) -> None:
    crops(tmp_path)
    first, second = clients_of(CelebA(min_images=1), tmp_path)
    assert [(first.id, first.y.tolist()), (second.id, second.y.tolist())] == [("7", [0, 1]), ("12", [1, 0])]
    assert np.array_equal(first.x[0], np.asarray(Image.open(io.BytesIO(jpeg(RIGHTS["000002.jpg"], (84, 84))))))
    alone, _ = clients_of(CelebA(min_images=1, single_face=True), tmp_path)
    assert (alone.id, alone.y.tolist()) == ("7", [1]), "000002.jpg has two faces"
    assert [client.y.tolist() for client in clients_of(CelebA(attribute="Male", min_images=1), tmp_path)] == [
        [1, 1],
        [0, 0],
    ]
    with pytest.raises(ConfigError, match="unknown attribute of celeba with source = \"faces84\" 'Young': known: Male"):
        clients_of(CelebA(attribute="Young"), tmp_path)


def test_the_first_source_that_is_there_is_taken(tmp_path: Path) -> None:
    crops(tmp_path)
    (tmp_path / IDENTITIES).write_text(identities())
    (tmp_path / ATTRIBUTES).write_text(attributes())
    sizes = [len(clients_of(CelebA(min_images=1), tmp_path))]  # annotations without images are no source
    images(tmp_path)
    sizes.append(len(clients_of(CelebA(min_images=1), tmp_path)))
    (tmp_path / IDENTITIES).unlink()
    leaf(tmp_path / "all_data.json", {"7": (["000002.jpg"], [0])})
    sizes.append(len(clients_of(CelebA(min_images=1), tmp_path)))
    assert sizes == [2, 3, 1]


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        (IDENTITIES, "000002.jpg 7\n", "000002.jpg\n", r"line 2: '000002.jpg' is not an image's name and 1 more"),
        (IDENTITIES, "000002.jpg 7\n", "000002.jpg 7 7\n", "line 2: .* is not an image's name and 1 more"),
        (IDENTITIES, "000002.jpg 7", "000002.png 7", "line 2: .* is not an image's name"),
        (IDENTITIES, "000002.jpg 7", "000002.jpg -7", "line 2: '-7' is no identity"),
        (IDENTITIES, "000002.jpg 7", "000001.jpg 7", "line 2: 000001.jpg is there twice"),
        (IDENTITIES, "000006.jpg 101\n", "000006.jpg 10", "is cut off in its last line"),
        (IDENTITIES, "000006.jpg 101\n", "", "000006.jpg is in only one of .*list_attr_celeba.txt, of which one is"),
        (IDENTITIES, "jpg", "jp\x80g", "is damaged"),
        (ATTRIBUTES, "6\r\n", "7\r\n", "is not whole: its first lines are the number of its images, 6, and"),
        (ATTRIBUTES, "Smiling Male", "Male Male", "is not whole: its first lines"),
        (ATTRIBUTES, "000001.jpg  1 -1\r\n", "", "is not whole: its first lines are the number of its images, 5"),
        (ATTRIBUTES, "000001.jpg  1 -1", "000001.jpg  1", "line 3: '000001.jpg  1' is not an image's name and 2 more"),
        (ATTRIBUTES, "000001.jpg  1 -1", "000001.jpg  1  0", "line 3: '0' is neither 1 nor -1"),
        (ATTRIBUTES, "000001.jpg", "000002.jpg", "line 4: 000002.jpg is there twice"),
    ],
)
def test_annotations_that_are_not_whole_are_named(tmp_path: Path, file: str, old: str, new: str, why: str) -> None:
    path = published(tmp_path) / file
    text = path.read_bytes()
    assert old.encode() in text
    path.write_bytes(text.replace(old.encode(), new.encode("latin-1")))
    with pytest.raises(DataError, match=why) as refused:
        clients_of(CelebA(min_images=1), tmp_path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"3\n", b"\r\n\r\n"])
def test_annotations_without_rows_are_refused(tmp_path: Path, data: bytes) -> None:
    (published(tmp_path) / ATTRIBUTES).write_bytes(data)
    with pytest.raises(DataError, match=r"list_attr_celeba.txt is (cut off|not whole)"):
        clients_of(CelebA(min_images=1), tmp_path)


@pytest.mark.parametrize(
    ("rows", "names", "why"),
    [
        (ROWS[:3], list(OWNERS)[:4], "does not have one row for each image"),
        (ROWS, list(OWNERS)[:3], "does not have one row for each image"),
        ([*ROWS[:3], ROWS[0]], list(OWNERS)[:4], "does not have one row for each image"),
        (["000001.jpg,12,1,0", *ROWS[1:]], list(OWNERS)[:4], "line 2, '000001.jpg,12,1,0', is not file, identity"),
        (["000001.jpg,12,2,0,1", *ROWS[1:]], list(OWNERS)[:4], "line 2, '000001.jpg,12,2,0,1', is not file"),
        (["000001.jpg,x,1,0,1", *ROWS[1:]], list(OWNERS)[:4], "line 2"),
        (['"000001.jpg,12,1,0,1', *ROWS[1:]], list(OWNERS)[:4], "is no table"),
        ([ROWS[0].replace("0000", "\u0660000"), *ROWS[1:]], list(OWNERS)[:4], "is no table"),
    ],
)
def test_a_table_of_crops_that_is_wrong_is_named(tmp_path: Path, rows: list[str], names: list[str], why: str) -> None:
    with pytest.raises(DataError, match=rf"celeba_faces84\.zip: faces84\.csv.*{why}"):
        clients_of(CelebA(min_images=1), crops(tmp_path, rows, names))


def test_images_that_are_missing_broken_or_of_another_size_are_named(tmp_path: Path) -> None:
    folder, dataset = published(tmp_path), CelebA(min_images=1)
    images(folder, (84, 84))
    with pytest.raises(DataError, match=r"img_align_celeba\.zip: img_align_celeba/000002\.jpg is 84 x 84, not 178 x"):
        clients_of(dataset, folder)
    whole = jpeg((0, 0, 0), (178, 218))
    for data in whole[:700], b"", b"\x89PNG" + whole:
        zipped(folder / IMAGES, {f"img_align_celeba/{name}": data for name in OWNERS})
        with pytest.raises(DataError, match=r"img_align_celeba/000002\.jpg is not a whole JPEG image"):
            clients_of(dataset, folder)
    zipped(folder / IMAGES, {"img_align_celeba/000001.jpg": whole})
    with pytest.raises(DataError, match=r"has no member 'img_align_celeba/000002\.jpg'"):
        clients_of(dataset, folder)


@pytest.mark.parametrize(
    ("source", "missing"),
    [("auto", IMAGES), ("raw", IMAGES), ("leaf", IMAGES), ("faces84", FACES)],
)
def test_no_data_is_one_sentence_with_the_remedy(
    tmp_path: Path, source: Literal["auto", "raw", "leaf", "faces84"], missing: str
) -> None:
    with pytest.raises(DataError, match=rf"celeba: no {missing} in .*mmlab.*into {re.escape(str(tmp_path))}/\.$"):
        clients_of(CelebA(source), tmp_path)
    images(tmp_path)
    missing = {"leaf": "all_data.json or", "faces84": FACES}.get(source, IDENTITIES)
    with pytest.raises(DataError, match=f"celeba: no {missing}"):
        clients_of(CelebA(source), tmp_path)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"source": "rwa"}, "unknown celeba source 'rwa': did you mean 'raw'"),
        ({"side": 15}, "side is 15, not from 16 to 178"),
        ({"side": 179}, "side is 179, not from 16 to 178"),
        ({"min_images": 0}, "min_images is 0, not from 1"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        CelebA(**options)


def test_leafs_network_has_as_many_parameters_as_in_leaf() -> None:
    assert parameters(CelebA().spec.model, 84) == 31_202


def test_the_small_model_is_for_small_images() -> None:
    assert [CelebA(side=side).spec.small_model for side in (16, 40, 41, 84)] == ["small_cnn", "small_cnn", "", ""]
    assert (parameters("small_cnn", 32), parameters("small_cnn", 40)) == (51_762, 84_530)


def parameters(model: Any, side: int) -> int:
    spec = CelebA(side=side).spec
    shapes = {"classes": spec.classes, "x_shape": spec.x_shape, "x_dtype": spec.x_dtype}
    return sum(p.numel() for p in Task(build_model(model, shapes, 0)).params().values())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from([IDENTITIES, ATTRIBUTES, "all_data.json", FACES]),
    place=st.floats(0, 1),
    change=st.sampled_from(["flip", "cut", "insert"]),
    byte=st.integers(1, 255),
)
def test_whatever_happens_to_a_file_is_noticed_or_harmless(
    tmp_path: Path, file: str, place: float, change: str, byte: int
) -> None:
    """What comes out has the images it says, and nobody smiles in a third way."""
    source: Literal["raw", "leaf", "faces84"] = (
        "leaf" if file.endswith("json") else "faces84" if file == FACES else "raw"
    )
    if not (tmp_path / FACES).exists():
        published(crops(tmp_path))
        leaf(tmp_path / "all_data.json", {"7": (["000002.jpg", "000004.jpg"], [0, 1]), "12": (["000001.jpg"], [1])})
    path = tmp_path / file
    whole = path.read_bytes()
    i = int(place * (len(whole) - 1))
    changed = {
        "flip": whole[:i] + bytes([whole[i] ^ byte]) + whole[i + 1 :],
        "cut": whole[:i],
        "insert": whole[:i] + bytes([byte]) + whole[i:],
    }[change]
    message, found = "", []
    try:
        path.write_bytes(changed)
        found = clients_of(CelebA(source, min_images=1, side=16), tmp_path)
    except UserError as error:
        message = str(error)
    finally:
        path.write_bytes(whole)
    if message:
        assert "\n" not in message
        return
    assert change != "cut", "that is always noticed"
    assert all(len(client.x) == len(client.y) and set(client.y.tolist()) <= {0, 1} for client in found)
    assert sum(len(client.y) for client in found) == {"raw": 6, "leaf": 3, "faces84": 4}[source]


def test_it_is_prepared(tmp_path: Path) -> None:
    store = load("celeba", CelebA(min_images=1, side=16), raw=crops(tmp_path), progress=False)
    assert (store.ids.tolist(), store.x.shape) == (["7", "12"], (4, 16, 16, 3))
    assert "non-commercial" in store.about["spec"]["terms"]


# ------------------------------------------------------------------------------------------------------- the real files


@pytest.fixture(scope="module")
def real() -> RawFiles:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: it names the folder with celeba/")
    raw = RawFiles("celeba", download=False)
    if missing := [name for name in (IDENTITIES, ATTRIBUTES, FACES) if not raw.find(name)]:
        pytest.skip(f"no {' or '.join(missing)} in {raw.looked_in()}")
    return raw


def known(dataset: CelebA, raw: RawFiles, source: Literal["raw", "leaf", "faces84"]) -> dict[str, dict[str, int]]:
    persons = dataset.persons(raw, source)
    assert [int(person.id) for person in persons] == sorted(int(person.id) for person in persons)
    return {person.id: dict(zip(person.names, person.labels, strict=True)) for person in persons}


def counts(persons: dict[str, dict[str, int]]) -> tuple[int, int, int]:
    """Persons, images, smiles."""
    return len(persons), sum(map(len, persons.values())), sum(sum(labels.values()) for labels in persons.values())


def test_the_annotations_are_leafs_celeba(real: RawFiles) -> None:
    everyone = known(CelebA(min_images=1), real, "raw")
    assert counts(everyone) == (10_177, 202_599, 97_669)
    five = {person: labels for person, labels in everyone.items() if len(labels) >= 5}
    assert counts(five)[:2] == (9_343, 200_288)
    sizes = [len(labels) for labels in five.values()]
    assert (round(float(np.mean(sizes)), 2), round(float(np.std(sizes)), 2)) == (21.44, 7.63), "as LEAF publishes"

    of_leaf = known(CelebA(), real, "leaf")
    assert counts(of_leaf)[:2] == (515, 11_459)
    assert all(labels.items() <= five[person].items() for person, labels in of_leaf.items())
    cut = {person: (len(labels), len(five[person])) for person, labels in of_leaf.items() if labels != five[person]}
    assert cut == {"7727": (8, 13)}, "LEAF's sampling cut the last user short"

    crops = known(CelebA(min_images=1), real, "faces84")
    assert counts(crops) == (296, 5_666, 2_734)
    assert all(labels.items() <= everyone[person].items() for person, labels in crops.items())
    assert counts(known(CelebA(), real, "faces84")) == (272, 5_601, 2_703)
    assert counts(known(CelebA(single_face=True), real, "faces84"))[:2] == (268, 4_950)
    men = CelebA(attribute="Male", min_images=1)
    by_hand, by_annotation = known(men, real, "faces84"), known(men, real, "raw")
    assert all(labels.items() <= by_annotation[person].items() for person, labels in by_hand.items())


def test_the_real_crops_are_read(real: RawFiles) -> None:
    clients = CelebA("faces84", side=32).clients(real)
    first = next(clients)
    assert (first.id, first.x.shape) == ("7201", (28, 32, 32, 3))
    assert first.x.min() < 30
    assert first.x.max() > 220
