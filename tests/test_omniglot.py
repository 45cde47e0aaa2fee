"""Omniglot from its two archives: small ones made here in the publisher's layout, and the real ones if there."""

import io
import os
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from metaleaf.data.prepare import load
from metaleaf.dataset import Client
from metaleaf.datasets import omniglot
from metaleaf.datasets.omniglot import LIMITS, Omniglot
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles

CHARACTERS = {"images_background": {"Greek": 3, "Latin": 2, "N_Ko": 2, "Tagalog": 2, "Tifinagh": 5}}
CHARACTERS |= {"images_evaluation": {"Angelic": 2, "ULOG": 4}}


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("METALEAF_RAW", raising=False)
    monkeypatch.setattr(omniglot, "SETS", {name: len(alphabets) for name, alphabets in CHARACTERS.items()})


def ink(pixels: np.ndarray) -> bytes:
    """A drawing in the publisher's format: True is ink, which is 0 in a picture of one bit a pixel."""
    file = io.BytesIO()
    Image.fromarray(~pixels).save(file, "PNG")
    return file.getvalue()


def drawing(alphabet: str, character: int, drawer: int) -> bytes:
    """A square whose place says which character, its width which drawer; as high as the alphabet's name is long."""
    pixels = np.zeros((105, 105), bool)
    pixels[5 * character : 5 * character + len(alphabet), : drawer + 2] = True
    return ink(pixels)


def members(name: str) -> dict[str, bytes]:
    return {
        f"{name}/{alphabet}/character{i:02}/{100 + i:04}_{j:02}.png": drawing(alphabet, i, j)
        for alphabet, characters in CHARACTERS[name].items()
        for i in range(1, characters + 1)
        for j in range(1, 21)
    }


