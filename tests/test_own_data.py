"""Tables and arrays of one's own: what is found out about them, and what is refused."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from metaleaf.config.config import build
from metaleaf.data.prepare import load, prepared_directory
from metaleaf.datasets._own import inferred
from metaleaf.datasets.arrays import Arrays
from metaleaf.datasets.table import Table, _columns
from metaleaf.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def frame(**columns: Any) -> pd.DataFrame:
    """Six rows of three clients."""
    return pd.DataFrame({"client": list("aabbcc"), "x": [1.0, 2, 3, 4, 5, 6], "y": [0, 1, 2, 0, 1, 2], **columns})


def table(given: pd.DataFrame, name: str = "mine.csv", **options: Any) -> Table:
    given.to_parquet(name) if name.endswith("parquet") else given.to_csv(name, index=False)
    made: Table = build("datasets", "table", {"path": name, **options})
    return made


@pytest.mark.parametrize(
    ("y", "classes", "labels", "task"),
    [
        ([0, 1, 2], 3, (), "multiclass"),
        ([0, 1, 0], 2, (), "binary"),
        ([True, False, True], 2, (False, True), "binary"),
        ([10, 20, 30], 3, (10, 20, 30), "multiclass"),
        ([-1, 1, -1], 2, (-1, 1), "binary"),
        ([1.0, 2.0, 1.0], 2, (1, 2), "binary"),
        (["no", "yes", "no"], 2, ("no", "yes"), "binary"),
        ([0.5, 1.0, 2.0], 0, (), "regression"),
        (list(range(101)), 0, (), "regression"),
        ([[0, 1], [1, 1], [0, 0]], 2, (), "multilabel"),
        ([[0.5, 1], [1, 1], [0, 0]], 0, (), "regression"),
        ([[0, 2, -1], [1, 1, 2]], 3, (), "sequence"),
        ([[0, 2, 1], [1, 1, 2]], 3, (), "sequence"),
    ],
)
def test_what_y_is(y: list[Any], classes: int, labels: tuple[Any, ...], task: str) -> None:
    found = inferred(np.array(y), "y")
    assert (found.classes, found.labels, found.task) == (classes, labels, task)
    assert found.y.shape == np.array(y).shape
    if labels:
        assert [labels[place] for place in found.y] == y


def test_what_y_is_said_to_be() -> None:
    assert inferred(np.array([10, 20]), "y", "numbers").y.tolist() == [10.0, 20.0]
    assert inferred(np.arange(300), "y", "classes").classes == 300
    with pytest.raises(DataError, match="y has fractions, which are no classes"):
        inferred(np.array([0.5]), "y", "classes")
    with pytest.raises(DataError, match="y holds texts, which are no numbers"):
        inferred(np.array(["a"]), "y", "numbers")
    for constant in (np.array([3, 3]), np.array([1.5, 1.5]), np.array(["a", "a"])):
        with pytest.raises(DataError, match=f"y is {constant[0]} everywhere"):
            inferred(constant, "y")
    with pytest.raises(DataError, match="give labels as 0 and 1"):
        inferred(np.array([[-1, 1], [1, -1]]), "y")
    with pytest.raises(DataError, match=r"y has shape \[2, 1\]: give one y an example, \[2\]"):
        inferred(np.array([[0], [1]]), "y")


@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv", "mine.parquet"])
def test_a_table_becomes_clients(name: str) -> None:
    given = frame(sex=list("fmfmfm"), old=[True, False] * 3)
    if name.endswith("tsv"):
        given.to_csv(name, sep="\t", index=False)
        plugin: Table = build("datasets", "table", {"path": name})
    else:
        plugin = table(given, name)
    assert plugin.columns == ("x", "sex=f", "sex=m", "old")
    store = load("table", plugin, progress=False)
    assert store.ids.tolist() == ["a", "b", "c"]
    assert store.client(1)[1].tolist() == [2, 0]
    x = np.asarray(store.x)
    assert x.dtype == np.float32
    assert x[:2].tolist() == [[1, 1, 0, 1], [2, 0, 1, 0]]
    np.testing.assert_array_equal(plugin.x_of(given.iloc[2:4]), store.client(1)[0])


def test_a_table_is_standardised_by_training_clients_unless_it_says_no() -> None:
    assert table(frame()).spec.standardise == "x"
    assert table(frame(y=[0.5, 1, 2, 3, 4, 5]), "numbers.csv").spec.standardise == "xy"
    assert table(frame(), standardise=False).spec.standardise == ""


def test_rows_of_a_client_stay_together_and_in_time() -> None:
    given = frame(day=pd.to_datetime(["2024-01-02", "2024-01-01"] * 3)).sample(frac=1, random_state=3)
    store = load("table", table(given, "mine.parquet", time="day", standardise=False), progress=False)
    assert store.about["spec"]["window"] == 1
    by_name = {str(name): store.client(i)[0].ravel().tolist() for i, name in enumerate(store.ids)}
    assert by_name == {"a": [2, 1], "b": [4, 3], "c": [6, 5]}


def test_names_of_clients_are_texts() -> None:
    given = frame(client=["NA", "NA", "null", "null", "1", "1"])
    assert load("table", table(given), progress=False).ids.tolist() == ["NA", "null", "1"]
    numbered = load("table", table(frame(client=[1.0, 1.0, 2.0, 2.0, 3.0, 3.0]), "n.parquet"), progress=False)
    assert numbered.ids.tolist() == ["1", "2", "3"]


def test_environments_are_of_clients() -> None:
    store = load("table", table(frame(ward=list("uuvvuu")), environment="ward"), progress=False)
    assert store.environments.tolist() == ["u", "v", "u"]
    with pytest.raises(DataError, match="client 'a' is in several environments, u and v"):
        load("table", table(frame(ward=list("uvvvuu")), "other.csv", environment="ward"), progress=False)


def test_several_targets() -> None:
    spec = table(frame(z=[0, 1, 1, 0, 0, 1], y=[1, 1, 0, 0, 1, 0]), target=("y", "z")).spec
    assert (spec.task, spec.y_shape, spec.classes, spec.x_shape) == ("multilabel", (2,), 2, (1,))


@pytest.mark.parametrize(
    ("y", "z", "said"),
    [
        ([1, -1, 1, 1, -1, 1], [1, 1, -1, 1, -1, 1], ("regression", 0)),
        ([0, 1, 2, 0, 1, 2], [0.5, 1, 2, 3, 4, 5], ("regression", 0)),
        ([True, False] * 3, [0, 1, 1, 0, 0, 1], ("multilabel", 2)),
    ],
)
def test_several_targets_are_labels_or_numbers(y: list[Any], z: list[Any], said: tuple[str, int]) -> None:
    spec = table(frame(y=y, z=z), target=("y", "z")).spec
    assert (spec.task, spec.classes) == said


def test_one_target_in_a_list_is_one() -> None:
    assert table(frame(), target=("y",)).spec.task == "multiclass"


def test_texts_order_rows_only_as_dates() -> None:
    given = frame(day=["2024-01-10", "2024-01-02"] * 3)
    store = load("table", table(given, time="day", standardise=False), progress=False)
    assert store.client(0)[0].ravel().tolist() == [2, 1]
    with pytest.raises(DataError, match=r"'day' is neither numbers nor dates such as 2024-01-31"):
        _ = table(frame(day=["first", "second"] * 3), "other.csv", time="day").spec


def test_gaps_in_other_rows_are_refused() -> None:
    plugin = table(frame())
    with pytest.raises(DataError, match="a row has no 'x': fill it in or leave the row out"):
        plugin.x_of(frame(x=[1, 2, None, 4, 5, 6]))


@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        (frame(), {"client": "clinet"}, "unknown column of mine.csv 'clinet': did you mean 'client'"),
        (frame(), {"drop": ("x",)}, "has no column left for x beside client, x, y"),
        (frame(x=[1, 2, None, 4, 5, 6]), {}, "the column 'x' has gaps: fill them, or drop the column"),
        (frame(y=[1, 2, None, 4, 5, 6]), {}, "a row has no 'y'; fill it in or leave the row out"),
        (frame(x=[1, 2, np.inf, 4, 5, 6]), {}, "the column 'x' has a value that is not finite"),
        (frame().iloc[:0], {}, "mine.csv has no rows"),
        (frame(), {"target_type": "nmbers"}, "target_type = 'nmbers'"),
        (frame(), {"target": "client"}, "are columns of their own"),
        (frame(x=[1e300, 2, 3, 4, 5, 6]), {}, "the column 'x' has a value that is not finite in float32"),
        (frame(z=list("abcabc")), {"target": ("y", "z")}, "several targets are labels of 0 and 1, or numbers"),
    ],
)
def test_what_a_table_is_refused_for(given: pd.DataFrame, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((DataError, ConfigError), match=sentence.replace("(", r"\(")):
        _ = table(given, **options).spec


def test_free_text_and_dates_are_refused() -> None:
    notes = pd.DataFrame({"client": ["a"] * 60, "note": [f"note {i}" for i in range(60)], "y": [0, 1] * 30})
    with pytest.raises(DataError, match="'note' has 60 different texts: make numbers of it, or drop it"):
        _ = table(notes).spec
    for name, values in {"date": [datetime.date(2024, 1, 1)] * 6, "list": [[1]] * 6}.items():
        with pytest.raises(DataError, match=f"'x' is of {name}: make numbers or texts of it"):
            _columns(frame(x=values)["x"], Path("mine"))
    with pytest.raises(DataError, match="'y' is of Timestamp: make numbers or texts of it"):
        _ = table(frame(y=pd.date_range("2024-01-01", periods=6)), "times.parquet").spec
    dated = frame(x=pd.to_datetime(["2024-01-01"] * 6))
    with pytest.raises(DataError, match="'x' is a date: make numbers of it, drop it, or name it as `time`"):
        _ = table(dated, "mine.parquet").spec


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="table: say where it is"):
        _ = Table().spec
    with pytest.raises(DataError, match=r"there is no file nowhere\.csv"):
        _ = Table("nowhere.csv").spec
    Path("a.parquet").write_text("no table")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as a table"):
        _ = Table("a.parquet").spec
    Path("a.xlsx").write_text("no table")
    with pytest.raises(DataError, match=r"ends in \.csv, \.tsv or \.parquet"):
        _ = Table("a.xlsx").spec


def test_the_same_name_in_another_folder_is_another_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load("table", table(frame()), progress=False)
    place = prepared_directory("table", Table("mine.csv"))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    second = load("table", table(frame(y=[1, 1, 0, 0, 0, 1])), progress=False)
    assert prepared_directory("table", Table("mine.csv")) != place
    assert first.about["data_hash"] != second.about["data_hash"]


def test_arrays_become_clients() -> None:
    x = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)
    np.savez("mine.npz", x=x, y=np.array([0, 1, 2, 0, 1, 2]), client=np.array(["b", "a", "b", "a", "b", "a"]))
    store = load("arrays", Arrays("mine.npz"), progress=False)
    assert store.ids.tolist() == ["b", "a"]
    assert store.x.dtype == np.uint8
    np.testing.assert_array_equal(store.client(0)[0], x[[0, 2, 4]])
    assert store.client(1)[1].tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"x": np.ones((2, 1)), "y": np.ones(2)}, "has no array 'client'"),
        ({"x": np.ones((2, 1)), "y": np.array([0, 1, 1]), "client": np.array(["a", "b"])}, r"y \[3\]"),
        ({"x": np.ones(2), "y": np.array([0, 1]), "client": np.array(["a", "b"])}, r"x \[2\]"),
        ({"x": np.array([[1.0], [np.nan]]), "y": np.array([0, 1]), "client": np.array(["a", "b"])}, "not finite"),
        ({"x": np.array([["a"], ["b"]]), "y": np.array([0, 1]), "client": np.array(["a", "b"])}, "not numbers"),
        ({"x": np.ones((2, 1)), "y": np.array([0, None]), "client": np.array(["a", "b"])}, "without pickled objects"),
    ],
)
def test_what_arrays_are_refused_for(content: dict[str, np.ndarray], sentence: str) -> None:
    np.savez("mine.npz", **content)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=sentence):
        _ = Arrays("mine.npz").spec
