"""What `metaleaf data stats` says of heterogeneity, by small cases computed by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from metaleaf.cli import main
from metaleaf.data import probe as probing
from metaleaf.data import stats as statistics
from metaleaf.data.client_store import ClientStore
from metaleaf.data.probe import classifier, probe, ridge
from metaleaf.data.stats import label_counts, markdown, stats, stats_table

PUBLISHED = {"clients": 3, "samples": 30, "mean": 10.0, "sd": 1.5, "source": "Toys et al."}


def store(ys: list[Any], xs: list[Any] | None = None, groups: Any = None, **spec: Any) -> ClientStore:
    """A client for each array of y."""
    y = np.concatenate([np.asarray(y) for y in ys])
    x = np.concatenate(xs) if xs else np.zeros((len(y), 1), np.float32)
    offsets = np.cumsum([0, *map(len, ys)])
    ids = np.array([f"client {i}" for i in range(len(ys))])
    shapes = {"x_dtype": str(x.dtype), "x_shape": list(x.shape[1:]), "y_shape": list(y.shape[1:])}
    spec = {**shapes, "classes": 2, "window": 0, "published": None, **spec}
    about = {"name": "toys", "version": "1.0.0", "spec": spec}
    return ClientStore(x, y, offsets, ids, ids, about, groups)


class TestSizes:
    @pytest.mark.parametrize(
        ("sizes", "gini"),
        [([5, 5, 5], 0), ([1, 3], 1 / 4), ([3, 1], 1 / 4), ([1, 1, 1, 97], 0.72), ([1, 2, 3, 4], 1 / 4)],
    )
    def test_gini(self, sizes: list[int], gini: float) -> None:
        """Half the mean difference of two clients' sizes, over the mean size."""
        differences = np.abs(np.subtract.outer(sizes, sizes)).mean() / 2 / np.mean(sizes)
        assert differences == pytest.approx(gini)
        assert stats(store([[0] * n for n in sizes]), probed=False)["gini"] == pytest.approx(gini)


