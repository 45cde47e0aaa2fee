"""LEAF's models, and a small one, as one writes them with torch.nn: what the baselines train.

Parameters are named as in `metaleaf.models`. pfl's Python reads this file, too: it imports nothing of metaleaf.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class CNN(nn.Module):
    """FEMNIST's."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.hidden = nn.Linear(64 * (spec["x_shape"][0] // 4) ** 2, 2048)
        self.out = nn.Linear(2048, spec["classes"])

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = x.unsqueeze(1).to(self.out.weight.dtype) / 255
        h = F.max_pool2d(F.relu(self.conv1(h)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        logits: Tensor = self.out(F.relu(self.hidden(h.flatten(1))))
        return logits


class SmallCNN(nn.Module):
    """The lite division's for images."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2)
        self.hidden = nn.Linear(16 * (((spec["x_shape"][0] + 1) // 2 - 1) // 2) ** 2, 64)
        self.out = nn.Linear(64, spec["classes"])

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = 1 - x.unsqueeze(1).to(self.out.weight.dtype) / 255
        h = F.relu(self.conv2(F.relu(self.conv1(h))))
        logits: Tensor = self.out(F.relu(self.hidden(h.flatten(1))))
        return logits


class LSTM(nn.Module):
    """Shakespeare's; the second bias vectors are constant."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec["classes"], 8)
        self.lstm = nn.LSTM(8, 256, num_layers=2, batch_first=True)
        self.out = nn.Linear(256, spec["classes"])
        for name, p in self.lstm.named_parameters():
            p.requires_grad_(not name.startswith("bias_hh"))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        states, _ = self.lstm(self.embedding(x.long()))
        logits: Tensor = self.out(states[:, -1])
        return logits


class Logistic(nn.Module):
    """Synthetic's."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.out = nn.Linear(spec["x_shape"][0], spec["classes"])

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.out(x.to(self.out.weight.dtype))
        return logits


MODELS: Mapping[str, type[nn.Module]] = {"cnn": CNN, "small_cnn": SmallCNN, "lstm": LSTM, "logistic": Logistic}
