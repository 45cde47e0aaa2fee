"""Further models that come with metaleaf: alike under every engine, to second derivatives, and at positions."""

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brought_models import WINDOW, drawn
from test_algorithms import CPU, assert_near
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

from metaleaf import models, trees
from metaleaf.algorithm import Algorithm
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.fedbn import FedBN
from metaleaf.algorithms.maml import MAML
from metaleaf.engine import cost, factored
from metaleaf.engine.cost import ClientFlops
from metaleaf.engine.engine import Mode, engine
from metaleaf.engine.vectorisable import obstacle
from metaleaf.engine.vectorised import Vectorised
from metaleaf.errors import ConfigError
from metaleaf.gradient import grad
from metaleaf.learning import descend, fit, last
from metaleaf.models.gru import GRU
from metaleaf.models.resnet8 import ResNet8
from metaleaf.models.small_lstm import SmallLSTM
from metaleaf.models.transformer import Transformer
from metaleaf.optimizers import SGD, Adam
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task

LENGTH = 4
SYMBOLS = {"classes": 3, "x_shape": (LENGTH,), "x_dtype": "uint8"}
NUMBERS = {"classes": 3, "x_shape": (LENGTH,), "x_dtype": "float32"}
CHANNELS = {"classes": 3, "x_shape": (LENGTH, 2), "x_dtype": "float32"}
IMAGES = {"classes": 3, "x_shape": (8, 8), "x_dtype": "uint8"}
COLOURS = {"classes": 3, "x_shape": (8, 8, 3), "x_dtype": "float32"}
NEXT = {"outputs": 8, "positions": LENGTH, "x_shape": (LENGTH,), "x_dtype": "uint8"}
SERIES = {"outputs": 2, "positions": LENGTH, "x_shape": (LENGTH, 2), "x_dtype": "float32"}

Case = tuple[dict[str, Any], dict[str, Any]]
CASES: dict[str, Case] = {
    "gru-symbols": ({"name": "gru", "width": 5, "symbols": 8}, SYMBOLS),
    "gru-channels": ({"name": "gru", "width": 5, "layers": 2}, CHANNELS),
    "small_lstm-symbols": ({"name": "small_lstm", "width": 5, "symbols": 8}, SYMBOLS),
    "small_lstm-numbers": ({"name": "small_lstm", "width": 5, "layers": 2}, NUMBERS),
    "tweet_lstm": ({"name": "tweet_lstm", "symbols": 8}, SYMBOLS),
    "embedding_bag": ({"name": "embedding_bag", "symbols": 8, "width": 4}, SYMBOLS),
    "cnn1d-numbers": ({"name": "cnn1d", "width": 4, "kernel": 3}, NUMBERS),
    "cnn1d-channels": ({"name": "cnn1d", "width": 4, "layers": 2}, CHANNELS),
    "resnet8-images": ({"name": "resnet8", "width": 4, "groups": 2}, IMAGES),
    "resnet8-colours": ({"name": "resnet8", "width": 4}, COLOURS),
    "transformer-symbols": ({"name": "transformer", "width": 8, "heads": 2, "dropout": 0.3, "symbols": 8}, SYMBOLS),
    "transformer-channels": (
        {"name": "transformer", "width": 8, "heads": 1, "layers": 1, "dropout": 0.0, "pooling": "last"},
        CHANNELS,
    ),
}
SMALL: list[dict[str, Any]] = [
    {"name": "gru", "width": 5, "layers": 2},
    {"name": "small_lstm", "width": 5, "layers": 2},
    {"name": "transformer", "width": 8, "heads": 2, "dropout": 0.0},
]
AT_POSITIONS: dict[str, Case] = {
    f"{given['name']}-{kind}": (given, spec)
    for given in SMALL
    for kind, spec in {"symbols": NEXT, "channels": SERIES}.items()
}
MODES: tuple[Mode, ...] = ("sequential", "lowrank", "vectorised")
RAGGED = [(3, 4), (2, 2), (4, 3)]
WEIGHTS = [0.2, 0.3, 0.5]


