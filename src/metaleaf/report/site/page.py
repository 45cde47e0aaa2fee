"""The leaderboard's one HTML file: it works from a disk, asks for nothing, and runs one script, known by its hash."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from metaleaf.errors import DataError
from metaleaf.records.records import AnyRecord, Head, Stored
from metaleaf.report.figures import environments as environment_figures
from metaleaf.report.figures.drawing import Drawing, drawn
from metaleaf.report.figures.makers import WITH_DATA
from metaleaf.report.figures.runs import Runs
from metaleaf.report.page import inline_svg, own_text, read_template
from metaleaf.report.report import replace_file
from metaleaf.report.site import new_clients, new_environments, target
from metaleaf.report.site.collect import Collected, collect
from metaleaf.report.site.portraits import portraits
from metaleaf.report.site.runs import runs
from metaleaf.report.site.table import Row, Track

FILTERS = {"suite": "Suite", "dataset": "Dataset", "support": "Support", "R": "R", "family": "Family"}
"""What rows can be filtered by, and the names of the choices."""


class Figure(NamedTuple):
    """A figure as it stands in the page."""

    caption: str
    svg: Markup


def write_site(results: Path, output: Path, leave_out: Sequence[str] = ()) -> tuple[Path, list[str]]:
    """Write ``index.html`` with everything below `results`; its path, and a sentence on each record left out.

    leave_out: patterns of suites that are no part of it, such as ``claim_*``.
    Raises DataError when there is no record that can be shown.
    """
    found = collect(results, leave_out)
    html = render(found)
    output.mkdir(parents=True, exist_ok=True)
    return replace_file(output / "index.html", html.encode()), found.refused


def render(found: Collected) -> str:
    """The page's HTML. Everything that comes from a record is escaped: by Jinja, and by matplotlib within figures."""
    clients = (
        (new_clients.TRACK, new_clients.rows),
        (new_clients.PARTICIPANTS, new_clients.participants),
        (target.TRACK, target.rows),
    )
    tracks = [track.of(_rows(found.clients, rows, found.refused)) for track, rows in clients]
    tracks.append(new_environments.TRACK.of(_rows(found.environments, new_environments.rows, found.refused)))
    tracks = [track for track in tracks if track.rows]
    if not tracks:
        raise DataError(f"nothing can be shown; {found.refused[0]}")
    records: list[Stored[Head]] = [*chain(*found.clients.values()), *chain(*found.environments.values())]
    script = Markup('"use strict";\n') + own_text("sorting.js") + own_text("site/site.js")
    return read_template(files("metaleaf.report.site") / "site.html").render(
        style=own_text("page.css") + own_text("site/site.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        tracks=tracks,
        filters=_filters(tracks),
        position=position,
        figures=_figures(found),
        portraits=portraits(records),
        runs=runs(records),
        records=len(records),
    )


def _rows(
    suites: dict[str, list[AnyRecord]], rows: Callable[[list[AnyRecord]], list[Row]], refused: list[str]
) -> list[Row]:
    """Rows of all suites; one whose records do not fit together is left out, and `refused` gets a sentence on it."""
    made = []
    for suite, records in list(suites.items()):
        try:
            made += rows(records)
        except DataError as error:
            del suites[suite]
            refused.append(f"suite {suite} is left out: {error}")
    return made


def _filters(tracks: Sequence[Track]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Key, name and choices (value, text) of each filter that has a choice to make."""
    made = [("track", "Track", [(track.key, track.title) for track in tracks])]
    for key, name in FILTERS.items():
        values = list(dict.fromkeys(row.filters[key] for track in tracks for row in track.rows if key in row.filters))
        if key in _NUMBERS:
            values.sort(key=float)
        made.append((key, name, [(value, _NUMBERS[key](value) if key in _NUMBERS else value) for value in values]))
    return [filter for filter in made if len(filter[2]) > 1]


_NUMBERS: dict[str, Callable[[str], str]] = {"support": lambda value: f"{100 * float(value):g} %", "R": str}


def position(value: float, axis: tuple[float, float]) -> str:
    """Where a value is on an axis, in percent of its length."""
    low, high = axis
    return f"{100 * (value - low) / (high - low):.2f}%"


def _figures(found: Collected) -> list[tuple[str, list[Figure]]]:
    """Every suite's figures. Names of ids are counted, because a suite's name is anyone's text."""
    suites = {suite: drawn(Runs(records), WITH_DATA, ("svg",)) for suite, records in found.clients.items()}
    for suite, records in found.environments.items():
        suites[suite] = drawn(environment_figures.Visits(records), environment_figures.MAKERS, ("svg",))
    return [
        (suite, [_figure(made, f"suite{i}-{name}") for name, made in drawings.items()])
        for i, (suite, drawings) in enumerate(suites.items())
    ]


def _figure(made: Drawing, name: str) -> Figure:
    return Figure(made.caption, inline_svg(made.files["svg"].decode(), name))
