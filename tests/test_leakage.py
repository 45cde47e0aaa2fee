"""What a client can lose: attacks beside closed forms, with and without layers, what is measured and what refused."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coins
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metaleaf import registry
from metaleaf.cli import main
from metaleaf.config.config import RunConfig
from metaleaf.config.protection import resolve_protection
from metaleaf.data.client_store import ClientStore
from metaleaf.errors import ConfigError
from metaleaf.jobs.execute import runner
from metaleaf.leakage.inversion import Inputs, Inversion, variation
from metaleaf.leakage.leakage import Leak, Question, of_run
from metaleaf.leakage.measure import matched, psnr, recovered, squared_errors
from metaleaf.leakage.scene import Scene, sees_single_updates
from metaleaf.leakage.shown import figure
from metaleaf.leakage.subjects import subject_of, update_of
from metaleaf.leakage.tokens import embedding_of
from metaleaf.protection.pipeline import numbers
from metaleaf.runs.run import Run

STORE = coins.store()
SHORT = Inversion(steps=100)
NOISY = {"clip": {"norm": 0.05}, "noise": {"multiplier": 5.0, "place": "clients"}}


def run(
    algorithm: str = "fedavg",
    layers: dict[str, Any] | None = None,
    store: ClientStore = STORE,
    model: str = "logistic",
    **hyperparameters: Any,
) -> Run:
    plain = coins.config(algorithm, weighting="uniform", hyperparameters=hyperparameters)
    config: RunConfig = plain.model_copy(update={"protection": resolve_protection(layers or {}), "model": model})
    return runner(config)(config, store, mode="sequential")


def attacked(one: Run, examples: int = 1, clients: int = 2, inversion: Inversion = SHORT) -> Leak:
    state = one.algorithm.init(one.task, one.task.params())
    return of_run(one, state, examples, Question(clients=clients, inversion=inversion))


def mean(leak: Leak, name: str) -> float:
    return float(np.mean([row[name] for row in leak.rows]))


def drawn(x: np.ndarray, classes: int, examples: int = 10) -> ClientStore:
    """Clients of ten examples each, with random labels."""
    clients, rng = len(x) // examples, np.random.default_rng(1)
    spec = {"version": "1.0.0", "x_shape": [*x.shape[1:]], "x_dtype": str(x.dtype), "classes": classes, "window": 0}
    y = rng.integers(0, classes, len(x)).astype(np.uint8)
    ids = np.array([f"client-{i}" for i in range(clients)])
    about: dict[str, Any] = {"name": "drawn", "spec": spec, "data_hash": "0" * 64}
    return ClientStore(x, y, examples * np.arange(clients + 1), ids, np.array(["here"] * clients), about)


TEXTS = drawn(np.random.default_rng(0).zipf(1.3, (200, 6)).clip(max=40).astype(np.uint8) - 1, classes=40)
IMAGES = drawn(np.random.default_rng(0).integers(0, 256, (200, 8, 8)).astype(np.uint8), classes=5)


class TestWhatIsMeasured:
    def test_psnr(self) -> None:
        """A pixel of four that is off by half the range: 1/16, which is 12.04 dB."""
        true, found = np.zeros((1, 2, 2)), np.array([[[0.5, 0], [0, 0]]])
        assert squared_errors(found, true) == pytest.approx(1 / 16)
        assert psnr(squared_errors(found, true)) == pytest.approx(12.0412, abs=1e-4)
        assert np.isinf(psnr(squared_errors(true, true)))

    def test_matching_finds_a_permutation(self) -> None:
        true = np.random.default_rng(0).random((6, 3, 3))
        order = np.array([3, 1, 5, 0, 2, 4])
        found = true[order] + 0.01
        assert (found[matched(squared_errors(found, true))] == true + 0.01).all()

    def test_matching_is_the_best_and_not_greedy(self) -> None:
        """The nearest pair, of the second found and the first true, would leave 100 for the others."""
        assert matched(np.array([[2.0, 100.0], [1.0, 2.0]])).tolist() == [0, 1]

    def test_tokens(self) -> None:
        assert recovered({1, 2, 3, 4}, {3, 4, 5}) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
        assert recovered(set(), {3}) == (0, 0, 0)

    def test_total_variation(self) -> None:
        """Down: |3 - 1| and |3 - 2|; across |2 - 1| and 0; each a mean over two."""
        assert float(variation([torch.tensor([[[1.0, 2.0], [3.0, 3.0]]])])) == pytest.approx(1.5 + 0.5)


class TestInversion:
    def test_it_finds_what_the_closed_form_has(self) -> None:
        """Of one example and one step of softmax regression, a row of dW is dz x and the number of db is dz."""
        one = run(batch_size=10)
        state = one.algorithm.init(one.task, one.task.params())
        subject = subject_of(one, state, one.federation.cohort(1)[0], 1)
        update = update_of(one, state, subject.episode)
        closed = update["out.weight"] / update["out.bias"][:, None]
        torch.testing.assert_close(closed, subject.x.expand(3, 4), rtol=1e-3, atol=1e-4)
        low, high = -4.0, 4.0

        def made(inputs: Inputs) -> Any:
            return update_of(one, state, subject.holding(low + (high - low) * inputs[0]))

        for distance in ("cosine", "squared"):
            attack = Inversion(distance=distance, steps=120)
            found = attack(made, update, [subject.x.shape], torch.tensor(3))
            apart = found.inputs[0] - (closed[:1] - low) / (high - low)
            assert psnr(np.array(float(apart.square().mean()))) > 45
            assert found.objective < 1e-4

    def test_the_same_seed_finds_the_same(self) -> None:
        first, second = (attacked(run(), inversion=Inversion(steps=20)) for _ in range(2))
        assert first.rows == second.rows

    def test_restarts_keep_the_best_objective(self) -> None:
        few = [attacked(run(), 3, inversion=Inversion(steps=30, restarts=count)) for count in (1, 4)]
        assert all(b["objective"] <= a["objective"] for a, b in zip(few[0].rows, few[1].rows, strict=True))
        assert mean(few[1], "objective") < mean(few[0], "objective")

    @pytest.mark.parametrize("distance", ["cosine", "squared"])
    def test_of_nothing_it_finds_nothing(self, distance: Any) -> None:
        """A bound on what a message of zeros can tell: no better than the middle of the range, by far."""
        true = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))

        def made(inputs: Inputs) -> Tensor:
            return inputs[0] @ torch.ones(5, 4)

        found = Inversion(distance, steps=50)(made, torch.zeros(3, 4), [true.shape], torch.tensor(1))
        assert float((found.inputs[0] - true).square().mean()) > float((0.5 - true).square().mean())

    def test_an_update_without_a_derivative_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no derivative by the inputs"):
            SHORT(lambda inputs: torch.ones(3), torch.ones(3), [(2,)], torch.tensor(1))


class TestTheAttackersModel:
    @pytest.mark.parametrize(
        "algorithm",
        ["fedavg", "maml", "meta_sgd", "per_fedavg", "reptile", "scaffold", "ditto", "pfedhn", "ifca", "fedprox"],
    )
    def test_of_the_true_inputs_it_is_what_the_client_sends(self, algorithm: str) -> None:
        self._check(run(algorithm))

    @pytest.mark.parametrize(
        "layers",
        [
            {"clip": {"norm": 0.01}},
            {"compress": {"name": "top_k", "share": 0.3}},
            {"clip": {"norm": 1e-3}, "secure": {}},
        ],
    )
    def test_it_knows_the_layers(self, layers: dict[str, Any]) -> None:
        self._check(run("fedavg", layers, epochs=3))

    def _check(self, one: Run) -> None:
        state = one.algorithm.init(one.task, one.task.params())
        cohort = one.federation.cohort(1)
        subjects = [subject_of(one, state, client, 5) for client in cohort]
        scene = Scene(one, state, cohort, subjects)
        messages = scene.arrived([update_of(one, state, subject.episode) for subject in subjects])
        sides = [[i] for i in range(5)] if sees_single_updates(scene.pipeline) else [list(range(5))]
        assert len(messages) == len(sides)
        for side, message in zip(sides, messages, strict=True):
            made = scene.modelled(side, [subjects[i].x for i in side], scene.travelled(message))
            torch.testing.assert_close(made, numbers(message), rtol=1e-4, atol=1e-7)

    def test_a_client_keeps_its_split(self) -> None:
        """Of five examples one is support, as a fifth is in the protocol, and no example is twice."""
        one = run("maml")
        state = one.algorithm.init(one.task, one.task.params())
        client = one.federation.cohort(1)[0]
        subject = subject_of(one, state, client, 5)
        assert (len(subject.support), len(subject.query), len(subject.x)) == (1, 4, 5)
        whole = subject_of(one, state, client, 10_000)
        expected = one.federation.episode(client, 1)
        for got, wanted in zip(whole.episode[:3], expected[:3], strict=True):
            assert torch.equal(got.x, wanted.x)
            assert torch.equal(got.y, wanted.y)
        assert torch.equal(subject.episode.support.x, expected.support.x[:1])
        assert torch.equal(subject.episode.query.y, expected.query.y[:4])


class TestLayers:
    def test_one_example_is_found_and_beats_the_guesses(self) -> None:
        leak = attacked(run())
        assert [row["summed"] for row in leak.rows] == [1, 1]
        assert mean(leak, "error") < 1e-3 < mean(leak, "error_nearest")

    def test_so_it_is_through_several_steps(self) -> None:
        assert mean(attacked(run(epochs=3)), "error") < 0.01

    def test_a_bound_hides_nothing(self) -> None:
        assert mean(attacked(run(layers={"clip": {"norm": 1e-3}})), "error") < 1e-3

    def test_noise_does(self) -> None:
        assert mean(attacked(run(layers=NOISY)), "error") > 0.3

    @pytest.mark.parametrize("layers", [{"clip": {}, "secure": {}}, {"clip": {}, "noise": {"multiplier": 1e-9}}])
    def test_of_a_sum_less_is_found(self, layers: dict[str, Any]) -> None:
        """Twenty numbers cannot come back from fifteen. The attack is one for all: the objective is everyone's."""
        leak = attacked(run(layers=layers))
        assert [row["summed"] for row in leak.rows] == [5, 5]
        assert len({row["objective"] for row in leak.rows}) == 1
        assert mean(leak, "error") > 0.1

    def test_without_a_query_nothing_is_sent(self) -> None:
        leak = attacked(run("maml"))
        assert [row["update_norm"] for row in leak.rows] == [0, 0]
        assert "error" not in leak.rows[0]


