"""Comparison tables from records: one per dataset and support fraction, as Markdown, CSV and LaTeX.

`comparison` has the numbers, `tables` turns them into text once, and the renderers only lay that text out.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from metaleaf.records import MODELS, Head, Model, Record, tidy
from metaleaf.statistics import over_seeds

MAJORITY = "Majority class"
"""Name of the baseline row: always answering the most frequent class of the client's own support."""

BEST_ROUND = "the round with the best validation accuracy"
"""The selected model's, in captions."""

_METRICS = (
    "before_accuracy",
    "after_accuracy",
    "after_client_mean",
    "after_bottom10",
    "after_p10",
    "after_p50",
    "after_p90",
    "after_hurt",
)


@dataclass(frozen=True)
class Cell:
    """What is shown, what it is sorted by (nan: last), and whether it is the best of its column."""

    text: str
    value: float = math.nan
    best: bool = False


@dataclass(frozen=True)
class Table:
    """One comparison as text. `columns` are (group, heading) pairs; the first column holds the names."""

    label: str
    title: str
    caption: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    baseline: str = ""
    """Name of the row that stands for no algorithm."""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups from left to right, each with its number of columns."""
        return list(Counter(group for group, _ in self.columns).items())


def comparison(records: Sequence[Record], model: Model = "selected") -> pd.DataFrame:
    """The numbers behind the tables: a row per dataset, support fraction and algorithm, as `records` come.

    The first row of each dataset and support fraction is the majority-class baseline; its scores stand in the
    `after` columns. Columns: `dataset`, `support`, `model`, `algorithm`, `<metric>_mean` and `<metric>_sd`
    over finished seeds (fractions in [0, 1]; nan where there are none, sd nan for one seed), `seeds`
    (finished), `diverged` (seeds), `rounds`, `bytes` and `flops` (means over seeds, for the whole run).
    """
    frame = tidy(records)
    rows = []
    for dataset, runs in frame.groupby("dataset", sort=False):
        diverged = runs[runs["status"] == "diverged"].groupby("name")["seed"].nunique()
        for support in sorted(runs["support"].dropna().unique()) or [math.nan]:
            cells = runs[(runs["support"] == support) & (runs["model"] == model)]
            start = {"dataset": dataset, "support": support, "model": model}
            # every algorithm of a seed sees the same clients and splits, so any one of them has the baseline
            baseline = cells.drop_duplicates("seed")
            rows.append(start | {"algorithm": MAJORITY, "diverged": 0} | _means(baseline, "majority"))
            for name in runs["name"].unique():
                finished = cells[cells["name"] == name]
                each = runs[runs["name"] == name].drop_duplicates("record")
                costs = {key: each[key].mean() for key in ("rounds", "bytes", "flops")}
                row = {"algorithm": name, "diverged": diverged.get(name, 0)}
                rows.append(start | row | _means(finished, "after") | costs)
    return pd.DataFrame(rows)


def tables(records: Sequence[Record], model: Model = "selected") -> list[Table]:
    """One table per dataset and support fraction, with the protocol in its caption."""
    numbers = comparison(records, model)
    made = []
    for dataset in numbers["dataset"].unique():
        of_dataset = [record for record in records if record.content.dataset == dataset]
        rows = numbers[numbers["dataset"] == dataset]
        for support in rows["support"].unique():
            share = "" if math.isnan(support) else f"{100 * support:g} % support"
            title = f"{dataset}, {share}" if share else dataset
            caption = _caption(of_dataset, support, model)
            # nan is not equal to itself, so a dataset where every run diverged is asked for by isna
            at = rows[rows["support"].isna() if math.isnan(support) else rows["support"] == support]
            made.append(Table(slug(title), title, caption, *_laid_out(at), baseline=MAJORITY))
    return made


def to_csv(records: Sequence[Record]) -> str:
    """The numbers of both reported models, as fractions and plain units, for further work."""
    frame = pd.concat([comparison(records, model) for model in MODELS], ignore_index=True)
    return csv_text(frame, ("dataset", "algorithm"))


def csv_text(frame: pd.DataFrame, texts: Iterable[str]) -> str:
    """`frame` as CSV; `texts` are the columns with text from records."""
    for column in texts:  # a spreadsheet would run such a text as a formula
        frame[column] = frame[column].where(~frame[column].str.match(r"[=+\-@]"), "'" + frame[column])
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def to_markdown(made: Iterable[Table]) -> str:
    """GitHub Markdown: a heading, the table and its caption for each table."""
    return "\n".join(_markdown(table) for table in made)


def to_latex(made: Iterable[Table]) -> str:
    """One booktabs `table*` for each table; needs `\\usepackage{booktabs}` and nothing else."""
    return "% \\usepackage{booktabs}\n" + "\n".join(_latex(table) for table in made)


# ------------------------------------------------------------------------------------------- numbers -> text


def _means(runs: pd.DataFrame, side: str) -> dict[str, float]:
    """Means and sds over seeds; with side `majority` its scores take the place of those after adaptation."""
    row: dict[str, float] = {"seeds": len(runs)}
    for metric in _METRICS:
        source = metric.replace("after", side)
        known = source in runs and not (side == "majority" and metric.startswith("before"))
        row[f"{metric}_mean"], row[f"{metric}_sd"] = over_seeds(runs[source].dropna() if known else [])
    return row


Field = tuple[str, str, Callable[[pd.Series], Cell], Callable[..., Any] | None]
"""A column: its group and heading, what it shows of a row, and which values are better, if any."""

Layout = tuple[tuple[tuple[str, str], ...], tuple[tuple[Cell, ...], ...]]
"""Columns and rows of a `Table`."""


def _laid_out(rows: pd.DataFrame) -> Layout:
    """Columns and rows of a `Table` from the rows of `comparison`."""
    algorithms = rows[rows["algorithm"] != MAJORITY]
    byte_unit, flop_unit = unit_of(algorithms["bytes"].max()), unit_of(algorithms["flops"].max())
    fields: list[Field] = [
        ("", "Algorithm", lambda row: Cell(row["algorithm"]), None),
        ("Accuracy", "Before", _percent("before_accuracy", sd=True), max),
        ("Accuracy", "After", _after, max),
        ("Over clients, after", "Mean", _percent("after_client_mean"), max),
        ("Over clients, after", "Worst 10 %", _percent("after_bottom10", sd=True), max),
        ("Over clients, after", "p10", _percent("after_p10"), max),
        ("Over clients, after", "p50", _percent("after_p50"), max),
        ("Over clients, after", "p90", _percent("after_p90"), max),
        ("Over clients, after", "Hurt", _percent("after_hurt"), None),
        ("Cost", "Seeds", seeds_cell, None),
        ("Cost", "Rounds", lambda row: count_cell(row["rounds"]), None),
        ("Cost", f"{byte_unit[1]}B sent", lambda row: amount_cell(row["bytes"], byte_unit[0]), None),
        ("Cost", f"{flop_unit[1]}FLOPs", lambda row: amount_cell(row["flops"], flop_unit[0]), None),
    ]
    # The mean of the seeds that survived is no result to win with.
    return lay_out(rows, fields, (rows["algorithm"].ne(MAJORITY) & rows["diverged"].eq(0)).tolist())


def lay_out(rows: pd.DataFrame, fields: Sequence[Field], competes: list[bool]) -> Layout:
    """What `fields` show of `rows`, with the best among the rows that compete marked."""
    columns = []
    for _, _, show, better in fields:
        cells = [show(row) for _, row in rows.iterrows()]
        columns.append(_with_best(cells, competes, better))
    headings = tuple((group, heading) for group, heading, _, _ in fields)
    return headings, tuple(zip(*columns, strict=True))


def _percent(metric: str, sd: bool = False) -> Callable[[pd.Series], Cell]:
    return lambda row: percent_cell(row[f"{metric}_mean"], row[f"{metric}_sd"] if sd else None)


def percent_cell(mean: float, spread: float | None = None) -> Cell:
    """A fraction in percent, with its spread if one is given."""
    if math.isnan(mean):
        return Cell("–")
    around = "" if spread is None else f" ± {_dash(100 * spread)}"
    return Cell(f"{100 * mean:.1f}{around}", 100 * mean)


def _after(row: pd.Series) -> Cell:
    if row["diverged"] and not row["seeds"]:
        return Cell("diverged")
    return _percent("after_accuracy", sd=True)(row)


def seeds_cell(row: pd.Series) -> Cell:
    """Finished seeds, and those that diverged."""
    diverged = f" ({row['diverged']} diverged)" if row["diverged"] else ""
    return Cell(f"{row['seeds']}{diverged}", row["seeds"])


def _dash(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def count_cell(value: float) -> Cell:
    """A whole number."""
    return Cell("–") if math.isnan(value) else Cell(f"{value:.0f}", value)


def amount_cell(value: float, unit: float) -> Cell:
    """A number in a unit of `unit_of`, to three digits or the whole number."""
    if math.isnan(value):
        return Cell("–")
    scaled = value / unit
    return Cell(f"{scaled:.0f}" if scaled >= 100 else f"{scaled:.2g}" if scaled < 1 else f"{scaled:.3g}", value)


def unit_of(largest: float) -> tuple[float, str]:
    """The largest of the units kilo to peta in which `largest` is at least 1; mega if there is nothing."""
    for unit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if largest >= unit:
            return unit, prefix
    return 1e6, "M"


def _with_best(cells: list[Cell], competes: list[bool], better: Callable[..., Any] | None) -> list[Cell]:
    """Mark the best of the competing cells, and those that print the same mean."""
    values = [cell.value for cell, c in zip(cells, competes, strict=True) if c and not math.isnan(cell.value)]
    if better is None or not values:
        return cells
    best = f"{better(values):.1f}"
    return [
        Cell(cell.text, cell.value, c and f"{cell.value:.1f}" == best) for cell, c in zip(cells, competes, strict=True)
    ]


def _caption(records: Sequence[Record], support: float, model: Model) -> str:
    """The protocol in a few sentences: what makes the numbers of this table comparable."""
    contents = [record.content for record in records]
    train, validation, test = (
        span(getattr(c.data.clients, part) for c in contents) for part in ("train", "validation", "test")
    )
    cohort = span(_protocol(record, "clients_per_round") for record in records)
    seeds = len({c.seed for c in contents})
    chosen = BEST_ROUND if model == "selected" else "the last round"
    share = "" if math.isnan(support) else f", each adapting on {100 * support:g} % of its examples"
    sentences = (
        f"Accuracy in % on the query examples of {test} test clients{share};",
        f"trained on {train} clients, validated on {validation}.",
        f"{span(c.rounds or None for c in contents) or 0} rounds" + (f" of {cohort} clients," if cohort else ","),
        f"model of {chosen},",
        f"mean ± sd over {seeds} seeds." if seeds > 1 else "one seed.",
        tuning_sentence(contents),
        "Hurt: share of clients whose accuracy fell by adapting.",
        f"{MAJORITY}: the most frequent one in the client's own support. Bold: the best algorithm.",
    )
    return " ".join(sentences)


def tuning_sentence(contents: Iterable[Head]) -> str:
    """Where the hyper-parameters come from."""
    trials = {integer((content.tuning or {}).get("trials", 0)) or 0 for content in contents}
    if trials == {0}:
        return "Hyper-parameters are those that the suite states."
    each = " per algorithm" if len(trials) == 1 else ""
    return f"Hyper-parameters: {span(trials)} trials{each} on validation clients."


def _protocol(record: Record, key: str) -> int | None:
    protocol = record.content.config.get("protocol")
    return integer(protocol.get(key)) if isinstance(protocol, dict) else None


def integer(value: object) -> int | None:
    """The value, if that is what it is."""
    return value if isinstance(value, int) else None


def span(values: Iterable[int | None]) -> str:
    """`100`, or `50–100` when runs differ."""
    known = sorted({value for value in values if value is not None})
    if not known:
        return ""
    return f"{known[0]}" if len(known) == 1 else f"{known[0]}–{known[-1]}"


# -------------------------------------------------------------------------------------------- text -> layout


def _markdown(table: Table) -> str:
    def line(texts: Iterable[str]) -> str:
        return "| " + " | ".join(texts) + " |"

    lines = [f"### {_escape_markdown(table.title)}", ""]
    lines.append(line(heading for _, heading in table.columns))
    lines.append(line([":--", *["--:"] * (len(table.columns) - 1)]))
    for row in table.rows:
        texts = (_escape_markdown(cell.text) for cell in row)
        lines.append(line(f"**{t}**" if cell.best else t for t, cell in zip(texts, row, strict=True)))
    return "\n".join([*lines, "", _escape_markdown(table.caption), ""])


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", text)


def _latex(table: Table) -> str:
    over, rules, start = [], [], 1
    for group, count in table.groups:
        over.append(f"\\multicolumn{{{count}}}{{c}}{{{_escape_latex(group)}}}" if group else "")
        rules.append(f"\\cmidrule(lr){{{start}-{start + count - 1}}}" if group else "")
        start += count
    lines = [
        "\\begin{table*}[t]",
        "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\\setlength{\\belowcaptionskip}{4pt}",
        f"\\caption{{{_escape_latex(f'{table.title}. {table.caption}')}}}",
        f"\\label{{tab:{table.label}}}",
        f"\\begin{{tabular}}{{@{{}}l{'r' * (len(table.columns) - 1)}@{{}}}}",
        "\\toprule",
        _latex_row(over),
        "".join(rules),
        _latex_row(_escape_latex(heading) for _, heading in table.columns),
        "\\midrule",
    ]
    for row in table.rows:
        texts = (_escape_latex(cell.text) for cell in row)
        # \boldmath, because the ± is set in mathematics
        lines.append(
            _latex_row(f"\\textbf{{\\boldmath {t}}}" if c.best else t for t, c in zip(texts, row, strict=True))
        )
        if row[0].text == table.baseline:
            lines.append("\\midrule")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table*}", ""])


def _latex_row(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "[": "{[}",  # after \\ a bracket would start an optional argument
    "]": "{]}",
}


def _escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is; what pdfLaTeX has no character for (beyond Latin-1) becomes `?`."""
    plain = "".join(c if c in _LATEX or ord(c) < 256 else "?" for c in text)
    return "".join(_LATEX.get(c, c) for c in plain).replace(r" \%", r"\,\%")


def slug(text: str) -> str:
    """A text as a name for links and LaTeX labels."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
