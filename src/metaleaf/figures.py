"""Figures from records: overview, convergence, and the spread over clients.

Every figure is drawn on its own canvas, without pyplot's global state. An algorithm has the same colour,
marker and place in all of them.
"""

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from metaleaf import registry
from metaleaf.errors import DataError
from metaleaf.records import Model, Record, tidy

SINGLE, DOUBLE = 3.25, 6.75
"""Widths in inches: one column of a paper, and two with the gap between them."""

INK, MUTED, PAPER = "#1f2328", "#6e7781", "#ffffff"
"""Text, what stays in the background, and the page; the style sheet uses the same."""

# Okabe & Ito (2008), safe for colour-blind readers; without yellow, which vanishes on white
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
# their number has no common factor with that of the colours, so that 63 algorithms stay distinct
MARKERS = ("o", "s", "^", "D", "v", "p", "<", "h", ">")

_NO_DATES = {
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
}


@dataclass(frozen=True)
class Look:
    """How one algorithm is drawn in every figure."""

    colour: str
    marker: str


@dataclass(frozen=True)
class Panel:
    """One dataset at one support fraction: the rows of `tidy` that it shows."""

    title: str
    rows: pd.DataFrame


def draw(records: Sequence[Record], model: Model = "selected") -> dict[str, dict[str, bytes]]:
    """All figures: name -> format (pdf, png, svg) -> content of the file; empty when every run diverged.

    The same records give the same bytes with the same version of matplotlib.
    """
    frame = tidy(records)
    frame = frame[(frame["status"] == "finished") & (frame["model"] == model)]
    if frame.empty:
        return {}
    makers: dict[str, Callable[[], Figure]] = {
        "overview": lambda: overview(frame),
        "convergence": lambda: convergence(frame, records),
        "clients": lambda: clients(frame, records),
    }
    return as_files(makers)


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Colour and marker of every algorithm: the same in every figure, whatever else is in it.

    An algorithm that comes with metaleaf has its place among all of them; others follow by name.
    """
    known = registry.names("algorithms")
    others = sorted({name for name in names if _slug(name) not in known}, key=lambda name: (name.casefold(), name))
    place = {
        name: known.index(_slug(name)) if _slug(name) in known else len(known) + others.index(name) for name in names
    }
    return {name: Look(_COLOURS[i % len(_COLOURS)], MARKERS[i % len(MARKERS)]) for name, i in place.items()}


def _slug(title: str) -> str:
    """A title as a plugin's file name: ``FedAvg(Meta)`` is fedavg_meta."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


# ---------------------------------------------------------------------------------------------- overview


def overview(frame: pd.DataFrame) -> Figure:
    """Accuracy over test points, before -> after adaptation, for every algorithm.

    Small ticks are seeds, the dashed line is the majority-class baseline. One panel per dataset, or per
    support fraction when there is one dataset. `frame` has the finished rows of `tidy` for one model.
    """
    names = list(frame["name"].unique())
    figure, panels = _rows_of_algorithms(frame, names)
    look = looks(names)
    for axes, panel in panels:
        before, after = (100 * panel.rows.groupby("name")[f"{side}_accuracy"].mean() for side in ("before", "after"))
        majority = 100 * panel.rows.drop_duplicates("seed")["majority_accuracy"].mean()
        axes.axvline(majority, color=MUTED, linewidth=1, linestyle=(0, (3, 2)), zorder=1)
        for y, name in enumerate(names):
            if name not in after:
                continue
            colour, marker = look[name].colour, look[name].marker
            axes.plot([before[name], after[name]], [y, y], color=colour, linewidth=2.5, alpha=0.3)
            axes.plot(before[name], y, marker, color=PAPER, markeredgecolor=colour, markeredgewidth=1.1)
            axes.plot(after[name], y, marker, color=colour, markersize=5.5, zorder=4)
            seeds = 100 * panel.rows.loc[panel.rows["name"] == name, "after_accuracy"]
            if len(seeds) > 1:
                below = np.full(len(seeds), y + 0.36)
                axes.plot(seeds, below, "|", color=colour, markersize=3.2, markeredgewidth=0.8)
            bold = f"{after[name]:.1f}" == f"{after.max():.1f}"
            _label(axes, max(after[name], before[name]), y, f"{after[name]:.1f}", bold)
        axes.set_xlim(*_room(frame[frame["dataset"] == panel.rows["dataset"].iloc[0]]))
        axes.set_xlabel("Accuracy (%)")
    _legend(
        figure,
        Line2D([], [], color=PAPER, marker="o", markeredgecolor=INK, label="before adaptation"),
        Line2D([], [], color=INK, marker="o", markersize=5.5, linestyle="", label="after adaptation"),
        Line2D([], [], color=INK, marker="|", markersize=3.2, linestyle="", label="each seed"),
        Line2D([], [], color=MUTED, linewidth=1, linestyle=(0, (3, 2)), label="majority class"),
    )
    return figure


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