class TestTokens:
    @pytest.mark.parametrize("algorithm", ["fedavg", "maml", "meta_sgd", "scaffold"])
    def test_without_layers_all_are_found(self, algorithm: str) -> None:
        leak = attacked(run(algorithm, store=TEXTS, model="char_mlp"), 8)
        for row in leak.rows:
            assert (row["precision"], row["recall"], row["f1"]) == (1, 1, 1)
            assert row["f1_frequent"] < 1

    def test_noise_hides_them(self) -> None:
        leak = attacked(run(layers=NOISY, store=TEXTS, model="char_mlp"), 3, clients=5)
        assert mean(leak, "f1") < 0.8

    def test_signs_hide_nothing(self) -> None:
        """Of a vector that has not moved they are all positive."""
        leak = attacked(run(layers={"compress": "sign"}, store=TEXTS, model="char_mlp"), 8)
        assert mean(leak, "f1") > 0.95

    def test_what_does_not_travel_is_not_found(self) -> None:
        layers = {"compress": {"name": "top_k", "share": 0.001}}
        leak = attacked(run(layers=layers, store=TEXTS, model="char_mlp"), 8)
        for row in leak.rows:
            assert row["precision"] in (0, 1)
            assert row["recall"] < 1

    def test_of_a_sum_it_is_not_known_whose_they_are(self) -> None:
        leak = attacked(run(layers={"clip": {}, "secure": {}}, store=TEXTS, model="char_mlp"), 8)
        for row in leak.rows:
            assert row["recall"] > 0.9
            assert row["precision"] < 1

    def test_the_embedding_is_that_of_the_tokens(self) -> None:
        """The Transformer has another, of places."""
        one = run(store=TEXTS, model="transformer")
        assert embedding_of(one.task, torch.tensor(TEXTS.x[:3])) == "embedding"

    def test_a_model_without_one_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"MLP has no nn\.Embedding"):
            attacked(run(store=TEXTS, model="mlp"))


