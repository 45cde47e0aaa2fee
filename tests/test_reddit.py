"""Reddit in LEAF's format: pieces of ten tokens, whose vocabulary is that of users who are no clients."""

import copy
import json
import lzma
import tracemalloc
from collections import Counter
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
from metaleaf.datasets.reddit import PAD, PARTS, TOKENS, UNJUDGED, UNKNOWN, Reddit
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles
from metaleaf.task import Task

Shard = dict[str, Any]
COMMENTS = {
    "1": ["the cat sat", "the dog", "a b c d e f g h i j", "the cat", "no"],
    "2": ["the cat", "the end", "cat", "cat", "yes"],
    "3": ["the bird", "the bird", "the bird", "sat", "sat"],
}


def pieces_of(tokens: list[Any], padding: Any) -> list[list[Any]]:
    padded = tokens + [padding] * (-len(tokens) % TOKENS)
    return [padded[i : i + TOKENS] for i in range(0, len(padded), TOKENS)]


def leaf_of(comments: dict[str, list[str]]) -> dict[str, Shard]:
    """As LEAF's scripts write it: three files, in each of which num_samples counts all comments."""
    found = {}
    for part in PARTS:
        data: Shard = {}
        for user, texts in comments.items():
            cuts = [0, int(0.6 * len(texts)), int(0.8 * len(texts)), len(texts)]
            begin = PARTS.index(part)
            x, y = [], []
            for text in texts[cuts[begin] : cuts[begin + 1]]:
                words = text.split()
                x.append(pieces_of(["<BOS>", *words, "<EOS>"], "<PAD>"))
                y.append(
                    {
                        "subreddit": "aww",
                        "created_utc": "1512086400",
                        "score": 1,
                        "target_tokens": pieces_of([*words, "<EOS>", "<PAD>"], "<PAD>"),
                        "count_tokens": pieces_of([1.0] * (len(words) + 2), 0.0),
                    }
                )
            data[user] = {"x": x, "y": y}
        counts = [len(texts) for texts in comments.values()]
        found[part] = {"users": list(comments), "num_samples": counts, "user_data": data}
    return found


def write(folder: Path, shards: dict[str, Shard], name: str = "reddit_0") -> None:
    for part, shard in shards.items():
        (folder / part).mkdir(exist_ok=True, parents=True)
        (folder / part / f"{name}_{part}.json").write_text(json.dumps(shard), encoding="utf-8")


def read(folder: Path, **options: Any) -> list[Client]:
    return list(Reddit(**options).clients(RawFiles("reddit", folder, download=False)))


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("METALEAF_RAW", raising=False)


@pytest.fixture
def third_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reddit, "_gives", lambda self, user: user == "3")


# Of user 3: <BOS> and <EOS> 5 times each, bird and the 3 times, sat twice.
BOS, EOS, BIRD, THE, SAT = range(2, 7)


@pytest.mark.usefixtures("third_gives")
def test_by_hand(tmp_path: Path) -> None:
    write(tmp_path, leaf_of(COMMENTS))
    first, second = read(tmp_path)
    assert [first[:2], second[:2]] == [("1", "reddit"), ("2", "reddit")]
    assert first.x.tolist() == [
        [BOS, THE, UNKNOWN, SAT, EOS, *[PAD] * 5],
        [BOS, THE, UNKNOWN, EOS, *[PAD] * 6],
        [BOS, *[UNKNOWN] * 9],
        [UNKNOWN, EOS, *[PAD] * 8],
        [BOS, THE, UNKNOWN, EOS, *[PAD] * 6],
        [BOS, UNKNOWN, EOS, *[PAD] * 7],
    ]
    assert first.y.tolist() == [
        [THE, UNKNOWN, SAT, EOS, *[UNJUDGED] * 6],
        [THE, UNKNOWN, EOS, *[UNJUDGED] * 7],
        [UNKNOWN] * 10,
        [EOS, *[UNJUDGED] * 9],
        [THE, UNKNOWN, EOS, *[UNJUDGED] * 7],
        [UNKNOWN, EOS, *[UNJUDGED] * 8],
    ]
    assert first.x.dtype == "uint16"
    assert first.y.dtype == "int16"
    assert read(tmp_path, words=7)[0].x.max() == SAT
    assert read(tmp_path, words=4)[1].x[0].tolist() == [BOS, UNKNOWN, UNKNOWN, EOS, *[PAD] * 6]


