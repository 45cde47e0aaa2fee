"""LEAF's JSON of any dataset, as LEAF's scripts write it."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange_cases import damaged, elsewhere, imported, outcome, plugin, prepared, toys  # noqa: F401

from metaleaf.data.client_store import ClientStore
from metaleaf.data.exchange import export
from metaleaf.datasets.leaf_json import LeafJson
from metaleaf.errors import ConfigError, DataError


def shard(**users: tuple[Any, Any]) -> dict[str, Any]:
    data = {name: {"x": x, "y": y} for name, (x, y) in users.items()}
    return {"users": [*users], "num_samples": [len(y) for _, y in users.values()], "user_data": data}


SMALL = shard(b=([[0.5, 1], [2, 3]], [0, 1]), a=([[4, 5]], [2]))


def write(content: Any, path: str = "mine.json") -> Path:
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(content), encoding="utf-8")
    return place


def test_users_become_clients() -> None:
    store = imported("leaf_json", write(SMALL))
    assert store.ids.tolist() == ["b", "a"]
    assert store.x.dtype == np.float32
    assert store.client(0)[0].tolist() == [[0.5, 1], [2, 3]]
    assert store.y.tolist() == [0, 1, 2]
    assert store.about["spec"]["task"] == "multiclass"


def test_hierarchies_are_environments() -> None:
    assert imported("leaf_json", write({**SMALL, "hierarchies": ["u", "v"]})).environments.tolist() == ["u", "v"]
    # LEAF's split leaves hierarchies of users who are gone.
    assert imported("leaf_json", write({**SMALL, "hierarchies": ["u", "v", "w"]})).environments.tolist() == ["", ""]


def test_what_y_is() -> None:
    texts = imported("leaf_json", write(shard(a=([[1], [2]], ["no", "yes"]), b=([[3]], ["no"]))))
    assert texts.y.tolist() == [0, 1, 0]
    assert (texts.about["spec"]["labels"], texts.about["spec"]["task"]) == (["no", "yes"], "binary")
    numbers = imported("leaf_json", write(shard(a=([[1], [2]], [0.25, 3]))))
    assert numbers.y.tolist() == [0.25, 3]
    assert numbers.about["spec"]["task"] == "regression"
    said = imported("leaf_json", write(shard(a=([[1], [2]], [1, 3]))), target_type="numbers", standardise="xy")
    assert (said.y.tolist(), said.about["spec"]["standardise"]) == ([1, 3], "xy")
    several = imported("leaf_json", write(shard(a=([[1], [2]], [[0, 1], [1, 1]]))))
    assert (several.about["spec"]["task"], several.y.tolist()) == ("multilabel", [[0, 1], [1, 1]])


def test_shapes_and_types_can_be_said() -> None:
    path = write(shard(a=([[0, 255, 1, 2]], [0]), b=([[9, 8, 7, 6]], [1])))
    store = imported("leaf_json", path, shape=[2, 2], dtype="uint8", ordered=True)
    assert (store.x.dtype.name, store.client(0)[0].tolist()) == ("uint8", [[[0, 255], [1, 2]]])
    assert store.about["spec"]["window"] == 1
    with pytest.raises(ConfigError, match=r"x has shape \[4\] an example, which is not \[3\]"):
        imported("leaf_json", path, shape=[3])
    with pytest.raises(DataError, match="x of client 'a' has a number that is no uint8"):
        imported("leaf_json", write(shard(a=([[0.5]], [0]), b=([[1]], [1]))), dtype="uint8")


def test_texts_are_symbols_of_a_vocabulary() -> None:
    path = write(shard(a=(["abba", "cabc"], ["a", "c"])))
    store = imported("leaf_json", path, vocabulary="abc")
    assert (store.x.dtype.name, store.x.tolist()) == ("uint8", [[0, 1, 1, 0], [2, 0, 1, 2]])
    with pytest.raises(DataError, match="x is text: give its characters as `vocabulary`, or make numbers of it"):
        imported("leaf_json", path)
    with pytest.raises(DataError, match="x has the character 'c', which is not in the vocabulary"):
        imported("leaf_json", path, vocabulary="ab")
    with pytest.raises(DataError, match="x has texts of different lengths"):
        imported("leaf_json", write(shard(a=(["ab", "c"], [0, 1]))), vocabulary="abc")


@pytest.mark.parametrize("folder", [".", "all_data", "train"])
def test_a_folder_of_shards_is_read_in_order(folder: str) -> None:
    for i in (10, 2, 1):
        write(shard(**{f"u{i}": ([[i]], [i % 2])}), f"leaf/{folder}/all_data_{i}.json")
    packed = gzip.compress(json.dumps(shard(u3=([[3]], [1]))).encode())
    Path(f"leaf/{folder}/all_data_3.json.gz").write_bytes(packed)
    assert imported("leaf_json", "leaf").ids.tolist() == ["u1", "u2", "u3", "u10"]


def test_train_and_test_are_joined() -> None:
    write(shard(a=([[1]], [0]), b=([[2]], [1])), "leaf/train/all_data_0_niid_0_keep_0_train_9.json")
    write(shard(b=([[3]], [0]), a=([[4]], [1])), "leaf/test/all_data_0_niid_0_keep_0_test_9.json")
    store = imported("leaf_json", "leaf")
    assert store.ids.tolist() == ["a", "b"]
    assert store.x.ravel().tolist() == [1, 4, 2, 3]


def test_what_was_found_out_is_remembered_until_the_file_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(SMALL)
    assert plugin("leaf_json", path).spec.classes == 3
    with monkeypatch.context() as once:
        once.setattr("metaleaf.datasets.leaf_json.LeafJson.parts", None)
        assert plugin("leaf_json", path).spec.classes == 3
    write(shard(a=([[1]], [0]), b=([[2]], [1]), c=([[2]], [2]), d=([[2]], [3])))
    assert plugin("leaf_json", path).spec.classes == 4


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({**SMALL, "num_samples": [2, 2]}, "its users, num_samples and user_data disagree"),
        ({**SMALL, "users": ["a"], "num_samples": [1]}, "its users, num_samples and user_data disagree"),
        ({**SMALL, "users": ["b", "c"]}, "KeyError: 'c'"),
        ({**SMALL, "users": [1, 2]}, "users must be a list of names"),
        ({**SMALL, "hierarchies": [1, 2]}, "hierarchies must be a list of names"),
        ({"users": []}, "KeyError: 'num_samples'"),
        (shard(), "holds no client with examples"),
        ([1, 2], "not a whole LEAF file"),
        (shard(a=([[1], [2, 3]], [0, 1])), "not a whole LEAF file"),
        (shard(a=([[1], None], [0, 1])), "not a whole LEAF file"),
        (shard(a=([{"t": 1}], [0])), "x is neither all numbers nor all texts"),
        (shard(a=([["t"]], [0])), "x is neither all numbers nor all texts"),
        (shard(a=([[1], [2]], [0, "b"])), "y is neither all numbers nor all texts"),
        (shard(a=([[1], [2]], [0])), "a user has 2 x and 1 y"),
        (shard(a=([[1]], [0]), b=([[1, 2]], [1])), "x of clients 'a' and 'b' is .* which is unlike"),
        (shard(a=([[1]], [0]), b=([[1]], ["1"])), "y of clients 'a' and 'b' is .* which is unlike"),
        (shard(a=([[1], [2]], [1, 1])), "y is 1 everywhere"),
        (shard(a=([[1e300], [2]], [0, 1])), "a value that is not a finite number"),
        (shard(a=([[float("nan")], [2]], [0, 1])), "a value that is not a finite number"),
    ],
)
def test_what_is_refused(content: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        imported("leaf_json", write(content))


def test_a_name_that_is_there_twice_is_refused() -> None:
    text = json.dumps(SMALL).replace('"a": {', '"b": {')
    Path("mine.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="a name is there twice"):
        imported("leaf_json", "mine.json")


def test_where_nothing_is() -> None:
    with pytest.raises(ConfigError, match="leaf_json: say where it is"):
        imported("leaf_json", "")
    with pytest.raises(DataError, match=r"there is no file nowhere\.json"):
        imported("leaf_json", "nowhere.json")
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no \.json, neither in all_data nor in train and test"):
        imported("leaf_json", "empty")


REAL = Path(os.environ.get("METALEAF_RAW", "nowhere"))


@pytest.mark.skipif(not (REAL / "femnist/leaf_json_sample").is_dir(), reason="LEAF's shards of FEMNIST are not there")
def test_leafs_own_shards() -> None:
    store = imported("leaf_json", REAL / "femnist/leaf_json_sample", shape=[28, 28])
    assert (len(store), store.x.shape, store.about["spec"]["classes"]) == (5, (838, 28, 28), 62)
    assert store.about["spec"]["model"] == "resnet8"  # which reads floats


FEDPROX = REAL / "synthetic/synthetic_1_1_mytest.json.xz"


@pytest.mark.skipif(not FEDPROX.is_file(), reason="FedProx's synthetic(1, 1) is not there")
def test_fedproxs_files_are_of_this_form() -> None:
    store = imported("leaf_json", FEDPROX)
    assert (len(store), store.x.shape, store.about["spec"]["classes"]) == (30, (1084, 60), 10)


@pytest.mark.skipif(not (REAL / "celeba").is_dir(), reason="LEAF's shards of CelebA are not there")
def test_names_of_images_are_no_examples() -> None:
    [path] = (REAL / "celeba").glob("leaf_test_*.json.xz")
    with pytest.raises(DataError, match="x is text: give its characters as `vocabulary`, or make numbers of it first"):
        imported("leaf_json", path)


def test_not_a_number_is_what_was_not_measured_where_x_is_standardised() -> None:
    store = imported("leaf_json", write(shard(a=([[float("nan")], [2]], [0, 1]))), standardise="x")
    assert np.isnan(store.x).ravel().tolist() == [True, False]


@pytest.mark.parametrize("exported", [True, False], ids=["exported", "foreign"])
def test_damage_is_found_or_does_no_harm(exported: bool) -> None:
    path = Path("mine.json")
    content = {**SMALL, "hierarchies": ["u", "v"]}
    if exported:
        (export(prepared(toys()["grouped"]), "leaf", Path("out")) / "all_data_0.json").rename(path)
    else:
        write(content)
    whole, draw = path.read_bytes(), np.random.default_rng(1)
    found = []
    for _ in range(150):
        path.write_bytes(damaged(whole, draw))
        found.append(outcome("leaf_json", path))
    for each in found:
        assert isinstance(each, ClientStore) or "mine.json" in each or "leaf_json" in each
    assert sum(isinstance(each, str) for each in found) > 50


@pytest.mark.parametrize("user", ['{"q":[1],"y":[2]}', '{"x":[1]}', "[[1],[2]]", "3", '{"x":1,"y":[2]}'])
def test_a_user_without_lists_of_x_and_y_is_refused(tmp_path: Path, user: str) -> None:
    """A user whose keys were damaged was taken for the names of these keys."""
    path = tmp_path / "d.json"
    path.write_text(f'{{"users":["a"],"num_samples":[1],"user_data":{{"a":{user}}}}}', encoding="utf-8")
    with pytest.raises(DataError, match=r"d\.json is not a whole LEAF file \(a user has no lists x and y\)"):
        _ = LeafJson(str(path)).spec
