"""Figures of the track of new environments: scores against rounds in a new environment, and against bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from metaleaf.records.environments import EnvironmentRecord, visited
from metaleaf.report.figures.drawing import Drawing, Makers, NotDrawnError, Picture, drawn
from metaleaf.report.figures.layout import legend, panel_per_dataset
from metaleaf.report.figures.style import MARKERS, PAPER, looks
from metaleaf.statistics.environments import mean_and_two_errors

CAPTIONS = {
    "rounds_before": "{} in new environments, before local adaptation, against rounds in them (drawn as "
    "log(1 + R)): mean, and two standard errors over pairs of environment and seed.",
    "rounds_after": "The same after every client has adapted the parameters to itself.",
    "bytes": "{} before local adaptation against what all participants of a new environment have sent and "
    "received since the first meeting, in sizes of the model; the markers are the rounds of the figures above.",
    "variants": "The variants of each method, which the figures above leave out: before local adaptation, "
    "over the seeds that all of them have; without intervals (those of the differences are in the table of pairs).",
}
"""Of the figures, in the order of the page; to be filled with the metric."""

_LINES: tuple[tuple[float, tuple[float, ...]] | None, ...] = (None, (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))


@dataclass(frozen=True)
class Style:
    """How one method is drawn: in its plugin's colour, and further labels of a plugin with hollow markers and dashes.

    There are 9 markers and 4 lines, so 36 labels of one plugin are distinct.
    """

    colour: str
    marker: str
    variant: int

    def line(self) -> Line2D:
        """A line without points."""
        return Line2D(
            [],
            [],
            color=self.colour,
            marker=MARKERS[(MARKERS.index(self.marker) + self.variant) % len(MARKERS)],
            linestyle=_LINES[self.variant % len(_LINES)] or "-",
            markerfacecolor=PAPER if self.variant else self.colour,
            markersize=3.4,
            clip_on=False,
            zorder=3,
        )


@dataclass(frozen=True)
class Visits:
    """The records, and what the figures show of them. width: in inches (None: a column for one panel, else two)."""

    records: Sequence[EnvironmentRecord]
    width: float | None = None

    @cached_property
    def _frame(self) -> pd.DataFrame:
        frame = visited(self.records)
        if frame.empty:
            raise NotDrawnError("every run diverged")
        variants = frame["name"].map({name: style.variant for name, style in styles(frame).items()}).gt(0)
        return frame.assign(variant=variants)

    @property
    def main(self) -> pd.DataFrame:
        """Rows of `visited`, without the variants of a plugin."""
        return self._frame[~self._frame["variant"]]

    @property
    def several(self) -> pd.DataFrame:
        """Those of the plugins that have variants, over the seeds that all of these have."""
        plugins = self._frame.loc[self._frame["variant"], "plugin"]
        if plugins.empty:
            raise NotDrawnError("no method has variants")
        shared = _shared_seeds(self._frame[self._frame["plugin"].isin(plugins)])
        if shared.empty:
            raise NotDrawnError("the variants have no seed in common")
        return shared


def _rounds_before(visits: Visits) -> Picture:
    return _picture(visits, "rounds_before", rounds(visits.main, "before", width=visits.width))


def _rounds_after(visits: Visits) -> Picture:
    return _picture(visits, "rounds_after", rounds(visits.main, "after", width=visits.width))


def _bytes(visits: Visits) -> Picture:
    return _picture(visits, "bytes", sent(visits.main, visits.width))


def _variants(visits: Visits) -> Picture:
    return _picture(visits, "variants", rounds(visits.several, "before", bands=False, width=visits.width))


def _picture(visits: Visits, name: str, figure: Figure) -> Picture:
    titles = dict.fromkeys(record.content.metric.title for record in visits.records)
    return Picture(figure, CAPTIONS[name].format(" or ".join(titles)))


MAKERS: Makers[Visits] = {
    "rounds_before": _rounds_before,
    "rounds_after": _rounds_after,
    "bytes": _bytes,
    "variants": _variants,
}
"""All figures, in the order of the report."""


def draw(records: Sequence[EnvironmentRecord]) -> dict[str, Drawing]:
    """All figures that the records allow, by name."""
    return drawn(Visits(records), MAKERS)


def _shared_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the seeds that all variants of a plugin have on a dataset."""
    variants = frame.groupby(["dataset", "plugin"])["name"].transform("nunique")
    return frame[frame.groupby(["dataset", "plugin", "seed"])["name"].transform("nunique") == variants]


