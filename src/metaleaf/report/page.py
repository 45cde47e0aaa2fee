"""The report as one HTML file that stands alone: no network, light and dark, for wide and narrow screens."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from metaleaf.records.records import Head, Stored
from metaleaf.report.figures.drawing import Drawing
from metaleaf.report.tables.tables import Table
from metaleaf.terminal.visible import visible

# colours that the figures share with the page and that have to follow its scheme (see metaleaf.mplstyle)
_SCHEME = {
    "#1f2328": "var(--ink)",
    "#6e7781": "var(--muted)",
    "#dfe3e8": "var(--rule)",
    "#ffffff": "var(--paper)",
}


def render(
    records: Sequence[Stored[Head]],
    tables: Sequence[Table],
    figures: Mapping[str, Drawing],
    further: Sequence[str] = (),
) -> str:
    """The page's HTML, with the figures in their order.

    `further` has the names of the CSV files beside the table's.

    Everything that comes from a record is escaped: by Jinja, and by matplotlib within the figures.
    """
    template = read_template(files("metaleaf.report") / "page.html")
    inlined = [
        {"name": name, "caption": drawing.caption, "svg": inline_svg(drawing.files["svg"].decode(), name)}
        for name, drawing in figures.items()
    ]
    suites = sorted({record.content.suite for record in records})
    runs = _runs(records)
    shared = {"style": own_text("page.css"), "sorting": own_text("sorting.js")}
    about = {"suite": ", ".join(suites), "further": further, "tables": tables, "figures": inlined, "runs": runs}
    return template.render(**about, **shared)


def tables_html(tables: Sequence[Table]) -> str:
    """The tables for a page of others, such as a notebook."""
    return read_template(files("metaleaf.report") / "tables.html").render(tables=tables)


def read_template(path: Traversable) -> Template:
    """A template in which everything is escaped, and nothing may be missing."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(path.read_text(encoding="utf-8"))


def own_text(name: str) -> Markup:
    """A style sheet or script of ours, for use within a page as it is."""
    return Markup((files("metaleaf.report") / name).read_text(encoding="utf-8"))


def report_files(drawn: Mapping[str, Drawing], markdown: str, csv: str, latex: str, html: str) -> dict[str, bytes]:
    """File name -> content of a whole report; the names are those that the page links to."""
    texts = {"table.md": markdown, "table.csv": csv, "table.tex": latex, "index.html": html}
    contents = {f"{name}.{kind}": data for name, drawing in drawn.items() for kind, data in drawing.files.items()}
    return contents | {name: text.encode() for name, text in texts.items()}


def inline_svg(svg: str, name: str) -> Markup:
    """A figure's SVG for use within HTML: no prologue or comments, ids of its own, colours of the page."""
    body = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    width = re.search(r'viewBox="0 0 ([\d.]+)', body)
    size = f'style="--width: {2.2 * float(width[1]):.0f}px"' if width else ""
    body = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', size, body, count=1)
    for colour, variable in _SCHEME.items():
        body = body.replace(colour, variable)
    return Markup(_shortened(_renamed(body, name)))  # safe: letters are drawn as paths, and comments are gone


def _renamed(svg: str, name: str) -> str:
    """Ids that no other figure of the page has, and only those that something refers to."""
    used = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    ids = {found: f"{name}-{number}" for number, found in enumerate(used)}
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{ids[found[1]]}"' if found[1] in ids else "", svg)
    return re.sub(r'((?:href="|url\()#)([^")]+)', lambda found: found[1] + ids[found[2]], svg)


def _shortened(svg: str) -> str:
    """The same picture in half the letters: places to a hundredth of a point, and no spaces where none are needed."""
    svg = re.sub(r'(?<= d=")[^"]+', lambda path: re.sub(r"\s*([A-Za-z])\s*", r"\1", path[0]), svg)
    svg = re.sub(r'(?<= [dxy]=")[^"]+|(?<=translate\()[^)]+', lambda place: _DECIMALS.sub(_rounded, place[0]), svg)
    return re.sub(r"([;:]) (?=[\w#-])|(\n)\s*", r"\1\2", svg)


_DECIMALS = re.compile(r"-?\d*\.\d{3,}")


def _rounded(number: re.Match[str]) -> str:
    return f"{round(float(number[0]), 2) + 0.0:.10g}"  # + 0.0: no minus before a zero


def _runs(records: Sequence[Stored[Head]]) -> list[dict[str, Any]]:
    """What the page lists for every configuration: its seeds, those that diverged, and all settings."""
    runs: dict[tuple[str, str, str], dict[str, Any]] = {}
    for record in records:
        content = record.content
        run = runs.setdefault(
            (content.dataset, content.algorithm, content.config_hash),
            {
                "dataset": content.dataset,
                "title": content.title,
                "hash": content.config_hash,
                "parameters": f"{content.parameters:,}",
                "seeds": [],
                "diverged": [],
                "config": json.dumps({"config": content.config, "tuning": content.tuning}, indent=2),
            },
        )
        run["seeds"].append(content.seed)
        if content.status == "diverged":
            run["diverged"].append(f"seed {content.seed}: {visible(content.reason or 'no reason given')}")
    return list(runs.values())
