"""Sent140: tweets of Sentiment140's CSV and of LEAF's JSON, by user."""

import csv
import io
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaleaf import models, tasks
from metaleaf.config.config import build
from metaleaf.data.prepare import load
from metaleaf.dataset import Client
from metaleaf.datasets import sent140
from metaleaf.datasets.sent140 import ARCHIVE, BY_HAND, TOKENS, TRAINING, Sent140, hashed, tokens
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles
from metaleaf.task import Task

DATE = "Mon Apr 06 22:19:45 PDT 2009"
ROWS = [
    ["0", "1002", DATE, "NO_QUERY", "zoe", 'I\'m SAD, "really" sad'],
    ["0", "1003", DATE, "NO_QUERY", "adam", "Salt &amp; rain"],
    ["0", "1005", DATE, "NO_QUERY", "adam", "both"],
    ["2", "1004", DATE, "NO_QUERY", "adam", "so so"],
    ["4", "1001", DATE, "NO_QUERY", "zoe", "Caf\xe9 yeah!"],
    ["4", "1005", DATE, "NO_QUERY", "adam", "both"],
]
TEST = ["2", "7", DATE, "kindle2", "hand", "Not bad"]
WORDS = ["the", "rain", "salt", "i'm", "sad"]


def csv_of(rows: list[list[str]]) -> bytes:
    """As Sentiment140 writes it: Latin-1, every field in quotes."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("latin-1")


def leaf_of(rows: list[list[str]], **changes: Any) -> dict[str, Any]:
    """As LEAF's scripts write it."""
    data: dict[str, Any] = {}
    for polarity, *cells in rows:
        user = data.setdefault(cells[3], {"x": [], "y": []})
        user["x"].append([*cells, "test" if cells[2] == "kindle2" else "training"])
        user["y"].append(int(polarity == "4"))
    users = sorted(data)
    counts = [len(data[user]["y"]) for user in users]
    return {"users": users, "num_samples": counts, "user_data": data, **changes}


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("METALEAF_RAW", raising=False)


def read(folder: Path, **options: Any) -> list[Client]:
    return list(Sent140(**options).clients(RawFiles("sent140", folder, download=False)))


def write(folder: Path, rows: list[list[str]] = ROWS, name: str = "") -> Path:
    path = folder / (name or TRAINING.replace("*", str(len(rows))))
    path.write_bytes(csv_of(rows))
    return path


def row_of(*words: str) -> list[int]:
    return [0] * (TOKENS - len(words)) + [1 + zlib.crc32(word.encode()) % 4096 for word in words]


