"""LEAF's models: their sizes, their start, and the LSTM against a loop over its cell."""

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from brought_models import bring
from small_tasks import RAGGED, episode
from torch import Tensor, nn
from torch.testing import assert_close

from metaleaf import models, registry
from metaleaf.algorithms.maml import MAML
from metaleaf.engine.engine import Mode, engine
from metaleaf.errors import ConfigError
from metaleaf.models import build
from metaleaf.shots import Episode, Shots
from metaleaf.task import Task

FEMNIST = {"classes": 62, "x_shape": [28, 28], "x_dtype": "uint8"}
SHAKESPEARE = {"classes": 80, "x_shape": (80,), "x_dtype": "uint8"}
CELEBA = {"classes": 2, "x_shape": (84, 84, 3), "x_dtype": "uint8"}
DIGITS = {"classes": 10, "x_shape": (14, 14), "x_dtype": "uint8"}
TWEETS = {"outputs": 1, "x_shape": (25,), "x_dtype": "uint16"}
GLOVE = {"outputs": 2, "x_shape": (25,), "x_dtype": "uint32"}
REDDIT = {"outputs": 10_000, "positions": 10, "x_shape": (10,), "x_dtype": "uint16"}
SYNTHETIC = {"classes": 5, "x_shape": (60,), "x_dtype": "float32"}
SMALL = {
    "cnn": {"classes": 5, "x_shape": (8, 8), "x_dtype": "uint8"},
    "face_cnn": {"classes": 2, "x_shape": (16, 16, 3), "x_dtype": "uint8"},
    "small_cnn": {"classes": 5, "x_shape": (8, 8), "x_dtype": "uint8"},
    "char_mlp": {"classes": 10, "x_shape": (8,), "x_dtype": "uint8"},
    "lstm": {"classes": 10, "x_shape": (8,), "x_dtype": "uint8"},
    "logistic": SYNTHETIC,
    "mlp": SYNTHETIC,
    "gru": {"classes": 10, "x_shape": (8,), "x_dtype": "uint8"},
    "small_lstm": {"classes": 10, "x_shape": (8,), "x_dtype": "uint8"},
    "transformer": {"classes": 10, "x_shape": (8,), "x_dtype": "uint8"},
    "cnn1d": SYNTHETIC,
    "resnet8": {"classes": 5, "x_shape": (8, 8), "x_dtype": "uint8"},
    "embedding_bag": {"classes": 2, "x_shape": (8,), "x_dtype": "uint16"},
    "tweet_lstm": {"classes": 2, "x_shape": (8,), "x_dtype": "uint16"},
    "word_lstm": {"classes": 10, "x_shape": (8,), "x_dtype": "uint16"},
}


@pytest.mark.parametrize(
    ("name", "spec", "count"),
    [
        ("cnn", FEMNIST, 6_603_710),
        ("lstm", SHAKESPEARE, 817_872),
        ("logistic", SYNTHETIC, 305),
        ("mlp", SYNTHETIC, 2_117),
        ("face_cnn", CELEBA, 31_202),
        ("small_cnn", DIGITS, 11_178),
        ("small_cnn", {**CELEBA, "x_shape": (32, 32, 3)}, 51_762),
        ("char_mlp", {**SHAKESPEARE, "x_shape": (20,)}, 16_144),
        ("tweet_lstm", TWEETS, 583_557),
        ({"name": "tweet_lstm", "symbols": 400_001}, GLOVE, 40_174_086),
        ("word_lstm", REDDIT, 6_180_624),
        ("embedding_bag", TWEETS, 65_569),
    ],
)
def test_number_of_trained_parameters(name: Any, spec: dict[str, Any], count: int) -> None:
    params = Task(build(name, spec, 0)).params()
    assert sum(p.numel() for p in params.values()) == count
    assert {p.dtype for p in params.values()} == {torch.float32}