def zipped(folder: Path, name: str, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in CHARACTERS:
        zipped(tmp_path, name, members(name))
    return tmp_path


def clients_of(dataset: Omniglot, folder: Path) -> list[Client]:
    return list(dataset.clients(RawFiles("omniglot", folder, download=False)))


def what(image: np.ndarray) -> tuple[int, int, int]:
    """Height of the square, character and drawer of a drawing that was not made smaller."""
    rows, columns = np.flatnonzero((image == 0).any(1)), np.flatnonzero((image == 0).any(0))
    return len(rows), int(rows[0]) // 5, len(columns) - 2


def test_a_drawer_has_one_drawing_of_each_character(folder: Path) -> None:
    found = clients_of(Omniglot(side=105), folder)
    alphabets = [alphabet for name in CHARACTERS for alphabet in CHARACTERS[name]]
    assert [client.id for client in found] == [
        f"{alphabet}/drawer{j:02}" for alphabet in alphabets for j in range(1, 21)
    ]
    for client in found:
        alphabet, drawer = client.id.split("/drawer")
        assert client.environment.split("/")[1] == alphabet
        n = CHARACTERS["images_background" if alphabet in CHARACTERS["images_background"] else "images_evaluation"]
        assert client.y.tolist() == list(range(n[alphabet]))
        assert client.x.dtype == client.y.dtype == np.uint8
        assert set(np.unique(client.x)) == {0, 255}
        assert [what(x) for x in client.x] == [(len(alphabet), 1 + label, int(drawer)) for label in client.y]


def test_all_drawings_of_an_alphabet_with_drawers_as_groups(folder: Path) -> None:
    found = {client.id: client for client in clients_of(Omniglot("characters", side=105), folder)}
    assert list(found) == ["Greek", "Latin", "N_Ko", "Tagalog", "Tifinagh", "Angelic", "ULOG"]
    greek = found["Greek"]
    assert greek.groups is not None
    for x, label, drawer in zip(greek.x, greek.y, greek.groups, strict=True):
        assert what(x) == (5, 1 + label, 1 + drawer)
    assert greek.y.tolist() == [0, 1, 2] * 20
    assert Omniglot("characters").spec.grouped
    assert not Omniglot().spec.grouped


def test_characters_are_dealt_into_sets_by_the_seed(folder: Path) -> None:
    found = clients_of(Omniglot("characters", 2, side=105), folder)
    assert [client.id for client in found] == [
        *("Greek 1", "Latin 1", "N_Ko 1", "Tagalog 1", "Tifinagh 1", "Tifinagh 2"),
        *("Angelic 1", "ULOG 1", "ULOG 2"),
    ]
    dealt = [[what(x)[1] for x in client.x[:2]] for client in found]
    assert sorted(dealt[-2] + dealt[-1]) == [1, 2, 3, 4], "no character is in two sets"
    assert len(set(dealt[4] + dealt[5])) == 4
    drawers = clients_of(Omniglot("drawer", 2, side=105), folder)
    assert drawers[-20].id == "ULOG 2/drawer01"
    assert drawers[-20].environment == "test/ULOG 2"
    assert [what(x)[1] for x in drawers[-20].x] == dealt[-1], "a drawer's set is the same"
    again = [
        [what(x)[1] for x in client.x[:2]] for client in clients_of(Omniglot("characters", 2, 105, seed=1), folder)
    ]
    assert again != dealt


def test_evaluation_alphabets_are_tests_and_the_seed_draws_who_validates(folder: Path) -> None:
    validating = set()
    for seed in range(4):
        environments = {client.environment for client in clients_of(Omniglot(side=14, seed=seed), folder)}
        parts = Counter(environment.split("/")[0] for environment in environments)
        assert parts == {"train": 4, "validation": 1, "test": 2}
        assert {"test/Angelic", "test/ULOG"} < environments
        validating |= {environment for environment in environments if environment.startswith("validation/")}
    assert len(validating) > 1


def test_a_pixel_is_the_share_of_paper_in_its_area(tmp_path: Path) -> None:
    pixels = np.zeros((105, 105), bool)
    pixels[3:6, 6:9] = True  # all of an area of 3 x 3
    pixels[6, 9:12] = True  # a third
    pixels[104, 104] = True  # a ninth
    files = members("images_background")
    files["images_background/Greek/character01/0101_01.png"] = ink(pixels)
    zipped(tmp_path, "images_background", files)
    zipped(tmp_path, "images_evaluation", members("images_evaluation"))
    image = clients_of(Omniglot(side=35), tmp_path)[0].x[0]
    assert (image[1, 2], image[2, 3], image[34, 34]) == (0, 170, 227)
    assert np.count_nonzero(image != 255) == 3


def test_alphabets_with_fewer_characters_than_a_set_are_left_out(folder: Path) -> None:
    assert {client.environment for client in clients_of(Omniglot(classes=4, side=14), folder)} <= {
        *(f"{part}/Tifinagh 1" for part in ("train", "validation")),
        "test/ULOG 1",
    }


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        ("images_background/Greek/character02/0102_07.png", "does not have 20 drawings of each character of Greek"),
        ("images_background/Greek/character02/", "does not have 20 drawings of each character of Greek"),
        ("images_background/Tifinagh/", "has drawings of 4 alphabets, not of 5"),
        ("images_background/", "has drawings of 0 alphabets, not of 5"),
    ],
)
def test_an_archive_that_lacks_something_is_refused(folder: Path, lost: str, why: str) -> None:
    whole = members("images_background")
    zipped(folder, "images_background", {name: data for name, data in whole.items() if not name.startswith(lost)})
    with pytest.raises(DataError, match=rf"images_background\.zip {why}: put images_background"):
        clients_of(Omniglot(), folder)


def test_drawings_of_another_form_are_named(folder: Path) -> None:
    whole, name = members("images_background"), "images_background/Greek/character01/0101_01.png"
    grey = io.BytesIO()
    Image.new("L", (105, 105)).save(grey, "PNG")
    for data, why in (
        (ink(np.zeros((105, 28), bool)), "is 28 x 105 in mode 1, not 105 x 105 in mode 1"),
        (grey.getvalue(), "is 105 x 105 in mode L, not 105 x 105 in mode 1"),
        (whole[name][:60], "is not a whole PNG image"),
        (b"", "is not a whole PNG image"),
    ):
        zipped(folder, "images_background", {**whole, name: data})
        with pytest.raises(DataError, match=rf"images_background\.zip: {name} {why}"):
            clients_of(Omniglot(), folder)


