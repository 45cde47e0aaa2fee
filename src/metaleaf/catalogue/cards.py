"""The part of a dataset's card (docs/datasets) that is data: what it is declared to be, and what it was prepared to be.

A card says where this goes, and for which options: between ``<!-- generated: source=writers -->`` and
``<!-- end -->``. A card without the second line gets it.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metaleaf import models, tasks
from metaleaf.config.config import build
from metaleaf.data.client_store import ClientStore
from metaleaf.data.prepare import load
from metaleaf.data.stats import described, in_digits, stats
from metaleaf.errors import ConfigError
from metaleaf.files.whole_files import write_atomically
from metaleaf.report.figures.portrait import draw

BLOCK = re.compile(r"<!-- generated:?(?P<options>[^>]*?)-->(?:.*?<!-- end -->)?", re.DOTALL)


class Card(NamedTuple):
    """A card's file, its text, and the dataset and options that it is of."""

    path: Path
    text: str
    dataset: str
    options: dict[str, Any]


def read(path: Path, parse: Any) -> Card:
    """A card; ConfigError if it has no place for what is generated. parse: from ``key=value`` texts to options."""
    text = path.read_text(encoding="utf-8")
    found = BLOCK.search(text)
    if found is None:
        raise ConfigError(f"{path} has no line <!-- generated -->, after which a dataset's figures go.")
    return Card(path, text, path.stem, parse(found["options"].split()))


def renew(card: Card) -> None:
    """Write a card anew, its portrait beside it; DataError, and nothing is changed, where files are missing."""
    dataset = build("datasets", card.dataset, card.options)
    store = load(card.dataset, dataset, progress=False, stale="again")
    picture = card.path.with_suffix(".png")
    write_atomically(picture, lambda file: draw({card.dataset: store}).savefig(file, format="png", dpi=150))
    spec = dataclasses.asdict(dataset.spec)
    text = "\n".join([declared(spec), prepared(store), f"![Portrait]({picture.name})"])
    write_atomically(card.path, lambda file: file.write_text(_with(card, text), encoding="utf-8"))


def _with(card: Card, block: str) -> str:
    found = BLOCK.search(card.text)
    assert found is not None
    first = found[0].split("-->")[0] + "-->"
    return f"{card.text[: found.start()]}{first}\n{block}\n<!-- end -->{card.text[found.end() :]}"


def declared(spec: Mapping[str, Any]) -> str:
    """What follows from the plugin alone, as a Markdown table."""
    rows = {
        "Examples": described(spec).rsplit(", task", 1)[0],
        "Task": _task(spec),
        "Model": _model(spec["model"], spec),
        "Small model": _model(spec["small_model"], spec) if spec["small_model"] else "",
        "Licence": spec["licence"],
        "Terms": spec["terms"],
        "Home": spec["homepage"],
    }
    return "\n".join(["", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items() if value)])


def prepared(store: ClientStore) -> str:
    """What is in the prepared data, beside the publisher's figures, as a Markdown table."""
    figures = stats(store, probed=False)  # which digits a fit has depends on the machine
    theirs = figures["published"] or {}
    shown = [key for key, value in figures.items() if isinstance(value, int | float)]
    head = ["", "| | prepared | published |", "|---|---:|---:|"] if theirs else ["", "| | prepared |", "|---|---:|"]
    rows = [_row(key, figures[key], theirs.get(key), bool(theirs)) for key in shown]
    source = [f"\nPublished: {theirs['source']}."] if theirs else []
    return "\n".join([*head, *rows, *source, f"\n`data_hash` {store.about['data_hash'][:16]}...\n"])


def _row(key: str, ours: float, theirs: float | None, two: bool) -> str:
    cells = [key.replace("_", " "), in_digits(ours), *([in_digits(theirs)] if two else [])]
    return f"| {' | '.join(cells)} |"


def _task(spec: Mapping[str, Any]) -> str:
    kind = tasks.of(spec)
    return f"`{kind.name}`: {', '.join(metric.in_unit for metric in kind.measured)}"


def _model(given: models.Given, spec: Mapping[str, Any]) -> str:
    name = given if isinstance(given, str) else given["name"]
    built = models.build(given, spec, 0)
    count = sum(p.numel() for p in built.parameters() if p.requires_grad)
    options = "" if isinstance(given, str) else ", ".join(f"{k} = {v}" for k, v in given.items() if k != "name")
    return f"`{name}`{f' ({options})' if options else ''}, {count:,} parameters"
