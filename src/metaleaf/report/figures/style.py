"""What all figures share: widths, colours, the look of every algorithm, and how a figure becomes files.

Every figure is drawn on its own canvas, without pyplot's global state.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import count

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

SINGLE, DOUBLE, NEURIPS = 3.25, 6.75, 5.5
"""Widths in inches: one column of ICML's two, both with the gap between them, and NeurIPS's text."""

WIDTHS = {"single": SINGLE, "double": DOUBLE, "neurips": NEURIPS}
"""By the names of the command line."""

INK, MUTED, RULE, PAPER = "#1f2328", "#6e7781", "#dfe3e8", "#ffffff"
"""Text, what stays in the background, the grid, and the page; the style sheet uses the same."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK, "#8c5a2b")
"""Okabe & Ito's (2008), safe for colour-blind readers, with a brown for their yellow, which vanishes on white."""

# their number has no common factor with that of the colours, so that 72 algorithms stay distinct
MARKERS = ("o", "s", "D", "^", "v", "p", ">", "<", "h")

DASHES: tuple[tuple[float, tuple[float, ...]] | None, ...] = (
    None,
    (0, (4, 1.3)),
    (0, (1.2, 1.1)),
    (0, (5, 1.3, 1, 1.3)),
)
"""Of lines: solid, dashed, dotted, dash-dotted. A new one where the colours begin again."""

FORMATS = ("pdf", "svg", "png")

_NO_DATES = {
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
}


@dataclass(frozen=True)
class Look:
    """How one algorithm is drawn in every figure."""

    colour: str
    marker: str
    dash: int = 0

    def line(self, **changes: object) -> Line2D:
        """A line with its markers, for a plot or a legend."""
        look = {"color": self.colour, "marker": self.marker, "linestyle": DASHES[self.dash] or "-", "markersize": 3.4}
        return Line2D([], [], **(look | changes))  # type: ignore[arg-type]


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Colour, marker and dashes of every algorithm: the same in every figure, whatever else is in it.

    The place of a plugin in ``looks.txt`` is its look, and stays it when others are added; a line of the file goes
    once through the colours. Plugins that are not in it follow by name.
    """
    known = files("metaleaf.report.figures").joinpath("looks.txt").read_text(encoding="utf-8").split()
    others = sorted({name for name in names if _slug(name) not in known}, key=lambda name: (name.casefold(), name))
    place = dict(zip(known, count(), strict=False)) | dict(zip(others, count(len(known)), strict=False))
    return {name: _look(place[name] if name in others else place[_slug(name)]) for name in names}


def _look(place: int) -> Look:
    dash = place // len(COLOURS) % len(DASHES)
    return Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], dash)


def _slug(title: str) -> str:
    """A title as a plugin's file name: ``FedAvg(Meta)`` is fedavg_meta."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def short(text: str, limit: int = 24) -> str:
    """Text that leaves room for the data however long a name in a record is."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_files(makers: Mapping[str, Callable[[], Figure]]) -> dict[str, dict[str, bytes]]:
    """Figures, drawn in the style of them all: name -> format (pdf, svg, png) -> content of the file."""
    with styled():
        return {name: encoded(make()) for name, make in makers.items()}


@contextmanager
def styled() -> Iterator[None]:
    """Draw and write figures within, to have them all look alike."""
    with as_file(files("metaleaf.report.figures") / "metaleaf.mplstyle") as path, style.context(["default", str(path)]):
        yield


def encoded(figure: Figure, formats: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """A figure in these formats; the same figure gives the same bytes with the same version of matplotlib."""
    contents = {}
    for kind in formats:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=_NO_DATES[kind])
        contents[kind] = buffer.getvalue()
    return contents
