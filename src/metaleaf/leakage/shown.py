"""What was found, as a table's lines, a CSV file and a figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from metaleaf.config.suite import Suite
from metaleaf.files.whole_files import write_atomically
from metaleaf.leakage.leakage import Leak
from metaleaf.leakage.measure import Array
from metaleaf.report.figures.style import DOUBLE, canvas, encoded, short, styled
from metaleaf.runs.store import write_csv

SHOWN = {
    "psnr": "PSNR",
    "psnr_best": "best",
    "psnr_mean_image": "mean image",
    "psnr_nearest": "nearest other",
    "error": "error",
    "error_nearest": "nearest other",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "f1_frequent": "frequent F1",
}
"""Columns of a row that a table has, means over clients, and what they are called there."""

IMAGES = 4
"""In a setting's row of the figure, at most."""

WIDEST, LABELS = 2.0, 1.0
"""Inches of a column, at most, and of the labels before the first."""
DPI = 120
"""Of the figure, whose images are small."""


def lines(leak: Leak, suite: Suite, before: Sequence[Leak] = ()) -> list[str]:
    """A setting's line of a table, means over the clients that were attacked; under a heading where it needs another.

    before: the settings that have lines already.
    """
    widths = [max(map(len, [*labels, "algorithm"])) for labels in (suite.datasets, suite.algorithms)]
    columns = _columns(leak)
    summed = leak.rows[0]["summed"]
    means = [f"{np.mean([row[name] for row in leak.rows if name in row]):.3g}" for name in columns]
    cells = [leak.config.dataset_label, leak.config.algorithm_label, str(leak.examples)]
    cells += ["alone" if summed == 1 else f"sum of {summed}", *(means or ["nothing is sent"])]
    heading = ["dataset", "algorithm", "examples", "seen", *(SHOWN[name] for name in columns)]
    known = not columns or next((own for one in reversed(before) if (own := _columns(one))), None) == columns
    return [_line(each, widths) for each in ([cells] if known else [heading, cells])]


def _columns(leak: Leak) -> list[str]:
    """Of the table; a client that sends nothing has none."""
    return [name for name in SHOWN if any(name in row for row in leak.rows)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    labels = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*labels, *(cell.rjust(13) for cell in cells[len(widths) :])])


def write(leaks: Sequence[Leak], folder: Path) -> list[Path]:
    """``leakage.csv``, a row a client and setting, and where there are images ``leakage.png``."""
    rows = [row for leak in leaks for row in leak.rows]
    names = dict.fromkeys(name for row in rows for name in row)
    table = folder / "leakage.csv"
    write_csv(table, {name: [row.get(name, "") for row in rows] for name in names})
    shown = [leak for leak in leaks if leak.images]
    if not shown:
        return [table]
    picture = folder / "leakage.png"
    with styled(), rc_context({"savefig.dpi": DPI}):
        content = encoded(figure(shown), ["png"])["png"]
    write_atomically(picture, lambda path: path.write_bytes(content))
    return [table, picture]


def figure(leaks: Sequence[Leak]) -> Figure:
    """A column an algorithm and number of examples: true images, and below what stands for them in each dataset."""
    columns = sorted({(leak.config.algorithm_label, leak.examples) for leak in leaks})
    datasets = list(dict.fromkeys(leak.config.dataset_label for leak in leaks))
    by_place = {(leak.config.dataset_label, leak.config.algorithm_label, leak.examples): leak for leak in leaks}
    width = min(WIDEST, (DOUBLE - LABELS) / len(columns))
    drawn = canvas(LABELS + width * len(columns), 0.5 + (width / IMAGES + 0.08) * (len(datasets) + 1))
    grid = drawn.subplots(len(datasets) + 1, len(columns), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    for column, (algorithm, examples) in enumerate(columns):
        found = [by_place.get((dataset, algorithm, examples)) for dataset in datasets]
        shown = min(IMAGES, *(sum(len(true) for true, _ in leak.images) for leak in found if leak))
        grid[0, column].imshow(next(_strip(leak, 0, shown) for leak in found if leak), cmap="gray", vmin=0, vmax=1)
        for axes, leak in zip(grid[1:, column], found, strict=True):
            if leak:
                axes.imshow(_strip(leak, 1, shown), cmap="gray", vmin=0, vmax=1)
        grid[0, column].set_title(f"{short(algorithm)}\n{examples} each", loc="center")
    for axes, label in zip(grid[:, 0], ["true", *datasets], strict=True):
        axes.set_ylabel(short(label), rotation=0, ha="right", va="center")
    return drawn


def _strip(leak: Leak, which: int, count: int) -> Array:
    """The first images side by side, with a white line between them; which: 0 the true ones, 1 those found."""
    images = np.concatenate([pair[which] for pair in leak.images])[:count]
    edge = np.ones((images.shape[1], 1, *images.shape[3:]))
    strip: Array = np.concatenate([part for image in images for part in (image, edge)], axis=1)[:, :-1]
    return strip