@pytest.fixture(autouse=True)
def every_layer_is_big(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dense layer is worth factoring."""
    monkeypatch.setattr(factored, "LEAST_ROWS", 1)


def task(case: Case, dtype: torch.dtype = torch.float64) -> Task:
    return Task(models.build(*case, seed=7).to(dtype), seed=7, clients=9, cohort=len(RAGGED))


def inputs(spec: dict[str, Any], n: int, seed: int) -> Tensor:
    rng, shape = np.random.default_rng(seed), (n, *spec["x_shape"])
    if spec["x_dtype"] == "uint8":
        return torch.tensor(rng.integers(0, 8 if len(shape) == 2 else 256, shape), dtype=torch.uint8)
    return torch.tensor(rng.normal(size=shape), dtype=torch.float32)


def shots(spec: dict[str, Any], n: int, seed: int) -> Shots:
    y = torch.tensor(np.random.default_rng(seed).integers(0, 3, n))
    return Shots(inputs(spec, n, seed), y, torch.tensor(1000 + seed))


def cohort(spec: dict[str, Any]) -> list[Episode]:
    found = []
    for seed, (support, query) in enumerate(RAGGED):
        data, rows = shots(spec, support + query, seed), torch.arange(support + query)
        held, judged = data.take(rows[:support]), data.take(rows[support:])
        found.append(Episode(held, judged, data, torch.tensor(0.0), torch.tensor(seed)))
    return found


# -------------------------------------------------------------------------------------------------------- what they are


@pytest.mark.parametrize(
    ("name", "spec", "count"),
    [
        ("gru", {**SYMBOLS, "classes": 80}, 20_048),
        ("gru", {**NUMBERS, "classes": 5}, 13_189),
        ("small_lstm", {**SYMBOLS, "classes": 80}, 24_528),
        ("small_lstm", {**NUMBERS, "classes": 5}, 17_221),
        ("cnn1d", {**NUMBERS, "classes": 5}, 10_661),
        ("resnet8", {"classes": 10, "x_shape": (32, 32, 3), "x_dtype": "uint8"}, 77_850),
        ("transformer", {**SYMBOLS, "classes": 80, "x_shape": (20,)}, 31_312),
    ],
)
def test_parameters_are_as_many_as_the_docstring_says(name: str, spec: dict[str, Any], count: int) -> None:
    model = models.build(name, spec, 0)
    assert sum(p.numel() for p in Task(model).params().values()) == count
    assert f"{count:,}" in (type(model).__doc__ or "")
    if name in ("gru", "small_lstm", "transformer"):
        at_positions = models.build(name, {**spec, "positions": spec["x_shape"][0]}, 0)
        assert sum(p.numel() for p in Task(at_positions).params().values()) == count


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_shapes(case: Case) -> None:
    work, x = task(case, torch.float32), inputs(case[1], 4, 0)
    assert work.logits(work.params(), x).shape == (4, 3)
    assert work.features(work.params(), x).shape == (4, work.model.out.in_features)


@pytest.mark.parametrize("case", AT_POSITIONS.values(), ids=AT_POSITIONS)
def test_shapes_at_positions(case: Case) -> None:
    model, x = models.build(*case, seed=1), inputs(case[1], 4, 0)
    assert model(x).shape == (4, LENGTH, case[1]["outputs"])
    assert model.features(x).shape == (4, LENGTH, model.out.in_features)


def test_recurrent_layers_are_torchs() -> None:
    for name in ("gru", "small_lstm"):
        for kind, spec in (("symbols", NEXT), ("channels", SERIES)):
            model: Any = models.build(*AT_POSITIONS[f"{name}-{kind}"], seed=1).double()
            x = inputs(spec, 4, 0)
            layer = model.gru if name == "gru" else model.lstm
            read = model.embedding(x.long()) if kind == "symbols" else x.double()
            states, _ = layer(read.transpose(0, 1))
            assert_close(model.features(x), states.transpose(0, 1), rtol=1e-12, atol=1e-14)


def test_small_lstm_of_leafs_size_is_leafs_network() -> None:
    """Its first parameters, too."""
    spec, x = {**SYMBOLS, "classes": 10}, inputs(SYMBOLS, 3, 0)
    leafs, ours = (
        Task(models.build(name, spec, 5)) for name in ("lstm", {"name": "small_lstm", "width": 256, "layers": 2})
    )
    assert_close(ours.params(), leafs.params(), rtol=0, atol=0)
    assert_close(ours.params(2), leafs.params(2), rtol=0, atol=0)
    assert_close(ours.logits(ours.params(), x), leafs.logits(leafs.params(), x))


def test_attention_is_torchs() -> None:
    """A block is torch's encoder layer, normalised first, with the same weights; causal or not."""
    for case, x in ((AT_POSITIONS["transformer-symbols"], inputs(NEXT, 3, 0)), (CASES["transformer-symbols"], None)):
        model = models.build(*case, seed=1).double().eval()
        assert isinstance(model, Transformer)
        causal = x is not None
        x = inputs(SYMBOLS, 3, 0) if x is None else x
        h = model.embedding(x.long()) + model.places.weight
        for block in model.blocks:
            layer = nn.TransformerEncoderLayer(8, 2, 32, batch_first=True, norm_first=True).double().eval()
            renamed = {
                name.replace("in_proj.", "self_attn.in_proj_").replace("out_proj", "self_attn.out_proj"): p
                for name, p in block.named_parameters()
            }
            layer.load_state_dict(renamed)
            mask = nn.Transformer.generate_square_subsequent_mask(LENGTH).double() if causal else None
            h = layer(h, mask)
        h = model.norm(h)
        assert_close(model.features(x), h if causal else h.mean(1), rtol=1e-10, atol=1e-12)


def test_the_rest_of_a_sequence_or_an_image_matters() -> None:
    """To a prediction an example; a convolution over time knows no places but their distances from the ends."""
    for case in CASES.values():
        work, x = task(case), inputs(case[1], 4, 0)
        before = work.logits(work.params(), x)
        for place in (0, -1):
            other = x.clone()
            other[:, place] = (other[:, place].long() + 1) % 8 if x.dtype == torch.uint8 else other[:, place] + 1
            assert bool((work.logits(work.params(), other) != before).any(1).all()), case


def test_bytes_and_floats_are_the_same_images() -> None:
    grey, x = {**IMAGES, "x_dtype": "float32"}, inputs(IMAGES, 3, 0)
    works = [task(({"name": "resnet8", "width": 4}, spec)) for spec in (IMAGES, grey)]
    of_bytes, of_floats = (work.logits(work.params(), given) for work, given in zip(works, (x, x / 255), strict=True))
    assert_close(of_bytes, of_floats, rtol=1e-4, atol=1e-6)
    assert_close(works[1].logits(works[1].params(), x.double() / 255), of_bytes)


# ------------------------------------------------------------------------------------------------------- how they start


@pytest.mark.parametrize("name", ["gru-symbols", "cnn1d-numbers", "resnet8-images", "transformer-symbols"])
def test_starts_as_torchs_layers(name: str) -> None:
    """Those of one kind in a row, uniform within a bound that their fan-in gives; norms and embeddings as usual."""
    model = models.build(*CASES[name], seed=3)
    for module in model.modules():
        bound = 0.0
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
        elif isinstance(module, nn.GRU):
            bound = 1 / math.sqrt(module.hidden_size)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            assert bool((module.weight == 1).all() & (module.bias == 0).all())
        elif isinstance(module, nn.Embedding):
            assert 0.6 < float(module.weight.detach().std()) < 1.4
        if bound:
            largest = max(float(p.detach().abs().max()) for p in module.parameters())
            assert 0.6 * bound < largest <= bound * (1 + 1e-6)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_is_drawn_anew(case: Case) -> None:
    work = task(case)
    first, again, other, start = work.params(1), work.params(1), work.params(2), work.params()
    assert_close(first, again, rtol=0, atol=0)
    for name, p in first.items():
        assert p.dtype == torch.float64
        if p.dim() > 1:
            assert not torch.equal(p, other[name])
            assert not torch.equal(p, start[name])


def test_normalisation_layers_are_parts() -> None:
    for case, count in ((CASES["resnet8-images"], 7), (CASES["transformer-symbols"], 5)):
        work = task(case)
        others, norm = work.split(work.params(), "norm")
        assert len(norm) == 2 * count
        assert all("norm" in name for name in norm)
        assert not any("norm" in name for name in others)
        assert FedBN().init(work, work.params()).broadcast.keys() == others.keys()
        assert set(work.split(work.params(), "head")[1]) == {"out.weight", "out.bias"}


# -------------------------------------------------------------------------------------------------------------- engines


def maml_by_hand(work: Task, one: Episode, rate: float) -> Params:
    """By functorch, one client at a time."""

    def after(params: Params) -> Tensor:
        slope = torch.func.grad(work.loss)(params, one.support.at(0))
        return work.loss({name: p - rate * slope[name] for name, p in params.items()}, one.query)

    found: Params = torch.func.grad(after)(work.params())
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_engine_takes_second_derivatives(case: Case) -> None:
    """MAML's gradient; the engines' clients are padded, factored, or neither, and nothing warns of a detour."""
    algorithm, episodes = MAML(0.1), cohort(case[1])
    alone = [maml_by_hand(task(case), one, 0.1) for one in episodes]
    assert_engines_give(
        case, algorithm, trees.weighted_sum(trees.stack(alone), torch.tensor(WEIGHTS, dtype=torch.float64))
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_engine_trains_and_scores_alike(case: Case) -> None:
    algorithm, episodes, work = FedAvg(SGD(0.1), batch_size=4, epochs=2), cohort(case[1]), task(case)
    params, clients = work.params(), [(one.support, one.query) for one in episodes]
    alone = [algorithm.client(work, params, one) for one in episodes]
    assert_engines_give(
        case, algorithm, trees.weighted_sum(trees.stack(alone), torch.tensor(WEIGHTS, dtype=torch.float64))
    )
    some, others = (engine(work, algorithm, mode).score(params, clients, True) for mode in ("sequential", "vectorised"))
    assert_close(some, others, rtol=1e-9, atol=1e-12)


def assert_engines_give(case: Case, algorithm: Algorithm, expected: Params) -> None:
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-4)):
        work = task(case, dtype)
        for mode in MODES if dtype == torch.float64 else MODES[::2]:
            runner = engine(work, algorithm, mode)
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # torch's, of operators that it takes client by client, and ours
                found = runner.gather(work.params(), cohort(case[1]), WEIGHTS).update
            assert runner.mode == mode
            assert_near(trees.tree_map(torch.Tensor.double, found), expected, tolerance)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_clients_run_side_by_side_and_are_replayed(case: Case) -> None:
    work, episodes, algorithm = task(case), cohort(case[1]), FedAvg(SGD(0.1))
    assert obstacle(work, algorithm, episodes[0].data) is None
    runner = Vectorised(work, algorithm, CPU)
    for draw in range(3):
        found = runner.gather(work.params(draw), episodes, WEIGHTS).update
    assert runner.client.replays
    assert_near(found, engine(work, algorithm, "sequential").gather(work.params(2), episodes, WEIGHTS).update)