class TestLabels:
    def test_of_clients_with_one_class_each(self) -> None:
        """Entropy 0 beside 1 bit; divergence H(3/4, 1/4) - 1/2 = 0.3113 bits, its root 0.5579."""
        figures = stats(store([[0, 0], [1, 1]]), probed=False)
        assert figures["label_entropy"] == 0
        assert figures["pool_entropy"] == 1
        assert figures["label_distance"] == pytest.approx(0.5579, abs=1e-4)
        assert figures["weighted_distance"] == figures["label_distance"]
        assert (figures["classes_per_client"], figures["majority_share"]) == (1, 1)

    def test_of_clients_alike(self) -> None:
        figures = stats(store([[0, 1, 2, 3]] * 3, classes=4), probed=False)
        assert (figures["label_entropy"], figures["pool_entropy"]) == (2, 2)
        assert figures["label_distance"] == 0

    def test_large_clients_count_more_in_the_weighted_distance(self) -> None:
        """Six examples of shares (1/2, 1/2) and two of (1, 0); all: (5/8, 3/8)."""
        figures = stats(store([[0, 1] * 3, [0, 0]]), probed=False)
        large, small = (jensenshannon(shares, [5 / 8, 3 / 8], base=2) for shares in ([1 / 2, 1 / 2], [1, 0]))
        assert figures["label_distance"] == pytest.approx((large + small) / 2)
        assert figures["weighted_distance"] == pytest.approx((6 * large + 2 * small) / 8)
        assert figures["label_entropy"] == pytest.approx(1 / 2)

    def test_positions_that_are_not_judged_do_not_count(self) -> None:
        y = [np.array([[0, -1], [1, -1]]), np.array([[2, 2], [-1, 2]]), np.array([[-1, -1]])]
        given = store(y, classes=3, task="sequence")
        [counts] = label_counts(given)
        assert counts.tolist() == [[1, 1, 0], [0, 0, 3], [0, 0, 0]]
        figures = stats(given, probed=False)
        assert figures["label_entropy"] == pytest.approx(1 / 2), "over the two clients who are judged"
        assert figures["classes_per_client"] == 1.5

    def test_of_several_labels_it_counts_how_often_each_occurs(self) -> None:
        y = [np.array([[1, 0, 1], [1, 0, 0]], np.uint8), np.array([[0, 1, 0]], np.uint8)]
        given = store(y, task={"name": "multilabel"})
        [counts] = label_counts(given)
        assert counts.tolist() == [[2, 0, 1], [0, 1, 0]]
        assert stats(given, probed=False)["classes_per_client"] == 1.5

    @pytest.mark.parametrize("block", [1, 7, 64, 1000])
    def test_blocks_do_not_matter(self, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(0)
        given = store([rng.integers(0, 5, n) for n in rng.integers(1, 30, 40)], classes=5)
        whole = stats(given, probed=False)
        monkeypatch.setattr(statistics, "BLOCK", block)
        for counts in label_counts(given):
            assert len(counts) == 1 or len(counts) * 5 <= block >= counts.sum() * 5
        assert stats(given, probed=False) == pytest.approx({**whole})
        expected = [np.bincount(given.client(i)[1], minlength=5).tolist() for i in range(40)]
        assert np.concatenate(list(label_counts(given))).tolist() == expected

    def test_numbers_have_none_of_it(self) -> None:
        figures = stats(store([[1.0, 3.0], [5.0, 5.0]], classes=0), probed=False)
        assert "label_distance" not in figures
        assert (figures["y_mean"], figures["y_sd_between"], figures["y_sd_within"]) == (3.5, 1.5, 0.5)


def opposed(clients: int = 20, n: int = 60, **spec: Any) -> ClientStore:
    """x of two numbers; the sign of the first is the class of every other client, and the opposite of the others'."""
    rng = np.random.default_rng(0)
    xs = [rng.normal(size=(n, 2)).astype(np.float32) * [10, 1] + [100, 0] for _ in range(clients)]
    ys = [(x[:, 0] > 100) == (i % 2 > 0) for i, x in enumerate(xs)]
    return store([y.astype(np.uint8) for y in ys], xs, **spec)


class TestProbe:
    def test_classes_that_clients_do_not_agree_about(self) -> None:
        found = probe(opposed())
        assert found["probe"] == "accuracy"
        assert found["probe_own"] > 0.9
        assert found["probe_pool"] == pytest.approx(0.5, abs=0.1)
        assert found["probe_gain"] == found["probe_own"] - found["probe_pool"]
        assert found["probe_clients"] == 20
        json.dumps(found)
        assert probe(opposed()) == found

    def test_classes_that_they_agree_about(self) -> None:
        rng = np.random.default_rng(0)
        xs = [rng.normal(size=(12, 20)) for _ in range(40)]
        found = probe(store([(x @ np.ones(20) > 0).astype(int) for x in xs], xs))
        assert found["probe_pool"] > 0.9
        assert found["probe_gain"] < -0.1, "a client's six examples are too few"

    def test_numbers_are_scored_by_their_error(self) -> None:
        """Slopes 2 and -2 of a standard normal number: everybody's model says 0 and errs by 2."""
        rng = np.random.default_rng(0)
        xs = [rng.normal(size=(400, 1)) for _ in range(20)]
        found = probe(store([(x[:, 0] * (2 if i % 2 else -2)) for i, x in enumerate(xs)], xs, classes=0))
        assert found["probe"] == "RMSE"
        assert found["probe_pool"] == pytest.approx(2, rel=0.1)
        assert found["probe_own"] < 0.1
        assert found["probe_gain"] == found["probe_pool"] - found["probe_own"]

    def test_what_was_not_measured_is_as_the_mean(self) -> None:
        given = opposed()
        given.x[::3, 1] = np.nan
        given.x[:, 1] *= np.nan
        assert probe(given)["probe_own"] > 0.9

    def test_many_features_are_projected(self) -> None:
        rng = np.random.default_rng(0)
        ys = [rng.integers(0, 2, 100) for _ in range(10)]
        xs = [rng.integers(0, 200, (100, 20, 20), dtype=np.uint8) for _ in range(10)]
        for x, y in zip(xs, ys, strict=True):
            x[:, :10] += 50 * y[:, None, None].astype(np.uint8)
        read = probing._Features(store(ys, xs), [np.arange(1000)])
        assert read(np.arange(7)).shape == (7, probing.FEATURES)
        norms = np.linalg.norm(read(np.arange(1000)), axis=1)
        assert norms.mean() == pytest.approx(20, rel=0.05), "the root of 400 numbers of variance 1"
        assert probe(store(ys, xs))["probe_pool"] > 0.9

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            (store([[0, 1]], [np.zeros((2, 80), np.uint8)]), "x are symbols"),
            (store([[[0, 1], [1, 0]]], task={"name": "multilabel"}), "the task is multilabel"),
            (store([[0], [1]]), "no client has two examples apart"),
            (store([[0] * 10], window=9), "no client has two examples apart"),
            (store([[0, 1]], groups=np.zeros(2, np.int32)), "no client has two examples apart"),
        ],
    )
    def test_not_of_everything(self, given: ClientStore, why: str) -> None:
        assert probe(given) == {"probe": f"none, as {why}"}
        assert f"probe: none, as {why}" in stats_table(given).splitlines()

    def test_of_windows_the_past_predicts_the_future_after_a_gap(self) -> None:
        first, second = probing._halves(store([[0] * 3, [0] * 21], window=4), 1)
        assert first.tolist() == [*range(3, 11)]
        assert second.tolist() == [*range(15, 24)]
        first, second = probing._halves(store([[0] * 2000], window=100), 0)
        assert (first[-1], second[0], second[-1]) == (199, 300, 499)

    def test_of_others_a_half_is_drawn_and_groups_stay_together(self) -> None:
        first, second = probing._halves(store([[0] * 3, [0] * 21]), 1)
        assert sorted([*first, *second]) == list(range(3, 24))
        assert (len(first), len(second)) == (10, 11)
        assert np.ptp(first) > 10
        groups = np.tile(np.arange(7, dtype=np.int32), 3)
        first, second = probing._halves(store([[0] * 21], groups=groups), 0)
        assert (len(first), len(second)) == (9, 12)
        assert not set(groups[first]) & set(groups[second])

    def test_some_clients_and_examples_of_large_data(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probing, "CLIENTS", 5)
        monkeypatch.setattr(probing, "EXAMPLES", 12)
        rows: list[int] = []
        read = probing._Features.__call__

        def noted(self: Any, asked: np.ndarray) -> np.ndarray:
            rows.append(len(asked))
            return read(self, asked)

        monkeypatch.setattr(probing._Features, "__call__", noted)
        assert probe(opposed())["probe_clients"] == 5
        assert rows == [6] * 10

    def test_the_classifier_is_the_usual_one(self) -> None:
        linear_model = pytest.importorskip("sklearn.linear_model")
        rng = np.random.default_rng(0)
        x = rng.normal(size=(300, 5))
        y = np.array([2, 5, 9])[(x @ rng.normal(size=(5, 3)) + rng.normal(size=(300, 3))).argmax(1)]
        theirs = linear_model.LogisticRegression(C=1.0).fit(x[:200], y[:200])
        assert (classifier(x[:200], y[:200])(x) == theirs.predict(x)).mean() > 0.995
        assert set(classifier(x[:3], y[:1].repeat(3))(x)) == {y[0]}, "who has seen one class says it"

    def test_the_regression_is_the_usual_one(self) -> None:
        linear_model = pytest.importorskip("sklearn.linear_model")
        rng = np.random.default_rng(0)
        x, y = rng.normal(3, 1, (8, 12)), rng.normal(5, 1, (8, 2))
        theirs = linear_model.Ridge(alpha=1.0).fit(x, y)
        np.testing.assert_allclose(ridge(x, y)(x), theirs.predict(x))


