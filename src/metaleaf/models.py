"""The models of LEAF, as torch modules, initialised as TensorFlow 1 initialises them (Glorot uniform, zero biases).

Source of the architectures: LEAF's ``models/{femnist,shakespeare,synthetic}``.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaleaf.errors import ConfigError, unknown

Spec = Mapping[str, Any]


class CNN(nn.Module):
    """LEAF's FEMNIST network: two 5x5 convolutions (32, 64), each with a 2x2 pool, then 2,048 hidden units.

    6,603,710 parameters for 28x28 images of 62 classes. Takes uint8 images [n, 28, 28], 255 = white paper.
    """

    def __init__(self, classes: int, side: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.hidden = nn.Linear(64 * (side // 4) ** 2, 2048)
        self.out = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, classes]."""
        h = x.to(self.out.weight.dtype).unsqueeze(1) / 255
        h = F.max_pool2d(F.relu(self.conv1(h)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        logits: Tensor = self.out(F.relu(self.hidden(h.flatten(1))))
        return logits


class LSTM(nn.Module):
    """LEAF's Shakespeare network: embedding of 8, two LSTM layers of 256, the last state gives the next character.

    817,872 parameters for 80 characters, as in TensorFlow: torch's second bias vector is not trained but holds
    TensorFlow's constant forget bias of 1. Takes uint8 character numbers [n, 80].
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, 8)
        self.lstm = nn.LSTM(8, 256, num_layers=2, batch_first=True)
        self.out = nn.Linear(256, classes)
        for name, bias in self.lstm.named_parameters():
            if name.startswith("bias_hh"):
                bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, classes]."""
        embedded = self.embedding(x.long())
        # Zeros made from the input, not by the module: vmap has to see one initial state per client.
        zeros = torch.zeros_like(embedded[:, 0, :1]).expand(self.lstm.num_layers, -1, self.lstm.hidden_size)
        states, _ = self.lstm(embedded, (zeros.contiguous(), zeros.contiguous()))
        logits: Tensor = self.out(states[:, -1])
        return logits


class Logistic(nn.Module):
    """Multinomial logistic regression on the flattened input: LEAF's model for Synthetic."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.out = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, classes]."""
        logits: Tensor = self.out(x.to(self.out.weight.dtype).flatten(1))
        return logits


def _cnn(spec: Spec) -> nn.Module:
    shape = spec["x_shape"]
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 4:
        raise ValueError("it needs square images of 4 pixels or more a side.")
    return CNN(spec["classes"], shape[0])


def _lstm(spec: Spec) -> nn.Module:
    if len(spec["x_shape"]) != 1 or not str(spec["x_dtype"]).startswith("uint"):
        raise ValueError("it needs rows of character numbers.")
    return LSTM(spec["classes"])


def _logistic(spec: Spec) -> nn.Module:
    return Logistic(spec["classes"], math.prod(spec["x_shape"]))


MODELS: dict[str, Callable[[Spec], nn.Module]] = {"cnn": _cnn, "lstm": _lstm, "logistic": _logistic}
"""Model by the name that a suite uses, from a prepared dataset's spec (classes, x_shape, x_dtype)."""


def build(name: str, spec: Spec, seed: int) -> nn.Module:
    """The model `name` for a prepared dataset's spec, with initial parameters that depend on the seed only."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        try:
            model = MODELS[name](spec)
        except ValueError as error:
            raise ConfigError(
                f"model {name!r} cannot read {spec['x_dtype']} examples of shape {tuple(spec['x_shape'])}: {error}"
            ) from error
        initialise(model)
    return model


def initialise(model: nn.Module) -> None:
    """Set TensorFlow 1's defaults: Glorot-uniform weights and embeddings, zero biases, LSTM forget bias 1."""
    for name, p in model.named_parameters():
        with torch.no_grad():
            if "bias" not in name:
                nn.init.xavier_uniform_(p)
            else:
                p.zero_()
            if "bias_hh" in name:
                size = len(p) // 4
                p[size : 2 * size] = 1.0  # torch orders the gates input, forget, cell, output
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            for i in range(module.num_layers):
                _initialise_lstm_layer(getattr(module, f"weight_ih_l{i}"), getattr(module, f"weight_hh_l{i}"))


def _initialise_lstm_layer(inputs: Tensor, recurrent: Tensor) -> None:
    # TensorFlow keeps both in one matrix [inputs + hidden, 4 * hidden], and its shape decides the bound.
    bound = math.sqrt(6 / (inputs.shape[1] + recurrent.shape[1] + len(inputs)))
    nn.init.uniform_(inputs, -bound, bound)
    nn.init.uniform_(recurrent, -bound, bound)
