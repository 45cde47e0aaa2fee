"""Shakespeare at every position: every character but a role's first is asked for once, in order."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaleaf import models, tasks
from metaleaf.data.prepare import load
from metaleaf.dataset import Client
from metaleaf.datasets import shakespeare
from metaleaf.datasets.shakespeare import ALPHABET, EDITION, TEXT_NAMES, WINDOW, edition_of, encode, texts
from metaleaf.datasets.shakespeare_sequence import PADDING, UNJUDGED, ShakespeareSequence, pieces
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles
from metaleaf.task import Task

SPEECH = "To be, or not to be, that is the question: Whether 'tis nobler in the mind to suffer"
TEXT = f"""THE SONNETS
by William Shakespeare

HAMLET

by William Shakespeare

  Prince. {SPEECH}
    {SPEECH}
    End
  Ghost. I
    am
    dead
  Clown. Too
    short
"""
SAID = f"{SPEECH} {SPEECH} End "


def decode(codes: np.ndarray) -> str:
    return "".join(ALPHABET[code] for code in codes)


@pytest.fixture
def edition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TEXT as the edition, in a folder of its own."""
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("METALEAF_RAW", raising=False)
    path = tmp_path / "shakespeare" / "raw_data.txt"
    path.parent.mkdir()
    path.write_text(TEXT, encoding="utf-8")
    raw = RawFiles("shakespeare", tmp_path, download=False)
    monkeypatch.setattr(shakespeare, "EDITION", edition_of(texts(raw, path, any_edition=True)))
    return path


def clients(folder: Path) -> list[Client]:
    return list(ShakespeareSequence().clients(RawFiles("shakespeare_sequence", folder, download=False)))


def test_pieces_by_hand(edition: Path, tmp_path: Path) -> None:
    prince, ghost = clients(tmp_path)
    assert [prince[:2], ghost[:2]] == [("HAMLET_PRINCE", "HAMLET"), ("HAMLET_GHOST", "HAMLET")]
    assert len(SAID) == 174
    assert [prince.x.dtype, prince.y.dtype] == [np.uint8, np.int8]
    assert [decode(x) for x in prince.x] == [SAID[:80], SAID[80:160], SAID[160:173] + "\n" * 67]
    assert [decode(y) for y in prince.y[:2]] == [SAID[1:81], SAID[81:161]]
    assert decode(prince.y[2, :13]) == SAID[161:]
    assert (prince.y[2, 13:] == UNJUDGED).all()
    assert decode(ghost.x[0, :10]) == "I am dead "[:-1] + "\n"
    assert (ghost.y[0] != UNJUDGED).sum() == 9


@given(st.text(ALPHABET, min_size=2, max_size=400))
def test_every_character_but_the_first_is_asked_for_once_in_order(text: str) -> None:
    codes = encode(text)
    x, y = pieces(codes)
    judged = y != UNJUDGED
    assert np.array_equal(y[judged], codes[1:])
    assert np.array_equal(x[judged], codes[:-1])
    assert (x[~judged] == PADDING).all()
    assert judged.any(1).all(), "a piece where nothing is asked"
    assert (np.diff(judged.astype(int), axis=1) <= 0).all(), "padding before the end"


def test_it_is_prepared_from_the_folder_of_shakespeare(edition: Path, tmp_path: Path) -> None:
    store = load("shakespeare_sequence", ShakespeareSequence(), raw=tmp_path, progress=False)
    assert [(used["dataset"], used["name"]) for used in store.about["raw"]] == [("shakespeare", "raw_data.txt")]
    spec = store.about["spec"]
    assert tasks.of(spec).name == "sequence"
    # LEAF's network has as many parameters with a prediction at every position.
    sizes = {
        given: sum(p.numel() for p in Task(models.build(spec[given], spec, 0)).params().values())
        for given in ("model", "small_model")
    }
    assert sizes == {"model": 817_872, "small_model": 20_048}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: text.index("dead")],
        lambda text: text.replace("nobler", "Nobler"),
        lambda text: text.replace("question", "question, and"),
    ],
    ids=["cut", "changed", "more"],
)
def test_another_text_than_the_edition_is_refused(damage: Callable[[str], str], edition: Path, tmp_path: Path) -> None:
    edition.write_text(damage(TEXT), encoding="utf-8")
    with pytest.raises(DataError, match=r"raw_data\.txt is not the 1994 edition"):
        clients(tmp_path)


def test_flipped_bytes_change_nothing_or_are_refused(edition: Path, tmp_path: Path) -> None:
    whole, expected = TEXT.encode(), clients(tmp_path)
    for place in range(0, len(whole), 3):
        edition.write_bytes(whole[:place] + bytes([whole[place] ^ 32]) + whole[place + 1 :])
        try:
            found = clients(tmp_path)
        except DataError:
            continue
        for one, other in zip(found, expected, strict=True):
            assert one[:2] == other[:2]
            assert np.array_equal(one.x, other.x)
            assert np.array_equal(one.y, other.y)


def test_a_missing_text_is_named() -> None:
    with pytest.raises(DataError, match=rf"shakespeare: no {re.escape(TEXT_NAMES[0])}.*etext #100"):
        list(ShakespeareSequence().clients(RawFiles("shakespeare_sequence", Path(__file__).parent, download=False)))


def test_the_real_roles() -> None:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: it names the folder with shakespeare/gutenberg100_1994.txt")
    raw = RawFiles("shakespeare_sequence", download=False)
    if not raw.of("shakespeare").find(*TEXT_NAMES):
        pytest.skip(f"no {' or '.join(TEXT_NAMES)} in {raw.of('shakespeare').looked_in()}")
    sizes, judged = [], 0
    for client in ShakespeareSequence().clients(raw):
        sizes.append(len(client.x))
        judged += int((client.y != UNJUDGED).sum())
        assert client.x.shape == client.y.shape == (len(client.x), WINDOW)
        assert not (client.x[client.y != UNJUDGED] == PADDING).any(), "a role says what x is padded with"
    assert (len(sizes), sum(sizes), min(sizes), max(sizes)) == (EDITION.roles, 54_517, 1, 838)
    assert judged == EDITION.characters - EDITION.roles
