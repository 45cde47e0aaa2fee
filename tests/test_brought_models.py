"""Models that a user brings: they start as they were made, learn under every engine, and are refused in a sentence."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import small_environments
import torch
import torch.nn.functional as F
from brought_models import (
    GRU,
    MAKERS,
    BatchNormed,
    Images,
    ResNet8,
    Text,
    Transformer,
    bring,
    cohort,
    config,
    shots,
    store,
    task,
)
from test_algorithms import CPU, assert_near
from test_run import without_times
from torch import Tensor, nn
from torch.testing import assert_close

from metaleaf import models
from metaleaf.algorithm import State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.fedbn import FedBN
from metaleaf.algorithms.maml import MAML
from metaleaf.engine import factored
from metaleaf.engine.engine import Mode, engine
from metaleaf.engine.sequential import Sequential
from metaleaf.engine.vectorised import Vectorised
from metaleaf.environments.run import EnvironmentRun
from metaleaf.errors import ConfigError
from metaleaf.learning import descend
from metaleaf.models import Model
from metaleaf.models.logistic import Logistic
from metaleaf.optimizers import SGD
from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell
from metaleaf.shots import minibatches
from metaleaf.task import Task

MODES: tuple[Mode, ...] = ("sequential", "lowrank", "vectorised")
WEIGHTS = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture(autouse=True)
def brought(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their names; and every dense layer is worth factoring."""
    monkeypatch.setattr(factored, "LEAST_ROWS", 1)
    bring(monkeypatch, {name: make for name, (_, make) in MAKERS.items()})


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ----------------------------------------------------------------------------------------------------------- they learn

