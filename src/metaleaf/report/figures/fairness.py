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
    """A panel per setting, a point per algorithm after adaptation, and one for the constant predictor."""
    figure, placed = panels(len(runs.settings), 1.95, runs.width, share_y=runs.share_y)
    for axes, setting in zip(placed, runs.settings, strict=True):
        for name, scores in runs.scores[setting].items():
            look = runs.look[name]
            _point(axes, scores, {"color": look.colour, "marker": look.marker, "linestyle": "", "markersize": 5})
        rows = runs.rows(setting).drop_duplicates("seed")
        metric = runs.metric(setting.dataset)
        majority = metric.scale * rows[["majority_client_mean", "majority_bottom10"]].mean().to_numpy()
        axes.margins(0.08)
        bounds = axes.viewLim.padded(0.1).get_points()
        if (bounds[0] <= majority).all() and (
            majority <= bounds[1]
        ).all():  # from afar it would press the others together
            axes.plot(*([value] for value in majority), **_MAJORITY)
        axes.set_title(title(setting))
        axes.set_xlabel(f"Mean over clients ({metric.unit or metric.name})")
        few_ticks(axes)
    unit = runs.metrics[0].unit or runs.metrics[0].name
    placed[0].set_ylabel("Mean of the worst\ntenth of clients" + (f" ({unit})" if len(runs.metrics) == 1 else ""))
    handles = [runs.look[name].line(linestyle="", markersize=5) for name in runs.names]
    legend(figure, [*handles, Line2D([], [], **_MAJORITY)], [*runs.names, runs.constant])
    return Picture(
        figure,
        f"Fairness: mean {runs.name} over test clients after adaptation against the mean of the worst tenth of them, "
        f"means over seeds, with 95 % bootstrap intervals over seeds and clients. {_way(runs)} The "
        f"{runs.constant} of each client's support set is shown where it is near.{runs.of_participants}",
    )


def _way(runs: Runs) -> str:
    if all(metric.higher_is_better for metric in runs.metrics):
        return "Up and to the right is better."
    if not any(metric.higher_is_better for metric in runs.metrics):
        return "Down and to the left is better."
    return "Errors are better down and to the left, all else up and to the right."


def _point(axes: Axes, scores: ClientScores, style: dict[str, Any]) -> None:
    scale = scores.metric.scale
    mean, worst = (estimate(scores, f"after_{metric}", draws=DRAWS) for metric in ("client_mean", "bottom10"))
    cross = {"color": style["color"], "linewidth": 0.7, "alpha": 0.6}
    axes.plot([scale * mean.low, scale * mean.high], [scale * worst.value] * 2, **cross)
    axes.plot([scale * mean.value] * 2, [scale * worst.low, scale * worst.high], **cross)
    axes.plot([scale * mean.value], [scale * worst.value], zorder=3, **style)