def test_leafs_reading(tmp_path: Path) -> None:
    """All users give the vocabulary, with what is in train; the end's padding is asked for."""
    write(tmp_path, leaf_of(COMMENTS))
    clients = read(tmp_path, fidelity="leaf")
    assert [client.id for client in clients] == ["1", "2", "3"]
    counts = Counter(
        word for texts in COMMENTS.values() for text in texts[:3] for word in f"<BOS> {text} <EOS>".split()
    )
    order = sorted(counts, key=lambda word: (-counts[word], word))
    number = {word: i for i, word in enumerate(order, start=2)}
    expected = [number[word] for word in ("<BOS>", "the", "cat", "sat", "<EOS>")]
    assert clients[0].x[0].tolist() == [*expected, *[PAD] * 5]
    assert clients[0].y[0].tolist() == [*expected[1:], PAD, *[UNJUDGED] * 5]
    assert clients[1].x[-1, 1] == UNKNOWN, "a word of the test part alone"
    # <PAD> is among LEAF's most frequent words, and so one number is never used.
    assert max(client.x.max() for client in read(tmp_path, fidelity="leaf", words=7)) == 5


def test_those_who_give_the_vocabulary_are_no_clients_and_do_not_depend_on_others(tmp_path: Path) -> None:
    comments = {str(i): [f"word{i} w", "b", "c", "d", "e"] for i in range(400)}
    write(tmp_path, leaf_of(comments))
    clients = read(tmp_path, apart=0.2)
    ids = {client.id for client in clients}
    assert 0.75 < len(ids) / 400 < 0.85
    for client in clients:
        assert client.x[0, 1] == UNKNOWN, "a client's own word is in the vocabulary"
    few = {user: texts for user, texts in comments.items() if int(user) % 2}
    write(tmp_path / "few", leaf_of(few))
    assert {client.id for client in read(tmp_path / "few", apart=0.2)} == ids & few.keys()


def test_shards_in_the_order_of_their_names_packed_or_not(tmp_path: Path) -> None:
    users = [{f"{shard}-{i}": ["a b", "c", "d", "e", "f"] for i in range(30)} for shard in range(2)]
    for shard in (1, 0):
        write(tmp_path, leaf_of(users[shard]), f"reddit_{shard}")
    clients = read(tmp_path)
    assert [client.id for client in clients] == [u for u in [*users[0], *users[1]] if u in {c.id for c in clients}]
    for path in sorted((tmp_path / "val").iterdir()):
        path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
        path.unlink()
    for one, other in zip(read(tmp_path), clients, strict=True):
        assert one.id == other.id
        assert np.array_equal(one.x, other.x)


def test_it_is_prepared_and_its_models_can_read_it(tmp_path: Path) -> None:
    write(tmp_path, leaf_of({str(i): ["a b", "c", "d", "e", "f"] for i in range(40)}))
    store = load("reddit", Reddit(words=1000), raw=tmp_path, progress=False)
    spec = store.about["spec"]
    assert tasks.of(spec) == tasks.build({"name": "sequence", "unanswerable": [PAD, UNKNOWN]})
    small = Task(models.build(spec_small(1000), spec, 0))
    assert sum(p.numel() for p in small.params().values()) == 55_272
    assert spec_small(10_000) == ""
    x, y = store.client(0)
    assert small.logits(small.params(), torch.from_numpy(np.array(x))).shape == (*y.shape, 1000)


def spec_small(words: int) -> Any:
    return Reddit(words=words).spec.small_model


def test_one_shard_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """Four times the files take hardly more."""
    words = [f"w{i}" for i in range(200)]
    draw = np.random.default_rng(0)
    peaks = {}
    for shards in (1, 4):
        folder = tmp_path / str(shards)
        for shard in range(shards):
            comments = {f"{shard}-{i}": [" ".join(draw.choice(words, 15)) for _ in range(10)] for i in range(30)}
            write(folder, leaf_of(comments), f"reddit_{shard}")
        tracemalloc.start()
        for _ in Reddit().clients(RawFiles("reddit", folder, download=False)):
            pass
        peaks[shards] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[4] < 1.5 * peaks[1]


# ------------------------------------------------------------------------------------------------------------ faults