def test_small_cnn_reads_a_grey_image_as_one_of_one_channel() -> None:
    grey, channel = (Task(build("small_cnn", {**DIGITS, "x_shape": shape}, 3)) for shape in ((14, 14), (14, 14, 1)))
    x = torch.randint(0, 256, (4, 14, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert_close(channel.logits(grey.params(), x[..., None]), grey.logits(grey.params(), x))


@pytest.mark.parametrize("shape", [(14,), (14, 15), (14, 15, 3), (3, 3, 3), (14, 14, 3, 1)])
def test_small_cnn_refuses_what_is_no_square_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"cannot read uint8 examples .*: it needs"):
        build("small_cnn", {**DIGITS, "x_shape": shape}, 3)


def test_every_model_is_tried_here() -> None:
    assert set(SMALL) == registry.built_in("models")


@pytest.mark.parametrize("name", SMALL)
def test_depends_on_the_seed_only(name: str) -> None:
    first = Task(build(name, SMALL[name], 3)).params()
    torch.rand(5)
    again = Task(build(name, SMALL[name], 3)).params()
    other = Task(build(name, SMALL[name], 4)).params()
    assert_close(first, again, rtol=0, atol=0)
    assert all(not torch.equal(first[k], other[k]) for k in first if first[k].dim() > 1)


# Of the start and of the draw 2, as they were when the first records were made, or the model came.
STARTS = {
    "char_mlp": ("bebc94e47a53bb25", "f3f455715e6fce9b"),
    "cnn": ("7f60a083e41e9770", "205b3a4e53459e10"),
    "face_cnn": ("f231887863640947", "0195eebd39503755"),
    "logistic": ("8f59d8bddd4a8976", "14a2405c8f03c5e0"),
    "lstm": ("c11f1eabf1165dc5", "00574c368f02d36c"),
    "mlp": ("50de0933dc49e665", "8aa648d47165bfd8"),
    "small_cnn": ("e2e7bc84d3df0fb7", "151db694a7e59117"),
    "cnn1d": ("d85228f852e17fba", "9096e1666716e47c"),
    "gru": ("f0fa4989729bf724", "4db532c8171c1904"),
    "resnet8": ("bcfb826bc642c0ab", "42d0e8cf145d2c0a"),
    "small_lstm": ("7a63454744269b6a", "e0f9fc9f7a45ad9e"),
    "transformer": ("bae66fef62fb5fce", "042516dd518bbca4"),
    "embedding_bag": ("020c30f84a82c85a", "de98c2b169e6b1b4"),
    "tweet_lstm": ("bfd8e8aca8fbfa20", "31d241035b8250b7"),
    "word_lstm": ("913921b65c55ccfe", "f6020667dd6aee3d"),
}


@pytest.mark.parametrize("name", SMALL)
def test_starts_with_the_same_bits_for_ever(name: str) -> None:
    """Records are made again from a seed."""
    work = Task(build(name, SMALL[name], 3), seed=5)
    found = []
    for draw in (0, 2):
        digest = hashlib.sha256()
        for key, p in work.params(draw).items():
            digest.update(key.encode() + p.numpy().tobytes())
        found.append(digest.hexdigest()[:16])
    assert tuple(found) == STARTS[name]


@pytest.mark.parametrize("name", SMALL)
def test_leaves_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build(name, SMALL[name], 3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "spec", "fans"),
    [
        ("logistic", SYNTHETIC, {"out.weight": 60 + 5}),
        (
            "cnn",
            FEMNIST,
            {
                "conv1.weight": 25 * (1 + 32),
                "conv2.weight": 25 * (32 + 64),
                "hidden.weight": 3136 + 2048,
                "out.weight": 2048 + 62,
            },
        ),
        (
            "lstm",
            SHAKESPEARE,
            {
                "embedding.weight": 80 + 8,
                # TensorFlow's cell has one matrix for input and state: [8 + 256, 1024], then [256 + 256, 1024].
                "lstm.weight_ih_l0": 8 + 256 + 1024,
                "lstm.weight_hh_l0": 8 + 256 + 1024,
                "lstm.weight_ih_l1": 256 + 256 + 1024,
                "lstm.weight_hh_l1": 256 + 256 + 1024,
                "out.weight": 256 + 80,
            },
        ),
    ],
)
def test_glorot_uniform(name: str, spec: dict[str, Any], fans: dict[str, int]) -> None:
    """Uniform within sqrt(6 / (fan in + fan out)): nothing beyond, the bound nearly reached, the right variance."""
    params = Task(build(name, spec, 5)).params()
    assert {key for key in params if "bias" not in key} == set(fans)
    for key, p in params.items():
        if "bias" in key:
            assert not p.any(), key
            continue
        bound = math.sqrt(6 / fans[key])
        assert bound * (1 - 20 / p.numel()) < p.abs().max().item() <= bound * (1 + 1e-6), key
        assert p.var().item() == pytest.approx(bound**2 / 3, rel=4 * math.sqrt(0.8 / p.numel())), key
        assert abs(p.mean().item()) < 4 * bound / math.sqrt(3 * p.numel()), key


