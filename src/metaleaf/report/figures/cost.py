"""What every algorithm takes to reach a dataset's target: rounds, bytes and FLOPs."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from metaleaf.report.figures.drawing import NotDrawnError, Picture
from metaleaf.report.figures.layout import bare_rows, panels
from metaleaf.report.figures.runs import Runs
from metaleaf.report.figures.style import MUTED, Look, short
from metaleaf.report.tables.tables import unit_of
from metaleaf.statistics.cost_to_target import cost_to_target, target_of

_COSTS = {"rounds": "Rounds", "bytes": "{}B sent", "flops": "{}FLOPs"}


def cost(runs: Runs) -> Picture:
    """Bars: for every dataset with a target a panel for each kind of cost; rows are algorithms."""
    targets = {dataset: target for dataset in runs.datasets if (target := _target(runs, dataset)) is not None}
    if not targets:
        raise NotDrawnError(f"no target is declared for {' or '.join(runs.datasets)}")
    taken = {dataset: _taken(runs, dataset, target) for dataset, target in targets.items()}
    if not any(rows["reached"].any() for rows in taken.values()):
        raise NotDrawnError("no run reached its dataset's target")
    figure, placed = panels(3 * len(taken), 0.62 + 0.2 * len(runs.names), runs.width or 6.75, share_y=True)
    places = iter(placed)
    for dataset, rows in taken.items():
        for kind, label in _COSTS.items():
            axes = next(places)
            _bars(axes, rows, kind, label, runs.look)
            if kind == "rounds" or runs.width:
                axes.set_title(f"{short(dataset)}, target {runs.metric(dataset).exact(targets[dataset])}")
    placed[0].set_yticks(range(len(runs.names)), [short(name) for name in runs.names])
    placed[0].set_ylim(len(runs.names) - 0.4, -0.6)
    return Picture(
        figure,
        f"Cost until validation {runs.name} after adaptation first reached the dataset's target: mean over the seeds "
        "that reached it, a dot each. A run is validated every few rounds and may have reached it that much earlier.",
    )


def _target(runs: Runs, dataset: str) -> float | None:
    """Of the plugin behind a dataset's label."""
    return target_of(next(r.content.data.name for r in runs.records if r.content.dataset == dataset))


def _taken(runs: Runs, dataset: str, target: float) -> pd.DataFrame:
    rows = cost_to_target(runs.records, target)
    return rows[(rows["dataset"] == dataset) & rows["name"].isin(runs.names)]


def _bars(axes: Axes, rows: pd.DataFrame, kind: str, label: str, look: dict[str, Look]) -> None:
    unit, prefix = (1.0, "") if kind == "rounds" else unit_of(rows[kind].max())
    bare_rows(axes)
    ends = [1.06 * rows[kind].max() / unit]
    for y, name in enumerate(look):
        its = rows[rows["name"] == name]
        costs = its.loc[its["reached"], kind] / unit
        if len(costs):
            axes.barh(y, costs.mean(), 0.62, color=look[name].colour, alpha=0.45, linewidth=0)
            axes.plot(
                costs,
                [y] * len(costs),
                linestyle="",
                marker=look[name].marker,
                color=look[name].colour,
                markersize=3,
                clip_on=False,
            )
        if len(costs) < len(its) and kind == "rounds":
            text = f"{len(costs)} of {len(its)} seeds" if len(costs) else "not reached"
            start = costs.max() if len(costs) else 0
            ends.append(start / 0.55)  # the words take less than 45 % of a panel
            axes.annotate(text, (start, y), xytext=(5, 0), textcoords="offset points",
                          va="center_baseline", fontsize=7, color=MUTED)  # fmt: skip
    axes.set_xlim(0, max(ends) or 1)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(label.format(prefix))
