"""How accuracy is spread over test clients, before and after adaptation."""

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from metaleaf.report.figures.drawing import Picture
from metaleaf.report.figures.layout import beside, legend, row_per_algorithm
from metaleaf.report.figures.runs import Runs, title
from metaleaf.report.figures.style import INK, MUTED, Look

GRID = np.linspace(0, 100, 101)


def clients(runs: Runs) -> Picture:
    """Split violins: the density after adaptation stands on that before it, which hangs down."""
    titles = [title(setting) for setting in runs.settings]
    figure, placed = row_per_algorithm(titles, runs.names, runs.width, height=0.36)
    for axes, setting in zip(placed, runs.settings, strict=True):
        for y, name in enumerate(runs.names):
            if scores := runs.scores[setting].get(name):
                _violin(axes, y, scores.accuracy("before").ravel(), scores.accuracy("after").ravel(), runs.look[name])
                hurt = (scores.after < scores.before).mean()
                beside(axes, y, f"{100 * hurt:.0f} %")
        axes.text(1.02, 1.01, "hurt", transform=axes.transAxes, va="bottom", fontsize=7, color=MUTED)
        axes.set_xlim(0, 100)
        axes.set_xlabel("Accuracy of a client (%)")
    handles = (
        Patch(facecolor=to_rgba(INK, 0.35), edgecolor=INK, label="after adaptation"),
        Patch(facecolor="none", edgecolor=INK, label="before adaptation"),
        Line2D([], [], color=INK, marker="|", markersize=5, markeredgewidth=1.5, linestyle="", label="medians"),
    )
    legend(figure, handles, [str(handle.get_label()) for handle in handles])
    return Picture(
        figure,
        "Spread of accuracy over test clients, those of all seeds together: density after adaptation (above, filled) "
        "and before it (below), each scaled to the same height. Hurt: share "
        f"of clients whose accuracy fell by adapting.{runs.of_participants}",
    )


def _violin(
    axes: Axes, row: float, before: npt.NDArray[np.float64], after: npt.NDArray[np.float64], look: Look
) -> None:
    for values, way in ((after, -1), (before, 1)):
        density = _density(100 * values, GRID)
        edge = row + way * 0.44 * density / density.max()
        if way < 0:
            axes.fill_between(GRID, row, edge, color=look.colour, alpha=0.35, linewidth=0)
        axes.plot(GRID, edge, color=look.colour, linewidth=0.9)
        median = 100 * float(np.median(values))
        axes.plot([median] * 2, [row, row + way * 0.24], color=look.colour, linewidth=1.8, clip_on=False)
    axes.plot([0, 100], [row, row], color=look.colour, linewidth=0.5)


def _density(values: npt.NDArray[np.float64], grid: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Gaussian kernel density of percentages, up to a factor, mirrored at 0 and 100 where accuracies end."""
    width = max(1.5, 1.06 * float(values.std()) * len(values) ** -0.2)  # Silverman's rule
    mirrored = np.concatenate([values, -values, 200 - values])
    density: npt.NDArray[np.float64] = np.exp(-0.5 * ((grid[:, None] - mirrored) / width) ** 2).mean(axis=1)
    return density