def test_forget_bias_is_one_and_not_trained() -> None:
    model = build("lstm", SMALL["lstm"], 0)
    fixed = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    assert set(fixed) == {"lstm.bias_hh_l0", "lstm.bias_hh_l1"}
    for p in fixed.values():
        assert p.reshape(4, 256).sum(1).tolist() == [0, 256, 0, 0]  # torch's order: input, forget, cell, output
    assert not any("bias_hh" in name for name in Task(model).params())


def test_lstm_is_a_loop_over_its_cell() -> None:
    """LEAF's network as TensorFlow defines it, in numpy: gates i, j, f, o and sigmoid(f + 1)."""
    task = Task(build("lstm", SHAKESPEARE, 1).double())
    rng = np.random.default_rng(0)
    params = {k: p + 0.05 * torch.tensor(rng.normal(size=p.shape)) for k, p in task.params().items()}
    x = rng.integers(0, 80, (3, 80))
    p = {k: v.numpy() for k, v in params.items()}

    def sigmoid(z: np.ndarray) -> np.ndarray:
        out: np.ndarray = 1 / (1 + np.exp(-z))
        return out

    inputs = p["embedding.weight"][x]
    for layer in (0, 1):
        h = c = np.zeros((3, 256))
        outputs = []
        for t in range(80):
            z = inputs[:, t] @ p[f"lstm.weight_ih_l{layer}"].T + h @ p[f"lstm.weight_hh_l{layer}"].T
            i, f, j, o = np.split(z + p[f"lstm.bias_ih_l{layer}"], 4, axis=1)
            c = sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(j)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        inputs = np.stack(outputs, axis=1)
    expected = inputs[:, -1] @ p["out.weight"].T + p["out.bias"]
    found = task.logits(params, torch.tensor(x, dtype=torch.uint8))
    assert_close(found, torch.tensor(expected), rtol=1e-9, atol=1e-9)


def test_tweet_lstm_is_two_lstms_and_two_linear_layers() -> None:
    model: Any = build({"name": "tweet_lstm", "symbols": 50}, TWEETS, 1).double()
    x = torch.tensor(np.random.default_rng(0).integers(0, 50, (3, 25)))
    states, _ = model.lstm(model.embedding(x).transpose(0, 1))
    assert_close(model(x), model.out(model.hidden(states[-1])), rtol=1e-12, atol=1e-14)


def test_word_lstm_starts_as_leafs() -> None:
    model: Any = build("word_lstm", {**REDDIT, "outputs": 1000}, 5)
    for name, p in model.named_parameters():
        if name.startswith("lstm.bias"):
            assert not p.any(), name
        else:
            assert 0.099 < p.abs().max().item() <= 0.1, name
    assert model(torch.zeros(2, 10).long()).shape == (2, 10, 1000)


def test_a_bag_of_words_has_no_order_and_no_padding() -> None:
    model: Any = build("embedding_bag", TWEETS, 1).double()
    words = torch.zeros(1, 25).long()
    words[0, -3:] = torch.tensor([5, 9, 5])
    sums = 2 * model.embedding.weight[5] + model.embedding.weight[9]
    assert_close(model(words), model.out(sums).unsqueeze(0), rtol=1e-12, atol=1e-14)
    assert_close(model(words.flip(1)), model(words), rtol=1e-12, atol=1e-14)
    assert_close(model(torch.zeros(1, 25).long()), model.out.bias.unsqueeze(0))