def _room(rows: pd.DataFrame) -> tuple[float, float]:
    """Limits for all panels of a dataset that hold its scores and, right of the largest, its number."""
    scores = 100 * rows[["before_accuracy", "after_accuracy", "majority_accuracy"]].to_numpy(dtype=float)
    low, high = float(scores.min()), float(scores.max())
    span = max(high - low, 2.0)
    return low - 0.06 * span, high + 0.24 * span


# ------------------------------------------------------------------------------------------- convergence


def convergence(frame: pd.DataFrame, records: Sequence[Record]) -> Figure:
    """Validation accuracy after adaptation against rounds: mean over seeds, band from lowest to highest.

    The dashed line is the best algorithm before adaptation. One panel per dataset; the names stand at the
    ends of their lines. An algorithm that was evaluated only once (it does not train) is a level line.
    """
    names = list(frame["name"].unique())
    look = looks(names)
    figure, panels = panel_per_dataset(list(frame["dataset"].unique()), max(1.95, 0.55 + 0.14 * (len(names) + 1)))
    for axes, dataset in panels:
        rows = frame[frame["dataset"] == dataset]
        curves = {name: _curves(rows[rows["name"] == name], records) for name in names if name in set(rows["name"])}
        _draw_curves(axes, {name: curve for name, curve in curves.items() if not curve.empty}, look)
        axes.set_xlabel("Round")
        axes.set_ylabel("Validation accuracy (%)")
    return figure


def _curves(rows: pd.DataFrame, records: Sequence[Record]) -> pd.DataFrame:
    """Mean, lowest and highest over seeds of the scores after adaptation, and the mean before, by round."""
    scores = pd.concat([records[i].rounds for i in rows["record"].unique()]).dropna(subset="validation_after")
    by_round = scores.groupby("round")
    after = by_round["validation_after"].agg(["mean", "min", "max"]).rename(columns={"mean": "after"})
    curves: pd.DataFrame = 100 * after.assign(before=by_round["validation_before"].mean())
    return curves


