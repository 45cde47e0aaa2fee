"""Shakespeare's plays as environments: pieces that do not overlap, one part for a play, nothing else of the text."""

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from metaleaf.config.config import build
from metaleaf.data.prepare import load
from metaleaf.datasets import shakespeare
from metaleaf.datasets.shakespeare import ALPHABET, TEXT_NAMES
from metaleaf.datasets.shakespeare_plays import LIMITS, ShakespearePlays
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles

WORDS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def text_of(plays: int) -> str:
    """A text whose roles say all of WORDS once ("SHORT" three letters); after the Sonnets, which are skipped."""
    lines = ["THE SONNETS", "by William Shakespeare", ""]
    for number in range(plays):
        lines += [f"PLAY {WORDS[number].upper()}", "", "", "by William Shakespeare", ""]
        for role in ("King", "Queen"):
            lines += [f"  {role}. {WORDS[:30]}", f"    {WORDS[30:50]}", f"    {WORDS[50:]}"]
        lines += ["  Short. a", "    b", "    c"]
    return "\n".join(lines) + "\n"


def files_of(folder: Path, plays: int) -> RawFiles:
    (folder / "shakespeare").mkdir()
    (folder / "shakespeare" / "raw_data.txt").write_text(text_of(plays))
    return RawFiles("shakespeare_plays", folder, download=False)


def decode(codes: np.ndarray) -> str:
    return "".join(ALPHABET[code] for code in codes)


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(shakespeare, "edition_of", lambda said: shakespeare.EDITION)  # any text is it
    monkeypatch.delenv("METALEAF_RAW", raising=False)


def test_pieces_do_not_overlap_and_are_spread_over_the_text(tmp_path: Path) -> None:
    """64 characters (three line ends are spaces, the last 65th is left over) are 16 pieces of 4."""
    clients = list(ShakespearePlays(window=3, examples=4).clients(files_of(tmp_path, 5)))
    assert [client.id for client in clients[:2]] == ["PLAY_A_KING", "PLAY_A_QUEEN"]
    assert len(clients) == 10, "roles that say less than four pieces are left out"
    spoken = f"{WORDS[:30]} {WORDS[30:50]} {WORDS[50:]} "
    pieces = [spoken[i : i + 4] for i in (0, 20, 40, 60)]
    for client in clients:
        assert [decode(row) for row in np.column_stack([client.x, client.y])] == pieces
        assert client.x.dtype == client.y.dtype == np.uint8


def test_a_play_is_in_one_part_and_the_seed_draws_it(tmp_path: Path) -> None:
    files = files_of(tmp_path, 10)
    drawn = []
    for seed in (0, 1):
        environments = {client.environment for client in ShakespearePlays(3, 4, seed).clients(files)}
        assert Counter(name.split("/")[0] for name in environments) == {"train": 6, "validation": 2, "test": 2}
        assert {name.split("/")[1] for name in environments} == {f"PLAY {letter}" for letter in "ABCDEFGHIJ"}
        drawn.append(environments)
    assert drawn[0] != drawn[1]
    again = {client.environment for client in ShakespearePlays(3, 4, 1).clients(files)}
    assert again == drawn[1]


def test_it_is_prepared_from_the_folder_of_shakespeare(tmp_path: Path) -> None:
    files_of(tmp_path, 5)
    store = load("shakespeare_plays", ShakespearePlays(window=3, examples=4), raw=tmp_path, progress=False)
    assert store.about["spec"]["x_shape"] == [3]
    assert store.x.shape == (40, 3)
    assert [(used["dataset"], used["name"]) for used in store.about["raw"]] == [("shakespeare", "raw_data.txt")]


def test_what_is_missing_or_too_little_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"shakespeare: no {re.escape(TEXT_NAMES[0])}"):
        list(ShakespearePlays().clients(RawFiles("shakespeare_plays", download=False)))
    with pytest.raises(DataError, match="the text has 4 plays, but three parts need 5"):
        list(ShakespearePlays().clients(files_of(tmp_path, 4)))


@pytest.mark.parametrize("option", LIMITS)
def test_options_outside_their_limits_are_named(option: str) -> None:
    low, high = LIMITS[option]
    for value in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=f"shakespeare_plays: {option} is {value}, not from {low} to {high}"):
            build("datasets", "shakespeare_plays", {option: value})


@pytest.fixture(scope="module")
def real() -> RawFiles:
    if not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: it names the folder with shakespeare/gutenberg100_1994.txt")
    raw = RawFiles("shakespeare_plays", download=False)
    if not raw.of("shakespeare").find(*TEXT_NAMES):
        pytest.skip(f"no {' or '.join(TEXT_NAMES)} in {raw.of('shakespeare').looked_in()}")
    return raw


def test_the_real_plays(real: RawFiles) -> None:
    clients = list(ShakespearePlays().clients(real))
    plays = Counter(client.environment for client in clients)
    assert (len(clients), len(plays), min(plays.values())) == (668, 36, 12)
    assert {client.x.shape for client in clients} == {(40, 20)}
