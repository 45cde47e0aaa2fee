import json
import lzma
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaleaf.data.prepare import load
from metaleaf.dataset import Client
from metaleaf.datasets import shakespeare
from metaleaf.datasets.shakespeare import (
    ALPHABET,
    TEXT_NAMES,
    WINDOW,
    Shakespeare,
    encode,
    plays,
    spoken,
    user_id,
)
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles

EDITION_OF = shakespeare.edition_of

LONG = "It is a tale told by an idiot, full of sound and fury, signifying nothing at all; truly"

TEXT = f"""The header
1609
THE SONNETS
by William Shakespeare
  Will. not a role of a play

A PLAY, OR TWO

by William Shakespeare

Dramatis Personae
    nobody speaks yet
  First Lord. {LONG}
    and   {LONG}

THE STAGE IS EMPTY
    still he speaks
  Fool. Nuncle!
    Two lines are too few.
  FIRST LORD. again
  Page. One
    two
    three

THE COMEDY OF ERRORS


by William Shakespeare
Act I. is no role
this neither
DUKE. {LONG}
{LONG}
ACT II. nor this
DUKE. And
<<no speech>>
  lost
EGEON. {LONG}
  Duke. is said

A COMPLAINT

by William Shakespeare
  Only. one role
    is
    no play
"""


def decode(codes: np.ndarray) -> str:
    return "".join(ALPHABET[code] for code in codes)


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files come from the test's own folder only (`real` below is made before this); any text is the edition."""
    monkeypatch.setattr(shakespeare, "edition_of", lambda said: shakespeare.EDITION)
    monkeypatch.delenv("METALEAF_RAW", raising=False)
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))


def source(folder: Path, source: str = "auto") -> list[Client]:
    return list(Shakespeare(source).clients(RawFiles("shakespeare", folder, download=False)))  # type: ignore[arg-type]


@pytest.fixture
def text_clients(tmp_path: Path) -> list[Client]:
    (tmp_path / "raw_data.txt").write_text(TEXT)
    clients = source(tmp_path)
    (tmp_path / "raw_data.txt").unlink()
    return clients


def leaf_json(clients: list[Client], rows: slice = slice(None)) -> dict[str, Any]:
    """The clients as LEAF's scripts write them."""
    user_data = {
        client.id: {"x": [decode(x) for x in client.x[rows]], "y": [ALPHABET[y] for y in client.y[rows]]}
        for client in clients
    }
    return {
        "users": [client.id for client in clients],
        "hierarchies": [client.environment for client in clients],
        "num_samples": [len(user["y"]) for user in user_data.values()],
        "user_data": user_data,
    }


def assert_same(first: list[Client], second: list[Client]) -> None:
    assert [client[:2] for client in first] == [client[:2] for client in second]
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.x, b.x)
        assert np.array_equal(a.y, b.y)


def test_roles_are_parsed_by_the_rules() -> None:
    found = dict(plays(TEXT))
    assert found == {
        "A PLAY, OR TWO": {
            "FIRST LORD": [LONG, f"and   {LONG}", "still he speaks", "again"],
            "FOOL": ["Nuncle!", "Two lines are too few."],
            "PAGE": ["One", "two", "three"],
        },
        "THE COMEDY OF ERRORS": {
            "DUKE": [LONG, LONG, "And"],
            # Without indentation nothing ends the last speech, not even the next play's title.
            "EGEON": [LONG, "  Duke. is said", "", "A COMPLAINT", ""],
        },
    }


def test_windows_slide_over_what_a_role_says(text_clients: list[Client]) -> None:
    assert [(client.id, client.environment) for client in text_clients] == [
        ("A_PLAY__OR_TWO_FIRST_LORD", "A PLAY, OR TWO"),
        ("THE_COMEDY_OF_ERRORS_DUKE", "THE COMEDY OF ERRORS"),
        ("THE_COMEDY_OF_ERRORS_EGEON", "THE COMEDY OF ERRORS"),
    ]
    said = f"{LONG} and {LONG} still he speaks again "
    lord = text_clients[0]
    assert lord.x.shape == (len(said) - WINDOW, WINDOW)
    for i, (x, y) in enumerate(zip(lord.x, lord.y, strict=True)):
        assert decode(x) + ALPHABET[y] == said[i : i + WINDOW + 1]


def test_alphabet_is_leafs_and_unknown_characters_are_its_last_class() -> None:
    assert len(ALPHABET) == len(set(ALPHABET)) == Shakespeare.spec.classes == 80
    assert encode(ALPHABET).tolist() == list(range(80))
    assert encode("#~\x7fé\N{EURO SIGN}\N{GRINNING FACE}\ud800").tolist() == [79] * 7


@pytest.mark.parametrize("name", TEXT_NAMES)
def test_the_text_may_have_any_of_its_names(name: str, tmp_path: Path, text_clients: list[Client]) -> None:
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("100.txt", TEXT.replace("\n", "\r\n"))
    else:
        (tmp_path / f"{name}.xz").write_bytes(lzma.compress(TEXT.encode()))
    assert_same(source(tmp_path, "text"), text_clients)


