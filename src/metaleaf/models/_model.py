"""What a model is: a torch module, the parts of it that algorithms ask for, and what it may keep."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from metaleaf.errors import ConfigError


class Model(nn.Module):
    """Features, then a linear head `out` on them.

    It is in training mode where a client learns, with dropout from the client's seed (`metaleaf.models.Seeded`), and in
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


def side_of(x_shape: Sequence[int]) -> int:
    """Pixels a side of square images [side, side]; ValueError for other examples, and for images below 4 x 4."""
    if len(x_shape) != 2 or x_shape[0] != x_shape[1] or x_shape[0] < 4:
        raise ValueError("it needs square images of 4 pixels or more a side.")
    return int(x_shape[0])


def window_of(x_shape: Sequence[int], x_dtype: str) -> int:
    """Characters in a row of character numbers [window]; ValueError if examples are no such rows."""
    if len(x_shape) != 1 or not str(x_dtype).startswith("uint"):
        raise ValueError("it needs rows of character numbers.")
    return int(x_shape[0])


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
    for part, paths in _parts(model).items():
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
    paths = _parts(model).get(part, ())
    names = {name for name, p in model.named_parameters() if p.requires_grad and _within(name, paths)}
    if not names:
        raise ConfigError(
            f"{type(model).__name__} has no parameters in a part {part!r}, which the algorithm asks for: run it on a "
            "model that has some, and names them in its `parts`."
        )
    return names


def _parts(model: nn.Module) -> Mapping[str, tuple[str, ...]]:
    """Those that the model names; a module of other authors may name none."""
    found: Mapping[str, tuple[str, ...]] = getattr(model, "parts", {})
    return found


def _within(name: str, paths: Iterable[str]) -> bool:
    """Whether a dotted name is one of the paths, or below one."""
    return any(f"{name}.".startswith(f"{path}.") for path in paths)
