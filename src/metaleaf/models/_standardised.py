"""A model together with the scale of its data."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Figures = float | Sequence[float]


class Standardised(nn.Module):
    """A trained model that is given x, and answers y, in the data's own units.

    Means and standard deviations are those of a record's ``data.scale``; NaN in x is what was not measured.
    """

    def __init__(
        self, model: nn.Module, *, x_mean: Figures, x_sd: Figures, y_mean: Figures = 0.0, y_sd: Figures = 1.0
    ) -> None:
        super().__init__()
        self.model = model
        self.x_mean, self.x_sd = torch.tensor(x_mean), torch.tensor(x_sd)
        self.y_mean, self.y_sd = torch.tensor(y_mean).flatten(), torch.tensor(y_sd).flatten()

    def forward(self, x: Tensor) -> Tensor:
        """Predictions [n, outputs]."""
        scaled = ((x - self.x_mean) / self.x_sd).nan_to_num()
        found: Tensor = self.model(scaled) * self.y_sd + self.y_mean
        return found