@pytest.mark.parametrize("given", SMALL, ids=lambda given: str(given["name"]))
def test_second_derivatives_of_long_rows_are_replayed(given: dict[str, Any]) -> None:
    spec = {**SYMBOLS, "classes": 8, "x_shape": (20,)}
    work, episodes = task((given, spec)), cohort(spec)
    runner = Vectorised(work, MAML(0.1), CPU)
    for draw in range(2):
        runner.gather(work.params(draw), episodes, WEIGHTS)
    assert runner.client.replays


@pytest.mark.parametrize("name", ["gru", "small_lstm"])
def test_costs_are_those_of_the_longer_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row has channels, too."""
    case = CASES["gru-channels"] if name == "gru" else ({"name": "small_lstm", "width": 5}, CHANNELS)
    work, one = task(case), cohort(CHANNELS)[0]
    for algorithm in (FedAvg(), MAML()):
        found = ClientFlops(work, algorithm, work.params(), CHANNELS)(one)
        with monkeypatch.context() as patch:
            patch.setattr(cost, "_LENGTHS", (LENGTH, LENGTH + 1))  # as long as the rows are: no shorter ones
            assert found == ClientFlops(work, algorithm, work.params(), CHANNELS)(one) > 0


def test_a_grus_cost_by_hand() -> None:
    """Three times forward, but that nobody needs the gradients by the numbers and the first state."""
    case = {"name": "gru", "width": 5}, CHANNELS
    work = task(case)
    first, recurrent, head = 2 * 15 * 2, 2 * 15 * 5, 2 * 5 * 3
    forward = LENGTH * (first + recurrent) + head
    expected = 3 * forward - LENGTH * first - recurrent
    assert ClientFlops(work, FedAvg(), work.params(), CHANNELS)(cohort(CHANNELS)[0]) == 7 * expected


# -------------------------------------------------------------------------------------------------------------- dropout


def test_dropout_draws_from_the_clients_seed() -> None:
    work, data = task(CASES["transformer-symbols"]), shots(SYMBOLS, 6, 0)
    params = work.params()
    assert torch.equal(work.loss(params, data), work.loss(params, data)), "a function of its arguments"
    assert work.loss(params, data) != work.loss(params, data._replace(seed=data.seed + 1))
    first = work.score(params, data)
    assert torch.equal(work.score(params, data._replace(seed=data.seed + 1)), first), "scores drop nothing"
    given, spec = CASES["transformer-symbols"]
    plain = task(({**given, "dropout": 0.0}, spec))
    assert_close(plain.score(params, data), first)
    assert_close(plain.loss(params, data), work.loss(params, data, training=False))


def test_dropout_takes_of_what_a_block_adds() -> None:
    """At the rate that was asked for; five times: of the input, and twice in each of two blocks."""
    model, rates = models.build({"name": "transformer", "dropout": 0.25, "symbols": 8}, SYMBOLS, 0), []

    def seen(module: nn.Module, arguments: Any, found: Tensor) -> None:
        rates.append(float((found == 0).double().mean()))

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(seen)
    work, data = Task(model), shots(SYMBOLS, 50, 0)
    work.loss(work.params(), data)
    assert rates == pytest.approx([0.25] * 5, abs=0.02)
    assert len(set(rates)) == 5, "each draws for itself"


# ------------------------------------------------------------------------------------------------------------ positions


def functions_of(case: Case) -> tuple[Params, Callable[[Params, Tensor, Tensor], Tensor]]:
    """The model's trained parameters, and the summed cross-entropy over all positions."""
    model = models.build(*case, seed=3).double().eval()
    params = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, params, (x,)).flatten(0, 1), y.flatten(), reduction="sum")

    return params, loss


