"""Accuracy over test points, before -> after adaptation, for every algorithm."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metaleaf.report.figures.drawing import Picture
from metaleaf.report.figures.layout import legend, row_per_algorithm
from metaleaf.report.figures.runs import Runs, title
from metaleaf.report.figures.style import INK, MUTED, PAPER, Look

CAPTION = (
    " before and after adaptation, mean over seeds; every small tick is a seed, the dashed "
    "line the accuracy of the most frequent class of each client's support set. Bold: the best."
)


def overview(runs: Runs) -> Picture:
    """A panel per dataset, or per support fraction where there is one dataset."""
    figure, placed = row_per_algorithm([title(setting) for setting in runs.settings], runs.names, runs.width)
    for axes, setting in zip(placed, runs.settings, strict=True):
        _draw(axes, runs.rows(setting), runs.look, runs.statistic)
        axes.set_xlim(*_room(runs.frame[runs.frame["dataset"] == setting.dataset], runs.statistic))
        axes.set_xlabel("Accuracy (%)")
    handles = (
        Line2D([], [], color=PAPER, marker="o", markeredgecolor=INK, label="before adaptation"),
        Line2D([], [], color=INK, marker="o", markersize=5.5, linestyle="", label="after adaptation"),
        Line2D([], [], color=INK, marker="|", markersize=3.2, linestyle="", label="each seed"),
        Line2D([], [], color=MUTED, linewidth=1, linestyle=(0, (3, 2)), label="majority class"),
    )
    legend(figure, handles, [str(handle.get_label()) for handle in handles])
    return Picture(figure, runs.in_words + CAPTION + runs.of_participants)


def _draw(axes: Axes, rows: pd.DataFrame, look: dict[str, Look], metric: str) -> None:
    before, after = (100 * rows.groupby("name")[f"{side}_{metric}"].mean() for side in ("before", "after"))
    majority = 100 * rows.drop_duplicates("seed")[f"majority_{metric}"].mean()
    axes.axvline(majority, color=MUTED, linewidth=1, linestyle=(0, (3, 2)), zorder=1)
    for y, name in enumerate(look):
        if name not in after:
            continue
        colour, marker = look[name].colour, look[name].marker
        axes.plot([before[name], after[name]], [y, y], color=colour, linewidth=2.5, alpha=0.3)
        axes.plot(before[name], y, marker, color=PAPER, markeredgecolor=colour, markeredgewidth=1.1)
        axes.plot(after[name], y, marker, color=colour, markersize=5.5, zorder=4)
        seeds = 100 * rows.loc[rows["name"] == name, f"after_{metric}"]
        if len(seeds) > 1:
            below = np.full(len(seeds), y + 0.36)
            axes.plot(seeds, below, "|", color=colour, markersize=3.2, markeredgewidth=0.8)
        bold = f"{after[name]:.1f}" == f"{after.max():.1f}"
        _label(axes, max(after[name], before[name]), y, f"{after[name]:.1f}", bold)


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


def _room(rows: pd.DataFrame, metric: str) -> tuple[float, float]:
    """Limits for all panels of a dataset that hold its scores and, right of the largest, its number."""
    scores = 100 * rows[[f"{side}_{metric}" for side in ("before", "after", "majority")]].to_numpy(dtype=float)
    low, high = float(scores.min()), float(scores.max())
    span = max(high - low, 2.0)
    return low - 0.06 * span, high + 0.24 * span
