"""Models that a user would bring, with small data to learn: a Transformer, a ResNet, and what torch makes hard."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import coins
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_tasks import episodes_of
from torch import Tensor, nn

from metaleaf import registry
from metaleaf.config.config import RunConfig
from metaleaf.data.client_store import ClientStore
from metaleaf.models import Model
from metaleaf.shots import Episode, Shots
from metaleaf.task import Task


def bring(monkeypatch: pytest.MonkeyPatch, makers: Mapping[str, Callable[..., nn.Module]]) -> None:
    """As if other packages had brought them, or in place of ours."""
    plugin = registry.plugin
    found = lambda kind, name: makers[name] if kind == "models" and name in makers else plugin(kind, name)  # noqa: E731
    monkeypatch.setattr(registry, "plugin", found)


Parts = dict[str, tuple[str, ...]]
SYMBOLS, WINDOW, SIDE = 8, 6, 8
SPECS: dict[str, dict[str, Any]] = {
    "text": {"version": "1.0.0", "x_shape": [WINDOW], "x_dtype": "uint8", "classes": 3, "window": 0},
    "images": {"version": "1.0.0", "x_shape": [SIDE, SIDE], "x_dtype": "uint8", "classes": 3, "window": 0},
}


class Text(Model):
    """Embeddings, what a subclass makes of them, and a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, width)
        self.out = nn.Linear(width, 3)


class Transformer(Text):
    """An encoder of one layer, as torch has it: LayerNorm, dropout of units and of attention."""

    parts: ClassVar[Parts] = {"head": ("out",), "norm": ("encoder.layers.0.norm1", "encoder.layers.0.norm2")}

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(WINDOW, 16) / 4)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.encoder(self.embedding(x.long()) + self.places)
        return found.mean(1)


class GRU(Text):
    """What torch.func.vmap cannot run: the module makes its own first state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(16, 16, batch_first=True)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.gru(self.embedding(x.long()))[0]
        return found[:, -1]


class Images(Model):
    """A convolution, what a subclass makes of it, and a head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.out = nn.Linear(width, 3)

    def maps(self, x: Tensor) -> Tensor:
        out: Tensor = self.stem(1 - x.to(self.out.weight.dtype).unsqueeze(1) / 255)
        return out


class Block(nn.Module):
    """Two convolutions and a way round them (He et al. 2016), with GroupNorm (Wu and He 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(2, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(2, outputs)
        self.shorter = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.shorter(x))


class ResNet8(Images):
    """Three blocks: with stem and head, eight layers deep."""

    parts: ClassVar[Parts] = {
        "head": ("out",),
        "norm": tuple(f"blocks.{i}.norm{j}" for i in range(3) for j in (1, 2)),
    }

    def __init__(self) -> None:
        super().__init__(width=16)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 2))

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.blocks(F.relu(self.maps(x)))
        return found.mean((2, 3))


class BatchNormed(Images):
    """With torch's batch normalisation, which does not know the mask; without or with running averages."""

    parts: ClassVar[Parts] = {"head": ("out",), "norm": ("norm",)}

    def __init__(self, track: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=track)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.relu(self.norm(self.maps(x))).mean((2, 3))


MAKERS: dict[str, tuple[str, Callable[[], Model]]] = {
    "transformer": ("text", Transformer),
    "gru": ("text", GRU),
    "resnet8": ("images", ResNet8),
    "batch_normed": ("images", BatchNormed),
}
"""Models by name: the data that they read, and how they are made."""


def drawn(kind: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Texts with one of three symbols among others, or images with stripes of one of three directions."""
    y = rng.integers(0, 3, n)
    if kind == "text":
        x = rng.integers(3, SYMBOLS, (n, WINDOW))
        x[np.arange(n), rng.integers(0, WINDOW, n)] = y
        return x.astype(np.uint8), y
    rows, columns = np.mgrid[:SIDE, :SIDE]
    along = np.stack([rows, columns, rows + columns])[y]
    ink = 80 * ((along + rng.integers(0, 4, (n, 1, 1))) % 4 < 2)
    return (255 - ink - rng.integers(0, 100, ink.shape)).astype(np.uint8), y


def store(kind: str, clients: int = 20, size: int = 20) -> ClientStore:
    x, y = drawn(kind, clients * size, np.random.default_rng(0))
    about: dict[str, Any] = {"name": kind, "spec": SPECS[kind], "data_hash": "2" * 64}
    ids = np.array([f"client-{i:03d}" for i in range(clients)])
    offsets = np.arange(clients + 1) * size
    return ClientStore(x, y.astype(np.uint8), offsets, ids, np.array(["here"] * clients), about)


def config(model: str, algorithm: str, hyperparameters: dict[str, Any], **protocol: Any) -> RunConfig:
    found = coins.config(algorithm, hyperparameters=hyperparameters, **protocol)
    return found.model_copy(update={"model": model})


def task(model: Model, dtype: torch.dtype = torch.float64) -> Task:
    return Task(model.to(dtype), seed=7, clients=9, cohort=4)


def shots(kind: str, n: int, seed: int) -> Shots:
    x, y = drawn(kind, n, np.random.default_rng(seed))
    return Shots(torch.from_numpy(x), torch.from_numpy(y), torch.tensor(1000 + seed))


def cohort(kind: str) -> list[Episode]:
    """Clients of several sizes."""
    return episodes_of(partial(shots, kind), [(3, 4), (2, 2), (6, 9), (4, 3)])