def batch(spec: dict[str, Any], n: int, seed: int) -> tuple[Tensor, Tensor]:
    y = torch.tensor(np.random.default_rng(seed).integers(0, spec["outputs"], (n, LENGTH)))
    return inputs(spec, n, seed), y


@pytest.mark.parametrize("case", AT_POSITIONS.values(), ids=AT_POSITIONS)
def test_predictions_know_nothing_of_what_follows(case: Case) -> None:
    model, x = models.build(*case, seed=1).eval(), inputs(case[1], 3, 0)
    before = model(x)
    for position in range(LENGTH):
        other = x.clone()
        other[:, position] = (other[:, position].long() + 1) % 8 if x.dtype == torch.uint8 else other[:, position] + 1
        changed = (model(other) != before).any(2)
        assert not changed[:, :position].any()
        assert changed[:, position].all()
        assert changed[:, -1].all()


@pytest.mark.parametrize("case", AT_POSITIONS.values(), ids=AT_POSITIONS)
def test_second_derivatives_at_positions(case: Case) -> None:
    """Side by side, by this package's gradients, by autograd, and by finite differences."""
    params, loss = functions_of(case)
    data = [batch(case[1], 3, seed) for seed in range(3)]

    def after(gradient: Any) -> Callable[[Params, Tensor, Tensor], Tensor]:
        def stepped(p: Params, x: Tensor, y: Tensor) -> Tensor:
            slope = gradient(loss)(p, x, y)
            return loss({name: leaf - 0.05 * slope[name] for name, leaf in p.items()}, x, y)

        return stepped

    own = [{name: p + 0.1 * i for name, p in params.items()} for i in range(3)]
    stacked = trees.stack(own), torch.stack([x for x, _ in data]), torch.stack([y for _, y in data])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of torch's, of operators that it takes client by client
        together = torch.func.vmap(torch.func.grad(after(torch.func.grad)))(*stacked)
        assert_close(
            torch.func.vmap(loss)(*stacked), torch.stack([loss(p, *one) for p, one in zip(own, data, strict=True)])
        )
    for i, (p, one) in enumerate(zip(own, data, strict=True)):
        assert_near({name: leaf[i] for name, leaf in together.items()}, grad(after(grad))(p, *one), 1e-9)
    for name, leaf in params.items():
        v = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        ends = [after(torch.func.grad)({**params, name: leaf + e * v}, *data[0]) for e in (1e-7, -1e-7)]
        slope = float((v * together[name][0]).sum())
        assert float(ends[0] - ends[1]) / 2e-7 == pytest.approx(slope, rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("name", ["gru", "small_lstm", "transformer"])
def test_learns_to_repeat_the_symbol_before(name: str) -> None:
    model = models.build({"name": name} | ({"dropout": 0.0} if name == "transformer" else {}), NEXT, 1)
    optimizer, rng = torch.optim.Adam(model.parameters(), lr=0.01), np.random.default_rng(0)
    losses = []
    for _ in range(150):
        x = torch.tensor(rng.integers(0, 8, (32, LENGTH)))
        found = F.cross_entropy(model(x)[:, 1:].flatten(0, 1), x[:, :-1].flatten())
        optimizer.zero_grad()
        found.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(found.item())
    assert losses[0] > 1.8
    assert np.mean(losses[-5:]) < 0.4


# ----------------------------------------------------------------------------------------------------------- they learn


def learnable(kind: str, n: int, seed: int) -> Shots:
    """Three classes: by a symbol, by an image's stripes, or by how fast a wave of any phase is."""
    rng = np.random.default_rng(seed)
    if kind in ("text", "images"):
        x, y = drawn(kind, n, rng)
        return Shots(torch.tensor(x), torch.tensor(y), torch.tensor(seed))
    y = rng.integers(0, 3, n)
    angles = (y[:, None] + 1) * np.arange(LENGTH) * 0.8 + rng.uniform(0, 2 * np.pi, (n, 1))
    series = np.stack([np.sin(angles), np.cos(angles)], 2) + 0.1 * rng.normal(size=(n, LENGTH, 2))
    return Shots(
        torch.tensor(series if kind == "channels" else series[..., 0]).float(), torch.tensor(y), torch.tensor(0)
    )


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"name": "gru", "symbols": 8}, "text"),
        ("gru", "numbers"),
        ({"name": "small_lstm", "symbols": 8}, "text"),
        ("small_lstm", "channels"),
        ("cnn1d", "numbers"),
        ({"name": "resnet8", "width": 8}, "images"),
        ({"name": "transformer", "symbols": 8}, "text"),
        ("transformer", "channels"),
    ],
)
def test_learns(given: Any, kind: str) -> None:
    spec = {"text": {**SYMBOLS, "x_shape": (WINDOW,)}, "images": IMAGES, "numbers": NUMBERS, "channels": CHANNELS}[kind]
    work, seen, unseen = Task(models.build(given, spec, 1)), learnable(kind, 120, 0), learnable(kind, 120, 1)
    params = work.params()
    with torch.no_grad():
        learned = fit(work, params, seen, Adam(0.01), epochs=15, batch_size=20)
        before, after = (work.score(p, unseen) for p in (params, learned))
    assert after[2] < 0.5 * before[2]
    assert after[1] > 0.8 * after[0]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_adapts(case: Case) -> None:
    """A few steps of gradient descent fit a few examples better."""
    work, data = task(case), shots(case[1], 6, 0)
    end = last(descend(work, work.params(), data, 0.05, 10))
    assert work.loss(end, data, training=False) < work.loss(work.params(), data, training=False)


