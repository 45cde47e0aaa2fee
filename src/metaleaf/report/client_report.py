"""Everything that the records of a suite of new clients say, as files."""

from collections.abc import Sequence

import pandas as pd

from metaleaf.records.client_scores import client_scores
from metaleaf.records.records import MODELS, Record
from metaleaf.report import page
from metaleaf.report.figures.makers import draw
from metaleaf.report.markup import to_csv, to_latex, to_markdown
from metaleaf.report.shown import ALL, Shown
from metaleaf.report.tables import clients as client_tables
from metaleaf.report.tables import overall
from metaleaf.statistics.comparison import comparison, pairs


def contents(records: Sequence[Record], shown: Shown = ALL, baseline: str | None = None) -> dict[str, bytes]:
    """File name -> content: tables and figures of one model, CSV files of both, and the page.

    `shown` has the model, the columns and the metric, and has chosen `records`; `baseline` is the label that the others
    are paired with. Raises DataError on damaged records, ConfigError on an unknown baseline or column.
    """
    model = shown.model
    scores = {one: client_scores(records, one) for one in MODELS}
    numbers = {one: comparison(records, scores[one], one) for one in MODELS}
    paired = {one: pairs(scores[one], one) for one in MODELS}
    over = {one: overall.over_datasets(scores[one], numbers[one]) for one in MODELS}
    made = [
        *overall.tables(records, scores[model], numbers[model], over[model]),
        *client_tables.tables(records, scores[model], numbers[model], paired[model], baseline, shown.columns),
    ]
    further = {"pairs.csv": to_csv(pd.concat(paired.values()))}
    if over[model]:
        further["overall.csv"] = to_csv(overall.to_frame([one for found in over.values() for one in found]))
    drawn = draw(records, model, shown.statistic)
    html = page.render(records, made, drawn, further=list(further))
    csv = to_csv(pd.concat(numbers.values()))
    files = page.report_files(drawn, to_markdown(made), csv, to_latex(made), html)
    return files | {name: text.encode() for name, text in further.items()}