def test_no_data_is_one_sentence_with_the_remedy(folder: Path) -> None:
    (folder / "images_evaluation.zip").unlink()
    with pytest.raises(
        DataError, match=rf"omniglot: no images_evaluation.zip in .*github.*into {re.escape(str(folder))}/\.$"
    ):
        clients_of(Omniglot(), folder)


@pytest.mark.parametrize("option", LIMITS)
def test_options_outside_their_limits_are_named(option: str) -> None:
    low, high = LIMITS[option]
    for value in (low - 1, high + 1):
        options: dict[str, Any] = {option: value}
        with pytest.raises(ConfigError, match=f"omniglot: {option} is {value}, not from {low} to {high}"):
            Omniglot(**options)


def test_options_that_make_no_sense_are_named() -> None:
    unknown: Any = "drawers"
    with pytest.raises(ConfigError, match="unknown client of omniglot 'drawers': did you mean 'drawer'"):
        Omniglot(unknown)
    with pytest.raises(ConfigError, match="classes is 1"):
        Omniglot(classes=1)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), change=st.sampled_from(["flip", "cut", "insert"]), byte=st.integers(1, 255))
def test_whatever_happens_to_an_archive_is_noticed_or_harmless(
    folder: Path, place: float, change: str, byte: int
) -> None:
    path = folder / "images_evaluation.zip"
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
        found = clients_of(Omniglot("characters", side=105), folder)
    except DataError as error:
        message = str(error)
    finally:
        path.write_bytes(whole)
    if message:
        assert "\n" not in message
        return
    assert change != "cut"
    for client in found:
        assert client.groups is not None
        assert [what(x) for x in client.x] == [
            (len(client.id), 1 + label, 1 + drawer) for label, drawer in zip(client.y, client.groups, strict=True)
        ]


def test_it_is_prepared(folder: Path) -> None:
    store = load("omniglot", Omniglot("characters", 2, 14), raw=folder, progress=False)
    assert store.x.shape == (9 * 2 * 20, 14, 14)
    assert store.about["spec"]["classes"] == 2
    assert store.groups is not None
    assert [(used["dataset"], used["name"]) for used in store.about["raw"]] == [
        ("omniglot", f"{name}.zip") for name in CHARACTERS
    ]


# ------------------------------------------------------------------------------------------------------- the real files


@pytest.fixture(scope="module")
def real() -> RawFiles:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: it names the folder with omniglot/")
    raw = RawFiles("omniglot", download=False)
    if missing := [f"{name}.zip" for name in CHARACTERS if not raw.find(f"{name}.zip")]:
        pytest.skip(f"no {' or '.join(missing)} in {raw.looked_in()}")
    return raw


def test_the_real_alphabets(real: RawFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omniglot, "SETS", {"images_background": 30, "images_evaluation": 20})
    clients = list(Omniglot().clients(real))
    characters = {client.environment: len(client.y) for client in clients}
    assert len(clients) == 20 * len(characters) == 1000
    assert (sum(characters.values()), min(characters.values()), max(characters.values())) == (1623, 14, 55)
    assert sum(len(client.y) for client in clients) == 32_460
    parts = Counter(name.split("/")[0] for name in characters)
    assert parts == {"train": 24, "validation": 6, "test": 20}
    of_evaluation = sum(n for name, n in characters.items() if name.startswith("test/"))
    assert (of_evaluation, 1623 - of_evaluation) == (659, 964)
    corners = np.concatenate([client.x[:, [0, 0, -1, -1], [0, -1, 0, -1]] for client in clients])
    assert (corners == 255).mean() > 0.99, "paper is 255"
    assert all(client.x.min() < 64 for client in clients), "ink is dark"