def assert_same(found: list[Client], expected: list[Client]) -> None:
    assert [client[:2] for client in found] == [client[:2] for client in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.x.dtype == other.x.dtype
        assert np.array_equal(one.x, other.x)
        assert np.array_equal(one.y, other.y)


# ------------------------------------------------------------------------------------------------------ what is read


def test_tokens() -> None:
    assert tokens("@Ann  can't GO!?") == ["ann", "can't", "go", "!", "?"]
    assert tokens("@Ann &amp; I", as_leaf=True) == ["Ann", "amp", ";", "I"]
    assert tokens("@Ann &amp; I") == ["ann", "i"]
    assert tokens(" ".join("abcdefghijklmnopqrstuvwxyz"))[-1] == "y"
    assert tokens(" ~ ") == []


def test_hashes_are_the_same_for_ever() -> None:
    assert hashed("123456789", 65_535) == 1 + 0xCBF43926 % 65_535  # CRC-32's published check
    assert [hashed(word, 4096) for word in ("happy", "sad", "caf\xe9")] == [970, 189, 694]
    assert {hashed(f"word{i}", 8) for i in range(200)} == set(range(1, 9))


def test_by_hand(tmp_path: Path) -> None:
    """Users by name, tweets by time; what is neutral or listed as both is left out."""
    write(tmp_path)
    adam, zoe = read(tmp_path)
    assert [adam[:2], zoe[:2]] == [("adam", "twitter"), ("zoe", "twitter")]
    assert adam.x.tolist() == [row_of("salt", "rain")]
    assert zoe.x.tolist() == [row_of("caf\xe9", "yeah", "!"), row_of("i'm", "sad", ",", "really", "sad")]
    assert [adam.y.tolist(), zoe.y.tolist()] == [[0], [1, 0]]
    assert (zoe.x.dtype, zoe.y.dtype) == (np.dtype("uint16"), np.dtype("uint8"))


def test_leafs_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Capitals stay, so that GloVe's list lacks them; one number pads behind and stands for unknown words."""
    monkeypatch.setattr(sent140, "GLOVE_WORDS", len(WORDS))
    monkeypatch.setattr(sent140, "HAND_LABELLED", 1)
    (tmp_path / "glove.6B.50d.txt").write_text("".join(f"{word} 0.1 -0.2\n" for word in WORDS), encoding="utf-8")
    write(tmp_path)
    write(tmp_path, [TEST], BY_HAND)
    leaf = read(tmp_path, vocabulary="glove", fidelity="leaf")
    unknown = len(WORDS)
    assert {client.id: client.y.tolist() for client in leaf} == {"adam": [0, 0, 0, 1], "hand": [0], "zoe": [1, 0]}
    assert leaf[0].x[0].tolist() == [unknown, unknown, unknown, 1] + [unknown] * 21  # "Salt &amp; rain"
    assert leaf[2].x[1].tolist() == [unknown, unknown, unknown, unknown, 4] + [unknown] * 20  # "I'm SAD, really sad"
    assert leaf[0].x.dtype == np.uint32
    adam, zoe = read(tmp_path, vocabulary="glove")
    assert adam.x.tolist() == [[0] * 23 + [4, 3]]
    assert zoe.x[1].tolist() == [0] * 20 + [5, 6, 1, 1, 6]
    sizes = {fidelity: Sent140(vocabulary="glove", fidelity=fidelity).symbols for fidelity in ("mended", "leaf")}
    assert sizes == {"mended": 7, "leaf": 6}
    assert read(tmp_path, fidelity="leaf")[1].x.tolist() == [row_of("Not", "bad")[-2:] + [0] * 23]


def test_leafs_json_gives_the_same_clients(tmp_path: Path) -> None:
    write(tmp_path)
    expected = read(tmp_path, source="csv")
    without = [row for row in ROWS if row[0] != "2"]  # neutral ones are negative there
    for name in ("all_data.json", "all_data/all_data.json", "all_data_0_keep_0.json.xz", "sent140_mine.json"):
        folder = tmp_path / name.replace("/", "_")
        (folder / name).parent.mkdir(parents=True)
        content = json.dumps(leaf_of([*without, TEST])).encode()
        (folder / name).write_bytes(lzma.compress(content) if name.endswith("xz") else content)
        assert_same(read(folder), expected)
        assert_same(read(folder, source="leaf"), expected)
        assert [len(client.y) for client in read(folder, fidelity="leaf")] == [3, 1, 2]


def test_train_and_test_parts_of_a_user_are_joined(tmp_path: Path) -> None:
    write(tmp_path)
    without = [row for row in ROWS if row[0] != "2"]
    for part, rows in (("train", without[::2]), ("test", without[1::2])):
        (tmp_path / "leaf" / part).mkdir(parents=True)
        path = tmp_path / "leaf" / part / f"all_data_0_{part}_9.json"
        path.write_text(json.dumps(leaf_of(rows)), encoding="utf-8")
    assert_same(read(tmp_path / "leaf"), read(tmp_path))
    again = tmp_path / "leaf" / "train" / "all_data_1_train_9.json"
    again.write_text(json.dumps(leaf_of(without[:1])), encoding="utf-8")
    with pytest.raises(DataError, match=r"all_data_1_train_9\.json: user 'zoe' is in another file too"):
        read(tmp_path / "leaf")


def test_the_publishers_archive_is_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent140, "HAND_LABELLED", 1)
    write(tmp_path)
    expected = read(tmp_path)
    packed = tmp_path / "packed"
    packed.mkdir()
    with zipfile.ZipFile(packed / ARCHIVE, "w") as archive:
        archive.writestr("training.6.processed.noemoticon.csv", csv_of(ROWS))
        archive.writestr(BY_HAND, csv_of([TEST]))
    assert_same(read(packed), expected)
    assert [client.id for client in read(packed, fidelity="leaf")] == ["adam", "hand", "zoe"]
    with zipfile.ZipFile(packed / ARCHIVE, "w") as archive:
        archive.writestr("other.csv", b"")
    with pytest.raises(DataError, match=r"trainingandtestdata\.zip has 0 members training\."):
        read(packed)