@pytest.mark.parametrize("name", ["all_data.json", "all_data/all_data.json", "all_data_niid_1_keep_0.json.xz"])
def test_leafs_json_gives_the_same_clients(name: str, tmp_path: Path, text_clients: list[Client]) -> None:
    data = json.dumps(leaf_json(text_clients)).encode()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(lzma.compress(data) if name.endswith(".xz") else data)
    assert_same(source(tmp_path), text_clients)
    assert_same(source(tmp_path, "leaf"), text_clients)


@pytest.mark.parametrize("folders", [("train", "test"), ("", "")])
def test_train_and_test_shards_are_joined_in_this_order(
    folders: tuple[str, str], tmp_path: Path, text_clients: list[Client]
) -> None:
    halves = {"train": text_clients[1:], "test": text_clients}  # the test shard has a user of its own
    for (part, clients), folder in zip(halves.items(), folders, strict=True):
        rows = slice(None, 3) if part == "train" else slice(3, None)
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"all_data_0_{part}_9.json").write_text(json.dumps(leaf_json(clients, rows)))
    lone = text_clients[0]
    expected = [*text_clients[1:], Client(lone.id, lone.environment, lone.x[3:], lone.y[3:])]
    assert_same(source(tmp_path), expected)


def test_json_whose_plays_are_lost_is_one_environment(tmp_path: Path, text_clients: list[Client]) -> None:
    shard = leaf_json(text_clients)
    for hierarchies in (["A PLAY, OR TWO"], None):
        (tmp_path / "all_data.json").write_text(json.dumps(shard | {"hierarchies": hierarchies or []}))
        assert {client.environment for client in source(tmp_path)} == {"shakespeare"}


def test_a_user_without_windows_is_left_out_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_clients: list[Client]
) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    shard = leaf_json(text_clients)
    shard["user_data"][text_clients[0].id] = {"x": [], "y": []}
    shard["num_samples"][0] = 0
    (tmp_path / "all_data.json").write_text(json.dumps(shard), encoding="utf-8")
    store = load("shakespeare", Shakespeare(), raw=tmp_path, progress=False)
    assert store.ids.tolist() == [client.id for client in text_clients[1:]]
    assert store.about["empty_clients"] == [text_clients[0].id]


@pytest.mark.parametrize(
    "damage",
    [
        lambda user: user["x"].pop(),
        lambda user: user["x"].__setitem__(0, "short"),
        lambda user: user["y"].__setitem__(0, "ab"),
        lambda user: user["y"].__setitem__(0, 7),
        lambda user: user.pop("y"),
    ],
    ids=["one x less", "short x", "long y", "y a number", "no y"],
)
def test_windows_of_a_wrong_form_name_the_file(damage: Any, tmp_path: Path, text_clients: list[Client]) -> None:
    shard = leaf_json(text_clients)
    damage(shard["user_data"][text_clients[1].id])
    (tmp_path / "all_data.json").write_text(json.dumps(shard))
    with pytest.raises(DataError, match=r"all_data\.json is not a whole LEAF file"):
        source(tmp_path)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ({"hierarchies": [1, 2, 3]}, "a whole LEAF file .*hierarchies must be a list of names"),
        ({"hierarchies": {"a": "b"}, "users": ["a"]}, "a whole LEAF file|damaged"),
        ({"num_samples": [1, 2, 3]}, "damaged: its users, num_samples and user_data disagree"),
        ({"users": [], "num_samples": []}, "damaged: its users"),
    ],
)
def test_a_shard_that_contradicts_itself_is_refused(
    damage: dict[str, Any], why: str, tmp_path: Path, text_clients: list[Client]
) -> None:
    (tmp_path / "all_data.json").write_text(json.dumps(leaf_json(text_clients) | damage), encoding="utf-8")
    with pytest.raises(DataError, match=rf"all_data\.json is .*{why}"):
        source(tmp_path)


def test_a_user_who_is_there_twice_is_named(tmp_path: Path, text_clients: list[Client]) -> None:
    user, other = (client.id for client in text_clients[:2])
    text = json.dumps(leaf_json(text_clients)).replace(f'"{other}": {{', f'"{user}": {{')
    (tmp_path / "all_data.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"all_data\.json .*'{user}' is there twice"):
        source(tmp_path)


@pytest.mark.parametrize("name", ["all_data_0_train_9.json", "all_data_0_train_9.json.xz"])
def test_a_cut_shard_is_named(name: str, tmp_path: Path, text_clients: list[Client]) -> None:
    data = json.dumps(leaf_json(text_clients)).encode()
    data = lzma.compress(data) if name.endswith(".xz") else data
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        source(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"users": ["a"], "user_data": {}}', "[" * 100_000])
def test_other_json_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "all_data.json").write_text(content)
    with pytest.raises(DataError, match=r"all_data\.json is not a whole LEAF file"):
        source(tmp_path)


