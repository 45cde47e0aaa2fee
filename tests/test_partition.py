"""Partitions: clients dealt out anew or changed, what their statistics are, and what is refused."""

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import metaleaf as ml
from metaleaf import registry
from metaleaf.catalogue.starter import checkout
from metaleaf.cli import main
from metaleaf.config.config import THE_RUNS, build, digest, resolve
from metaleaf.config.sources import of_dataset
from metaleaf.config.suite import load_suite, one_cell
from metaleaf.data.prepare import load, options_of, prepared_directory
from metaleaf.dataset import Client, Partitioned, Spec, Stage
from metaleaf.dataset.images import inked, inverted, turned
from metaleaf.datasets.femnist import Femnist
from metaleaf.datasets.synthetic import Synthetic
from metaleaf.errors import ConfigError, DataError
from metaleaf.jobs.from_record import config_of
from metaleaf.partition.changing import Inversion, LabelPermutation, Noise, Rotation, Scaling, Stroke
from metaleaf.partition.partition import STAGES
from metaleaf.partition.regrouping import Dirichlet, Iid, Quantity, Shards, TimeBlocks
from metaleaf.raw import RawFiles
from metaleaf.records.records import Record, read_record

NUMBERED = Spec("1.0.0", (), "int64", 10, "logistic", "", "", "")
IMAGES = replace(NUMBERED, x_shape=(12, 12), x_dtype="uint8")
FLOATS = replace(NUMBERED, x_shape=(3,), x_dtype="float32")


@dataclass(frozen=True)
class Given:
    """The clients of a list."""

    own: list[Client]
    spec: Spec = field(default_factory=lambda: NUMBERED)

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        yield from self.own


@dataclass(frozen=True)
class Striped:
    """Images of a client in one of three rooms, each with a stripe; class i % 10."""

    people: int = 6
    spec: ClassVar[Spec] = IMAGES

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        for i in range(self.people):
            yield Client(f"person {i}", f"room {i % 3}", np.stack([stripe()] * 10), np.arange(10, dtype=np.uint8))


def stripe() -> np.ndarray:
    image = np.full((12, 12), 255, np.uint8)
    image[2:10, 4:6] = 0
    return image


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("METALEAF_RAW", raising=False)
    monkeypatch.setattr(registry, "_brought", {})
    monkeypatch.chdir(tmp_path)


def numbered(sizes: list[int], classes: int = 10, grouped: int = 0) -> list[Client]:
    """Clients whose x are the numbers 0, 1, ... through all of them, and y are these modulo the classes."""
    ends = np.cumsum([0, *sizes])
    found = []
    for i, n in enumerate(sizes):
        x = np.arange(ends[i], ends[i + 1])
        groups = np.arange(n) // grouped if grouped else None
        found.append(Client(f"old {i}", f"place {i % 2}", x, x % classes, groups))
    return found


def dealt(*stages: Stage, sizes: tuple[int, ...] = (500, 300, 200), spec: Spec = NUMBERED, **more: Any) -> list[Client]:
    own = numbered(list(sizes), spec.classes, **more)
    return list(Partitioned(Given(own, spec), stages).clients(RawFiles("given", shown=False)))


def everything(clients: list[Client]) -> list[int]:
    return sorted(np.concatenate([client.x for client in clients]).tolist())


def shares_of(clients: list[Client], classes: int) -> np.ndarray:
    """Which share of each class's examples every client has: [clients, classes]."""
    counts = np.stack([np.bincount(client.y, minlength=classes) for client in clients])
    return np.asarray(counts / counts.sum(axis=0))


