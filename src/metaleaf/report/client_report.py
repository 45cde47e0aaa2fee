"""Everything that the records of a suite of new clients say, as files."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from metaleaf.records.client_scores import client_scores
from metaleaf.records.records import MODELS, Model, Record
from metaleaf.report import page
from metaleaf.report.figures.makers import draw
from metaleaf.report.markup import to_csv, to_latex, to_markdown
from metaleaf.report.shown import ALL, Shown
from metaleaf.report.tables import clients as client_tables
from metaleaf.report.tables import overall
from metaleaf.report.tables.tables import Table
from metaleaf.statistics.comparison import Scores, comparison, pairs


class Numbers(NamedTuple):
    """What tables of one model are made from: of `client_scores`, `comparison`, `pairs` and `over_datasets`."""

    scores: Scores
    compared: pd.DataFrame
    paired: pd.DataFrame
    overall: list[overall.Overall]


def numbers_of(records: Sequence[Record], model: Model) -> Numbers:
    """Those of the records, which are not empty; DataError on damaged ones."""
    scores = client_scores(records, model)
    compared = comparison(records, scores, model)
    return Numbers(scores, compared, pairs(scores, model), overall.over_datasets(scores, compared))


def tables_of(
    records: Sequence[Record], numbers: Numbers, baseline: str | None = None, columns: Sequence[str] = ()
) -> list[Table]:
    """All tables: over datasets, and of each setting. Baseline, columns and errors as of `contents`."""
    return [
        *overall.tables(records, numbers.scores, numbers.compared, numbers.overall),
        *client_tables.tables(records, numbers.scores, numbers.compared, numbers.paired, baseline, columns),
    ]


def contents(records: Sequence[Record], shown: Shown = ALL, baseline: str | None = None) -> dict[str, bytes]:
    """File name -> content: tables and figures of one model, CSV files of both, and the page.

    `shown` has the model, the columns and the metric, and has chosen `records`; `baseline` is the label that the others
    are paired with. Raises DataError on damaged records, ConfigError on an unknown baseline or column.
    """
    model = shown.model
    numbers = {one: numbers_of(records, one) for one in MODELS}
    made = tables_of(records, numbers[model], baseline, shown.columns)
    further = {"pairs.csv": to_csv(pd.concat(found.paired for found in numbers.values()))}
    if numbers[model].overall:
        of_all = [one for found in numbers.values() for one in found.overall]
        further["overall.csv"] = to_csv(overall.to_frame(of_all))
    drawn = draw(records, model, shown.statistic)
    html = page.render(records, made, drawn, further=list(further))
    csv = to_csv(pd.concat(found.compared for found in numbers.values()))
    files = page.report_files(drawn, to_markdown(made), csv, to_latex(made), html)
    return files | {name: text.encode() for name, text in further.items()}