def with_label(key: str, value: Any) -> Any:
    return lambda shard: shard["user_data"]["1"]["y"][0].__setitem__(key, value)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (with_label("target_tokens", [["a"] * 9]), "not as many pieces of 10 in x, target_tokens and count_tokens"),
        (with_label("target_tokens", [["a"] * 10] * 2), "not as many pieces of 10"),
        (with_label("target_tokens", ["abcdefghij"]), "not as many pieces of 10"),
        (with_label("target_tokens", [[1] * 10]), "a token is no text"),
        (with_label("count_tokens", [[0.5] * 10]), "count_tokens has something other than 0 and 1"),
        (with_label("count_tokens", None), "not as many pieces of 10"),
        (lambda shard: shard["user_data"]["1"]["y"][0].pop("count_tokens"), "KeyError: 'count_tokens'"),
        (lambda shard: shard["user_data"]["1"]["y"].pop(), "a user has 3 x and 2 y"),
        (lambda shard: shard["user_data"]["1"]["x"].__setitem__(0, "text"), "not as many pieces of 10"),
    ],
)
def test_faults_of_a_comment(damage: Any, sentence: str, tmp_path: Path) -> None:
    shards = leaf_of(COMMENTS)
    damage(shards["train"])
    write(tmp_path, shards)
    with pytest.raises(DataError, match=rf"reddit_0_train\.json is not a whole LEAF file .*{sentence}"):
        read(tmp_path)


def test_num_samples_is_of_all_parts_or_of_each(tmp_path: Path) -> None:
    shards = leaf_of(COMMENTS)
    mended = copy.deepcopy(shards)
    for shard in mended.values():
        shard["num_samples"] = [len(user["y"]) for user in shard["user_data"].values()]
    write(tmp_path, mended)
    assert len(read(tmp_path, fidelity="leaf")) == 3
    for part in PARTS:
        cut = copy.deepcopy(shards)
        cut[part]["user_data"]["2"]["x"].pop()
        cut[part]["user_data"]["2"]["y"].pop()
        write(tmp_path, cut)
        with pytest.raises(DataError, match=r"\.json is damaged: its users, num_samples and user_data disagree"):
            read(tmp_path)


def test_a_user_needs_x_and_y(tmp_path: Path) -> None:
    shards = leaf_of({user: COMMENTS[user][:5] for user in ("1", "2")})
    for part, key in (("val", "x"), ("test", "y")):
        damaged = copy.deepcopy(shards)
        user = damaged[part]["user_data"]["1"]
        user[f" {key}"] = user.pop(key)
        write(tmp_path, damaged)
        with pytest.raises(DataError, match=rf"reddit_0_{part}\.json is not a whole .*a user has no lists x and y"):
            read(tmp_path)


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    shards = leaf_of(COMMENTS)
    write(tmp_path, {**shards, "val": leaf_of({"4": COMMENTS["1"]})["val"]})
    with pytest.raises(DataError, match=r"reddit_0_val\.json names other users than \S+reddit_0_train\.json"):
        read(tmp_path)
    (tmp_path / "val" / "reddit_0_val.json").unlink()
    with pytest.raises(DataError, match=r"reddit: \S+reddit_0_train\.json has no counterpart in val/"):
        read(tmp_path)


def test_a_vocabulary_needs_somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reddit, "_gives", lambda self, user: False)
    write(tmp_path, leaf_of(COMMENTS))
    with pytest.raises(DataError, match=r"reddit: none of the users in .* gives the vocabulary: raise `apart`"):
        read(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"reddit: no train/\*\.json in .*: put the folders train, val and test"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("option", "value"),
    [("fidelity", "leafs"), ("words", 2), ("words", 32_768), ("apart", 0.0), ("apart", 1.0)],
)
def test_options_outside_their_limits_are_named(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=option):
        build("datasets", "reddit", {option: value})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_read_rightly_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes flipped, cut or put in: all comments of all users, or a DataError."""
    shards = leaf_of(COMMENTS)
    write(tmp_path, shards)
    path = tmp_path / "val" / "reddit_0_val.json"
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.binary(max_size=3))
    path.write_bytes(whole[:place] + other + whole[place + data.draw(st.integers(0, 3)) :])
    try:
        clients = read(tmp_path, fidelity="leaf")
    except DataError:
        return
    assert [client.id for client in clients] == ["1", "2", "3"]
    assert [client.x.shape for client in clients] == [(6, TOKENS), (5, TOKENS), (5, TOKENS)]
    for client in clients:
        assert client.y.shape == client.x.shape
        assert client.y.min() >= UNJUDGED
