"""Tables as Markdown and LaTeX, and numbers as CSV. Every text may come from a record, and is escaped."""

import re
from collections.abc import Iterable

import pandas as pd

from metaleaf.report.tables.tables import Cell, Table


def to_csv(frame: pd.DataFrame) -> str:
    """Numbers as fractions and plain units, for further work."""
    shown = frame.copy()
    for column in shown.select_dtypes(["object", "string"]):  # a spreadsheet would run such a text as a formula
        shown[column] = shown[column].where(~shown[column].str.match(r"[=+\-@]", na=False), "'" + shown[column])
    return shown.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def to_markdown(made: Iterable[Table]) -> str:
    """GitHub Markdown: a heading, the table and its caption for each table."""
    return "\n".join(_markdown(table) for table in made)


def to_latex(made: Iterable[Table]) -> str:
    """One booktabs `table*` for each table; needs `\\usepackage{booktabs}` and nothing else."""
    return "% \\usepackage{booktabs}\n" + "\n".join(_latex(table) for table in made)


# ----------------------------------------------------------------------------------------------- Markdown


def _markdown(table: Table) -> str:
    cells = [[heading for _, heading in table.columns], *([_markdown_cell(cell) for cell in row] for row in table.rows)]
    widths = [
        max(3, *map(len, column)) for column in zip(*cells, strict=True)
    ]  # lined up for those who read the source

    def line(texts: Iterable[str]) -> str:
        padded = (f"{t:{'>' if i else '<'}{width}}" for i, (t, width) in enumerate(zip(texts, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    heading, *rows = map(line, cells)
    lines = [f"### {_escape_markdown(table.title)}", "", heading, line(rule), *rows]
    return "\n".join([*lines, "", _escape_markdown(table.caption), ""])


def _markdown_cell(cell: Cell) -> str:
    text = _escape_markdown(cell.text)
    marked = {"best": f"**{text}**", "second": f"<u>{text}</u>"}.get(cell.mark, text)
    return f"{marked} [{cell.interval[0]}, {cell.interval[1]}]" if cell.interval else marked


def _escape_markdown(text: str) -> str:
    # a < before a digit opens nothing
    return re.sub(r"([\\`*_{}\[\]>|#~$&]|<(?!\d))", r"\\\1", text)


# -------------------------------------------------------------------------------------------------- LaTeX


def _latex(table: Table) -> str:
    over, rules, start = [], [], 1
    for group, count in table.groups:
        over.append(f"\\multicolumn{{{count}}}{{c}}{{{_escape_latex(group)}}}" if group else "")
        rules.append(f"\\cmidrule(lr){{{start}-{start + count - 1}}}" if group else "")
        start += count
    stretch = "\\renewcommand{\\arraystretch}{1.3}" if any(cell.interval for row in table.rows for cell in row) else ""
    lines = [
        "\\begin{table*}[t]",
        f"\\centering\\footnotesize\\setlength{{\\tabcolsep}}{{3pt}}\\setlength{{\\belowcaptionskip}}{{4pt}}{stretch}",
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
        lines.append(_latex_row(map(_latex_cell, row)))
        if row[0].text == table.baseline and row is not table.rows[-1]:
            lines.append("\\midrule")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table*}", ""])


def _latex_row(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


def _latex_cell(cell: Cell) -> str:
    """The ends of an interval are set small, below and above each other, so that a table fits on a page."""
    text = _escape_latex(cell.text)
    # \boldmath, because the ± is set in mathematics
    marked = {"best": f"\\textbf{{\\boldmath {text}}}", "second": f"\\underline{{{text}}}"}.get(cell.mark, text)
    if cell.interval is None:
        return marked
    low, high = (end.replace("−", "-") for end in cell.interval)
    return f"{marked}$\\,_{{{low}}}^{{{high}}}$"


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
