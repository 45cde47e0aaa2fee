"""Scores over test points, before -> after adaptation, for every algorithm."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metaleaf.metrics import Metric
from metaleaf.report.figures.drawing import Picture
from metaleaf.report.figures.layout import legend, row_per_algorithm
from metaleaf.report.figures.runs import Runs, title
from metaleaf.report.figures.style import INK, MUTED, PAPER, Look
from metaleaf.statistics.comparison import MAJORITY, constant_of

CAPTION = (
    " before and after adaptation, mean over seeds; every small tick is a seed, the dashed "
    "line {} of each client's support set. Bold: the best."
)


def overview(runs: Runs) -> Picture:
    """A panel per dataset, or per support fraction where there is one dataset."""
    figure, placed = row_per_algorithm([title(setting) for setting in runs.settings], runs.names, runs.width)
    for axes, setting in zip(placed, runs.settings, strict=True):
        metric = runs.metric(setting.dataset)
        _draw(axes, runs.rows(setting), runs.look, runs.statistic, metric)
        axes.set_xlim(*_room(runs.frame[runs.frame["dataset"] == setting.dataset], runs.statistic, metric))
        axes.set_xlabel(metric.label)
    handles = (
        Line2D([], [], color=PAPER, marker="o", markeredgecolor=INK, label="before adaptation"),
        Line2D([], [], color=INK, marker="o", markersize=5.5, linestyle="", label="after adaptation"),
        Line2D([], [], color=INK, marker="|", markersize=3.2, linestyle="", label="each seed"),
        Line2D([], [], color=MUTED, linewidth=1, linestyle=(0, (3, 2)), label=runs.constant),
    )
    legend(figure, handles, [str(handle.get_label()) for handle in handles])
    return Picture(figure, runs.in_words + CAPTION.format(line_of(runs)) + runs.of_participants)


def line_of(runs: Runs) -> str:
    """What the line of the constant predictor is, before "of each client's support set"."""
    if all(constant_of(metric) == MAJORITY for metric in runs.metrics):
        return "the accuracy of the most frequent class"
    return f"the {runs.name} of the constant answer that is suggested by what is known"


def _draw(axes: Axes, rows: pd.DataFrame, look: dict[str, Look], key: str, metric: Metric) -> None:
    scale, best = metric.scale, metric.best
    before, after = (scale * rows.groupby("name")[f"{side}_{key}"].mean() for side in ("before", "after"))
    majority = scale * rows.drop_duplicates("seed")[f"majority_{key}"].mean()
    axes.axvline(majority, color=MUTED, linewidth=1, linestyle=(0, (3, 2)), zorder=1)
    for y, name in enumerate(look):
        if name not in after:
            continue
        colour, marker = look[name].colour, look[name].marker
        axes.plot([before[name], after[name]], [y, y], color=colour, linewidth=2.5, alpha=0.3)
        axes.plot(before[name], y, marker, color=PAPER, markeredgecolor=colour, markeredgewidth=1.1)
        axes.plot(after[name], y, marker, color=colour, markersize=5.5, zorder=4)
        seeds = scale * rows.loc[rows["name"] == name, f"after_{key}"]
        if len(seeds) > 1:
            below = np.full(len(seeds), y + 0.36)
            axes.plot(seeds, below, "|", color=colour, markersize=3.2, markeredgewidth=0.8)
        text, best_text = (metric.number(value / scale) for value in (after[name], best(after)))
        _label(axes, max(after[name], before[name]), y, text, text == best_text)


def _label(axes: Axes, x: float, y: float, text: str, bold: bool) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=7.5,
        fontweight="bold" if bold else "normal",
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.4},
        zorder=2,
    )


def _room(rows: pd.DataFrame, key: str, metric: Metric) -> tuple[float, float]:
    """Limits for all panels of a dataset that hold its scores and, right of the largest, its number."""
    scores = metric.scale * rows[[f"{side}_{key}" for side in ("before", "after", "majority")]].to_numpy(dtype=float)
    low, high = float(scores.min()), float(scores.max())
    span = max(high - low, 2.0) if metric.unit == "%" else high - low or 1.0
    return low - 0.06 * span, high + 0.24 * span