class Scaling(nn.Module):
    """Divides pixels by 255, and takes floats for divided."""

    def __init__(self, outputs: int, x_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.out = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out((x if x.is_floating_point() else x.float() / 255).flatten(1))
        return found


class Scaled(Scaling):
    """Divides both."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out((x.float() / 255).flatten(1))
        return found


class TestImages:
    @pytest.fixture(autouse=True)
    def brought(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "_brought", {})
        for model in (Scaling, Scaled):
            registry.bring("models", model)

    def test_one_image_comes_back(self) -> None:
        leak = attacked(run(store=IMAGES, model="scaled"), inversion=Inversion(steps=100, variation=0))
        assert mean(leak, "psnr") > 30
        assert mean(leak, "psnr_best") >= mean(leak, "psnr")
        # A uniform pixel's variance is 1/12, and a picture of nothing but the mean errs by that much.
        assert mean(leak, "psnr_mean_image") == pytest.approx(10 * np.log10(12), abs=0.7)
        true, found = np.concatenate(leak.images, axis=1)
        assert true.shape == found.shape == (2, 8, 8)
        assert mean(leak, "psnr") == pytest.approx(psnr(np.square(true - found).mean((1, 2))).mean())

    def test_of_two_the_query_comes_back_through_an_inner_loop(self) -> None:
        leak = attacked(run("maml", store=IMAGES, model="scaled"), 2, inversion=Inversion(steps=100, variation=0))
        assert all(row["psnr_best"] > 20 > row["psnr_nearest"] + 8 for row in leak.rows)

    def test_a_picture_shows_the_true_ones_above_those_found(self) -> None:
        leak = attacked(run(store=IMAGES, model="small_cnn"), inversion=Inversion(steps=2))
        true, found = (axes.get_images()[0].get_array() for axes in figure([leak]).axes)
        assert true is not None
        assert found is not None
        assert true.shape == found.shape == (8, 8 + 1 + 8)
        first = next(one for one, _ in leak.images)[0]
        assert (true[:, :8] == first).all()
        assert (true[:, 8] == 1).all()

    def test_a_model_that_takes_floats_otherwise_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="Scaling makes something else of floats"):
            attacked(run(store=IMAGES, model="scaling"))


SUITE = """
name = "small"
title = "Small"
seeds = [1]
protocol = { rounds = 1, clients_per_round = 4, weighting = "uniform", test_supports = [0.2] }

[datasets.plain]
name = "synthetic"
options = { tasks = 40, dimension = 5, classes = 3 }

[datasets.noisy]
name = "synthetic"
options = { tasks = 40, dimension = 5, classes = 3 }
protection = { clip = { norm = 0.1 }, noise = { multiplier = 5.0, place = "clients" } }

[algorithms.fedavg]
[algorithms.maml]
[algorithms.local]
[algorithms.fedrep]
[algorithms.reptile]
seeds = [3]
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Words that choose the suite, whose data are prepared once."""
    root = tmp_path_factory.mktemp("small")
    (root / "small.toml").write_text(SUITE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEAF_DATA", str(root / "data"))
        yield ["leak", str(root / "small.toml"), "--results", str(root / "results"), "--threads", "1"]


class TestTheCommand:
    def test_with_and_without_layers(self, small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        words = ["--algorithms", "fedavg", "maml", "--examples", "1", "2", "--clients", "1", "--steps", "120"]
        assert main([*small, *words]) == 0
        *table, path = capsys.readouterr().out.splitlines()
        assert [line.split()[:4] for line in table[:2]] == [
            ["dataset", "algorithm", "examples", "seen"],
            ["plain", "fedavg", "1", "alone"],
        ]
        assert [line.split()[:3] for line in table if "nothing is sent" in line] == [["plain", "maml", "1"]]
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2 * 2 * 2
        of_one = {
            row["dataset"]: row["error"] for row in rows if (row["algorithm"], row["examples"]) == ("fedavg", "1")
        }
        assert float(of_one["plain"]) < 0.1 < float(of_one["noisy"])

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--datasets", "plane"], "unknown dataset of the suite 'plane': did you mean 'plain'"),
            (["--algorithms", "fedagv"], "unknown algorithm of the suite 'fedagv'"),
            (["--seed", "2"], "unknown seed of the suite '2'"),
            (["--clients", "5"], "5 clients are to be attacked and 4 take part in a round"),
            (["--clients", "0"], "leak: clients = 0: Input should be greater than 0"),
            (["--steps", "0"], "inversion.steps = 0"),
            (["--examples", "0"], "examples.0 = 0"),
            (["--seed", "3", "--algorithms", "fedavg"], "no algorithm of those has the seed 3 in the suite small"),
            (["--algorithms", "maml", "--model", "final"], "run the suite with --save, or attack the untrained model"),
            (["--algorithms", "local"], "local sends nothing"),
            (["--algorithms", "fedrep"], "fedrep on plain: its clients send nothing to attack"),
        ],
    )
    def test_what_cannot_be_attacked_is_one_sentence(
        self, small: list[str], capsys: pytest.CaptureFixture[str], words: list[str], said: str
    ) -> None:
        assert main([*small, *words]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert error[-1].startswith("metaleaf: ")
        assert said in error[-1]

    def test_what_a_run_has_saved_is_broadcast(self, small: list[str]) -> None:
        suite = small[1]
        once = ["--algorithms", "fedavg", "--results", str(Path(suite).parent / "results"), "--threads", "1"]
        assert main(["suite", suite, *once, "--save", "--no-report"]) == 0
        norms = {}
        for model in ("untrained", "final"):
            words = [
                "--algorithms",
                "fedavg",
                "--datasets",
                "plain",
                "--steps",
                "1",
                "--clients",
                "4",
                "--model",
                model,
            ]
            assert main([*small, *words]) == 0
            table = Path(suite).parent / "results" / "small" / "leakage.csv"
            with open(table, encoding="utf-8", newline="") as file:
                norms[model] = [float(row["update_norm"]) for row in csv.DictReader(file)]
        assert norms["untrained"] != norms["final"]
