"""Shares of test clients by their accuracy: the distribution before and after adaptation, and performance profiles."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D

from metaleaf.records.client_scores import ClientScores, Setting, Values
from metaleaf.report.figures.drawing import Picture
from metaleaf.report.figures.layout import TALLEST, few_ticks, legend, legend_of_algorithms, panels
from metaleaf.report.figures.runs import Runs, title
from metaleaf.report.figures.style import DOUBLE, INK, MUTED, SINGLE, Look, canvas, short
from metaleaf.statistics.aggregates import performance_profile, profile_interval

GRID: Values = np.linspace(0, 1, 101)
"""Accuracies at which shares are drawn."""

DRAWS = 1000
"""Of the bootstrap: enough for a line that is a fraction of a millimetre wide."""

_OTHERS = to_rgba(MUTED, 0.5)

_BAND = "bands are pointwise 95 % bootstrap intervals over seeds and clients"


def ecdf(runs: Runs) -> Picture:
    """A small panel per algorithm, with the others behind; a block of them per dataset, at its smallest support."""
    width = runs.width or (SINGLE if len(runs.names) <= 2 else DOUBLE)
    lines = math.ceil(len(runs.names) / max(2, int(width / 1.3)))
    columns = math.ceil(len(runs.names) / lines)
    figure = canvas(width, min(TALLEST, len(runs.smallest) * (0.45 + 1.05 * lines)))
    figure.get_layout_engine().set(wspace=0.05)  # type: ignore[union-attr,call-arg]
    blocks = figure.subfigures(len(runs.smallest), 1, squeeze=False)[:, 0]
    for block, setting in zip(blocks, runs.smallest, strict=True):
        block.suptitle(title(setting).replace("\n", " "), x=0.01, ha="left", fontsize=8, fontweight="bold")
        _block(block, runs, setting, lines, columns)
    handles = (
        Line2D([], [], color=INK, linewidth=1.3, label="after adaptation"),
        Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (3, 1.5)), label="before adaptation"),
        Line2D([], [], color=_OTHERS, linewidth=0.6, label="the others, after"),
    )
    legend(figure, handles, [str(handle.get_label()) for handle in handles])
    return Picture(
        figure,
        "Share of test clients with at most that accuracy, before and after adaptation, mean over seeds "
        f"(further to the right is better); {_BAND}.",
    )


def _block(block: SubFigure, runs: Runs, setting: Setting, lines: int, columns: int) -> None:
    grid = block.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    scores = runs.scores[setting]
    after = {name: 100 * (1 - performance_profile(one.accuracy().ravel(), GRID)) for name, one in scores.items()}
    for axes, name in zip(grid.flat, scores, strict=False):
        for other in after:
            axes.plot(100 * GRID, after[other], color=_OTHERS if other != name else "none", linewidth=0.6, zorder=1.5)
        _both(axes, scores[name], runs.look[name])
        axes.set_title(short(name, 16), fontsize=7, fontweight="normal", pad=3)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xticks([0, 50, 100])
        axes.set_yticks([0, 50, 100])
    for axes in grid.flat[len(scores) :]:
        axes.remove()
    for axes in grid.flat[max(0, len(scores) - columns) : len(scores)]:
        axes.tick_params(labelbottom=True)
    block.supxlabel("Accuracy of a client (%)", fontsize=7.5)
    block.supylabel("Clients (%)", fontsize=7.5)


def _both(axes: Axes, scores: ClientScores, look: Look) -> None:
    for side, style in (("after", "-"), ("before", (0, (3, 1.5)))):
        values = scores.accuracy(side)
        low, high = profile_interval(values, GRID, draws=DRAWS)
        axes.fill_between(100 * GRID, 100 * (1 - high), 100 * (1 - low), color=look.colour, alpha=0.18, linewidth=0)
        below = 100 * (1 - performance_profile(values.ravel(), GRID))
        axes.plot(100 * GRID, below, color=look.colour, linestyle=style, linewidth=1.3 if side == "after" else 0.9)


def profile(runs: Runs) -> Picture:
    """Performance profiles after adaptation, all algorithms in a panel per setting."""
    figure, placed = panels(len(runs.settings), 1.9, runs.width)
    for axes, setting in zip(placed, runs.settings, strict=True):
        for name, scores in runs.scores[setting].items():
            look, values = runs.look[name], scores.accuracy()
            low, high = profile_interval(values, GRID, draws=DRAWS)
            axes.fill_between(100 * GRID, 100 * low, 100 * high, color=look.colour, alpha=0.12, linewidth=0)
            line = look.line(markevery=(2 + 5 * list(runs.scores[setting]).index(name) % 20, 20))
            line.set_data(100 * GRID, 100 * performance_profile(values.ravel(), GRID))
            axes.add_line(line)
        axes.set_title(title(setting))
        axes.set_xlabel("Accuracy τ (%)")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 103)
        few_ticks(axes)
    placed[0].set_ylabel("Clients above τ (%)")
    legend_of_algorithms(figure, runs.look)
    return Picture(
        figure,
        "Performance profile: share of test clients whose accuracy after adaptation is above τ, over all clients and "
        f"seeds (Agarwal et al. 2021; here the runs are clients); {_BAND}. A higher curve is better."
        f"{runs.of_participants}",
    )