def _draw_curves(axes: Axes, curves: dict[str, pd.DataFrame], look: dict[str, Look]) -> None:
    if not curves:
        return
    last = max(float(curve.index.max()) for curve in curves.values())
    ends: list[tuple[str, float, str]] = []
    for name, curve in curves.items():
        colour, level = look[name].colour, len(curve) == 1
        x, (after, low, high) = (
            curve.index.to_numpy(),
            (curve[key].to_numpy() for key in ("after", "min", "max")),
        )
        if level:
            x, after, low, high = np.array([0, last]), after.repeat(2), low.repeat(2), high.repeat(2)
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        every = None if level else max(1, len(x) // 6)
        axes.plot(
            x,
            after,
            color=colour,
            marker="" if level else look[name].marker,
            markevery=every,
            markersize=3.2,
            clip_on=False,
        )
        ends.append((short(name), float(after[-1]), colour))
    leader = max(curves, key=lambda name: curves[name]["before"].iloc[-1])
    before = curves[leader]["before"]
    gain = curves[leader]["after"].iloc[-1] - before.iloc[-1]
    if len(before) > 1 and abs(gain) >= 1:  # closer, the two lines could not be told apart
        axes.plot(before.index, before, color=look[leader].colour, linewidth=1, linestyle=(0, (3, 2)))
        ends.append((f"{short(leader)}, before", float(before.iloc[-1]), look[leader].colour))
    axes.set_xlim(0, max(last, 1))
    axes.margins(y=0.04)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: list[tuple[str, float, str]]) -> None:
    """Names at the right of their lines, moved apart where they would overlap, with a leader to the line."""
    bottom, top = axes.get_ylim()
    height = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    gap = (top - bottom) * 0.115 / height
    ends = sorted(ends, key=lambda end: end[1])
    for (name, y, colour), at in zip(ends, _apart([y for _, y, _ in ends], gap, bottom, top), strict=True):
        start, end = (y - bottom) / (top - bottom), (at - bottom) / (top - bottom)
        axes.plot([1.015, 1.05], [start, end], color=colour, linewidth=0.6, transform=axes.transAxes, clip_on=False)
        axes.text(1.06, end, name, transform=axes.transAxes, va="center_baseline", fontsize=7)


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


# ----------------------------------------------------------------------------------------------- clients


def clients(frame: pd.DataFrame, records: Sequence[Record]) -> Figure:
    """How accuracy is spread over test clients: density after adaptation (filled) and before (line).

    Clients of all seeds together; every density is scaled to the same height. On the right, the share of
    clients that adaptation hurt.
    """
    names = list(frame["name"].unique())
    figure, panels = _rows_of_algorithms(frame, names, height=0.34)
    look = looks(names)
    for axes, panel in panels:
        for y, name in enumerate(names):
            rows = panel.rows[panel.rows["name"] == name]
            if not rows.empty:
                before, after = _per_client(rows, records)
                _ridge(axes, y, after, fill=look[name].colour)
                _ridge(axes, y, before, fill=None)
                _beside(axes, y, f"{100 * rows['after_hurt'].mean():.0f} %")
        _beside(axes, -0.5, "hurt", color=MUTED)
        axes.set_xlim(0, 100)
        axes.set_xlabel("Accuracy of a client (%)")
    _legend(
        figure,
        Line2D([], [], color=INK, linewidth=0.9, label="before adaptation"),
        Patch(facecolor=to_rgba(INK, 0.35), edgecolor=INK, label="after adaptation"),
        Line2D([], [], color=INK, marker="|", markersize=5, markeredgewidth=1.5, linestyle="", label="medians"),
    )
    return figure


def _ridge(axes: Axes, row: float, values: npt.NDArray[np.float64], fill: str | None) -> None:
    """A density that stands on the lower edge of its row, scaled to the row's height, with a median tick."""
    grid = np.linspace(0, 100, 101)
    density = _density(values, grid)
    floor = row + 0.42
    edge = floor - 0.86 * density / density.max()
    if fill:
        axes.fill_between(grid, floor, edge, color=fill, alpha=0.35, linewidth=0)
    axes.plot(grid, edge, color=fill or INK, linewidth=0.9)
    axes.plot([np.median(values)] * 2, [floor, floor - 0.24], color=fill or INK, linewidth=1.8, clip_on=False)


def _beside(axes: Axes, row: float, text: str, color: str = INK) -> None:
    at = (1.02, row)
    axes.annotate(text, at, xycoords=("axes fraction", "data"), va="center_baseline", fontsize=7, color=color)


def _per_client(rows: pd.DataFrame, records: Sequence[Record]) -> tuple[npt.NDArray[np.float64], ...]:
    """Accuracies in percent of all clients of all seeds, before and after adaptation."""
    scores = pd.concat([records[i].clients for i in rows["record"]])
    scores = scores[(scores["model"] == rows["model"].iloc[0]) & (scores["n"] > 0)]
    scores = scores[np.isclose(scores["support"], rows["support"].iloc[0])]
    if scores.empty:
        path = records[rows["record"].iloc[0]].path.with_suffix(".clients.csv")
        raise DataError(f"{path} lacks the clients that its record summarises; run this cell again")
    percent = 100 * scores["correct"] / scores["n"]
    return tuple(percent[scores["step"] == step].to_numpy(dtype=float) for step in (0, scores["step"].max()))