@pytest.mark.parametrize("content", [b"no plays at all\n", b"Hamlet\xff"])
def test_another_text_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "raw_data.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"raw_data\.txt .*etext #100 of January 1994"):
        source(tmp_path)


def test_a_zip_without_one_text_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "1994-01-100.zip", "w") as archive:
        archive.writestr("readme.md", "nothing")
    with pytest.raises(DataError, match=r"1994-01-100\.zip has 0 \.txt members"):
        source(tmp_path)


def test_another_text_than_the_edition_is_refused_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_clients: list[Client]
) -> None:
    raw, path = RawFiles("shakespeare", tmp_path, download=False), tmp_path / "raw_data.txt"
    path.write_text(TEXT)
    monkeypatch.setattr(shakespeare, "edition_of", EDITION_OF)
    edition = EDITION_OF(shakespeare.texts(raw, path, any_edition=True))
    monkeypatch.setattr(shakespeare, "EDITION", edition)
    assert_same(source(tmp_path), text_clients)
    path.write_text(TEXT.replace("\n", " \r\n"))
    assert_same(source(tmp_path), text_clients)
    damages = {
        "cut": (TEXT[: len(TEXT) // 2], r"2 roles say \d+ characters there, 4 say \d+ in"),
        "changed": (
            TEXT.replace("idiot", "idiOt", 1),
            rf"{edition.characters:,} characters there, 4 say {edition.characters:,}",
        ),
        "zeroed": (TEXT.replace(LONG, "\0" * len(LONG), 1), "not the same"),
    }
    for text, sentence in damages.values():
        path.write_text(text)
        for kind in ("auto", "text"):
            with pytest.raises(DataError, match=sentence):
                source(tmp_path, kind)
        assert source(tmp_path, "any_text")


@pytest.mark.parametrize("kind", ["auto", "text", "leaf"])
def test_missing_files_are_named_with_the_remedy(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(raw_data\.txt|all_data\.json) .*in .*etext #100 of January 1994"):
        source(tmp_path, kind)


def test_a_given_folder_with_json_wins_over_the_text_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_clients: list[Client]
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "all_data.json").write_text(json.dumps(leaf_json(text_clients[:1])))
    monkeypatch.setenv("METALEAF_RAW", str(tmp_path))
    (tmp_path / "shakespeare").mkdir()
    (tmp_path / "shakespeare" / "raw_data.txt").write_text(TEXT)
    assert_same(source(given), text_clients[:1])
    with pytest.raises(DataError, match=r"no gutenberg.* in \S+/given/shakespeare or \S+/given: "):
        source(given, "text")


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(ConfigError, match="'jsn'"):
        Shakespeare("jsn")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def real() -> RawFiles:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: it names the folder with shakespeare/gutenberg100_1994.txt")
    raw = RawFiles("shakespeare", download=False)
    if not raw.find(*TEXT_NAMES):
        pytest.skip(f"no {' or '.join(TEXT_NAMES)} in {raw.looked_in()}")
    return raw


def test_the_real_text_has_leafs_roles(real: RawFiles) -> None:
    path = real.find(*TEXT_NAMES)
    assert path is not None
    if path.suffix == ".zip":
        pytest.skip("reads the unzipped text")
    with real.open(path) as stream:
        found = list(plays(stream.read().decode()))
    assert EDITION_OF(shakespeare.texts(real, path, any_edition=True)) == shakespeare.EDITION
    roles = [(title, role, lines) for title, cast in found for role, lines in cast.items()]
    assert (len(found), len(roles)) == (36, 1302)
    assert len({user_id(title, role) for title, role, _ in roles}) == 1302
    large = [spoken(lines) for _, _, lines in roles if len(lines) > 2]
    assert len(large) == 1145
    assert set("".join(large)) == set(ALPHABET) - {"\n"}  # nothing outside the alphabet


def test_the_real_text_has_leafs_windows(real: RawFiles) -> None:
    sizes, environments = {}, set()
    for client in Shakespeare().clients(real):
        assert client.x.shape == (len(client.y), WINDOW)
        assert client.x.dtype == client.y.dtype == np.uint8
        assert max(client.x[0].max(), client.y.max()) < 80
        assert np.array_equal(client.x[1:, -1], client.y[:-1])
        sizes[client.id] = len(client.y)
        environments.add(client.environment)
    assert (len(environments), len(sizes), sum(sizes.values())) == (36, 1130, 4_226_206)
    # LEAF publishes one role of 48 windows less; two have as many, so that which one it is cannot be told.
    assert [user for user, n in sizes.items() if n == 48] == [
        "KING_HENRY_THE_EIGHTH_VAUX",
        "THE_TRAGEDY_OF_TITUS_ANDRONICUS_GOTH",
    ]
    del sizes["THE_TRAGEDY_OF_TITUS_ANDRONICUS_GOTH"]
    published, n = Shakespeare.spec.published, np.array(list(sizes.values()))
    assert published is not None
    assert (len(n), n.sum()) == (published.clients, published.samples)
    assert n.mean() == pytest.approx(published.mean, abs=0.1)
    assert n.std() == pytest.approx(published.sd, abs=0.5)
