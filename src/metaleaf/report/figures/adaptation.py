"""Test scores against adaptation steps, and against the share of a client's examples to adapt on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metaleaf.errors import DataError
from metaleaf.metrics import Metric, Values
from metaleaf.records.client_scores import ClientScores, Setting
from metaleaf.records.records import Model, Record
from metaleaf.report.figures.drawing import NotDrawnError, Picture
from metaleaf.report.figures.layout import few_ticks, legend_of_algorithms, panels
from metaleaf.report.figures.overview import line_of
from metaleaf.report.figures.runs import Runs, title
from metaleaf.report.figures.style import MUTED, short
from metaleaf.statistics.intervals import Estimate, estimate

DRAWS = 1000
"""Of the bootstrap: enough for a line that is a fraction of a millimetre wide."""

_INTERVALS = "mean over seeds, with 95 % bootstrap intervals over seeds and clients"


def adaptation_steps(runs: Runs) -> Picture:
    """A panel per setting; an algorithm that does not adapt is a level line without markers."""
    found = {
        setting: {name: _by_step(runs, setting, scores) for name, scores in runs.scores[setting].items()}
        for setting in runs.settings
    }
    longest = max(max(by_step) for by_name in found.values() for by_step in by_name.values())
    if not longest:
        raise NotDrawnError("no algorithm adapts")
    figure, placed = panels(len(found), 1.9, runs.width, share_y=runs.share_y)
    for axes, (setting, by_name) in zip(placed, found.items(), strict=True):
        for name, by_step in by_name.items():
            line = runs.look[name].line(clip_on=False)
            if len(by_step) == 1:
                by_step[longest] = by_step[0]
                line.set_marker("")
            low, high = _draw(axes, line, list(by_step), list(by_step.values()), runs.metric(setting.dataset))
            axes.fill_between(list(by_step), low, high, color=line.get_color(), alpha=0.14, linewidth=0)
        axes.set_title(title(setting))
        axes.set_xlabel("Adaptation steps")
        axes.set_xlim(-0.03 * longest, 1.03 * longest)
        few_ticks(axes)
    runs.label(placed, [setting.dataset for setting in found])
    legend_of_algorithms(figure, runs.look)
    return Picture(
        figure,
        f"{runs.in_words} after every step of adaptation (0: before it): {_INTERVALS}. What a step is, is "
        "the algorithm's affair (a gradient step, or an epoch); one that does not adapt is a level line without "
        f"markers.{runs.of_participants}",
    )


def support(runs: Runs) -> Picture:
    """A panel per dataset with two support fractions or more."""
    datasets = [dataset for dataset in runs.datasets if len(runs.supports(dataset)) > 1]
    if not datasets:
        raise NotDrawnError("no dataset was tested at two support fractions")
    figure, placed = panels(len(datasets), 1.9, runs.width)
    for axes, dataset in zip(placed, datasets, strict=True):
        fractions = runs.supports(dataset)
        for name in runs.names:
            at = {s: runs.scores[Setting(dataset, s)].get(name) for s in fractions}
            found = {s: estimate(scores, f"after_{runs.statistic}", draws=DRAWS) for s, scores in at.items() if scores}
            aside = min(0.9, 8 / len(runs.names)) * (
                runs.names.index(name) - (len(runs.names) - 1) / 2
            )  # intervals beside one another
            line, x = runs.look[name].line(linewidth=0.9), [100 * s + aside for s in found]
            ends = _draw(axes, line, x, list(found.values()), runs.metric(dataset))
            axes.vlines(x, *ends, color=line.get_color(), linewidth=0.7)
        of_seeds = [runs.rows(Setting(dataset, s)).drop_duplicates("seed") for s in fractions]
        majority = [rows[f"majority_{runs.statistic}"].mean() for rows in of_seeds]
        axes.plot([100 * s for s in fractions], [runs.metric(dataset).scale * m for m in majority], **_MAJORITY)
        axes.set_title(short(dataset))
        axes.set_xticks([100 * s for s in fractions])
        axes.set_xlabel("Support (% of a client's examples)")
    runs.label(placed, datasets, " after\nadaptation")
    legend_of_algorithms(figure, runs.look, Line2D([], [], label=runs.constant, **_MAJORITY))
    return Picture(
        figure,
        f"{runs.in_words} after adaptation on more and more of a client's examples: {_INTERVALS}. The points "
        "are those that are left, so they differ by fraction: compare algorithms at one fraction. Dashed: "
        f"{line_of(runs)} of each client's support set.",
    )


_MAJORITY: dict[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (3, 2))}


def _by_step(runs: Runs, setting: Setting, scores: ClientScores) -> dict[Any, Estimate]:
    """Scores after every step, 0 being before adaptation."""
    rows = runs.rows(setting)
    positions = rows[rows["name"] == scores.name].sort_values("seed")["record"]
    metric = scores.metric
    tables = [_sums(runs.records[i], runs.model, setting, scores.clients, metric.total) for i in positions]
    weights = None
    if scores.weights is not None:
        weights = [_sums(runs.records[i], runs.model, setting, scores.clients, metric.weight) for i in positions]
    if any(list(table) != list(tables[0]) for table in tables):
        raise DataError(
            f"the seeds of {scores.name} on {setting.dataset} adapt by different steps; run the older one again"
        )
    found = {}
    for step in tables[0]:
        after = np.stack([table[step].to_numpy(dtype=float) for table in tables])
        at = replace(scores, after=after)
        if weights and scores.weights is not None:
            weight = np.stack([table[step].to_numpy(dtype=float) for table in weights])
            at = replace(at, weights=(scores.weights[0], weight, scores.weights[2]))
        found[step] = estimate(at, f"after_{runs.statistic}", draws=DRAWS)
    return found


def _sums(record: Record, model: Model, setting: Setting, clients: Sequence[str], column: str) -> pd.DataFrame:
    """One of the metric's sums, [clients, steps]."""
    rows = record.scores_of(setting.who)
    rows = rows[(rows["model"] == model) & (rows["support"] == setting.support)]
    table = rows.pivot_table(index="client", columns="step", values=column).reindex(list(clients))
    if table.isna().any(axis=None):
        client = table.index[table.isna().any(axis=1)][0]
        raise DataError(f"{record.path} lacks a step of the client {client}; run this cell again")
    return table.rename(columns=int)


def _draw(
    axes: Axes, line: Line2D, x: Sequence[float], found: Sequence[Estimate], metric: Metric
) -> tuple[Values, Values]:
    """Draw the line; returns the ends of the intervals as they are shown."""
    mean, low, high = (
        metric.scale * np.array([getattr(one, key) for one in found]) for key in ("value", "low", "high")
    )
    line.set_data(x, mean)
    axes.add_line(line)
    axes.autoscale_view()
    return np.where(np.isnan(low), mean, low), np.where(np.isnan(high), mean, high)  # nan: a single client
