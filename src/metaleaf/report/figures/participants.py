"""Participants beside new clients: what an algorithm gives those that trained, and those that come later."""

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metaleaf.records.client_scores import ClientScores, Setting
from metaleaf.report.figures.drawing import NotDrawnError, Picture
from metaleaf.report.figures.layout import legend, row_per_algorithm
from metaleaf.report.figures.runs import Runs
from metaleaf.report.figures.style import INK, MUTED, PAPER, Look, short
from metaleaf.report.tables.clients import held_out, nearest
from metaleaf.statistics.comparison import majority
from metaleaf.statistics.intervals import estimate

DRAWS = 1000
"""Of the bootstrap: enough for a line that is a fraction of a millimetre wide."""


def participants(runs: Runs) -> Picture:
    """A panel per dataset that has participants' scores, two points per algorithm."""
    pairs = [(own, new) for own in runs.participants if (new := nearest(own, runs.scores))]
    if not pairs:
        raise NotDrawnError("no participants are scored: set held_out in the protocol")
    titles = [f"{short(own.dataset)},\n{100 * new.support:g} % support" for own, new in pairs]
    figure, placed = row_per_algorithm(titles, runs.names, runs.width)
    for axes, pair in zip(placed, pairs, strict=True):
        _draw(axes, runs, *pair)
        metric = runs.metric(pair[0].dataset)
        axes.set_xlabel(f"Mean over clients ({metric.unit or metric.name})")
    handles = (
        Line2D([], [], color=INK, marker="o", markersize=5.5, linestyle="", label="participants"),
        Line2D([], [], color=PAPER, marker="o", markeredgecolor=INK, label="new clients"),
        Line2D([], [], color=MUTED, linewidth=1, label=f"{runs.constant}, participants"),
        Line2D([], [], color=MUTED, linewidth=1, linestyle=(0, (3, 2)), label=f"{runs.constant}, new clients"),
    )
    legend(figure, handles, [str(handle.get_label()) for handle in handles])
    shares = " and ".join(sorted({held_out(own) for own, _ in pairs}))
    return Picture(
        figure,
        f"Mean over clients: of participants on the {shares} of their examples that they held out, with the model that "
        "each would use after training, and of new clients after they adapted on the share in the title. Means over "
        "seeds, with 95 % bootstrap intervals over seeds and clients. These are other clients and other examples: "
        f"compare algorithms, and the gap with that of the {runs.constant}.",
    )


def _draw(axes: Axes, runs: Runs, own: Setting, new: Setting) -> None:
    for setting, style in ((own, "-"), (new, (0, (3, 2)))):
        level = runs.metric(setting.dataset).scale * majority(runs.scores[setting]).scores().mean()
        axes.axvline(level, color=MUTED, linewidth=1, linestyle=style, zorder=1)
    for y, name in enumerate(runs.names):
        for setting, aside in ((own, -0.14), (new, 0.14)):
            if scores := runs.scores[setting].get(name):
                _point(axes, y + aside, scores, runs.look[name], filled=setting is own)


def _point(axes: Axes, y: float, scores: ClientScores, look: Look, *, filled: bool) -> None:
    value, low, high = (scores.metric.scale * part for part in estimate(scores, "after_client_mean", draws=DRAWS))
    axes.plot([low, high], [y, y], color=look.colour, linewidth=1, alpha=0.6)
    fill = look.colour if filled else PAPER
    axes.plot(value, y, look.marker, color=fill, markeredgecolor=look.colour, markersize=5, zorder=3)
