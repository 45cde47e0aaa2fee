"""Validation scores while training, against rounds and against bytes."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from metaleaf.report.figures.drawing import NotDrawnError, Picture
from metaleaf.report.figures.layout import few_ticks, legend_of_algorithms, panel_per_dataset
from metaleaf.report.figures.runs import Runs
from metaleaf.report.figures.style import Look, short
from metaleaf.report.tables.tables import unit_of
from metaleaf.statistics.intervals import LEVEL

ENOUGH_SEEDS = 5
"""For a t interval; of fewer it is so wide (4.3 standard errors of three seeds) that the range says more."""


def convergence(runs: Runs) -> Picture:
    """A panel per dataset."""
    figure, curves, bands = _figure(runs)
    _draw_all(figure, curves, "round", runs.look)
    for axes, _ in curves:
        axes.set_xlabel("Round")
        few_ticks(axes)
    return Picture(figure, f"Validation {runs.name} after adaptation while training. {bands}")


def convergence_bytes(runs: Runs) -> Picture:
    """The same against what the server and all clients have sent until then."""
    figure, curves, bands = _figure(runs)
    if not any(curve["bytes"].any() for _, by_name in curves for curve in by_name.values()):
        raise NotDrawnError("no algorithm sends anything")
    scaled = []
    for axes, by_name in curves:
        unit, prefix = unit_of(max(float(curve["bytes"].max()) for curve in by_name.values()))
        sent = {name: curve.assign(sent=curve["bytes"] / unit) for name, curve in by_name.items()}
        scaled.append((axes, {name: curve if curve["sent"].any() else curve.tail(1) for name, curve in sent.items()}))
        axes.set_xlabel(f"Sent, down and up ({prefix}B)")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    _draw_all(figure, scaled, "sent", runs.look)
    what = "after adaptation against all bytes that the server and the clients have sent until then."
    return Picture(figure, f"Validation {runs.name} {what} {bands}")


def convergence_hours(runs: Runs) -> Picture:
    """The same against the hours that the rounds would have taken, where systems are simulated."""
    timed = [dataset for dataset in runs.datasets if _simulates(runs, dataset)]
    if not timed:
        raise NotDrawnError("no systems were simulated ([systems])")
    figure, placed, bands = _figure(runs, timed)
    curves = [(axes, _with_hours(by_name)) for axes, by_name in placed]
    for axes, _ in curves:
        axes.set_xlabel("Simulated hours")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    _draw_all(figure, curves, "hours", runs.look)
    what = "after adaptation against the hours that the rounds until then would have taken on the devices of [systems]."
    return Picture(figure, f"Validation {runs.name} {what} {bands}")


def _with_hours(curves: "Curves") -> "Curves":
    """Those of runs with systems, which others may stand beside."""
    return {name: curve for name, curve in curves.items() if curve["hours"].notna().all()}


def _simulates(runs: Runs, dataset: str) -> bool:
    return any(r.content.config.get("systems") for r in runs.records if r.content.dataset == dataset)


Curves = dict[str, pd.DataFrame]
"""By algorithm: `round`, `bytes`, `hours` (nan where no systems are simulated), and as they are shown `mean`, `low` and
`high`, one row per evaluated round."""


def _figure(runs: Runs, datasets: Sequence[str] = ()) -> tuple[Figure, list[tuple[Axes, Curves]], str]:
    """A figure with empty panels of these datasets or of all, what to draw in each, and what its bands are."""
    seeds = runs.frame.groupby(["dataset", "name"])["seed"].nunique()
    by_t = bool((seeds[seeds > 1] >= ENOUGH_SEEDS).all())
    curves = {dataset: _of_dataset(runs, dataset, by_t) for dataset in datasets or runs.datasets}
    if not any(curves.values()):
        raise NotDrawnError("no run was evaluated while training")
    drawn = [dataset for dataset in curves if curves[dataset]]
    figure, placed = panel_per_dataset(drawn, max(1.95, 0.55 + 0.125 * (len(runs.names) + 1)), runs.width)
    for axes, dataset in placed:
        label = runs.metric(dataset).label
        axes.set_ylabel(f"Validation {label[0].lower() if label[1:2].islower() else label[0]}{label[1:]}")
    if seeds.max() == 1:
        bands = "One seed."
    elif by_t:
        bands = f"Mean over seeds, and its {100 * LEVEL:g} % t interval."
    else:
        bands = "Mean over seeds, and from the lowest to the highest seed."
    level = "A level line without markers is an algorithm that does not train."
    evaluated_once = any(len(curve) == 1 for by_name in curves.values() for curve in by_name.values())
    return (
        figure,
        [(axes, curves[dataset]) for axes, dataset in placed],
        f"{bands} {level}" if evaluated_once else bands,
    )


def _of_dataset(runs: Runs, dataset: str, by_t: bool) -> Curves:
    rows = runs.frame[runs.frame["dataset"] == dataset]
    scale = runs.metric(dataset).scale
    found = {name: _curve(runs, its["record"].unique(), by_t, scale) for name, its in rows.groupby("name", sort=False)}
    return {str(name): curve for name, curve in found.items() if not curve.empty}


def _curve(runs: Runs, positions: Iterable[int], by_t: bool, scale: float) -> pd.DataFrame:
    scores = pd.concat([runs.records[i].rounds for i in positions]).dropna(subset="validation_after")
    hours = scores.get("simulated_seconds", pd.Series(math.nan, scores.index)) / 3600
    scores = scores.assign(bytes=scores["bytes_down"] + scores["bytes_up"], hours=hours)
    after = (scale * scores["validation_after"]).groupby(scores["round"])
    curve = after.agg(["mean", "min", "max", "count", "std"])
    half = (
        pd.Series(stats.t.ppf((1 + LEVEL) / 2, curve["count"] - 1), curve.index) * curve["std"] / curve["count"] ** 0.5
    )
    low, high = (curve["mean"] - half, curve["mean"] + half) if by_t else (curve["min"], curve["max"])
    means = scores.groupby("round")[["bytes", "hours"]].mean()
    bands = {"low": low.fillna(curve["mean"]), "high": high.fillna(curve["mean"])}
    return curve.assign(**bands, **means).reset_index()


def _draw_all(figure: Figure, curves: list[tuple[Axes, Curves]], along: str, look: dict[str, Look]) -> None:
    """Names stand at the ends of the lines if all lines of a panel end there, else in a legend."""
    together = True
    for axes, by_name in curves:
        ends = [float(curve[along].max()) for curve in by_name.values() if len(curve) > 1]
        together = together and min(ends, default=0) > 0.97 * max(ends, default=0)
        _draw(axes, by_name, along, look)
    if not together:
        legend_of_algorithms(figure, look)
        return
    figure.draw_without_rendering()  # gives panels the height that labels have to share
    for axes, by_name in curves:
        _label_ends(axes, {name: float(curve["mean"].iloc[-1]) for name, curve in by_name.items()}, look)


def _draw(axes: Axes, curves: Curves, along: str, look: dict[str, Look]) -> None:
    last = max(float(curve[along].max()) for curve in curves.values())
    for name, curve in curves.items():
        style, level = look[name], len(curve) == 1
        x, mean, low, high = (curve[key].to_numpy(dtype=float) for key in (along, "mean", "low", "high"))
        if level:
            x, mean, low, high = np.array([0, last]), mean.repeat(2), low.repeat(2), high.repeat(2)
        axes.fill_between(x, low, high, color=style.colour, alpha=0.16, linewidth=0)
        every = max(1, math.ceil(len(x) / 6))
        line = style.line(marker="" if level else style.marker, markevery=every, clip_on=False)
        line.set_data(x, mean)
        axes.add_line(line)
    axes.margins(y=0.04)
    axes.set_xlim(0, last or 1)
    axes.autoscale_view(scalex=False)


def _label_ends(axes: Axes, ends: dict[str, float], look: dict[str, Look]) -> None:
    """Names at the right of their lines, moved apart where they would overlap, with a leader to the line."""
    bottom, top = axes.get_ylim()
    height = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    gap = (top - bottom) * 0.115 / height
    names = sorted(ends, key=lambda name: ends[name])
    for name, at in zip(names, _apart([ends[name] for name in names], gap, bottom, top), strict=True):
        y = [(value - bottom) / (top - bottom) for value in (ends[name], at)]
        axes.plot([1.015, 1.05], y, color=look[name].colour, linewidth=0.6, transform=axes.transAxes, clip_on=False)
        axes.text(1.06, y[1], short(name), transform=axes.transAxes, va="center_baseline", fontsize=7)


def _apart(wanted: Sequence[float], gap: float, bottom: float, top: float) -> list[float]:
    """Positions near the wanted, ascending ones, at least `gap` apart and within the limits if they fit."""
    groups: list[tuple[float, int]] = []  # centre and size of stacks of labels that touch
    for y in wanted:
        centre, size = y, 1
        while groups and centre - gap * size / 2 < groups[-1][0] + gap * groups[-1][1] / 2:
            other, count = groups.pop()
            centre, size = (centre * size + other * count) / (size + count), size + count
            half = gap * size / 2
            centre = max(min(centre, top - half), bottom + half)
        groups.append((centre, size))
    return [centre + gap * (i - (size - 1) / 2) for centre, size in groups for i in range(size)]
