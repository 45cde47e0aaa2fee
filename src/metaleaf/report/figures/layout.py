"""Where panels and legends go. Panels keep their height whatever legend stands above them."""

import math
from collections.abc import Iterable, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metaleaf.report.figures.style import DOUBLE, SINGLE, Look, canvas, short

TALLEST = 9.0
"""Inches of a page that a figure may take; panels get lower beyond that."""

_LEGEND = {"handlelength": 2.2, "handletextpad": 0.5, "columnspacing": 1.4, "borderaxespad": 0.3, "fontsize": 7}


def panels(
    count: int, height: float, width: float | None = None, *, narrowest: float = 2.1, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with that many panels side by side, in as many lines as it takes; all lengths in inches.

    height: of a panel with its title and labels. width: of the figure (default: one column for one panel, else two).
    narrowest: a panel may be.
    """
    width = width or (SINGLE if count == 1 else DOUBLE)
    columns = min(count, max(1, int(width / narrowest)))
    lines = math.ceil(count / columns)
    figure = canvas(width, min(lines * height, TALLEST))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=share_y)
    for axes in grid.flat[count:]:
        axes.remove()
    placed = list(grid.flat[:count])
    if share_y and count % columns:  # the numbers of a column that ends early stand below its last panel
        for axes in placed[-columns:]:
            axes.tick_params(labelbottom=True)
    return figure, placed


def panel_per_dataset(
    datasets: Sequence[str], height: float, width: float | None = None
) -> tuple[Figure, list[tuple[Axes, str]]]:
    """A figure with a panel for each dataset, side by side in pairs; `height` of a panel in inches."""
    figure, placed = panels(len(datasets), height, width, narrowest=2.7)
    for axes, dataset in zip(placed, datasets, strict=True):
        axes.set_title(short(dataset))
    return figure, list(zip(placed, datasets, strict=True))


def row_per_algorithm(
    titles: Sequence[str], names: Sequence[str], width: float | None = None, *, height: float = 0.25
) -> tuple[Figure, list[Axes]]:
    """A figure of panels that share one row per algorithm, the first on top; `height` of a row in inches."""
    lines_of_titles = max(text.count("\n") for text in titles)
    figure, placed = panels(len(titles), 0.62 + 0.13 * lines_of_titles + height * len(names), width, share_y=True)
    for axes, text in zip(placed, titles, strict=True):
        axes.set_title(text)
        bare_rows(axes)
    placed[0].set_yticks(range(len(names)), [short(name) for name in names])
    placed[0].set_ylim(len(names) - 0.4, -0.6)
    return figure, placed


def bare_rows(axes: Axes) -> None:
    """Rows with names instead of numbers: no line, ticks or grid along them."""
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    few_ticks(axes)


def few_ticks(axes: Axes, most: int = 5) -> None:
    """Round whole numbers along x, no more than fit into a narrow panel."""
    axes.xaxis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=True))


def beside(axes: Axes, row: float, text: str) -> None:
    """A few words right of a row of a panel."""
    axes.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center_baseline", fontsize=7)


def legend(figure: Figure, handles: Sequence[Artist], names: Iterable[str]) -> None:
    """A legend above the panels, in as many columns as fit; the figure grows by its height."""
    texts = [short(name, 40) for name in names]
    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer = figure.canvas.get_renderer()  # type: ignore[no-untyped-call]
    for lines in range(1, len(texts) + 1):
        columns = math.ceil(len(texts) / lines)
        made = figure.legend(list(handles), texts, loc="outside upper left", ncols=columns, **_LEGEND)
        extent = made.get_window_extent(renderer)
        if extent.width <= figure.bbox.width - 4 or columns == 1:
            figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)
            return
        made.remove()


def legend_of_algorithms(figure: Figure, look: dict[str, Look], *extra: Artist) -> None:
    """The algorithms with colour, marker and dashes, and what else is drawn, by its label."""
    legend(figure, [*(one.line() for one in look.values()), *extra], [*look, *(str(one.get_label()) for one in extra)])
