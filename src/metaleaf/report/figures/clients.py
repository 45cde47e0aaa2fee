"""How scores are spread over test clients, before and after adaptation."""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from metaleaf.metrics import Metric, Values
from metaleaf.records.client_scores import ClientScores
from metaleaf.report.figures.drawing import Picture
from metaleaf.report.figures.layout import beside, legend, row_per_algorithm
from metaleaf.report.figures.runs import Runs, title
from metaleaf.report.figures.style import INK, MUTED, Look


def clients(runs: Runs) -> Picture:
    """Split violins: the density after adaptation stands on that before it, which hangs down."""
    titles = [title(setting) for setting in runs.settings]
    figure, placed = row_per_algorithm(titles, runs.names, runs.width, height=0.36)
    for axes, setting in zip(placed, runs.settings, strict=True):
        metric, here = runs.metric(setting.dataset), runs.scores[setting]
        grid = metric.scale * grid_of(metric, here.values())
        for y, name in enumerate(runs.names):
            if scores := here.get(name):
                _violin(axes, y, scores, grid, runs.look[name])
                hurt = metric.better(scores.scores("before"), scores.scores("after")).mean()
                beside(axes, y, f"{100 * hurt:.0f} %")
        axes.text(1.02, 1.01, "hurt", transform=axes.transAxes, va="bottom", fontsize=7, color=MUTED)
        axes.set_xlim(grid[0], grid[-1])
        axes.set_xlabel(metric.labelled(" of a client"))
    handles = (
        Patch(facecolor=to_rgba(INK, 0.35), edgecolor=INK, label="after adaptation"),
        Patch(facecolor="none", edgecolor=INK, label="before adaptation"),
        Line2D([], [], color=INK, marker="|", markersize=5, markeredgewidth=1.5, linestyle="", label="medians"),
    )
    legend(figure, handles, [str(handle.get_label()) for handle in handles])
    return Picture(
        figure,
        f"Spread of {runs.name} over test clients, those of all seeds together: density after adaptation (above, "
        "filled) and before it (below), each scaled to the same height. Hurt: share "
        f"of clients whom adapting made worse.{runs.of_participants}",
    )


def grid_of(metric: Metric, scores: Iterable[ClientScores]) -> Values:
    """Values over which scores are spread: all that the metric can have, or between these clients' extremes."""
    found = np.concatenate([one.scores(side).ravel() for one in scores for side in ("before", "after")])
    low = float(found.min()) if metric.low is None else metric.low
    high = float(np.percentile(found, 99)) if metric.high is None else metric.high
    return np.linspace(low, high if high > low else low + 1, 101)


def _violin(axes: Axes, row: float, scores: ClientScores, grid: Values, look: Look) -> None:
    for side, way in (("after", -1), ("before", 1)):
        values = scores.metric.scale * scores.scores(side).ravel()
        density = _density(values, grid)
        edge = row + way * 0.44 * density / density.max()
        if way < 0:
            axes.fill_between(grid, row, edge, color=look.colour, alpha=0.35, linewidth=0)
        axes.plot(grid, edge, color=look.colour, linewidth=0.9)
        median = float(np.median(values))
        axes.plot([median] * 2, [row, row + way * 0.24], color=look.colour, linewidth=1.8, clip_on=False)
    axes.plot(grid[[0, -1]], [row, row], color=look.colour, linewidth=0.5)


def _density(values: Values, grid: Values) -> Values:
    """Gaussian kernel density, up to a factor, mirrored at the ends of the grid."""
    low, high = float(grid[0]), float(grid[-1])
    width = max(0.015 * (high - low), 1.06 * float(values.std()) * len(values) ** -0.2)  # Silverman's rule
    mirrored = np.concatenate([values, 2 * low - values, 2 * high - values])
    density: Values = np.exp(-0.5 * ((grid[:, None] - mirrored) / width) ** 2).mean(axis=1)
    return density
