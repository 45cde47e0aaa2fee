"""Exports, and that importing them gives the same data."""

import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from documented import fenced
from exchange_cases import PLUGINS, Toy, elsewhere, imported, plugin, prepared, spec, toys  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from metaleaf.catalogue.starter import checkout
from metaleaf.cli import main
from metaleaf.config.config import build
from metaleaf.data import exchange
from metaleaf.data.exchange import Form, export
from metaleaf.data.prepare import load
from metaleaf.dataset import Client
from metaleaf.errors import ConfigError, DataError

TOYS = toys()


def out(to: Form) -> Path:
    return Path("out.parquet" if to == "parquet" else "out")


@pytest.mark.parametrize("name", TOYS)
def test_what_is_exported_and_imported_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SHARD", 12)  # numbers: a file a client or two
    monkeypatch.setattr(exchange, "BATCH", 40)  # bytes: batches end inside of clients
    store = prepared(TOYS[name], name)
    for to, reader in PLUGINS.items():
        back = imported(reader, export(store, to, out(to), overwrite=True))  # type: ignore[arg-type]
        assert back.about["data_hash"] == store.about["data_hash"], to
        ours = {**store.about["spec"], "version": "1.0.0"}
        assert back.about["spec"] == ours, to


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5).filter(lambda text: not text.endswith("\0"))


def _one_nan(x: np.ndarray) -> np.ndarray:
    """Of all bits that are no number the usual ones, as JSON has one name for them."""
    return np.where(np.isnan(x), x.dtype.type(np.nan), x) if x.dtype.kind == "f" else x


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_federation_comes_back(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "int16", "float32", "float64", "bool"]))
    shape = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    x = nps.arrays(dtype, (2, *shape), elements={"allow_infinity": False} if dtype.startswith("float") else None)
    made = tuple(
        Client(
            name, data.draw(NAMES), data.draw(x.map(_one_nan)), np.array(data.draw(st.sampled_from([[0, 1], [1, 1]])))
        )
        for name in data.draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    )
    store = prepared(Toy(spec(made[0].x, classes=2, standardise="x"), made))
    to: Form = data.draw(st.sampled_from([*PLUGINS]))
    back = imported(PLUGINS[to], export(store, to, out(to).with_stem(to), overwrite=True))
    assert back.about["data_hash"] == store.about["data_hash"]


@pytest.mark.parametrize("to", PLUGINS)
def test_a_dataset_of_ours_comes_back(to: Form) -> None:
    store = load("synthetic", build("datasets", "synthetic", {"tasks": 12, "dimension": 3}), progress=False)
    back = load(PLUGINS[to], plugin(PLUGINS[to], export(store, to, out(to))), progress=False)
    assert back.about["data_hash"] == store.about["data_hash"]
    assert back.environments.tolist() == store.environments.tolist()


def test_leafs_readers_find_what_they_look_for() -> None:
    toy = TOYS["environments"]
    export(prepared(toy, "toy"), "leaf", Path("out"))
    shard = json.loads(Path("out/all_data_0.json").read_text(encoding="ascii"))
    assert shard["users"] == ["b", "a", "c"]
    assert shard["num_samples"] == [2, 3, 7]
    assert shard["hierarchies"] == ["nord", "süd", "nord"]
    assert shard["user_data"]["a"]["y"] == toy.made[1].y.tolist()
    np.testing.assert_array_equal(np.float32(shard["user_data"]["a"]["x"]), toy.made[1].x)
    assert shard["metaleaf"]["spec"]["x_dtype"] == "float32"


def test_parquet_can_be_read_by_whoever_reads_parquet() -> None:
    export(prepared(TOYS["labels"], "toy"), "parquet", Path("out.parquet"))
    table = pq.read_table("out.parquet").to_pylist()
    assert [row["client"] for row in table] == ["b"] * 2 + ["a"] * 3 + ["c"] * 7
    assert table[3]["y"] == TOYS["labels"].made[1].y[1]
    assert table[3]["x"] == TOYS["labels"].made[1].x[1].tolist()


def test_prepared_data_of_a_folder_is_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in ("floats", "labels"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        export(prepared(TOYS[name], name), "leaf", Path("out"))
        found.append(load("leaf_json", plugin("leaf_json", "out"), progress=False).about["spec"]["labels"])
    assert found == [[], ["no", "ja", "vielleicht"]]


def test_nothing_is_overwritten_unasked() -> None:
    store = prepared(TOYS["floats"], "toy")
    for to in PLUGINS:
        export(store, to, out(to), overwrite=True)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"out.* is there already: give another place"):
            export(store, to, out(to))  # type: ignore[arg-type]
    Path("out/mine.txt").touch()
    with pytest.raises(ConfigError, match=r"out holds mine\.txt, which no export wrote"):
        export(store, "leaf", Path("out"), overwrite=True)
    with pytest.raises(ConfigError, match=r"out\.parquet is a file: give another place"):
        export(store, "leaf", Path("out.parquet"), overwrite=True)
    with pytest.raises(ConfigError, match=r"the name of a Parquet file ends in \.parquet"):
        export(store, "parquet", Path("out.pq"))
    with pytest.raises(ConfigError, match="unknown form 'leef': did you mean 'leaf'"):
        export(store, "leef", Path("other"))  # type: ignore[arg-type]