def _density(values: npt.NDArray[np.float64], grid: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Gaussian kernel density of percentages, up to a factor, mirrored at 0 and 100 where accuracies end."""
    width = max(1.5, 1.06 * float(values.std()) * len(values) ** -0.2)  # Silverman's rule
    mirrored = np.concatenate([values, -values, 200 - values])
    density: npt.NDArray[np.float64] = np.exp(-0.5 * ((grid[:, None] - mirrored) / width) ** 2).mean(axis=1)
    return density


# ------------------------------------------------------------------------------------- layout and files


def _panels(frame: pd.DataFrame) -> list[Panel]:
    """One panel per dataset at its smallest support fraction, or per support fraction of the only dataset."""
    datasets = list(frame["dataset"].unique())
    panels = []
    for dataset in datasets:
        rows = frame[frame["dataset"] == dataset]
        supports = sorted(rows["support"].unique())
        for support in supports[:1] if len(datasets) > 1 else supports:
            name, share = short(dataset), f"{100 * support:g} % support"
            title = f"{name}, {share}" if len(name) <= 12 else f"{name},\n{share}"
            panels.append(Panel(title, rows[rows["support"] == support]))
    return panels


def panel_per_dataset(datasets: Sequence[str], height: float) -> tuple[Figure, list[tuple[Axes, str]]]:
    """A figure with a panel for each dataset, side by side in pairs; `height` of a panel in inches."""
    columns = min(2, len(datasets))
    lines = math.ceil(len(datasets) / columns)
    figure = _figure(SINGLE if columns == 1 else DOUBLE, lines * height)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(datasets) :]:
        axes.remove()
    placed = list(zip(grid.flat, datasets, strict=False))
    for axes, dataset in placed:
        axes.set_title(short(dataset))
    return figure, placed


def _rows_of_algorithms(
    frame: pd.DataFrame, names: list[str], height: float = 0.25
) -> tuple[Figure, list[tuple[Axes, Panel]]]:
    """A figure of panels that share one row per algorithm, the first on top; `height` of a row in inches."""
    panels = _panels(frame)
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    width = SINGLE if columns == 1 else DOUBLE
    figure = _figure(width, lines * (0.62 + height * len(names)) + (0.4 if columns == 1 else 0.25))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    placed = list(zip(grid.flat, panels, strict=False))
    for axes, panel in placed:
        axes.set_title(panel.title)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    placed[0][0].set_yticks(range(len(names)), [short(name) for name in names])
    placed[0][0].set_ylim(len(names) - 0.4, -0.6)
    return figure, placed


def short(text: str, limit: int = 24) -> str:
    """Text that leaves room for the data however long a name in a record is."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _legend(figure: Figure, *handles: Artist) -> None:
    columns = 2 if figure.get_figwidth() == SINGLE else len(handles)
    figure.legend(handles=list(handles), loc="outside upper right", ncols=columns, handletextpad=0.4)


def as_files(makers: Mapping[str, Callable[[], Figure]]) -> dict[str, dict[str, bytes]]:
    """Figures, drawn in the style of them all: name -> format (pdf, png, svg) -> content of the file."""
    with _styled():
        return {name: _files(make()) for name, make in makers.items()}


@contextmanager
def _styled() -> Iterator[None]:
    with as_file(files("metaleaf") / "metaleaf.mplstyle") as path, style.context(["default", str(path)]):
        yield


def _files(figure: Figure) -> dict[str, bytes]:
    contents = {}
    for kind, metadata in _NO_DATES.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        contents[kind] = buffer.getvalue()
    return contents