def test_it_is_prepared_and_its_models_can_read_it(tmp_path: Path) -> None:
    write(tmp_path)
    store = load("sent140", Sent140(buckets=99), raw=tmp_path, progress=False)
    spec = store.about["spec"]
    assert store.x.dtype == "uint16"
    assert spec["model"] == {"name": "tweet_lstm", "symbols": 100}
    assert tasks.of(spec).metrics[0] == "accuracy"
    small = Task(models.build(spec["small_model"], Sent140().spec.__dict__, 0))
    assert sum(p.numel() for p in small.params().values()) < 100_000
    work = Task(models.build(spec["model"], spec, 0))
    x, _ = store.client(0)
    assert work.logits(work.params(), torch.from_numpy(np.array(x))).shape == (1, 1)


# ------------------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda row: row.__setitem__(0, "3"), r"row 2: the polarity is '3', not 0, 2 or 4: "),
        (lambda row: row.__setitem__(1, "12e5"), r"row 2: the tweet's number is '12e5': "),
        (lambda row: row.__setitem__(1, "9" * 19), r"row 2: the tweet's number is '9{19}': "),
        (lambda row: row.__setitem__(4, ""), r"row 2: there is no user: "),
        (lambda row: row.pop(), r"row 2: 5 fields instead of 6: "),
        (lambda row: row.append("more"), r"row 2: 7 fields instead of 6: "),
        (lambda row: row.__setitem__(5, "x" * 200_000), r"row 2: field larger than field limit"),
    ],
)
def test_faults_of_a_row(change: Callable[[list[str]], Any], sentence: str, tmp_path: Path) -> None:
    rows = [list(row) for row in ROWS]
    change(rows[1])
    write(tmp_path, rows)
    with pytest.raises(DataError, match=rf"training\.6\.\S+csv, {sentence}"):
        read(tmp_path)


def test_faults_of_the_file(tmp_path: Path) -> None:
    path, whole = write(tmp_path), csv_of(ROWS)
    path.write_bytes(csv_of(ROWS[:-1]))
    with pytest.raises(DataError, match="has 5 rows, not 6: it is cut or another file"):
        read(tmp_path)
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="row 6: unexpected end of data"):
        read(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="has 0 rows, not 6"):
        read(tmp_path)
    path.unlink()
    (tmp_path / f"{path.name}.xz").write_bytes(lzma.compress(whole)[:-30])
    with pytest.raises(DataError, match=r"csv\.xz is damaged or cut off"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        ([["1", DATE, "q", "u"]], [0], "not the 5 or 6 texts of a tweet"),
        ([[1, DATE, "q", "u", "text"]], [0], "not the 5 or 6 texts of a tweet"),
        (["text"], [0], "not the 5 or 6 texts of a tweet"),
        ([["1", DATE, "q", "u", "text"]], [4], "y has something other than 0 and 1"),
        ([["1", DATE, "q", "u", "text"]], [True], "y has something other than 0 and 1"),
        ([["1", DATE, "q", "u", "text"]], [0, 1], "not one label for each"),
        ([["x", DATE, "q", "u", "text"]], [0], "the tweet's number is 'x'"),
    ],
)
def test_faults_of_a_shard(x: list[Any], y: list[Any], sentence: str, tmp_path: Path) -> None:
    shard = {"users": ["u"], "num_samples": [len(y)], "user_data": {"u": {"x": x, "y": y}}}
    (tmp_path / "all_data.json").write_text(json.dumps(shard), encoding="utf-8")
    with pytest.raises(DataError, match=rf"all_data\.json is not a whole LEAF file .*{sentence}"):
        read(tmp_path)