class TestRegrouping:
    @pytest.mark.parametrize(
        "stage", [Iid(clients=7), Dirichlet(clients=7), Shards(clients=7), Quantity(clients=7), TimeBlocks(clients=7)]
    )
    def test_everyones_examples_are_dealt_once_with_their_labels_in_their_order(self, stage: Stage) -> None:
        clients = dealt(stage)
        assert [client.id for client in clients] == [f"client {i}" for i in range(7)]
        assert everything(clients) == list(range(1000))
        for client in clients:
            assert np.array_equal(client.y, client.x % 10)
            assert (np.diff(client.x) > 0).all()
        again = dealt(stage)
        assert all(np.array_equal(one.x, two.x) for one, two in zip(clients, again, strict=True))

    @pytest.mark.parametrize("stage", [Iid, Dirichlet, Shards, Quantity])
    def test_another_seed_is_another_deal(self, stage: Any) -> None:
        one, two = (dealt(stage(clients=7, seed=seed)) for seed in (0, 1))
        assert not np.array_equal(one[0].x, two[0].x)

    def test_ids_sort_as_they_are_numbered_and_environments_are_none(self) -> None:
        clients = dealt(Iid(clients=101))
        assert (clients[7].id, clients[-1].id) == ("client 007", "client 100")
        assert {client.environment for client in clients} == {""}

    def test_iid_clients_have_as_many_of_everyones_examples(self) -> None:
        clients = dealt(Iid(clients=7), sizes=(5000, 3000, 2000))
        assert sorted(len(client.y) for client in clients) == [1428, 1428, 1428, 1429, 1429, 1429, 1429]
        first = np.array([(client.x < 5000).sum() for client in clients])
        expected = stats.hypergeom(10_000, 5000, 1428).std()
        assert np.abs(first - 714).max() < 4 * expected
        assert stats.chisquare(np.bincount(clients[0].y)).pvalue > 0.001

    @pytest.mark.parametrize("alpha", [0.1, 1.0, 20.0])
    def test_dirichlet_shares_of_a_class_vary_as_its_concentration_says(self, alpha: float) -> None:
        """A share is from Beta(alpha, (J - 1) alpha), of mean 1 / J and variance (1 / J)(1 - 1 / J) / (J alpha + 1)."""
        j, classes = 20, 100
        spec = replace(NUMBERED, classes=classes)
        shares = shares_of(dealt(Dirichlet(clients=j, alpha=alpha, least=1), sizes=(50_000,), spec=spec), classes)
        assert shares.sum(axis=0) == pytest.approx(1)
        assert shares.var() == pytest.approx(1 / j * (1 - 1 / j) / (j * alpha + 1), rel=0.15)

    def test_dirichlet_is_drawn_again_until_everyone_has_the_least(self) -> None:
        few = {seed: dealt(Dirichlet(clients=8, alpha=0.3, least=1, seed=seed)) for seed in range(20)}
        assert min(len(client.y) for clients in few.values() for client in clients) < 40
        for seed in range(20):
            clients = dealt(Dirichlet(clients=8, alpha=0.3, least=40, seed=seed))
            assert min(len(client.y) for client in clients) >= 40

    def test_shards_are_of_one_size_and_few_classes(self) -> None:
        clients = dealt(Shards(clients=20, shards=2))
        counts = np.stack([np.bincount(client.y, minlength=10) for client in clients])
        assert set(counts.ravel()) <= {0, 25, 50}, "40 shards of 25 examples, four of each class"
        assert (counts.sum(axis=1) == 50).all()
        assert (counts > 0).sum(axis=1).max() == 2
        of_class_0 = [client.x[client.y == 0] for client in clients if 0 in client.y]
        assert sorted(map(len, of_class_0)) in ([25] * 4, [25, 25, 50], [50, 50])
        assert all(np.ptp(x) > 500 for x in of_class_0), "a shard is of the whole pool, not of one old client"

    @pytest.mark.parametrize("law", ["lognormal", "power"])
    def test_logarithms_of_sizes_have_the_spread(self, law: Any) -> None:
        clients = dealt(Quantity(clients=1000, law=law, spread=0.7, least=1), sizes=(400_000,))
        logs = np.log([len(client.y) - 1 for client in clients])
        assert logs.std() == pytest.approx(0.7, rel=0.1)
        if law == "power":  # then they are from the exponential distribution
            assert logs.mean() - logs.min() == pytest.approx(0.7, rel=0.1)
            assert stats.skew(logs) == pytest.approx(2, abs=0.5)
        else:
            assert stats.skew(logs) == pytest.approx(0, abs=0.25)

    def test_everyone_has_the_least_of_unequal_quantities(self) -> None:
        sizes = [len(client.y) for client in dealt(Quantity(clients=20, spread=3.0, least=25))]
        assert (sum(sizes), min(sizes)) == (1000, 25)
        assert max(sizes) > 200
        assert {len(client.y) for client in dealt(Quantity(clients=20, spread=0.0))} == {50}

    def test_blocks_are_contiguous_in_the_environment_of_most(self) -> None:
        clients = dealt(TimeBlocks(clients=4))
        assert [(client.x[0], client.x[-1]) for client in clients] == [(0, 249), (250, 499), (500, 749), (750, 999)]
        assert [client.environment for client in clients] == ["place 0", "place 0", "place 1", "place 0"]

    def test_blocks_share_no_overlapping_windows(self) -> None:
        """A gap of a window within a client; none where a block begins with a client."""
        spec = replace(NUMBERED, window=30)
        ends = [(client.x[0], client.x[-1]) for client in dealt(TimeBlocks(clients=4), spec=spec)]
        assert ends == [(0, 249), (280, 499), (500, 749), (780, 999)]
        ends = [(c.x[0], c.x[-1]) for c in dealt(TimeBlocks(clients=2), spec=spec, sizes=(90, 20, 90))]
        assert ends == [(0, 99), (110, 199)], "the second client ends within the gap"
        with pytest.raises(ConfigError, match="blocks of 25 examples are not longer than the 30 by which windows"):
            dealt(TimeBlocks(clients=40), spec=spec)

    @pytest.mark.parametrize(
        "stage", [Iid(clients=7), Dirichlet(clients=7), Shards(clients=7), Quantity(clients=7), TimeBlocks(clients=7)]
    )
    def test_examples_that_belong_together_stay_together(self, stage: Stage) -> None:
        spec = replace(NUMBERED, grouped=True)
        clients = dealt(stage, spec=spec, grouped=4)
        assert everything(clients) == list(range(1000))
        for client in clients:
            assert client.groups is not None
            assert len(client.y) % 4 == 0
            assert np.array_equal(np.unique(client.groups, return_inverse=True)[1], np.arange(len(client.y)) // 4)

    def test_a_group_counts_as_its_most_frequent_class(self) -> None:
        y = np.tile([3, 3, 7], 40)
        own = [Client("a", "", np.arange(120), y, np.repeat(np.arange(40), 3))]
        grouped = Given(own, replace(NUMBERED, grouped=True))
        stage = Dirichlet(clients=2, alpha=1e6, least=1)
        first, second = Partitioned(grouped, (stage,)).clients(RawFiles("given", shown=False))
        assert len(first.y) == len(second.y) == 60, "of 40 groups of one class, not of examples of two"

    def test_memory_holds_no_more_than_labels(self) -> None:
        spec = replace(NUMBERED, x_shape=(1 << 17,), x_dtype="uint8")

        @dataclass(frozen=True)
        class Large:
            spec: Spec

            def clients(self, raw: RawFiles) -> Iterator[Client]:
                for i in range(100):
                    yield Client(str(i), "", np.full((8, 1 << 17), i, np.uint8), np.arange(8))

        tracemalloc.start()
        sizes = [len(client.y) for client in Partitioned(Large(spec), (Iid(),)).clients(RawFiles("large", shown=False))]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sizes == [8] * 100
        assert peak < 8 << 20, "of 100 MiB, a client has one"

    def test_clients_without_examples_and_a_pool_without_clients(self) -> None:
        assert everything(dealt(Iid(clients=3), sizes=(0, 10, 0))) == list(range(10))
        with pytest.raises(ConfigError, match="iid: 0 examples are not enough for 3 clients with one each"):
            dealt(Iid(clients=3), sizes=())

    @pytest.mark.parametrize(
        ("stage", "sentence"),
        [
            (Iid(clients=1001), "partition iid: 1,000 examples are not enough for 1,001 clients with one each."),
            (Shards(clients=600), "1,000 examples are not enough for 600 clients with 2 each."),
            (Quantity(), "partition quantity: 500 examples are not enough for 100 clients with 10 each."),
            (Dirichlet(clients=50, alpha=0.01, least=20), "none of 1000 draws gives each of 50 clients 20 examples;"),
        ],
    )
    def test_too_few_examples_are_refused(self, stage: Stage, sentence: str) -> None:
        sizes = (500,) if isinstance(stage, Quantity) else (1000,)
        with pytest.raises(ConfigError, match=sentence.replace(".", r"\.")):
            dealt(stage, sizes=sizes)

    @pytest.mark.parametrize("stage", [Iid, Dirichlet, Shards, Quantity])
    def test_overlapping_windows_are_dealt_in_blocks_only(self, stage: Any) -> None:
        with pytest.raises(ConfigError, match=f"partition {stage.name}: examples are overlapping windows.*time_blocks"):
            _ = Partitioned(Given([], replace(NUMBERED, window=5)), (stage(),)).spec

    @pytest.mark.parametrize("stage", [Dirichlet(), Shards(), LabelPermutation()])
    def test_classes_are_needed_where_they_are_dealt_or_renamed(self, stage: Stage) -> None:
        for changes, what in (
            ({"classes": 0, "y_dtype": "float32"}, r"y is \[n\] of numbers"),
            ({"y_shape": (4,)}, r"y is \[n, 4\] of 10 classes"),
        ):
            with pytest.raises(ConfigError, match=f"it needs one class an example, but {what}"):
                _ = Partitioned(Given([], replace(NUMBERED, **changes)), (stage,)).spec


def changed(stage: Stage, spec: Spec = IMAGES, clients: int = 200, n: int = 3, **arrays: Any) -> list[Client]:
    """As many clients with the same examples, in environments of ten, under a stage."""
    x = arrays.get("x", np.stack([stripe()] * n))
    y = arrays.get("y", np.arange(len(x), dtype=np.uint8))
    own = [Client(f"person {i}", f"room {i // 10}", x, y) for i in range(clients)]
    return list(Partitioned(Given(own, spec), (stage,)).clients(RawFiles("given", shown=False)))


class TestChanging:
    def test_everyone_turns_by_an_angle_of_their_own(self) -> None:
        clients = changed(Rotation(degrees=30.0))
        candidates = np.arange(-30, 30.5, 0.5)
        images = np.stack([turned(stripe()[None], angle, 255)[0] for angle in candidates]).astype(float)
        nearest = [np.abs(images - client.x[0]).sum(axis=(1, 2)).argmin() for client in clients]
        assert stats.kstest(candidates[nearest], stats.uniform(-30, 60).cdf).pvalue > 0.01
        for client in clients:
            assert (client.x == client.x[0]).all(), "all of a client's images by the same"
        assert {client.environment for client in clients} == {f"room {i}" for i in range(20)}

    def test_corners_are_filled_and_colours_stay(self) -> None:
        blue = np.zeros((1, 12, 12, 3), np.uint8)
        blue[..., 2] = 200
        spec = replace(IMAGES, x_shape=(12, 12, 3))
        clients = changed(Rotation(fill=9), spec, 10, x=blue)
        assert {(client.x.shape, *client.x[0, 5, 5].tolist()) for client in clients} == {((1, 12, 12, 3), 0, 0, 200)}
        assert sum(bool((client.x[0] == 9).all(axis=2).any()) for client in clients) > 5, "but for the smallest angles"

    def test_some_are_inverted(self) -> None:
        clients = changed(Inversion(probability=0.3))
        dark = [np.array_equal(client.x, inverted(np.stack([stripe()] * 3))) for client in clients]
        assert all(found or np.array_equal(client.x[0], stripe()) for found, client in zip(dark, clients, strict=True))
        assert stats.binomtest(sum(dark), 200, 0.3).pvalue > 0.01

    def test_strokes_grow_and_thin(self) -> None:
        clients = changed(Stroke(half_pixels=1))
        forms = [inked(stripe()[None], stroke).tobytes() for stroke in (-1, 0, 1)]
        ink = [np.frombuffer(form, np.uint8).astype(int).sum() for form in forms]
        assert ink[0] > ink[1] > ink[2], "ink is dark"
        counts = np.bincount([forms.index(client.x[0].tobytes()) for client in clients], minlength=3)
        assert stats.chisquare(counts).pvalue > 0.01

    def test_noise_of_images_has_a_level_for_everyone(self) -> None:
        grey = np.full((20, 12, 12), 128, np.uint8)
        clients = changed(Noise(level=0.1), x=grey, y=np.zeros(20, np.uint8))
        levels = np.array([client.x.astype(float).std() for client in clients]) / 255
        assert stats.kstest(levels, stats.uniform(0, 0.1).cdf).pvalue > 0.01
        assert clients[0].x.dtype == np.uint8
        noise = np.concatenate([client.x.astype(float).ravel() - 128 for client in clients])
        assert abs(noise.mean()) < 0.1
        white = changed(Noise(level=1.0), x=np.full((1, 12, 12), 255, np.uint8), clients=5)
        assert all((client.x == 255).mean() > 0.4 for client in white), "no number wraps around"

    def test_noise_of_floats_is_in_units_of_their_own_deviation(self) -> None:
        rng = np.random.default_rng(0)
        x = (rng.standard_normal((2000, 3)) * [1, 100, 0]).astype(np.float32)
        x[:1000, 1] = np.nan
        for client in changed(Noise(level=0.5), FLOATS, 10, x=x, y=np.zeros(2000, np.uint8)):
            assert client.x.dtype == np.float32
            assert np.array_equal(np.isnan(client.x), np.isnan(x)), "what is not measured stays so"
            small, large, none = np.nanstd(client.x - x, axis=0)
            assert 0 < small < 0.55
            assert large / 100 == pytest.approx(small, rel=0.1)
            assert none == 0

    def test_features_are_scaled_by_factors_of_ones_own(self) -> None:
        x = np.ones((1, 3), np.float32)
        factors = np.concatenate([client.x for client in changed(Scaling(spread=0.4), FLOATS, x=x)])
        assert stats.kstest(np.log(factors).ravel() / 0.4, "norm").pvalue > 0.01
        assert len(np.unique(factors)) == 600

    @pytest.mark.parametrize("shape", [(8,), (8, 2)])
    def test_series_are_scaled_with_what_follows(self, shape: tuple[int, ...]) -> None:
        spec = replace(FLOATS, x_shape=shape, y_shape=(2,), y_dtype="float32", classes=0, standardise="series")
        x, y = np.ones((4, *shape), np.float32), np.full((4, 2), 3, np.float32)
        for client in changed(Scaling(), spec, 5, x=x, y=y):
            channels = client.x.reshape(4, 8, -1)
            assert (channels == channels[0, 0]).all(), "one factor a channel"
            assert client.y == pytest.approx(3 * channels[0, 0, 0])
            assert client.y.dtype == np.float32

    def test_everyone_renames_classes_in_a_way_of_their_own(self) -> None:
        y = np.array([*range(10), -1], np.int16)
        clients = changed(LabelPermutation(), x=np.stack([stripe()] * 11), y=y, spec=replace(IMAGES, y_dtype="int16"))
        renamed = {tuple(client.y.tolist()) for client in clients}
        assert len(renamed) == 200
        assert all(sorted(names[:10]) == list(range(10)) and names[10] == -1 for names in renamed)
        assert clients[0].y.dtype == np.int16
        where_zero_goes = np.bincount([names[0] for names in renamed], minlength=10)
        assert stats.chisquare(where_zero_goes).pvalue > 0.01

    def test_groups_share_a_permutation_and_name_the_environment(self) -> None:
        clients = changed(LabelPermutation(groups=3), n=10)
        names = {client.environment.split(", ")[1]: tuple(client.y.tolist()) for client in clients}
        assert sorted(names) == [f"label_permutation {group}" for group in range(3)]
        assert names["label_permutation 0"] == tuple(range(10))
        assert len(set(names.values())) == 3
        for client in clients:
            assert tuple(client.y.tolist()) == names[client.environment.split(", ")[1]]
        assert stats.chisquare([sum(n in client.environment for client in clients) for n in names]).pvalue > 0.01

    def test_two_classes_have_two_permutations(self) -> None:
        spec = replace(IMAGES, classes=2)
        y = np.array([0, 1, 1], np.uint8)
        found = {tuple(client.y.tolist()) for client in changed(LabelPermutation(groups=2), spec, 20, y=y)}
        assert found == {(0, 1, 1), (1, 0, 0)}
        with pytest.raises(ConfigError, match="groups is 3, but 2 classes have fewer permutations"):
            changed(LabelPermutation(groups=3), spec)

    @pytest.mark.parametrize("stage", [Rotation, Noise, LabelPermutation])
    def test_environments_may_share_a_change(self, stage: Any) -> None:
        def key(client: Client) -> Any:
            if stage is Noise:  # only its level is shared
                return round(client.x.astype(float).std())
            return client.x[0].tolist(), client.y.tolist()

        grey = np.full((1000, 12, 12), 128, np.uint8)
        arrays: dict[str, Any] = {"x": grey, "y": np.zeros(1000, np.uint8)} if stage is Noise else {}
        clients = changed(stage(by="environment"), clients=30, **arrays)
        of_rooms = {client.environment: key(client) for client in clients}
        assert all(key(client) == of_rooms[client.environment] for client in clients)
        assert len(set(map(str, of_rooms.values()))) == 3
        if stage is Noise:
            assert not np.array_equal(clients[0].x, clients[1].x)

    def test_a_change_depends_on_who_it_is_of_and_the_seed_only(self) -> None:
        some, all_of_them = changed(Rotation(), clients=3), changed(Rotation(), clients=9)
        assert all(np.array_equal(one.x, two.x) for one, two in zip(some, all_of_them[:3], strict=True))
        assert not np.array_equal(some[0].x, changed(Rotation(seed=1), clients=3)[0].x)

    @pytest.mark.parametrize(
        ("stage", "spec", "sentence"),
        [
            (Rotation(), FLOATS, r"rotation: it is for images, .* but x is float32 \[n, 3\]"),
            (Stroke(), replace(IMAGES, x_shape=(80,)), r"stroke: it is for images, .* but x is uint8 \[n, 80\]"),
            (Inversion(), replace(IMAGES, x_shape=(12, 12, 2)), "inversion: it is for images"),
            (Noise(), replace(IMAGES, x_shape=(80,)), r"noise: it is for images and floats, but x is uint8 \[n, 80\]"),
            (Scaling(), IMAGES, r"scaling: it is for floats, but x is uint8 \[n, 12, 12\]"),
        ],
    )
    def test_other_data_are_refused(self, stage: Stage, spec: Spec, sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            _ = Partitioned(Given([], spec), (stage,)).spec


@pytest.mark.parametrize("stage", [Iid(clients=2), LabelPermutation()])
@pytest.mark.parametrize(
    ("client", "sentence"),
    [
        (Client("a", "", np.zeros(3, np.int32), np.zeros(3, int)), "x of client 'a' is int32, not int64"),
        (Client("a", "", np.zeros((3, 1), int), np.zeros(3, int)), r"x of client 'a' has shape \[3, 1\], not \[3\]"),
        (Client("a", "", np.zeros(3, int), np.zeros((3, 2), int)), r"y of client 'a' has shape \[3, 2\], not \[3\]"),
        (Client("a", "", np.zeros(3, int), np.full(3, 10)), r"client 'a' has a label that is not in 0\.\.9"),
    ],
)
def test_a_malformed_client_is_named(stage: Stage, client: Client, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        list(Partitioned(Given([client]), (stage,)).clients(RawFiles("given", shown=False)))


class TestOption:
    def test_stages_follow_one_another_in_their_order(self) -> None:
        def images(*stages: Stage) -> list[int]:
            clients = Partitioned(Striped(), stages).clients(RawFiles("striped", shown=False))
            return [len(np.unique(client.x, axis=0)) for client in clients]

        by_room, deal = Rotation(by="environment"), Iid(clients=2)
        assert images(deal, by_room) == [1, 1], "new clients are in no room"
        assert images(by_room, deal) == [3, 3], "new clients have images of all rooms"

    def test_a_list_one_table_and_a_name_are_understood(self) -> None:
        given: list[Any] = [[{"name": "iid"}], {"name": "iid"}, "iid", ["iid"]]
        assert {build("datasets", "synthetic", {"partition": one}) for one in given} == {
            Partitioned(Synthetic(), (Iid(),))
        }

    def test_options_are_written_out(self) -> None:
        options = {"tasks": 50, "partition": {"name": "dirichlet", "alpha": 0.3}}
        found = resolve("datasets", "synthetic", options)
        stage = {"name": "dirichlet", "alpha": 0.3, "clients": 100, "least": 10, "seed": 0}
        assert found == {**resolve("datasets", "synthetic", {"tasks": 50}), "partition": [stage]}
        assert resolve("datasets", "synthetic", found) == found
        assert options_of(build("datasets", "synthetic", options)) == found

    def test_without_stages_nothing_is_another(self) -> None:
        plain = resolve("datasets", "synthetic", {})
        assert "partition" not in plain
        assert resolve("datasets", "synthetic", {"partition": []}) == plain
        assert build("datasets", "synthetic", {"partition": []}) == Synthetic()

    @pytest.mark.parametrize("folder", sorted(path.name for path in (checkout() / "results").glob("*/")))
    def test_committed_records_keep_their_hashes(self, folder: str) -> None:
        first = {path.parents[2]: path for path in (checkout() / "results" / folder).rglob("seed-*.json")}
        for path in first.values():
            record = json.loads(path.read_text(encoding="utf-8"))
            data = record["config"]["dataset"]
            redrawn = {"seed": THE_RUNS} if data["options"].get("seed") == THE_RUNS else {}
            given = {key: value for key, value in data["options"].items() if key not in redrawn}
            options = {**resolve("datasets", data["name"], given), **redrawn}
            config = {**record["config"], "dataset": {**data, "options": options}}
            assert digest(config)[:12] == record["config_hash"]

    def test_prepared_folders_without_a_partition_keep_their_names(self) -> None:
        assert prepared_directory("femnist", Femnist()).name == "1.0.0-02ef8e2c"
        iid = build("datasets", "femnist", {"partition": "iid"})
        assert prepared_directory("femnist", iid) != prepared_directory("femnist", Femnist())
        other = build("datasets", "femnist", {"partition": {"name": "iid", "seed": 1}})
        assert prepared_directory("femnist", other) != prepared_directory("femnist", iid)

    def test_the_stages_code_is_part_of_the_datas(self) -> None:
        iid, turns = (build("datasets", "femnist", {"partition": name}) for name in ("iid", "rotation"))
        assert len({of_dataset("femnist", dataset) for dataset in (Femnist(), iid, turns)}) == 3

    def test_the_spec_is_the_datasets_without_published_figures(self) -> None:
        found = build("datasets", "synthetic", {"partition": ["iid", "scaling"]}).spec
        assert Synthetic().spec.published
        assert found == replace(Synthetic().spec, published=None)

    @pytest.mark.parametrize(
        ("partition", "sentence"),
        [
            ("idd", "unknown partition of synthetic 'idd': did you mean 'iid'?"),
            ({"name": "iid", "client": 3}, "unknown option of iid 'client': did you mean 'clients'?"),
            ({"name": "iid", "clients": 0}, "partition iid: clients is 0, not from 1 to 10000000."),
            ({"name": "iid", "clients": 2.5}, "iid: clients = 2.5: Input should be a valid integer"),
            ({"name": "iid", "seed": -1}, "partition iid: seed is -1, not from 0"),
            ({"name": "dirichlet", "alpha": 0.0}, "partition dirichlet: alpha is 0.0, not from 0.001"),
            ({"name": "dirichlet", "alpha": float("nan")}, "holds a number that is not finite"),
            ({"name": "quantity", "law": "normal"}, "quantity: law = 'normal': Input should be 'lognormal' or 'power'"),
            ({"name": "noise", "by": "room"}, "noise: by = 'room': Input should be 'client' or 'environment'"),
            ({"alpha": 0.3}, "synthetic: partition = {'alpha': 0.3}: give a stage by its name and options, as {"),
            (3, "synthetic: partition = 3: give a stage by its name"),
            ([["iid"]], "synthetic: partition = ['iid']: give a stage by its name"),
        ],
    )
    def test_what_makes_no_sense_is_one_sentence(self, partition: Any, sentence: str) -> None:
        with pytest.raises(ConfigError) as error:
            build("datasets", "synthetic", {"partition": partition})
        assert sentence in str(error.value)

    @pytest.mark.parametrize("name", sorted(STAGES))
    def test_limits_are_of_options_that_there_are(self, name: str) -> None:
        stage: Any = STAGES[name]
        for option, (low, high) in stage.limits.items():
            for value in (low, high):
                assert getattr(stage(**{option: type(getattr(stage(), option))(value)}), option) == value
            with pytest.raises(ConfigError, match=f"{option} is .*, not from"):
                stage(**{option: high + 1})

    def test_a_stage_that_does_not_fit_the_data_is_refused_with_the_suite(self) -> None:
        with pytest.raises(ConfigError, match="partition rotation: it is for images"):
            one_cell(("synthetic", {"options": {"partition": "rotation"}}), "fedavg", name="runs", seed=1, protocol={})

    def test_a_misspelt_option_may_have_meant_it(self) -> None:
        with pytest.raises(ConfigError, match="unknown option of synthetic 'partitoin': did you mean 'partition'"):
            build("datasets", "synthetic", {"partitoin": "iid"})

    def test_a_dataset_with_such_an_option_of_its_own_keeps_it(self) -> None:
        @dataclass(frozen=True)
        class Own:
            partition: str = "north"
            spec: ClassVar[Spec] = NUMBERED

            def clients(self, raw: RawFiles) -> Iterator[Client]:
                yield from numbered([5])

        name = registry.bring("datasets", Own)
        assert build("datasets", name, {"partition": "iid"}) == Own("iid")
        assert resolve("datasets", name, {}) == {"partition": "north"}


class TestRuns:
    WORDS = ("--options", "tasks=40", "--options", "dimension=5", "--protocol", "rounds=3")

    def test_a_run_of_the_command_line_is_of_the_new_clients(self, capsys: pytest.CaptureFixture[str]) -> None:
        first, second = '{name = "dirichlet", alpha = 0.3, clients = 12}', '{name = "label_permutation", groups = 2}'
        partition = f"partition=[{first}, {second}]"
        words = ["run", "--dataset", "synthetic", "--algorithm", "fedavg", *self.WORDS, "--options", partition]
        assert main(words) == 0
        record = read_record(Record, Path(capsys.readouterr().out.strip()))
        stages = record.content.config["dataset"]["options"]["partition"]
        assert [stage["name"] for stage in stages] == ["dirichlet", "label_permutation"]
        assert config_of(record.content).config_hash() == record.content.config_hash
        clients = record.content.data.clients
        assert (clients.train, clients.validation, clients.test) == (10, 1, 1)
        store = load("synthetic", build("datasets", "synthetic", record.content.config["dataset"]["options"]))
        assert store.about["data_hash"] == record.content.data.data_hash
        assert store.about["options"]["partition"] == stages
        assert set(store.environments) == {"label_permutation 0", "label_permutation 1"}

    def test_a_suite_and_python_have_the_same_data(self, tmp_path: Path) -> None:
        suite = """
        name = "mine"
        title = "Mine"
        [datasets.blocks]
        name = "synthetic"
        options = { tasks = 40, dimension = 5, partition = { name = "time_blocks", clients = 15 } }
        [algorithms.fedavg]
        """
        (tmp_path / "mine.toml").write_text(suite)
        config = load_suite("mine.toml").config("blocks", "fedavg", 1)
        blocks = {"name": "time_blocks", "clients": 15}
        clients = ml.load("synthetic", tasks=40, dimension=5, partition=blocks)
        assert clients.ids[:2] == ["client 00", "client 01"]
        assert clients.options == config.dataset_options
        assert clients.plugin == config.build_dataset()
        plugin = Partitioned(Synthetic(tasks=40, dimension=5), (TimeBlocks(clients=15),))
        assert ml.load(plugin).options == clients.options

    def test_a_table_keeps_its_file_and_its_rows_meaning(self) -> None:
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"who": np.arange(200) % 4, "a": rng.normal(size=200), "y": rng.integers(0, 2, 200)})
        clients = ml.clients(table, client="who", target="y", name="mine", partition={"name": "iid", "clients": 10})
        assert len(clients) == 10
        assert [used["name"].endswith(".parquet") for used in clients.store.about["raw"]] == [True]
        result = ml.run("fedavg", clients, rounds=1, test_supports=[0.2], progress=False)
        adapted = result.adapt(table.head(8), table["y"].head(8))
        assert len(adapted(table.head(3))) == 3
