"""What is done to images, uint8 [n, side, side] or, in colour, [n, side, side, 3]."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter


def turned(x: np.ndarray, degrees: float, fill: int) -> np.ndarray:
    """Images turned about their centre, anticlockwise (bilinear); `fill` is what comes in at the corners."""
    colour = (fill,) * x.shape[3] if x.ndim == 4 else fill
    return _each(x, lambda image: image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=colour))


def inked(x: np.ndarray, stroke: int) -> np.ndarray:
    """Images whose dark ink has grown (or, below 0, is thinned) by so many half pixels a side."""
    if not stroke:
        return x
    grow_or_thin = ImageFilter.MinFilter if stroke > 0 else ImageFilter.MaxFilter  # ink is dark

    def changed(image: Image.Image) -> Image.Image:
        # At twice the size: a stroke is about two pixels wide, so thinned by a whole one a side it would be gone.
        doubled = image.resize((2 * image.width, 2 * image.height), Image.Resampling.BILINEAR)
        return doubled.filter(grow_or_thin(2 * abs(stroke) + 1)).resize(image.size, Image.Resampling.BOX)

    return _each(x, changed)


def inverted(x: np.ndarray) -> np.ndarray:
    """Images with light for dark."""
    return 255 - x


def _each(x: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    if not len(x):
        return x
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in x])