def test_another_list_of_words_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match=r"sent140: no glove\.6B\.\*d\.txt in .*: put glove\.6B\.300d\.txt"):
        read(tmp_path, vocabulary="glove")
    (tmp_path / "glove.6B.50d.txt").write_text("the 1\nthe 2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"glove\.6B\.50d\.txt has 2 lines with 1 words, not GloVe's 400,000"):
        read(tmp_path, vocabulary="glove")


@pytest.mark.parametrize("source", ["auto", "csv", "leaf"])
def test_missing_files_are_named(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sent140: no (training|all_data).* in .*trainingandtestdata\.zip"):
        read(tmp_path, source=source)


@pytest.mark.parametrize(
    ("option", "value"),
    [("source", "jsn"), ("vocabulary", "glov"), ("fidelity", "leafs"), ("buckets", 0), ("buckets", 65_536)],
)
def test_unknown_options_are_named(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=option):
        build("datasets", "sent140", {option: value})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_read_rightly_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes flipped, cut or put in: as many tweets as the file's name and its answers say, or a DataError."""
    as_json = data.draw(st.booleans())
    whole = json.dumps(leaf_of(ROWS)).encode() if as_json else csv_of(ROWS)
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.binary(max_size=3))
    damaged = whole[:place] + other + whole[place + data.draw(st.integers(0, 3)) :]
    (tmp_path / ("all_data.json" if as_json else "training.6.processed.noemoticon.csv")).write_bytes(damaged)
    try:
        clients = read(tmp_path, source="leaf" if as_json else "csv", fidelity="leaf")
    except DataError:
        return
    assert sum(len(client.y) for client in clients) == 6
    for client in clients:
        assert client.x.shape == (len(client.y), TOKENS)
        assert set(client.y.tolist()) <= {0, 1}
        assert client.x.max(initial=0) <= 4096


# --------------------------------------------------------------------------------------------------------- real data


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> RawFiles:
    if not REAL:
        pytest.skip("METALEAF_RAW is not set: it names the folder with sent140/")
    monkeypatch.setenv("METALEAF_RAW", REAL)
    return RawFiles("sent140", download=False)


REAL = os.environ.get("METALEAF_RAW", "")


def test_the_real_csv(real: RawFiles) -> None:
    if not real.find("training.20000.processed.noemoticon.csv"):
        pytest.skip(f"no training.20000.processed.noemoticon.csv in {real.looked_in()}")
    clients = list(Sent140(source="csv").clients(real))
    sizes = np.array([len(client.y) for client in clients])
    assert (len(sizes), sizes.sum(), sizes.max()) == (18_105, 20_000, 10)
    assert [(sizes >= least).sum() for least in (2, 3, 5)] == [1_435, 296, 40]
    assert sum(int(client.y.sum()) for client in clients) == 10_001


def test_the_real_json(real: RawFiles) -> None:
    if not real.find("sent140_k30_test.json"):
        pytest.skip(f"no sent140_k30_test.json in {real.looked_in()}")
    clients = list(Sent140(source="leaf", fidelity="leaf").clients(real))
    sizes = np.array([len(client.y) for client in clients])
    assert (len(sizes), sizes.sum(), sizes.min(), sizes.max()) == (2_875, 16_025, 3, 55)
    assert ((sizes >= 5).sum(), sizes[sizes >= 5].sum()) == (1_473, 10_625)
    assert sum(int(client.y.sum()) for client in clients) == 9_717
    mended = list(Sent140(source="leaf").clients(real))
    # Two tweets are listed as positive and as negative.
    assert sum(len(client.y) for client in mended) == 16_025 - 4
    assert all((client.x > 0).any(1).all() for client in mended), "a tweet without a token"
