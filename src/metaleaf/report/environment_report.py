"""Everything that the records of a suite of new environments say, as files."""

from collections.abc import Sequence

from metaleaf.records.environments import EnvironmentRecord
from metaleaf.report import page
from metaleaf.report.figures import environments as figures
from metaleaf.report.markup import to_csv, to_latex, to_markdown
from metaleaf.report.tables import environments as tables


def contents(records: Sequence[EnvironmentRecord], baseline: str | None = None) -> dict[str, bytes]:
    """File name -> content: tables, figures and page; `baseline` is the label that the others are paired with.

    Raises DataError on damaged records and those that cannot be paired, ConfigError on an unknown baseline.
    """
    numbers = tables.comparison(records, baseline)
    made = tables.tables(records, numbers)
    drawn = figures.draw(records)
    html = page.render(records, made, drawn)
    return page.report_files(drawn, to_markdown(made), to_csv(numbers), to_latex(made), html)
