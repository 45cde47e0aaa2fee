"""Declared shifts of FEMNIST, on writers made here and, if they are there, on real ones."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from metaleaf.config.config import build
from metaleaf.data.prepare import load
from metaleaf.dataset import Client
from metaleaf.datasets.femnist import WRITERS
from metaleaf.datasets.femnist_shifts import CONFUSABLE, LIMITS, PARTS, FemnistShifts, Shift, pooled, shifted
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles

SMALL: dict[str, Any] = {"environments": 10, "writers": 2, "images": 12, "side": 28}
STILL: dict[str, Any] = {"rotation": 0.0, "inversion": 0.0, "permutations": 1}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawFiles:
    """15 writers of 20 digits and 10 capitals, each image a blot of its own; and one with 11 digits."""
    monkeypatch.delenv("METALEAF_RAW", raising=False)
    counts = [30] * 15 + [11]
    writer = np.repeat(np.arange(16), counts)
    rng = np.random.default_rng(0)
    images = np.full((len(writer), 28, 28), 255, np.uint8)
    images[:, 6:22, 8:20] = rng.integers(0, 200, (len(writer), 16, 12))
    labels = np.concatenate([np.arange(n) % 10 + 10 * (np.arange(n) >= 20) for n in counts])
    (tmp_path / "raw/femnist").mkdir(parents=True)
    np.savez(
        tmp_path / "raw/femnist" / WRITERS,
        images=images,
        labels=labels.astype(np.uint8),
        writer=writer.astype(np.int16),
        duplicate=np.zeros(len(writer), bool),
        writers=np.array([f"f{i:04}_00" for i in range(16)]),
        writer_truncated=np.zeros(16, bool),
    )
    return RawFiles("femnist_shifts", tmp_path / "raw", download=False)


def clients_of(raw: RawFiles, **options: Any) -> dict[str, Client]:
    dataset = FemnistShifts(**{**SMALL, **options})
    clients = {client.id: client for client in dataset.clients(raw)}
    for client in clients.values():
        assert client.x.shape == (dataset.images, *dataset.spec.x_shape)
        assert client.x.dtype == client.y.dtype == np.uint8
        assert client.y.max() < dataset.spec.classes
    return clients


def writers_of(clients: dict[str, Client], part: str) -> set[str]:
    return {name.split("/")[2] for name in clients if name.startswith(part)}


def test_every_environment_has_its_writers_and_no_writer_is_in_two_parts(raw: RawFiles) -> None:
    clients = clients_of(raw)
    assert len(clients) == 20
    environments = [client.environment for client in clients.values()]
    assert {name: environments.count(name) for name in environments} == dict.fromkeys(
        FemnistShifts(**SMALL).shifts(), 2
    )
    assert all(name.startswith(f"{client.environment}/f") for name, client in clients.items())
    train, validation, test = (writers_of(clients, part) for part in PARTS)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert "f0015_00" not in train | validation | test, "it has too few digits"


def test_environments_are_60_20_20_in_declared_parts() -> None:
    names = list(FemnistShifts().shifts())
    assert [sum(name.startswith(part) for name in names) for part in PARTS] == [60, 20, 20]
    assert (names[0], names[60], names[-1]) == ("train/000", "validation/000", "test/019")
    odd = list(FemnistShifts(environments=13).shifts())
    assert [sum(name.startswith(part) for name in odd) for part in PARTS] == [9, 2, 2]


def test_shifts_are_drawn_as_the_options_say() -> None:
    shifts = list(FemnistShifts(environments=5000, rotation=90.0, inversion=0.2, stroke=1).shifts().values())
    turns = np.array([shift.rotation for shift in shifts])
    assert -90 <= turns.min() < -89
    assert 89 < turns.max() < 90
    assert abs(turns.mean()) < 3
    assert np.mean([shift.inverted for shift in shifts]) == pytest.approx(0.2, abs=0.02)
    for drawn, values in (
        ([shift.stroke for shift in shifts], (-1, 0, 1)),
        ([shift.permutation for shift in shifts], range(4)),
    ):
        shares = np.array([drawn.count(value) for value in values]) / len(shifts)
        np.testing.assert_allclose(shares, 1 / len(values), atol=0.03)


def test_one_kind_of_shift_does_not_disturb_the_others() -> None:
    usual, other = FemnistShifts().shifts(), FemnistShifts(inversion=0.0, stroke=2).shifts()
    for name, shift in usual.items():
        assert other[name]._replace(inverted=shift.inverted, stroke=0) == shift


def test_shifts_without_any_are_none() -> None:
    assert set(FemnistShifts(**STILL).shifts().values()) == {Shift(0, False, 0, 0)}


def originals(raw: RawFiles, **options: Any) -> dict[str, Client]:
    return clients_of(raw, **STILL, **options)


def test_a_client_is_the_writers_digits_in_random_order(raw: RawFiles) -> None:
    clients = originals(raw)
    with np.load(raw.folders[0].with_name("femnist") / WRITERS) as archive:
        drawn = zip(archive["images"], archive["labels"], strict=True)
        known = {image.tobytes(): (i, label) for i, (image, label) in enumerate(drawn)}
        writer = archive["writer"]
    orders = set()
    for name, client in clients.items():
        rows, labels = zip(*(known[image.tobytes()] for image in client.x), strict=True)
        assert len(set(rows)) == 12
        assert {f"f{writer[row]:04}_00" for row in rows} == {name.split("/")[2]}
        assert client.y.tolist() == list(labels)
        orders.add(tuple(np.array(rows) % 30))
    assert len(orders) == len(clients), "each client has its own images in its own order"


@pytest.mark.parametrize("options", [{}, {"stroke": 2}, {"confusable": True}], ids=str)
def test_images_and_labels_are_changed_as_declared(raw: RawFiles, options: dict[str, Any]) -> None:
    dataset = FemnistShifts(**SMALL, **options)
    before, after = originals(raw), clients_of(raw, **options)
    shifts, maps = dataset.shifts(), dataset.label_maps()
    for name, client in after.items():
        shift = shifts[client.environment]
        assert np.array_equal(client.y, maps[shift.permutation][before[name].y])
        for image, original in zip(client.x, before[name].x, strict=True):
            drawn = Image.fromarray(original)
            if shift.stroke:
                rank = ImageFilter.MinFilter if shift.stroke > 0 else ImageFilter.MaxFilter
                drawn = drawn.resize((56, 56), Image.Resampling.BILINEAR).filter(rank(2 * abs(shift.stroke) + 1))
                drawn = drawn.resize((28, 28), Image.Resampling.BOX)
            turned = np.asarray(drawn.rotate(shift.rotation, Image.Resampling.BILINEAR, expand=False, fillcolor=255))
            assert np.array_equal(image, 255 - turned if shift.inverted else turned)
    assert {shift.inverted for shift in shifts.values()} == {False, True}
    assert len({shift.permutation for shift in shifts.values()}) > 1


def test_a_quarter_turn_is_anticlockwise_and_an_inverted_image_has_dark_paper() -> None:
    x = np.full((1, 28, 28), 255, np.uint8)
    x[0, 2, 25] = 0  # top right
    assert np.argwhere(shifted(x, Shift(90.0, False, 0, 0)) == 0).tolist() == [[0, 2, 2]]  # top left
    assert np.array_equal(shifted(x, Shift(0.0, True, 0, 0)), 255 - x)
    assert shifted(x, Shift(45.0, True, 0, 0))[0, 0, 0] == 0, "the corners that a turn brings in are paper too"


def test_stroke_grows_and_thins_ink() -> None:
    x = np.full((1, 28, 28), 255, np.uint8)
    x[:, 10:18, 13:15] = 0
    ink = [int((255 - shifted(x, Shift(0.0, False, stroke, 0)).astype(int)).sum()) for stroke in (-2, -1, 0, 1, 2)]
    assert ink == sorted(ink)
    assert ink[1] > 0.2 * ink[2], "a stroke of two pixels is still there"


def test_images_are_cropped_and_means_taken() -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    assert np.array_equal(pooled(x, 28, 28), x)
    assert np.array_equal(pooled(x, 16, 16), x[:, 6:22, 6:22])
    small = pooled(x, 20, 10)
    for i in range(10):
        for j in range(10):
            block = x[:, 4 + 2 * i : 6 + 2 * i, 4 + 2 * j : 6 + 2 * j]
            expected = np.floor(block.mean(axis=(1, 2)) + 0.5)
            assert np.array_equal(small[:, i, j], expected)


def test_all_characters_and_smaller_images(raw: RawFiles) -> None:
    clients = clients_of(raw, **STILL, characters="all", images=30, side=14)
    assert {len(client.y) for client in clients.values()} == {30}
    assert set(np.concatenate([client.y for client in clients.values()])) == set(range(20))
    assert FemnistShifts(characters="all", side=14).spec.classes == 62
    assert FemnistShifts().spec == FemnistShifts.spec


@pytest.mark.parametrize("characters", ["digits", "all"])
@pytest.mark.parametrize("confusable", [False, True])
def test_permutations_differ_and_the_first_is_none(characters: Any, confusable: bool) -> None:
    dataset = FemnistShifts(permutations=20, characters=characters, confusable=confusable)
    maps = dataset.label_maps()
    classes = np.arange(dataset.spec.classes)
    assert np.array_equal(maps[0], classes)
    assert len(np.unique(maps, axis=0)) == len(maps) == 20
    assert np.array_equal(np.sort(maps, axis=1), np.tile(classes, (20, 1)))
    if confusable:
        names = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        group_of = {name: group for group in CONFUSABLE[characters] for name in group}
        for renamed in maps:
            assert all(new == old or names[new] in group_of[names[old]] for old, new in enumerate(renamed))


def test_all_48_renamings_of_confusable_digits_can_be_had() -> None:
    assert len(FemnistShifts(permutations=48, confusable=True).label_maps()) == 48


@pytest.mark.parametrize("kind", ["rotation", "inversion", "permutation"])
def test_a_held_out_kind_is_in_test_environments_only(raw: RawFiles, kind: Any) -> None:
    usual, held_out = FemnistShifts(**SMALL).shifts(), FemnistShifts(**SMALL, held_out=kind).shifts()
    place = {"rotation": 0, "inversion": 1, "permutation": 3}[kind]
    for name, shift in held_out.items():
        if name.startswith("test"):
            assert shift == usual[name]
        else:
            assert shift[place] == 0
            assert shift[:place] + shift[place + 1 :] == usual[name][:place] + usual[name][place + 1 :]
    assert any(shift[place] for name, shift in usual.items() if name.startswith("train"))
    before, after = clients_of(raw), clients_of(raw, held_out=kind)
    assert all(same(before[name], client) for name, client in after.items() if name.startswith("test"))
    assert not all(same(before[name], client) for name, client in after.items())


def same(one: Client, other: Client) -> bool:
    return np.array_equal(one.x, other.x) and np.array_equal(one.y, other.y)


def test_same_seed_same_data_and_other_seed_other_data(raw: RawFiles) -> None:
    first, again, other = clients_of(raw, seed=3), clients_of(raw, seed=3), clients_of(raw, seed=4)
    assert list(first) == list(again)
    assert all(same(first[name], again[name]) for name in first)
    assert writers_of(first, "test") != writers_of(other, "test")
    assert FemnistShifts(seed=3).shifts() != FemnistShifts(seed=4).shifts()
    assert not np.array_equal(FemnistShifts(seed=3).label_maps(), FemnistShifts(seed=4).label_maps())


def test_prepared_data_names_femnists_file(raw: RawFiles) -> None:
    store = load("femnist_shifts", FemnistShifts(**SMALL), raw=raw.folders[1], progress=False)
    assert len(store) == 20
    assert [(used["dataset"], used["name"]) for used in store.about["raw"]] == [("femnist", WRITERS)]


def test_files_are_found_where_femnists_are(raw: RawFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_RAW", str(raw.folders[1]))
    assert len(clients_of(RawFiles("femnist_shifts", download=False))) == 20


def test_too_few_writers_and_no_data_are_one_clear_sentence(raw: RawFiles, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="validation has 3 writers with 12 images or more, fewer than the 4 of"):
        clients_of(raw, writers=4)
    with pytest.raises(DataError, match="train has 0 writers with 500 images"):
        clients_of(raw, images=500)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"femnist: no femnist_writers.npz in .*empty/femnist or "):
        clients_of(RawFiles("femnist_shifts", tmp_path / "empty", download=False), source="writers")


@pytest.mark.parametrize("option", LIMITS)
def test_an_option_out_of_range_is_named(option: str) -> None:
    low, high = LIMITS[option]
    for value in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=f"{option} is {value}, not from {low} to {high}"):
            FemnistShifts(**{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": float("nan")}, "rotation is nan, not from 0 to 180"),
        ({"side": 13}, "side is 13 and crop 28: make crop even"),
        ({"side": 15, "crop": 15}, "side is 15 and crop 15: make crop even"),
        ({"permutations": 49, "confusable": True}, "permutations is 49, but there are only 48"),
        ({"held_out": "rotation", "rotation": 0.0}, "held_out is 'rotation', which the other options rule out"),
        ({"held_out": "permutation", "permutations": 1}, "held_out is 'permutation', which"),
        ({"held_out": "inverted"}, "unknown held_out of femnist_shifts 'inverted': did you mean 'inversion'"),
        ({"characters": "digit"}, "unknown characters of femnist_shifts 'digit': did you mean 'digits'"),
        ({"source": "nst"}, "unknown source of femnist_shifts 'nst': did you mean 'nist'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FemnistShifts(**options)


def test_options_from_a_suite() -> None:
    assert build("datasets", "femnist_shifts", {"rotation": 45, "held_out": "inversion"}).rotation == 45.0
    with pytest.raises(ConfigError, match="femnist_shifts: held_out"):
        build("datasets", "femnist_shifts", {"held_out": "inverted"})


def test_real_writers() -> None:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: no real data")
    raw = RawFiles("femnist", download=False)
    if raw.find(WRITERS) is None:
        pytest.skip(f"METALEAF_RAW has no {WRITERS}")
    dataset = FemnistShifts(source="writers")
    shifts = dataset.shifts()
    clients, sums = {}, dict.fromkeys(range(10), 0)
    for client in dataset.clients(raw):
        clients[client.id] = client
        assert client.x.shape == (55, 14, 14)
        corners = client.x[:, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert (np.median(corners) == 0) == shifts[client.environment].inverted
        for label in client.y:
            sums[int(label)] += 1
    assert len(clients) == 2000
    assert [len(writers_of(clients, part)) for part in PARTS] == [239, 80, 80]
    assert not writers_of(clients, "train") & writers_of(clients, "test")
    assert min(sums.values()) > 9000, "about as many of every digit"