LEARN: dict[str, dict[str, Any]] = {
    "fedavg": {"client_optimizer": {"name": "adam", "lr": 0.01}, "epochs": 3},
    "maml": {"inner_lr": 0.03, "server_optimizer": {"name": "adam", "lr": 0.01}},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", LEARN)
@pytest.mark.parametrize("model", ["transformer", "resnet8"])
def test_learns_under_every_engine(model: str, algorithm: str, mode: Mode) -> None:
    """Three classes, so a constant predictor is right in a third of the cases. MAML takes second derivatives."""
    rounds = 8 if model == "transformer" else 16
    found = config(model, algorithm, LEARN[algorithm], rounds=rounds, clients_per_round=5, evaluate_every=rounds)
    run = Run(found, store(MAKERS[model][0]), mode=mode)
    assert run.engine.mode == mode
    assert run.train().rows[-1]["validation_after"] > 0.8


@pytest.mark.parametrize("algorithm", [FedAvg(SGD(0.1), batch_size=4, epochs=2), MAML(0.1, inner_steps=2)], ids=repr)
@pytest.mark.parametrize("make", [Transformer, ResNet8])
def test_engines_give_the_same(make: type[Model], algorithm: Any) -> None:
    """With dropout, and clients that are padded."""
    work = task(make())
    params, episodes = work.params(), cohort("text" if make is Transformer else "images")
    clients = [(one.support, one.query) for one in episodes]
    one = Sequential(work, algorithm, CPU)
    update, scores = one.gather(params, episodes, WEIGHTS).update, one.score(params, clients, True)
    others = [engine(work, algorithm, "lowrank"), Vectorised(work, algorithm, CPU)]
    assert [other.mode for other in others] == ["lowrank", "vectorised"]
    for other in others:
        assert_near(other.gather(params, episodes, WEIGHTS).update, update)
        assert_close(other.score(params, clients, True), scores, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_threads_change_no_bit(mode: Mode) -> None:
    work, algorithm, found = task(Transformer(), torch.float32), FedAvg(SGD(0.1), batch_size=4), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(engine(work, algorithm, mode).gather(work.params(), cohort("text"), WEIGHTS).update)
    torch.set_num_threads(1)
    assert_close(found[0], found[1], rtol=0, atol=0)


def test_a_resumed_run_drops_the_same_units(tmp_path: Any) -> None:
    found = config("transformer", "fedavg", LEARN["fedavg"], rounds=4, clients_per_round=3, evaluate_every=2)

    def stop(number: int, rounds: int, row: dict[str, float]) -> None:
        if number == 3:
            raise KeyboardInterrupt

    for folder in ("whole", "resumed"):
        if folder == "resumed":
            torch.rand(5)  # the process's generator has moved on
            with pytest.raises(KeyboardInterrupt):
                Run(found, store("text"), mode="vectorised").train(Cell(tmp_path / folder, found), stop)
        Run(found, store("text"), mode="vectorised").execute(Cell(tmp_path / folder, found))
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "resumed")


# ------------------------------------------------------------------------------------------------------ how they start


@pytest.mark.parametrize("model", ["transformer", "resnet8"])
def test_starts_as_its_constructor_made_it(model: str) -> None:
    torch.manual_seed(5)
    made = dict(MAKERS[model][1]().named_parameters())
    params = Task(models.build(model, {}, 5)).params()
    assert_close(params, {name: p.detach() for name, p in made.items()}, rtol=0, atol=0)
    norms = [name for name in params if "norm" in name and name.endswith("weight")]
    assert norms
    assert all(bool((params[name] == 1).all()) for name in norms)


def test_further_draws_are_made_by_the_constructor() -> None:
    work = Task(models.build("transformer", {}, 5).double(), seed=3)
    first, again, other, start = work.params(1), work.params(1), work.params(2), work.params()
    assert_close(first, again, rtol=0, atol=0)
    for name in ("places", "out.weight", "encoder.layers.0.linear1.weight"):
        assert not torch.equal(first[name], other[name])
        assert not torch.equal(first[name], start[name])
        assert first[name].dtype == torch.float64
    assert bool((first["encoder.layers.0.norm1.weight"] == 1).all())


def test_a_model_that_cannot_be_drawn_again_says_so() -> None:
    with pytest.raises(ConfigError, match=r"^Transformer cannot be drawn once more, .*reset_parameters\.$"):
        task(Transformer()).params(1)


# ---------------------------------------------------------------------------------------------------------------- parts


def test_parts_are_paths() -> None:
    work = task(ResNet8())
    others, norm = work.split(work.params(), "norm")
    assert set(norm) == {f"blocks.{i}.norm{j}.{p}" for i in range(3) for j in (1, 2) for p in ("weight", "bias")}
    assert others.keys() | norm.keys() == work.params().keys()
    assert set(work.split(work.params(), "head")[1]) == {"out.weight", "out.bias"}
    state = FedBN().init(work, work.params())
    assert state.broadcast.keys() == others.keys()


def test_a_path_is_not_the_start_of_a_name() -> None:
    class Two(Text):
        parts = {"head": ("out",), "norm": ("block",)}

        def __init__(self) -> None:
            super().__init__()
            self.block, self.block2 = nn.LayerNorm(16), nn.LayerNorm(16)

    work = task(Two())
    assert set(work.split(work.params(), "norm")[1]) == {"block.weight", "block.bias"}


def test_a_part_that_does_not_exist_is_named() -> None:
    class Mistaken(ResNet8):
        parts = {"head": ("out",), "norm": ("blocks.0.n",)}

    with pytest.raises(
        ConfigError, match=r"^Mistaken\.parts\['norm'\] names 'blocks\.0\.n', which it does not have: .*\.$"
    ):
        Task(Mistaken())


def test_an_empty_part_is_refused_when_it_is_asked_for() -> None:
    work = task(GRU())
    with pytest.raises(ConfigError, match=r"^GRU has no parameters in a part 'norm', which the alg.*\.$"):
        FedBN().init(work, work.params())


# -------------------------------------------------------------------------------------------------------------- buffers


def test_running_averages_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Task(BatchNormed(track=True))
    assert str(caught.value) == (
        "BatchNormed has a buffer 'norm.running_mean', which no algorithm would train, average or send: in place of "
        "BatchNorm2d, use metaleaf.models.BatchNorm or nn.GroupNorm, or track_running_stats=False."
    )


class Placed(Text):
    """Constant places of words; or what only seems constant."""

    def __init__(self, persistent: bool, moves: bool = False) -> None:
        super().__init__()
        self.moves = moves
        self.register_buffer("places", torch.linspace(0, 1, 16), persistent=persistent)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.moves:
            self.places: Tensor = self.places * 0.9
        found: Tensor = self.embedding(x.long()) + self.places
        return found.mean(1)


def test_constant_buffers_are_those_that_are_not_saved() -> None:
    with pytest.raises(ConfigError, match=r"^Placed has a buffer 'places', .*: register it with persistent=False"):
        Task(Placed(persistent=True))
    work = task(Placed(persistent=False))
    assert "places" not in work.params()
    assert work.loss(work.params(), shots("text", 4, 0)).isfinite()
    changing = task(Placed(persistent=False, moves=True))
    with pytest.raises(ConfigError, match=r"^Placed changes its buffer 'places' in a forward pass, .*\.$"):
        changing.loss(changing.params(), shots("text", 4, 0))


# ------------------------------------------------------------------------------------------------- training and scoring


class Dropping(Text):
    """Half of the embedded units, by a module."""

    def __init__(self, kind: type[nn.Module] = nn.Dropout) -> None:
        super().__init__()
        self.drop = kind(0.5)

    def embedded(self, x: Tensor) -> Tensor:
        found: Tensor = self.drop(self.embedding(x.long()))
        return found

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.embedded(x).flatten(1)[:, :16]


def test_scores_are_up_to_nothing_but_the_model() -> None:
    work, data = task(Transformer(dropout=0.5)), shots("text", 50, seed=0)
    params = work.params()
    first = work.score(params, data)
    work.loss(params, data)  # in training mode
    assert torch.equal(work.score(params, data), first)
    plain = task(Transformer(dropout=0.0))
    assert_close(plain.score(params, data), first)
    assert_close(plain.loss(params, data, training=False), work.loss(params, data, training=False))


def test_every_step_drops_other_units() -> None:
    work, data = task(Dropping()), shots("text", 8, seed=0)
    params = work.params()
    assert torch.equal(work.loss(params, data), work.loss(params, data)), "a function of its arguments"
    losses = [work.loss(params, data.at(step)).item() for step in range(5)]
    batches = [work.loss(params, batch._replace(x=data.x, y=data.y)).item() for batch in minibatches(data, 2, epochs=2)]
    other = work.loss(params, data._replace(seed=data.seed + 1)).item()
    assert len({*losses, other, work.loss(params, data).item()}) == 5 + 1 + 1
    assert len({*batches, other}) == 2 * 4 + 1


def test_gradient_descent_drops_other_units_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    work, seeds = task(Dropping()), []

    def loss(params: Any, shots: Any) -> Any:
        seeds.append(int(shots.seed))
        return params["out.bias"].sum()

    monkeypatch.setattr(work, "loss", loss)
    list(descend(work, work.params(), shots("text", 4, 0), 0.1, 3))
    assert len(set(seeds)) == 3


def test_the_seed_of_a_step_leaves_orders_as_they_are() -> None:
    data = shots("text", 9, seed=0)
    (whole,) = minibatches(data, 9)
    assert torch.equal(torch.cat([batch.x for batch in minibatches(data, 2)]), whole.x)


@pytest.mark.parametrize(("kind", "whole"), [(nn.Dropout, 1), (nn.Dropout1d, 16)])
def test_drops_as_much_as_torch(kind: type[nn.Module], whole: int) -> None:
    """Half of the units, or of the channels; the others are doubled; a unit's fate is its own."""
    model = Dropping(kind)
    nn.init.ones_(model.embedding.weight)
    model.features = lambda x, mask=None: model.embedded(x).flatten(1)  # type: ignore[method-assign]
    work, data = task(model), shots("text", 1000, seed=0)
    found = work.features(work.params(), data.x, None, data.seed)
    assert set(found.flatten().tolist()) == {0.0, 2.0}
    kept = (found > 0).view(-1, whole)
    assert bool((kept == kept[:, :1]).all())
    rate = kept[:, 0].double()
    assert abs(rate.mean().item() - 0.5) < 4 * 0.5 / len(rate) ** 0.5
    per_place = (found > 0).double().mean(0)
    assert float((per_place - 0.5).abs().max()) < 5 * 0.5 / 1000**0.5
    neighbours = (kept[:-1, 0] == kept[1:, 0]).double().mean().item()
    assert abs(neighbours - 0.5) < 4 * 0.5 / len(rate) ** 0.5
    assert torch.equal(work.features(work.params(), data.x[:7], None, data.seed), found[:7]), "rows do not matter"


def test_attention_is_torchs() -> None:
    layer, x = nn.MultiheadAttention(16, 2, batch_first=True).double(), torch.randn(3, WORDS, 16).double()
    mask = nn.Transformer.generate_square_subsequent_mask(WORDS).double()
    padding = torch.zeros(3, WORDS, dtype=torch.bool)
    padding[1, 3:] = True

    class Attending(Text):
        def __init__(self) -> None:
            super().__init__()
            self.attention = layer

        def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return self.attention(x, x, x, **options)[0].mean(1)  # type: ignore[no-any-return]

    for options in (
        {},
        {"need_weights": False},
        {"attn_mask": mask, "need_weights": False},
        {"attn_mask": mask < 0, "need_weights": False},
        {"attn_mask": mask, "is_causal": True, "need_weights": False},
        {"key_padding_mask": padding, "need_weights": False},
    ):
        work = task(Attending())
        for _ in range(2):  # the first pass is watched
            assert_close(work.features(work.params(), x), layer(x, x, x, **options)[0].mean(1))


WORDS = 5


class Noisy(Text):
    """Random numbers that are not dropout's."""

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.embedding(x.long()).mean(1)
        return found + torch.rand_like(found) if self.training else found


class AlwaysDropping(Text):
    """The usual slip: F.dropout is on unless it is told otherwise."""

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.embedding(x.long()).mean(1)
        return F.dropout(found, 0.5)


class LayeredLSTM(Text):
    """Dropout between the layers, within one operator of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 16, 2, batch_first=True, dropout=0.5)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.lstm(self.embedding(x.long()))[0]
        return found[:, -1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (Noisy, "Noisy draws random numbers by rand_like, which no seed of a run decides: use nn.Dropout"),
        (LayeredLSTM, "LayeredLSTM draws random numbers by lstm, which no seed of a run decides: use nn.Dropout"),
    ],
)
def test_other_chance_is_refused(make: type[Model], sentence: str, mode: Mode) -> None:
    work = task(make())
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        engine(work, FedAvg(), mode).gather(work.params(), cohort("text"), WEIGHTS)


def test_chance_in_scores_is_refused() -> None:
    work = task(AlwaysDropping())
    work.loss(work.params(), shots("text", 4, 0))
    with pytest.raises(ConfigError, match=r"^AlwaysDropping drops units while it is scored, .*self\.training\.$"):
        work.score(work.params(), shots("text", 4, 0))


# ------------------------------------------------------------------------------------------- what cannot be vectorised


def run_of(model: str, mode: Mode) -> Run:
    found = config(model, "fedavg", LEARN["fedavg"], rounds=2, clients_per_round=3, evaluate_every=2)
    return Run(found, store(MAKERS[model][0]), mode=mode)


@pytest.mark.parametrize("mode", ["auto", "vectorised"])
@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("gru", r"GRU: torch\.func\.vmap cannot run it \(.*\)\.$"),
        (
            "batch_normed",
            r"BatchNormed: it computes other numbers where rows pad a client: it does not heed the mask\.$",
        ),
    ],
)
def test_falls_back_to_sequential_and_says_so(model: str, sentence: str, mode: Mode, tmp_path: Any) -> None:
    with pytest.warns(
        UserWarning, match=rf"^clients run one after the other \(engine sequential\): {sentence}"
    ) as caught:
        run = run_of(model, mode)
    assert len(caught) == 1
    record = run.execute(Cell(tmp_path, run.config))
    assert record["engine"]["mode"] == "sequential"
    assert_close(run.train().state.broadcast, run_of(model, "sequential").train().state.broadcast, rtol=0, atol=0)


def test_without_examples_the_first_cohort_shows_it() -> None:
    work = task(GRU())
    runner = engine(work, FedAvg(), "vectorised")
    with pytest.warns(UserWarning, match="clients run one after the other") as caught:
        found = [runner.gather(work.params(), cohort("text"), WEIGHTS).update for _ in range(2)]
    assert len(caught) == 1, "it says so once"
    expected = engine(work, FedAvg(), "sequential").gather(work.params(), cohort("text"), WEIGHTS).update
    assert_close(found, [expected, expected], rtol=0, atol=0)
    assert runner.mode == "sequential"


class Branching(Logistic):
    """Looks at a value."""

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().features(x) if x.sum() > 0 else super().features(-x)


def test_new_environments_refuse_what_cannot_be_vectorised(monkeypatch: pytest.MonkeyPatch) -> None:
    bring(monkeypatch, {"logistic": Branching})
    sentence = (
        r"^model 'logistic' does not fit the track of new environments, whose clients run side by side: torch\.func"
    )
    with pytest.raises(ConfigError, match=sentence):
        EnvironmentRun(small_environments.config("fedavg"), small_environments.store(), mode="sequential")


class Broken(FedAvg):
    """Fails in any engine."""

    def client(self, task: Task, params: Any, episode: Any) -> Any:
        raise KeyError("no such thing")


class Late(FedAvg):
    """Works, and then does not."""

    calls: list[int] = []

    def server(self, state: State, update: Any) -> State:
        return state

    def client(self, task: Task, params: Any, episode: Any) -> Any:
        self.calls.append(1)
        if len(self.calls) > 1:
            raise KeyError("no more")
        return super().client(task, params, episode)


def test_a_plugins_own_errors_are_its_own() -> None:
    work = task(Transformer())
    with pytest.raises(KeyError, match="no such thing"):
        engine(work, Broken(), "vectorised").gather(work.params(), cohort("text"), WEIGHTS)
    runner = engine(work, Late(), "vectorised")
    runner.gather(work.params(), cohort("text")[:1], [1.0])
    with pytest.raises(KeyError, match="no more"):
        runner.gather(work.params(), cohort("text"), WEIGHTS)
    assert runner.mode == "vectorised"


def test_images_are_what_they_seem() -> None:
    """The data of these tests has nothing that a constant predictor could use."""
    counts = torch.bincount(torch.from_numpy(store("images").y.astype("int64")))
    assert counts.max() / counts.sum() < 0.4
    assert issubclass(ResNet8, Images)
