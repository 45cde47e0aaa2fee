"""The models of LEAF, as torch modules, and what any model has to be.

Source of the architectures: LEAF's ``models/{femnist,shakespeare,synthetic,celeba}``. They start as TensorFlow 1 starts
its layers (Glorot uniform, zero biases). How a model starts is its own affair, and any other stays as its constructor
made it, pretrained weights too.

Which parts a model has is its own affair as well, not an algorithm's: `Model.parts` names the head (what follows the
features) and the normalisation layers, and `metaleaf.task.Task.split` hands them out.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from metaleaf.errors import ConfigError, unknown
from metaleaf.gradient import is_vectorising, order
from metaleaf.models.lstm import recurrence
from metaleaf.models.seeded import drawing

Spec = Mapping[str, Any]


class Model(nn.Module):
    """Features, then a linear head `out` on them.

    It is in training mode where a client learns, with dropout from the client's seed (`metaleaf.models.seeded`), and in
    evaluation mode where it is scored. Its parameters are all that it may keep: see `check`.
    """

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {"head": ("out",), "norm": ()}
    """Paths of the submodules or parameters that make up each part, such as ``"out"`` or ``"blocks.0.norm"``."""
    recurrent: ClassVar[bool] = False
    """Whether rows may be of any length, each further element of which takes the same work."""

    out: nn.Linear
    remake: Callable[[], nn.Module] | None = None
    """Makes another such model by its constructor; `build` sets it."""

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the head reads, [n, width]; mask (bool [n]) is False on rows that must not influence the others."""
        raise NotImplementedError

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [n, classes]."""
        logits: Tensor = self.out(self.features(x, mask))
        return logits


class TensorFlowModel(Model):
    """A model whose constructor ends with `reset_parameters`, which starts it as TensorFlow 1 would."""

    def reset_parameters(self) -> None:
        """Draw the parameters of its layers anew from torch's generator."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding | nn.LSTM):
                _draw(module)
        for module in self.modules():
            if isinstance(module, nn.LSTM):
                for i in range(module.num_layers):
                    _draw_lstm_layer(getattr(module, f"weight_ih_l{i}"), getattr(module, f"weight_hh_l{i}"))


def _draw(layer: nn.Module) -> None:
    """Glorot-uniform weights and embeddings, zero biases, LSTM forget bias 1."""
    for name, p in layer.named_parameters(recurse=False):
        if p.dim() > 1:
            nn.init.xavier_uniform_(p)
            continue
        nn.init.zeros_(p)
        if name.startswith("bias_hh"):
            size = len(p) // 4
            nn.init.ones_(p[size : 2 * size])  # torch orders the gates input, forget, cell, output


def _draw_lstm_layer(inputs: Tensor, recurrent: Tensor) -> None:
    # TensorFlow keeps both in one matrix [inputs + hidden, 4 * hidden], and its shape decides the bound.
    bound = math.sqrt(6 / (inputs.shape[1] + recurrent.shape[1] + len(inputs)))
    nn.init.uniform_(inputs, -bound, bound)
    nn.init.uniform_(recurrent, -bound, bound)


