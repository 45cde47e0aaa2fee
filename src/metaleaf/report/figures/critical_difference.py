"""Mean ranks of the algorithms, and which of them lie too close together to be told apart (Demsar 2006)."""

import math

import numpy as np
from matplotlib.axes import Axes

from metaleaf.records.client_scores import Setting
from metaleaf.report.figures.drawing import NotDrawnError, Picture
from metaleaf.report.figures.layout import panels
from metaleaf.report.figures.runs import Runs, title
from metaleaf.report.figures.style import DOUBLE, INK, MUTED, NEURIPS, SINGLE, Look, short
from metaleaf.statistics.aggregates import Ranking, ranking

DATASETS = 3
"""From so many on they are the blocks of the ranking, else the test clients of each dataset are."""

ALPHA = 0.05

_LINE, _BAR = 0.16, 0.065
"""Inches from one name to the next, and from one bar."""


def critical_difference(runs: Runs) -> Picture:
    """One diagram over all datasets, or one for each over its clients, at the smallest support fraction."""
    several = len(runs.datasets) >= DATASETS
    found = _over_datasets(runs) if several else _over_clients(runs)
    if not found:
        raise NotDrawnError("ranks need two algorithms, and two clients or datasets that all of them have")
    width = runs.width or (DOUBLE if len(found) > 1 or len(runs.names) > 8 else SINGLE)
    figure, placed = panels(len(found), 0.7 + max(_height(one) for one in found.values()), width, narrowest=3.2)
    for axes, (name, one) in zip(placed, found.items(), strict=True):
        axes.set_title(name)
        _draw(axes, one, runs.look)
    over = f"{len(runs.datasets)} datasets ({runs.name} over points)" if several else "the test clients of a dataset"
    return Picture(
        figure,
        f"Mean ranks by {runs.name} after adaptation over {over}, each the mean over seeds; 1 is best. Algorithms "
        f"under one bar are not told apart by Nemenyi's test at {ALPHA:g}: their mean ranks differ by less than CD.",
    )


def _over_datasets(runs: Runs) -> dict[str, Ranking]:
    signs = {setting: _sign(runs, setting) for setting in runs.smallest}
    smallest = [sign * runs.rows(at).groupby("name")["after_pooled"].mean() for at, sign in signs.items()]
    names = [name for name in runs.names if all(name in of_dataset for of_dataset in smallest)]
    if len(names) < 2:
        return {}
    scores = np.array([[of_dataset[name] for name in names] for of_dataset in smallest])
    return {f"{len(smallest)} datasets": ranking(names, scores, ALPHA)}


def _over_clients(runs: Runs) -> dict[str, Ranking]:
    found = {}
    for setting in runs.smallest:
        scores = runs.scores[setting]
        shared = set.intersection(*(set(one.clients) for one in scores.values()))
        if len(scores) > 1 and len(shared) > 1:
            means = [dict(zip(one.clients, one.scores().mean(0), strict=True)) for one in scores.values()]
            table = np.array([[of_one[client] for of_one in means] for client in sorted(shared)])
            found[title(setting)] = ranking(list(scores), _sign(runs, setting) * table, ALPHA)
    return found


def _sign(runs: Runs, setting: Setting) -> int:
    """What makes larger scores better ones."""
    return 1 if runs.metric(setting.dataset).higher_is_better else -1


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _draw(axes: Axes, one: Ranking, look: dict[str, Look]) -> None:
    """Ranks along the top, names at both sides below, the better half on the left; y is in inches below the axis."""
    worst = max(float(len(one.ranks)), 1 + one.critical)
    margin = 0.03 * (worst - 1)
    axes.set_xlim(1 - margin, worst + margin)
    axes.set_ylim(_height(one), -0.42)
    axes.set_axis_off()
    axes.plot([1, worst], [0, 0], color=INK, linewidth=0.8)
    for rank in range(1, len(one.ranks) + 1, 1 if len(one.ranks) < 10 else math.ceil(len(one.ranks) / 5)):
        axes.plot([rank, rank], [0, -0.04], color=INK, linewidth=0.8)
        axes.text(rank, -0.06, str(rank), ha="center", va="bottom", fontsize=7)
    axes.plot([1, 1 + one.critical], [-0.27, -0.27], "|-", color=MUTED, linewidth=1.2, markersize=4)
    axes.text(1, -0.31, f"CD {one.critical:.2f}, Friedman p {_p(one.p)}", va="bottom", fontsize=7, color=MUTED)
    for row, bars in enumerate(_packed(one)):
        for ends in bars:
            axes.plot(ends, [_BAR * (row + 1)] * 2, color=INK, linewidth=2.2, solid_capstyle="round", zorder=2.5)
    names = list(one.ranks)
    half = math.ceil(len(names) / 2)
    below = _BAR * (len(_packed(one)) + 1)
    for side, halves in ((0, names[:half]), (1, names[half:][::-1])):
        for i, name in enumerate(halves):
            _name(axes, name, one.ranks[name], below + _LINE * (i + 0.5), side, look[name])


def _height(one: Ranking) -> float:
    """Inches below the axis."""
    return _BAR * (len(_packed(one)) + 1) + _LINE * math.ceil(len(one.ranks) / 2)


def _packed(one: Ranking) -> list[list[tuple[float, float]]]:
    """First and last rank of every group, in as few rows as keep them apart."""
    rows: list[list[tuple[float, float]]] = []
    for group in one.groups:
        start, end = one.ranks[group[0]], one.ranks[group[-1]]
        free = next((row for row in rows if row[-1][1] + 0.05 * len(one.ranks) < start), None)
        if free is None:
            rows.append(free := [])
        free.append((start, end))
    return rows


def _name(axes: Axes, name: str, rank: float, y: float, side: int, look: Look) -> None:
    edge = axes.get_xlim()[side]
    axes.plot([rank, rank, edge], [0, y, y], color=look.colour, linewidth=0.8, zorder=1.5)
    axes.plot([rank], [0], marker=look.marker, color=look.colour, markersize=4, zorder=3, clip_on=False)
    words = short(name, 14 if axes.figure.get_figwidth() < NEURIPS else 24)  # type: ignore[union-attr]
    text = f"{rank:.2f}  {words}" if side else f"{words}  {rank:.2f}"
    axes.annotate(text, (edge, y), xytext=(3 if side else -3, 0), textcoords="offset points",
                  ha="left" if side else "right", va="center_baseline", fontsize=7)  # fmt: skip