def test_cnn_by_hand() -> None:
    """On one 8x8 image, from LEAF's words: same-padded 5x5 convolution, ReLU, 2x2 maximum, twice; two dense layers."""
    task = Task(build("cnn", SMALL["cnn"], 1).double())
    p = {k: v.numpy() for k, v in task.params().items()}
    image = np.random.default_rng(0).integers(0, 256, (8, 8))

    def layer(h: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        padded = np.pad(h, ((0, 0), (2, 2), (2, 2)))
        patches = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
        out = np.maximum(np.einsum("cyxij,ocij->oyx", patches, weight) + bias[:, None, None], 0)
        o, height, width = out.shape
        pooled: np.ndarray = out.reshape(o, height // 2, 2, width // 2, 2).max((2, 4))
        return pooled

    h = layer(image[None] / 255, p["conv1.weight"], p["conv1.bias"])
    h = layer(h, p["conv2.weight"], p["conv2.bias"])
    h = np.maximum(p["hidden.weight"] @ h.reshape(-1) + p["hidden.bias"], 0)
    expected = p["out.weight"] @ h + p["out.bias"]
    found = task.logits(task.params(), torch.tensor(image[None], dtype=torch.uint8))
    assert_close(found, torch.tensor(expected)[None], rtol=1e-10, atol=1e-12)


def test_scores_are_torchs_cross_entropy_to_the_bit() -> None:
    spec = {"x_shape": (60,), "x_dtype": "float32", "classes": 5}
    task = Task(build("logistic", spec, 0))
    generator = torch.Generator().manual_seed(0)
    shots = Shots(torch.randn(100, 60, generator=generator), torch.arange(100) % 5, torch.tensor(0))
    losses = torch.nn.functional.cross_entropy(task.logits(task.params(), shots.x), shots.y, reduction="none")
    assert task.score(task.params(), shots)[2] == losses.double().sum()


def test_an_unknown_model_names_near_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown model 'lstmm': did you mean 'lstm' or 'word_lstm' or 'tweet_lstm'\?"
    ):
        build("lstmm", SYNTHETIC, 0)
    with pytest.raises(ConfigError, match=f"known: {', '.join(sorted(SMALL))}"):
        build("perceiver", SYNTHETIC, 0)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("cnn", ()), ("cnn", (60,)), ("cnn", (28, 14)), ("cnn", (3, 3)), ("lstm", (28, 28)), ("lstm", ())],
)
def test_examples_of_the_wrong_shape(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ConfigError, match=rf"model '{name}' cannot read uint8 examples of shape \({', '.join(map(str, shape))}"
    ):
        build(name, {"classes": 5, "x_shape": shape, "x_dtype": "uint8"}, 0)


# ------------------------------------------------------------------------------------------------------------- options


def test_options_come_from_a_suite() -> None:
    deep = build({"name": "mlp", "hidden": [7, 3]}, SYNTHETIC, 1)
    assert [tuple(p.shape) for p in deep.parameters()] == [(7, 60), (7,), (3, 7), (3,), (5, 3), (5,)]
    assert deep.features(torch.zeros(2, 60)).shape == (2, 3)
    again = build({"name": "mlp", "hidden": [7, 3]}, SYNTHETIC, 1)
    assert_close(dict(deep.named_parameters()), dict(again.named_parameters()), rtol=0, atol=0)
    assert_close(
        dict(build({"name": "mlp", "hidden": [32]}, SYNTHETIC, 1).named_parameters()),
        dict(build("mlp", SYNTHETIC, 1).named_parameters()),
        rtol=0,
        atol=0,
    )
    assert not list(build({"name": "mlp", "hidden": []}, SYNTHETIC, 1).named_children())[1:], "only a head"


@pytest.mark.parametrize(("norm", "eps", "names"), [("batch", 1e-3, "scale bias"), ("layer", 1e-5, "weight bias")])
def test_a_perceptrons_units_can_be_normalised(norm: str, eps: float, names: str) -> None:
    """Two layers by hand; padded rows change nothing, and the normalisation is a part of the model."""
    spec = {"classes": 3, "x_shape": (4,), "x_dtype": "float32"}
    work = Task(build({"name": "mlp", "hidden": [5, 2], "norm": norm}, spec, 1).double())
    drawn, (scale, bias) = np.random.default_rng(0), names.split()
    params = {name: torch.tensor(drawn.normal(size=p.shape)) for name, p in work.params().items()}
    own = {f"{layer}.{name}" for layer in ("norm", "norm1") for name in (scale, bias)}
    assert work.split(params, "norm")[1].keys() == own
    h = x = drawn.normal(size=(6, 4))
    over = 0 if norm == "batch" else 1
    for hidden, layer in (("hidden", "norm"), ("hidden1", "norm1")):
        h = h @ params[f"{hidden}.weight"].numpy().T + params[f"{hidden}.bias"].numpy()
        h = (h - h.mean(over, keepdims=True)) / np.sqrt(h.var(over, keepdims=True) + eps)
        h = np.tanh(h * params[f"{layer}.{scale}"].numpy() + params[f"{layer}.{bias}"].numpy())
    np.testing.assert_allclose(work.features(params, torch.tensor(x)).numpy(), h, rtol=1e-11)
    padded, mask = torch.tensor(np.vstack([x, 9 * x])), torch.arange(12) < 6
    np.testing.assert_allclose(work.features(params, padded, mask)[:6].numpy(), h, rtol=1e-11)