class CNN(TensorFlowModel):
    """LEAF's FEMNIST network: two 5x5 convolutions (32, 64), each with a 2x2 pool, then 2,048 hidden units.

    6,603,710 parameters for 28x28 images of 62 classes. Takes uint8 images [n, 28, 28], 255 = white paper.
    """

    def __init__(self, classes: int, side: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.hidden = nn.Linear(64 * (side // 4) ** 2, 2048)
        self.out = nn.Linear(2048, classes)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The hidden units, [n, 2048]."""
        h = _of_patches(x.to(self.out.weight.dtype) / 255, self.conv1)
        h = _pooled(h).contiguous()
        h = _pooled(self.conv2(h))
        return F.relu(self.hidden(h.flatten(1)))


def _of_patches(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The convolution of images [n, height, width] of one channel, as one product with all their patches.

    Libraries' convolutions are made for many channels: on a CPU this one's gradient is several times as fast.
    """
    weight, (rows, columns) = conv.weight.flatten(1), conv.kernel_size
    down, right = rows // 2, columns // 2
    patches = F.pad(x, (right, right, down, down)).unfold(1, rows, 1).unfold(2, columns, 1)
    return F.linear(patches.flatten(-2), weight, conv.bias).movedim(-1, 1)


def _pooled(h: Tensor) -> Tensor:
    """relu, then a 2x2 pool. They commute: this way round, and with channels last, it is several times as fast."""
    # torch.func.vmap has no second derivatives of channels last.
    layout = torch.contiguous_format if is_vectorising() else torch.channels_last
    return F.relu(F.max_pool2d(h.contiguous(memory_format=layout), 2))


class BatchNorm(nn.Module):
    """Normalises each channel by the mean and variance of the batch at hand, always: while scoring, too.

    So there are no running averages and nothing that a server would have to merge or a client to send. It is what
    LEAF's CelebA network does (``batch_normalization(training=True)``), with TensorFlow's epsilon. Padded rows do not
    count.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """X [n, channels, height, width], normalised, scaled and shifted."""
        real = torch.ones_like(x[:, 0, 0, 0]) if mask is None else mask.to(x.dtype)
        share = (real / real.sum().clamp(min=1)).view(-1, 1, 1, 1)
        mean = (share * x).sum(0).mean((1, 2)).view(-1, 1, 1)
        variance = (share * (x - mean) ** 2).sum(0).mean((1, 2)).view(-1, 1, 1)
        normal = (x - mean) / (variance + 1e-3).sqrt()
        return normal * self.scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class FaceCNN(TensorFlowModel):
    """LEAF's CelebA network: four times a 3x3 convolution of 32 channels, batch normalisation and a 2x2 pool.

    31,202 parameters for 84x84 colour images of 2 classes. Takes uint8 images [n, side, side, 3].
    """

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {"head": ("out",), "norm": tuple(f"norm{i}" for i in range(4))}

    def __init__(self, classes: int, side: int, channels: int) -> None:
        super().__init__()
        for i in range(4):
            self.add_module(f"conv{i}", nn.Conv2d(32 if i else channels, 32, 3, padding=1))
            self.add_module(f"norm{i}", BatchNorm(32))
            side = -(-side // 2)
        self.out = nn.Linear(32 * side**2, classes)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last maps, [n, 32 * side^2]."""
        h = x.to(self.out.weight.dtype).movedim(-1, 1).contiguous() / 255
        for i in range(4):
            h = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(h), mask)
            h = F.relu(F.max_pool2d(h, 2, ceil_mode=True))
        return h.flatten(1)


class SmallCNN(TensorFlowModel):
    """A CNN small enough to run many copies side by side: two 3x3 convolutions (8, 16), 64 hidden units.

    Stride 2 instead of pools: many clients' copies run 2.6 times as fast side by side on a CPU.
    11,178 parameters for 14x14 images of 10 classes; ours, not LEAF's. Takes uint8 images [n, side, side].
    """

    def __init__(self, classes: int, side: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2)
        self.hidden = nn.Linear(16 * (((side + 1) // 2 - 1) // 2) ** 2, 64)
        self.out = nn.Linear(64, classes)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The hidden units, [n, 64]."""
        h = 1 - x.to(self.out.weight.dtype).unsqueeze(1) / 255
        h = F.relu(self.conv2(F.relu(self.conv1(h))))
        return F.relu(self.hidden(h.flatten(1)))


class LSTM(TensorFlowModel):
    """LEAF's Shakespeare network: embedding of 8, two LSTM layers of 256, the last state gives the next character.

    817,872 parameters for 80 characters, as in TensorFlow: torch's second bias vector is not trained but holds
    TensorFlow's constant forget bias of 1. Takes uint8 character numbers [n, 80].
    """

    recurrent: ClassVar[bool] = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, 8)
        self.lstm = nn.LSTM(8, 256, num_layers=2, batch_first=True)
        self.out = nn.Linear(256, classes)
        for name, bias in self.lstm.named_parameters():
            if name.startswith("bias_hh"):
                bias.requires_grad_(False)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The second layer's last state, [n, 256]."""
        if order() == 2:
            return self._twice_differentiable(x)
        embedded = self.embedding(x.long())
        # Zeros made from the input, not by the module: vmap has to see one initial state per client.
        zeros = torch.zeros_like(embedded[:, 0, :1]).expand(self.lstm.num_layers, -1, self.lstm.hidden_size)
        states, _ = self.lstm(embedded, (zeros.contiguous(), zeros.contiguous()))
        final: Tensor = states[:, -1]
        return final

    def _twice_differentiable(self, x: Tensor) -> Tensor:
        """The same by `metaleaf.models.lstm`."""
        (first, recurrent, *biases), (second, *others) = self.lstm.all_weights
        # The first layer's product is taken once a character of the vocabulary, not of the text.
        table = F.linear(self.embedding.weight, first, biases[0] + biases[1])
        states = recurrence(F.embedding(x.t().long(), table), recurrent)
        return recurrence(F.linear(states, second, others[1] + others[2]), others[0])[-1]


class CharMLP(TensorFlowModel):
    """A neural language model (Bengio et al. 2003): embeddings of 8, side by side, then 64 hidden units (tanh).

    16,144 parameters for 20 characters out of 80. For second derivatives of many copies, which an LSTM makes far
    slower; ours, not LEAF's. Takes uint8 character numbers [n, window].
    """

    def __init__(self, classes: int, window: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, 8)
        self.hidden = nn.Linear(8 * window, 64)
        self.out = nn.Linear(64, classes)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The hidden units, [n, 64]."""
        return torch.tanh(self.hidden(self.embedding(x.long()).flatten(1)))


class Logistic(TensorFlowModel):
    """Multinomial logistic regression on the flattened input: LEAF's model for Synthetic."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.out = nn.Linear(features, classes)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The input itself, flattened."""
        return x.to(self.out.weight.dtype).flatten(1)


class MLP(TensorFlowModel):
    """32 hidden units (tanh) on the flattened input: the smallest model with features that clients can share.

    2,117 parameters for 60 numbers and 5 classes; ours, not LEAF's.
    """

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, 32)
        self.out = nn.Linear(32, classes)
        self.reset_parameters()

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The hidden units, [n, 32]."""
        return torch.tanh(self.hidden(x.to(self.out.weight.dtype).flatten(1)))


def _cnn(spec: Spec) -> Model:
    return CNN(spec["classes"], _side(spec))


def _small_cnn(spec: Spec) -> Model:
    return SmallCNN(spec["classes"], _side(spec))


def _side(spec: Spec) -> int:
    shape = spec["x_shape"]
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 4:
        raise ValueError("it needs square images of 4 pixels or more a side.")
    return int(shape[0])


def _face_cnn(spec: Spec) -> Model:
    shape = spec["x_shape"]
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ValueError("it needs square colour images, channels last.")
    return FaceCNN(spec["classes"], shape[0], shape[2])


def _lstm(spec: Spec) -> Model:
    _window(spec)
    return LSTM(spec["classes"])


def _char_mlp(spec: Spec) -> Model:
    return CharMLP(spec["classes"], _window(spec))


def _window(spec: Spec) -> int:
    if len(spec["x_shape"]) != 1 or not str(spec["x_dtype"]).startswith("uint"):
        raise ValueError("it needs rows of character numbers.")
    return int(spec["x_shape"][0])


def _logistic(spec: Spec) -> Model:
    return Logistic(spec["classes"], math.prod(spec["x_shape"]))


def _mlp(spec: Spec) -> Model:
    return MLP(spec["classes"], math.prod(spec["x_shape"]))


MODELS: dict[str, Callable[[Spec], Model]] = {
    "char_mlp": _char_mlp,
    "cnn": _cnn,
    "face_cnn": _face_cnn,
    "logistic": _logistic,
    "lstm": _lstm,
    "mlp": _mlp,
    "small_cnn": _small_cnn,
}
"""Model by the name that a suite uses, from a prepared dataset's spec (classes, x_shape, x_dtype)."""


def build(name: str, spec: Spec, seed: int) -> Model:
    """The model `name` for a prepared dataset's spec, with initial parameters that depend on the seed only."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    make = partial(MODELS[name], spec)
    try:
        with drawing(seed):
            model = make()
    except ValueError as error:
        raise ConfigError(
            f"model {name!r} cannot read {spec['x_dtype']} examples of shape {tuple(spec['x_shape'])}: {error}"
        ) from error
    model.remake = make
    return model


def redrawn(model: Model, seed: int) -> nn.Module:
    """Another model like this one, whose initial parameters depend on the seed only.

    By its method `reset_parameters` if it has one, otherwise made once more as `build` made it.
    """
    with drawing(seed):
        if hasattr(model, "reset_parameters"):
            other: nn.Module = copy.deepcopy(model)
            other.reset_parameters()  # type: ignore[operator]
            return other
        if model.remake:
            return model.remake().to(next(model.parameters()))
    raise ConfigError(
        f"{type(model).__name__} cannot be drawn once more, which the algorithm asks for: name it in "
        "metaleaf.models.MODELS, or give it a method reset_parameters."
    )


def check(model: Model) -> None:
    """ConfigError if the model keeps anything beside its parameters, or names parts that it does not have."""
    name, modules, parameters = type(model).__name__, dict(model.named_modules()), dict(model.named_parameters())
    persistent = model.state_dict().keys()
    for path, _ in model.named_buffers():
        if path in persistent:
            owner = modules[path.rpartition(".")[0]]
            raise ConfigError(
                f"{name} has a buffer {path!r}, which no algorithm would train, average or send: {_remedy(owner)}"
            )
    for part, paths in model.parts.items():
        for path in paths:
            if path not in modules and path not in parameters:
                raise ConfigError(
                    f"{name}.parts[{part!r}] names {path!r}, which it does not have: give the path of a submodule."
                )


def _remedy(owner: nn.Module) -> str:
    if isinstance(owner, _NormBase):
        return (
            f"in place of {type(owner).__name__}, use metaleaf.models.BatchNorm or nn.GroupNorm, or "
            "track_running_stats=False."
        )
    return "register it with persistent=False if it never changes, or make it a parameter."


def inside(model: Model, part: str) -> set[str]:
    """Names of the trained parameters of a part; ConfigError if there are none."""
    paths = model.parts.get(part, ())
    names = {name for name, p in model.named_parameters() if p.requires_grad and _within(name, paths)}
    if not names:
        raise ConfigError(
            f"{type(model).__name__} has no parameters in a part {part!r}, which the algorithm asks for: run it on a "
            "model that has some, and names them in its `parts`."
        )
    return names


def _within(name: str, paths: Iterable[str]) -> bool:
    """Whether a dotted name is one of the paths, or below one."""
    return any(f"{name}.".startswith(f"{path}.") for path in paths)