class TestShown:
    def test_the_table_names_all_of_it(self) -> None:
        table = stats_table(opposed(published=PUBLISHED)).splitlines()
        words = [line.split() for line in table]
        assert ["clients", "20", "3"] in words
        assert ["gini", "0.000"] in words
        assert ["probe", "clients", "20"] in words
        assert table[-2:] == ["probe: accuracy", "published: Toys et al."]
        assert not [line for line in stats_table(opposed(), probed=False).splitlines() if "probe" in line]

    def test_several_datasets_are_rows_of_markdown(self) -> None:
        symbols = store([[0, 0], [1, 1]], [np.zeros((2, 80), np.uint8)] * 2)
        # Each client has 200 examples to learn from, of one scaled feature, -1 or 1: ridge's slope is 400 / 401 of 1/2.
        numbers = store(
            [[1.0] * 1500, [2.0] * 500], [np.zeros((1500, 1)), np.ones((500, 1))], classes=0, published=PUBLISHED
        )
        assert markdown([symbols, numbers]).splitlines() == [
            "| dataset | clients | samples | environments | mean | sd | Gini | label entropy | label distance | probe "
            "| everybody's | own | published clients | published samples |",
            "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
            "| toys | 2 | 4 | 2 | 2.00 | 0.000 | 0.000 | 0.000 | 0.558 | none | – | – | – | – |",
            "| toys | 2 | 2,000 | 2 | 1,000.00 | 500.00 | 0.250 | – | – | RMSE | 0.001 | 0.000 | 3 | 30 |",
        ]

    def test_the_command_shows_those_named_or_all_that_are_prepared(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("METALEAF_DATA", str(tmp_path))

        def names(*words: str) -> list[str]:
            assert main(["data", "table", *words]) == 0
            return [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]]

        few = ("--options", "tasks=20")
        assert names("synthetic_shared", "synthetic", *few) == ["synthetic_shared", "synthetic"]
        assert names() == [], "these are not prepared as they are by default"
        assert names("synthetic") == ["synthetic"]
        assert names() == ["synthetic"]
        assert main(["data", "stats", "synthetic", "synthetic_shared", *few]) == 0
        out = capsys.readouterr().out
        assert out.startswith("synthetic 1.0.0\n")
        assert "\nsynthetic_shared 1.0.0\n" in out