def test_what_is_as_by_default_is_left_out() -> None:
    """So that a model that gets an option keeps the hashes of the runs that are there."""
    assert models.resolve("mlp") == models.resolve({"name": "mlp", "hidden": [32], "norm": "none"}) == "mlp"
    assert models.resolve({"name": "mlp", "hidden": (8, 8)}) == {"name": "mlp", "hidden": [8, 8]}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("mpl", r"unknown model 'mpl': did you mean 'mlp'"),
        ({"name": "mlp", "hiden": [3]}, r"unknown option of mlp 'hiden': did you mean 'hidden'"),
        ({"name": "mlp", "hidden": [0]}, r"model mlp: hidden = \[0\]: Input should be greater than 0"),
        ({"name": "mlp", "hidden": 3}, r"model mlp: hidden = 3: Input should be a valid tuple"),
        ({"hidden": [3]}, r"model = \{'hidden': \[3\]\}: give its name"),
        ({"name": "cnn", "classes": 3}, r"unknown option of cnn 'classes'"),
    ],
)
def test_options_that_do_not_fit_are_refused(given: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build(given, SYNTHETIC, 0)
    with pytest.raises(ConfigError, match=sentence):
        models.resolve(given)


class Brought(nn.Module):
    """A module of other authors, who know nothing of this package."""

    def __init__(self, outputs: int, x_shape: tuple[int, ...], width: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(x_shape), width), nn.ReLU(), nn.Linear(width, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found


class Loose(Brought):
    def __init__(self, outputs: int, x_shape: tuple[int, ...], width: "NoSuchType" = 4, **kwargs: Any) -> None:  # type: ignore[name-defined] # noqa: F821
        super().__init__(outputs, x_shape, width, **kwargs)


class Later(Brought):
    """With one more option than it had, which is not even JSON."""

    def __init__(
        self, outputs: int, x_shape: tuple[int, ...], width: int = 4, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__(outputs, x_shape, width)


class Asking(Brought):
    def __init__(self, outputs: int, x_shape: tuple[int, ...], depth: int) -> None:
        super().__init__(outputs, x_shape, depth)


@pytest.mark.parametrize("mode", ["sequential", "vectorised"])
def test_any_torch_module_will_do(monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    bring(monkeypatch, {"brought": Brought, "asking": Asking, "loose": Loose, "later": Later})
    assert models.resolve({"name": "later", "width": 6}) == {"name": "later", "width": 6}, "hashes stay"
    spec = {"classes": 3, "x_shape": (4,), "x_dtype": "float32"}
    model = build({"name": "brought", "width": 6}, spec, 1)
    loose = build({"name": "loose", "width": 6}, spec, 1)
    assert_close(dict(loose.named_parameters()), dict(model.named_parameters()), rtol=0, atol=0)
    assert list(dict(model.named_parameters())) == ["net.1.weight", "net.1.bias", "net.3.weight", "net.3.bias"]
    work = Task(model.double())
    algorithm = MAML(inner_lr=0.1)
    episodes = [episode("logistic", *sizes, seed=i) for i, sizes in enumerate(RAGGED)]
    found = engine(work, algorithm, mode).gather(work.params(), episodes, [0.25] * 4).update
    expected = [gradient_of_maml(work, one) for one in episodes]
    for name, leaf in found.items():
        assert_close(leaf, sum(one[name] for one in expected) / 4, rtol=1e-9, atol=1e-12)
    assert Task(model).params(1).keys() == work.params().keys(), "drawn once more by its constructor"
    with pytest.raises(ConfigError, match="Brought cannot be drawn once more, which the algorithm asks for"):
        Task(Brought(3, (4,))).params(1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Brought has no parameters in a part 'head', which the algorithm asks for"):
        work.split(work.params(), "head")
    with pytest.raises(ConfigError, match=r"Brought does not say what its features are, .* metaleaf\.models\.Model"):
        work.features(work.params(), torch.zeros(2, 4).double())
    with pytest.raises(
        ConfigError, match="Asking's constructor asks for 'depth', which nobody gives: give it a default"
    ):
        build("asking", spec, 1)


def gradient_of_maml(work: Task, one: Episode) -> dict[str, Tensor]:
    """By functorch, one step of the default inner rate at a time."""

    def after(params: dict[str, Tensor]) -> Tensor:
        slope = torch.func.grad(work.loss)(params, one.support)
        return work.loss({name: p - 0.1 * slope[name] for name, p in params.items()}, one.query)

    found: dict[str, Tensor] = torch.func.grad(after)(work.params())
    return found


def test_one_prediction_an_example_is_too_little_for_a_sequence() -> None:
    spec = {"outputs": 3, "positions": 4, "x_shape": (4,), "x_dtype": "uint8"}
    with pytest.raises(ConfigError, match="model 'lstm' makes one prediction an example, and the data ask for 4"):
        build("lstm", spec, 0)