def styles(frame: pd.DataFrame) -> dict[str, Style]:
    """Style of every method, the plugin's look in all figures; the label that is the plugin's name comes first."""
    methods = frame.drop_duplicates("name")
    look = looks(list(methods["plugin"]))
    own_first = methods.assign(other=methods["algorithm"] != methods["plugin"]).sort_values("other", kind="stable")
    variants = own_first.groupby("plugin").cumcount().reindex(methods.index)
    return {
        name: Style(look[plugin].colour, look[plugin].marker, variant)
        for name, plugin, variant in zip(methods["name"], methods["plugin"], variants, strict=True)
    }


def rounds(frame: pd.DataFrame, side: str, *, bands: bool = True, width: float | None = None) -> Figure:
    """Scores of one side against rounds in the environment, with intervals if asked for; a panel per dataset."""
    figure, panels = _panels(frame, side, width)
    for axes, rows, curves, style in panels:
        axes.set_xscale("function", functions=(np.log1p, np.expm1))
        for name, curve in curves.items():
            _draw(axes, curve.index.to_numpy(dtype=float), curve if bands else curve.assign(errors=0), style[name])
        axes.set_xticks(sorted(rows["rounds"].unique()))
        axes.set_xlabel("Rounds in the new environment")
    return figure


def sent(frame: pd.DataFrame, width: float | None = None) -> Figure:
    """Scores before adaptation against bytes in the environment, in sizes of the model; a panel per dataset."""
    figure, panels = _panels(frame, "before", width)
    for axes, _, curves, style in panels:
        axes.set_xscale("log")
        for name, curve in curves.items():
            _draw(axes, curve["models"].to_numpy(dtype=float), curve, style[name])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("Sent in the new environment (models)")
    return figure


Panel = tuple[Axes, pd.DataFrame, dict[str, pd.DataFrame], dict[str, Style]]
"""Axes of a dataset, its rows of `visited`, the curve of each name in it, and their styles."""


def _panels(frame: pd.DataFrame, side: str, width: float | None) -> tuple[Figure, list[Panel]]:
    """A figure with a legend above, to be drawn on."""
    style = styles(frame)
    figure, panels = panel_per_dataset(list(frame["dataset"].unique()), 2.1, width)
    legend(figure, [one.line() for one in style.values()], style)
    made = []
    for axes, dataset in panels:
        rows = frame[frame["dataset"] == dataset]
        axes.set_ylabel(rows["metric"].iloc[0].labelled(f" {side}\nadaptation"))
        made.append((axes, rows, _curves(rows, side), style))
    return figure, made


def _curves(rows: pd.DataFrame, side: str) -> dict[str, pd.DataFrame]:
    """Of every method of a dataset, by rounds: `mean` and `errors` as they are shown, and `models` sent until then."""
    curves = {}
    for name, its in rows.groupby("name", sort=False):
        table = {}
        for number, at in its.groupby("rounds"):
            scale = at["metric"].iloc[0].scale
            mean, errors = mean_and_two_errors(scale * at[side].to_numpy(dtype=float))
            models = ((at["first"] + number * at["each"]) / at["model_bytes"]).mean()  # type: ignore[operator]
            table[number] = {"mean": mean, "errors": errors, "models": models}
        curves[str(name)] = pd.DataFrame.from_dict(table, orient="index")
    return curves


def _draw(axes: Axes, x: npt.NDArray[np.float64], curve: pd.DataFrame, style: Style) -> None:
    mean, errors = (curve[key].to_numpy(dtype=float) for key in ("mean", "errors"))
    band = np.nan_to_num(errors)  # unknown for a single pair
    axes.fill_between(x, mean - band, mean + band, color=style.colour, alpha=0.07, linewidth=0)
    for edge in (mean - band, mean + band):  # a band can be followed where others lie on it
        axes.plot(x, edge, color=style.colour, alpha=0.4, linewidth=0.4)
    line = style.line()
    line.set_data(x, mean)
    axes.add_line(line)
    axes.autoscale_view()