# ------------------------------------------------------------------------------------------------------------- refusals

SENTENCES = {
    "sequence": "it needs rows of symbols' numbers, uint [length], or sequences of numbers, float [length] or [length, "
    "channels].",
    "numbers": "it needs sequences of numbers, float [length] or [length, channels].",
    "images": "it needs images, uint8 or float, [side, side] or [side, side, channels].",
    "square": "it needs square images of 4 pixels or more a side.",
    "positions": "it predicts at all 4 positions of a sequence, and the data ask for 5.",
}


@pytest.mark.parametrize(
    ("name", "spec", "sentence"),
    [
        *((name, {**SYMBOLS, "x_shape": (6, 2)}, "sequence") for name in ("gru", "small_lstm", "transformer", "cnn1d")),
        ("gru", {**SYMBOLS, "x_shape": ()}, "sequence"),
        ("gru", {**SYMBOLS, "x_shape": (0,)}, "sequence"),
        ("small_lstm", {**SYMBOLS, "x_dtype": "int64"}, "sequence"),
        ("transformer", {**CHANNELS, "x_shape": (6, 2, 2)}, "sequence"),
        ("cnn1d", SYMBOLS, "numbers"),
        *((name, {**NEXT, "positions": 5}, "positions") for name in ("gru", "small_lstm", "transformer")),
        ("resnet8", SYMBOLS, "images"),
        ("resnet8", {**IMAGES, "x_dtype": "int16"}, "images"),
        ("resnet8", {**IMAGES, "x_shape": (3, 8, 8)}, "square"),
        ("resnet8", {**IMAGES, "x_shape": (3, 3)}, "square"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model '{name}' cannot read .*: {re.escape(SENTENCES[sentence])}$"):
        models.build(name, spec, 0)


@pytest.mark.parametrize("name", ["cnn1d", "resnet8"])
def test_one_prediction_an_example(name: str) -> None:
    spec = SERIES if name == "cnn1d" else {**IMAGES, "positions": 8}
    with pytest.raises(ConfigError, match=f"^model '{name}' makes one prediction an example, and the data ask for "):
        models.build(name, spec, 0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"name": "transformer", "heads": 3},
            "model transformer: width = 32 is no multiple of heads = 3: change either.",
        ),
        ({"name": "transformer", "dropout": 1.0}, "model transformer: dropout = 1.0: Input should be less than 1."),
        (
            {"name": "transformer", "pooling": "max"},
            "model transformer: pooling = 'max': Input should be 'mean' or 'last'.",
        ),
        ({"name": "gru", "width": 0}, "model gru: width = 0: Input should be greater than 0."),
        ({"name": "small_lstm", "layers": 0}, "model small_lstm: layers = 0: Input should be greater than 0."),
        ({"name": "cnn1d", "kernel": 0}, "model cnn1d: kernel = 0: Input should be greater than 0."),
    ],
)
def test_options_that_do_not_fit(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        models.build(given, NUMBERS, 0)
    with pytest.raises(ConfigError, match=r"^model resnet8: width = 6 is no multiple of groups = 4: change either\.$"):
        models.build({"name": "resnet8", "width": 6}, IMAGES, 0)


def test_their_classes() -> None:
    """As they are imported by whoever builds on them."""
    assert GRU(3, 0, (6,), "uint8").recurrent
    assert SmallLSTM(3, 0, (6,), "uint8").recurrent
    assert ResNet8(3, (8, 8), "uint8").parts["head"] == ("out",)
    assert Transformer(3, 0, (6,), "uint8", layers=1).parts["norm"] == ("blocks.0.norm1", "blocks.0.norm2", "norm")
