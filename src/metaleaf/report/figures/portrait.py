"""A portrait of the data: how many examples clients have, and of which labels.

The one figure that needs prepared data instead of records. So ``metaleaf figures`` and ``metaleaf site`` make it, where
the very data of the records are prepared, and a report never does: it is the same wherever it is made. Nothing is
prepared for it, since a record may come from anyone and should start no work.
"""

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from metaleaf.config.config import build
from metaleaf.data import prepare
from metaleaf.data.client_store import ClientStore
from metaleaf.data.stats import label_counts, label_figures
from metaleaf.errors import UserError
from metaleaf.records.records import Record
from metaleaf.report.figures.drawing import NotDrawnError, Picture
from metaleaf.report.figures.runs import Runs
from metaleaf.report.figures.style import COLOURS, DOUBLE, INK, MUTED, PAPER, SINGLE, canvas, short

SAMPLED = 40
"""Clients in the heat-map."""

_DARKER = LinearSegmentedColormap.from_list("darker", [PAPER, COLOURS[5], COLOURS[0], INK])

CAPTION = (
    "The data: clients by their number of examples (dashed: the median), and the share of every label among the "
    f"examples of up to {SAMPLED} clients drawn at random, a row each, sorted by environment and most frequent label. "
    "The distance is Jensen and Shannon's, 0 to 1, of a client's labels to everybody's, averaged over all clients."
)


def portrait(runs: Runs) -> Picture:
    """Two panels for each dataset whose data are prepared."""
    first: dict[str, Record] = {}
    for record in runs.records:
        first.setdefault(record.content.dataset, record)
    stores: dict[str, ClientStore] = {}
    missing = []
    for dataset, record in first.items():
        try:
            stores[dataset] = _store(record)
        except (UserError, NotDrawnError) as error:
            missing.append(f"{dataset}: {error}")
    if not stores:
        raise NotDrawnError("; ".join(missing))
    return Picture(draw(stores, runs.width), " ".join([CAPTION, *(f"Left out is {reason}." for reason in missing)]))


def _store(record: Record) -> ClientStore:
    """The very data of a record; NotDrawnError where they are not prepared here, ConfigError for an unknown dataset."""
    asked = record.content.config.get("dataset")
    name, options = (asked.get("name"), asked.get("options", {})) if isinstance(asked, dict) else (None, {})
    if not isinstance(name, str) or not isinstance(options, dict):
        raise NotDrawnError("its records do not say what data it is")
    directory = prepare.prepared_directory(name, build("datasets", name, options))
    if not prepare.is_prepared(directory):
        raise NotDrawnError(f"its data are not prepared here (metaleaf data prepare {name}, with the suite's options)")
    store = ClientStore.open(directory)
    if store.about.get("data_hash") != record.content.data.data_hash:
        raise NotDrawnError(f"what is prepared in {directory} is not the data of the records")
    return store


def draw(stores: dict[str, ClientStore], width: float | None = None) -> Figure:
    """The figure; a line of panels per dataset, or two in a single column."""
    width = width or DOUBLE
    across = 1 if width <= SINGLE else 2
    figure = canvas(width, len(stores) * 2.1 * (2 / across))
    grid = figure.subplots(2 * len(stores) // across, across, squeeze=False)
    for i, (dataset, store) in enumerate(stores.items()):
        counts, labels = grid.flat[2 * i], grid.flat[2 * i + 1]
        counts.set_title(f"{short(dataset)}, {len(store):,} clients")
        _examples(counts, store.counts)
        if np.issubdtype(store.y.dtype, np.integer):
            labels.set_title("Labels of sampled clients")
            _labels(figure, labels, store)
        else:  # numbers to be predicted have no classes
            labels.remove()
    return figure


def _examples(axes: Axes, counts: npt.NDArray[np.int64]) -> None:
    low, high, median = int(counts.min()), int(counts.max()), float(np.median(counts))
    bins = np.linspace(low, high + 1, 31)
    if high > 10 * median:  # a few large clients would press all others together
        bins = np.geomspace(max(1, low), high + 1, 31)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high < 1000 * low else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.hist(counts, bins=bins.tolist(), color=INK, alpha=0.55, linewidth=0)
    axes.axvline(median, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xlabel("Examples of a client")
    axes.set_ylabel("Clients")


def _labels(figure: Figure, axes: Axes, store: ClientStore) -> None:
    count = min(SAMPLED, len(store))
    sampled = np.random.default_rng(0).choice(len(store), count, replace=False)
    found = {int(i): next(label_counts(store, [(i, i + 1)]))[0] for i in sampled}
    rows = sorted(found, key=lambda i: (str(store.environments[i]), int(found[i].argmax()), i))
    shares = np.stack([100 * found[i] / max(found[i].sum(), 1) for i in rows])
    image = axes.imshow(shares, aspect="auto", interpolation="nearest", cmap=_DARKER, vmin=0)
    figure.colorbar(image, ax=axes, label="Share (%)", pad=0.02)
    axes.grid(visible=False)
    axes.set_yticks([])
    axes.set_xlabel(f"Label (distance {label_figures(store)['label_distance']:.2f})")
    axes.set_ylabel("Clients")
