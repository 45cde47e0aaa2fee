"""Shares of test clients by their score: the distribution before and after adaptation, and performance profiles."""

import math

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D

from metaleaf.metrics import Values
from metaleaf.records.client_scores import ClientScores, Setting
from metaleaf.report.figures.clients import grid_of
from metaleaf.report.figures.drawing import Picture
from metaleaf.report.figures.layout import TALLEST, few_ticks, legend, legend_of_algorithms, panels
from metaleaf.report.figures.runs import Runs, title
from metaleaf.report.figures.style import DOUBLE, INK, MUTED, SINGLE, Look, canvas, short
from metaleaf.statistics.aggregates import performance_profile, profile_interval

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
        f"Share of test clients with at most that {runs.name}, before and after adaptation, mean over seeds "
        f"({_better_side(runs)} is better); {_BAND}.",
    )


def _better_side(runs: Runs) -> str:
    sides = {metric.higher_is_better for metric in runs.metrics}
    return (
        "further to the right" if sides == {True} else "further to the left" if sides == {False} else "the better end"
    )


def _block(block: SubFigure, runs: Runs, setting: Setting, lines: int, columns: int) -> None:
    placed = block.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    scores, metric = runs.scores[setting], runs.metric(setting.dataset)
    grid = grid_of(metric, scores.values())
    shown = metric.scale * grid
    after = {name: 100 * (1 - performance_profile(one.scores().ravel(), grid)) for name, one in scores.items()}
    for axes, name in zip(placed.flat, scores, strict=False):
        for other in after:
            axes.plot(shown, after[other], color=_OTHERS if other != name else "none", linewidth=0.6, zorder=1.5)
        _both(axes, scores[name], grid, runs.look[name])
        axes.set_title(short(name, 16), fontsize=7, fontweight="normal", pad=3)
        axes.set_xlim(shown[0], shown[-1])
        axes.set_ylim(0, 100)
        if metric.unit == "%":
            axes.set_xticks([0, 50, 100])
        axes.set_yticks([0, 50, 100])
    for axes in placed.flat[len(scores) :]:
        axes.remove()
    for axes in placed.flat[max(0, len(scores) - columns) : len(scores)]:
        axes.tick_params(labelbottom=True)
    block.supxlabel(metric.labelled(" of a client"), fontsize=7.5)
    block.supylabel("Clients (%)", fontsize=7.5)


def _both(axes: Axes, scores: ClientScores, grid: Values, look: Look) -> None:
    shown = scores.metric.scale * grid
    for side, style in (("after", "-"), ("before", (0, (3, 1.5)))):
        values = scores.scores(side)
        low, high = profile_interval(values, grid, draws=DRAWS)
        axes.fill_between(shown, 100 * (1 - high), 100 * (1 - low), color=look.colour, alpha=0.18, linewidth=0)
        below = 100 * (1 - performance_profile(values.ravel(), grid))
        axes.plot(shown, below, color=look.colour, linestyle=style, linewidth=1.3 if side == "after" else 0.9)


def _curve(runs: Runs) -> str:
    if all(metric.higher_is_better for metric in runs.metrics):
        return "A higher curve is better."
    return "Of errors a lower curve is better, of all else a higher one."


def profile(runs: Runs) -> Picture:
    """Performance profiles after adaptation, all algorithms in a panel per setting."""
    figure, placed = panels(len(runs.settings), 1.9, runs.width)
    for axes, setting in zip(placed, runs.settings, strict=True):
        metric, here = runs.metric(setting.dataset), runs.scores[setting]
        grid = grid_of(metric, here.values())
        shown = metric.scale * grid
        for name, scores in here.items():
            look, values = runs.look[name], scores.scores()
            low, high = profile_interval(values, grid, draws=DRAWS)
            axes.fill_between(shown, 100 * low, 100 * high, color=look.colour, alpha=0.12, linewidth=0)
            line = look.line(markevery=(2 + 5 * list(here).index(name) % 20, 20))
            line.set_data(shown, 100 * performance_profile(values.ravel(), grid))
            axes.add_line(line)
        axes.set_title(title(setting))
        axes.set_xlabel(metric.labelled(" τ"))
        axes.set_xlim(shown[0], shown[-1])
        axes.set_ylim(0, 103)
        few_ticks(axes)
    placed[0].set_ylabel("Clients above τ (%)")
    legend_of_algorithms(figure, runs.look)
    return Picture(
        figure,
        f"Performance profile: share of test clients whose {runs.name} after adaptation is above τ, over all clients "
        f"and seeds (Agarwal et al. 2021; here the runs are clients); {_BAND}. {_curve(runs)}"
        f"{runs.of_participants}",
    )
