"""The texts of a figure as they are really drawn, to measure them."""

from unittest.mock import patch

from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

DPI = 200


def drawn_texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text that drawing the figure draws (tick labels out of sight are not), with its box in pixels."""
    figure.set_dpi(DPI)
    found: list[Text] = []
    draw = Text.draw

    def noted(self: Text, renderer: RendererBase) -> None:
        if self.get_visible() and self.get_text().strip():
            found.append(self)
        draw(self, renderer)

    with patch.object(Text, "draw", noted):
        figure.draw_without_rendering()  # lays out first, then draws nothing
    return [(text, Text.get_window_extent(text)) for text in dict.fromkeys(found)]


def overlapping(texts: list[tuple[Text, Bbox]], slack: float = 1.0) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes overlap by more than `slack` pixels in both directions."""
    pairs = []
    for i, (one, a) in enumerate(texts):
        for other, b in texts[i + 1 :]:
            wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            if wide > slack and high > slack:
                pairs.append((one.get_text(), other.get_text()))
    return pairs


def outside(figure: Figure, texts: list[tuple[Text, Bbox]], slack: float = 1.0) -> list[str]:
    """Texts that leave the canvas."""
    whole = figure.bbox.padded(slack)
    corners = [(text, box.get_points()) for text, box in texts]
    return [text.get_text() for text, points in corners if not all(whole.contains(*point) for point in points)]
