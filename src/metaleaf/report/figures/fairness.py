"""How well the worst-off clients do beside the mean of all."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metaleaf.records.client_scores import ClientScores
from metaleaf.report.figures.drawing import Picture
from metaleaf.report.figures.layout import few_ticks, legend, panels
from metaleaf.report.figures.runs import Runs, title
from metaleaf.report.figures.style import MUTED
from metaleaf.statistics.intervals import estimate

DRAWS = 1000
"""Of the bootstrap: enough for a line that is a fraction of a millimetre wide."""

_MAJORITY: dict[str, Any] = {
    "color": MUTED,
    "marker": "+",
    "markersize": 6.0,
    "markeredgewidth": 1.2,
    "linestyle": "",
    "zorder": 4,
}


def fairness(runs: Runs) -> Picture:
    """A panel per setting, a point per algorithm after adaptation, and one for the majority class."""
    figure, placed = panels(len(runs.settings), 1.95, runs.width, share_y=len(runs.datasets) == 1)
    for axes, setting in zip(placed, runs.settings, strict=True):
        for name, scores in runs.scores[setting].items():
            look = runs.look[name]
            _point(axes, scores, {"color": look.colour, "marker": look.marker, "linestyle": "", "markersize": 5})
        rows = runs.rows(setting).drop_duplicates("seed")
        majority = 100 * rows[["majority_client_mean", "majority_bottom10"]].mean().to_numpy()
        axes.margins(0.08)
        bounds = axes.viewLim.padded(0.1).get_points()
        if (bounds[0] <= majority).all() and (
            majority <= bounds[1]
        ).all():  # from afar it would press the others together
            axes.plot(*([value] for value in majority), **_MAJORITY)
        axes.set_title(title(setting))
        axes.set_xlabel("Mean over clients (%)")
        few_ticks(axes)
    placed[0].set_ylabel("Mean of the worst\ntenth of clients (%)")
    handles = [runs.look[name].line(linestyle="", markersize=5) for name in runs.names]
    legend(figure, [*handles, Line2D([], [], **_MAJORITY)], [*runs.names, "majority class"])
    return Picture(
        figure,
        "Fairness: mean accuracy over test clients after adaptation against the mean of the worst tenth of them, means "
        "over seeds, with 95 % bootstrap intervals over seeds and clients. Up and to the right is better. The "
        f"most frequent class of each client's support set is shown where it is near.{runs.of_participants}",
    )


def _point(axes: Axes, scores: ClientScores, style: dict[str, Any]) -> None:
    mean, worst = (estimate(scores, f"after_{metric}", draws=DRAWS) for metric in ("client_mean", "bottom10"))
    cross = {"color": style["color"], "linewidth": 0.7, "alpha": 0.6}
    axes.plot([100 * mean.low, 100 * mean.high], [100 * worst.value] * 2, **cross)
    axes.plot([100 * mean.value] * 2, [100 * worst.low, 100 * worst.high], **cross)
    axes.plot([100 * mean.value], [100 * worst.value], zorder=3, **style)
