"""The same data under different protection: what each level of it leaves of a score, before and after adaptation."""

import json

import pandas as pd
from matplotlib.axes import Axes

from metaleaf.records.records import Record
from metaleaf.report.figures.drawing import NotDrawnError, Picture
from metaleaf.report.figures.layout import legend_of_algorithms, panels
from metaleaf.report.figures.runs import Runs
from metaleaf.report.figures.style import short

LONGEST = 24
"""Letters of a level's name."""


def protection(runs: Runs) -> Picture:
    """A panel before adaptation and one after it, the levels side by side, a line per algorithm."""
    levels = _levels(runs)
    height = 2.3 + 0.055 * max(len(short(text, LONGEST)) for text in levels.values())
    figure, placed = panels(2, height, runs.width, share_y=True)
    for axes, moment in zip(placed, ("before", "after"), strict=True):
        _draw(axes, runs, levels, f"{moment}_{runs.statistic}")
        axes.set_title(f"{moment.capitalize()} adaptation")
        axes.set_xticks(range(len(levels)), [short(name, LONGEST) for name in levels.values()], rotation=90)
        axes.set_xlim(-0.4, len(levels) - 0.6)
    placed[0].set_ylabel(runs.metric(next(iter(levels))).labelled(""))
    legend_of_algorithms(figure, runs.look)
    return Picture(
        figure,
        f"{runs.in_words} of new clients under different layers between clients and server ([protection], see the "
        "configurations), at the smallest support fraction: means over seeds, from the lowest to the highest seed.",
    )


def _levels(runs: Runs) -> dict[str, str]:
    """The labels of the datasets, which differ in nothing but protection, and how each is called in the figure."""
    first = {record.content.dataset: record for record in reversed(runs.records)}
    shown = [name for name in runs.datasets if runs.supports(name)]
    if len({json.dumps(first[name].content.config.get("protection"), sort_keys=True) for name in shown}) < 2:
        raise NotDrawnError("no two datasets of the suite differ in their protection")
    if len({first[name].content.data.data_hash for name in shown}) > 1:
        raise NotDrawnError("the datasets of the suite differ in more than their protection")
    return {name: name + _epsilon(first[name]) for name in shown}


def _epsilon(record: Record) -> str:
    found = record.content.privacy
    return f", ε = {found.epsilon:.3g}" if found else ""


def _draw(axes: Axes, runs: Runs, levels: dict[str, str], column: str) -> None:
    for name in runs.names:
        look, means = runs.look[name], []
        for place, level in enumerate(levels):
            values = runs.metric(level).scale * _rows(runs, level, name)[column]
            means.append(values.mean())
            axes.plot([place, place], [values.min(), values.max()], color=look.colour, linewidth=1, alpha=0.6)
        line = look.line()
        line.set_data(range(len(levels)), means)
        axes.add_line(line)
    axes.autoscale_view()


def _rows(runs: Runs, level: str, name: str) -> pd.DataFrame:
    """Of an algorithm's runs, a row a seed."""
    frame = runs.frame
    at = (frame["dataset"] == level) & (frame["name"] == name) & (frame["who"] == "new")
    return frame[at & (frame["support"] == runs.supports(level)[0])]