@pytest.mark.parametrize("to", PLUGINS)
def test_an_export_is_there_as_a_whole_or_as_it_was(to: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    before = prepared(TOYS["floats"], "before")
    export(before, to, out(to))

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("_write_shard", "_batches"):
        monkeypatch.setattr(exchange, name, fails)
    for place in (out(to), Path(f"new/{out(to)}")):
        with pytest.raises(OSError, match="No space left") as caught:
            export(prepared(TOYS["labels"], "after"), to, place, overwrite=True)
        assert str(place) in str(caught.value.filename)
    assert imported(PLUGINS[to], out(to)).about["data_hash"] == before.about["data_hash"]
    assert not list(Path("new").iterdir())
    assert not list(Path().glob(".out*"))


def test_a_client_too_large_for_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MOST", 30)
    with pytest.raises(DataError, match="client 'c' has 35 numbers, too many for LEAF's JSON: export to parquet"):
        export(prepared(TOYS["floats"], "toy"), "leaf", Path("out"))


def test_what_was_cut_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SHARD", 20)
    export(prepared(TOYS["floats"], "toy"), "leaf", Path("out"))
    Path("out/all_data_1.json").unlink()
    with pytest.raises(DataError, match="out has 2 clients and 9 examples, not the 3 and 12 that it had: get all of"):
        imported("leaf_json", Path("out"))
    export(prepared(TOYS["labels"], "other"), "leaf", Path("other"))
    Path("other/all_data_1.json").rename("out/all_data_1.json")
    with pytest.raises(DataError, match="out has files of different exports"):
        imported("leaf_json", Path("out"))


def test_an_export_says_itself_what_it_holds() -> None:
    export(prepared(TOYS["floats"], "toy"), "parquet", Path("out.parquet"))
    with pytest.raises(ConfigError, match=r"out\.parquet was exported by metaleaf and says itself .* leave out dtype"):
        imported("huggingface", Path("out.parquet"), dtype="uint8")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x_shape": [0]}, r"an example of shape \[0\]"),
        ({"x_shape": [99999, 99999]}, "an example of shape"),
        ({"x_dtype": "object"}, "numbers of type 'object'"),
        ({"x_dtype": "float32[9]"}, "numbers of type"),
        ({"labels": ["a"]}, "1 names for 3 classes"),
        ({"classes": -1}, "a number that is too small"),
        ({"classes": "3"}, "spec.classes: Input should be a valid integer"),
        ({"standardise": "all"}, "spec.standardise"),
        ({"x_shape": [5]}, r"x of client 'b' has shape \[2, 4\], not \[2, 5\]"),
        ({"x_dtype": "uint8"}, "x of client 'b' has a number that is no uint8"),
        ({"y_shape": [2]}, r"y of client 'b' has shape \[2\]"),
        ({"classes": 2}, r"has a label that is not in 0\.\.1"),
        ({"grouped": True}, "client 'b' has not one group"),
    ],
)
def test_a_note_is_not_believed(change: dict[str, Any], sentence: str) -> None:
    path = export(prepared(TOYS["floats"], "toy"), "leaf", Path("out")) / "all_data_0.json"
    shard = json.loads(path.read_bytes())
    shard["metaleaf"]["spec"] |= change
    path.write_text(json.dumps(shard), encoding="ascii")
    with pytest.raises(DataError, match=sentence):
        imported("leaf_json", Path("out"))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "export", "synthetic", "--options", "tasks=9", "--to", "huggingface"]
    assert main(words) == 2
    assert "metaleaf data export needs a place: --output FOLDER" in capsys.readouterr().err
    assert main([*words, "--output", "out"]) == 0
    assert capsys.readouterr().out == "out\n"
    assert main([*words, "--output", "out"]) == 2
    assert main([*words, "--output", "out", "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["data", "stats", "huggingface", "--options", "path=out"]) == 0
    assert "clients                          9" in capsys.readouterr().out


def test_the_publishers_terms_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.ones((2, 1), np.float32)
    toy = Toy(spec(x, classes=2, terms="Not to be passed on."), (Client("a", "", x, np.array([0, 1])),))
    export(prepared(toy, "toy"), "parquet", Path("out.parquet"))
    assert (
        main(["data", "export", "huggingface", "--options", "path=out.parquet", "--to", "leaf", "--output", "o"]) == 0
    )
    assert "Not to be passed on." in capsys.readouterr().err


def test_the_page_runs() -> None:
    page = (checkout() / "docs" / "exchange.md").read_text(encoding="utf-8")
    for line in "".join(fenced(page, "console")).splitlines():
        assert main(shlex.split(line)[1:]) == 0, line
    scope: dict[str, Any] = {"__name__": "documented"}
    for block in fenced(page, "python"):
        exec(block, scope)
    for block in fenced(page, "toml"):
        for entry in tomllib.loads(block)["datasets"].values():
            build("datasets", entry["name"], entry["options"])
