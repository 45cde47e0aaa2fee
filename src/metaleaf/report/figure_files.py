"""``metaleaf figures``: every figure that the records of a suite allow, as files for a paper."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from metaleaf.errors import DataError, refuse_unknown
from metaleaf.records.environments import EnvironmentRecord
from metaleaf.records.records import Record, in_order, of_new_environments, read_all, record_paths
from metaleaf.report.figures import environments as environment_figures
from metaleaf.report.figures.drawing import Drawing, Makers, NotDrawnError, Source, drawings
from metaleaf.report.figures.makers import WITH_DATA
from metaleaf.report.figures.runs import Runs
from metaleaf.report.figures.style import FORMATS, WIDTHS
from metaleaf.report.report import replace_file
from metaleaf.report.shown import ALL, Shown


def write_figures(
    folder: Path,
    output: Path,
    order: Sequence[str] = (),
    *,
    also: Sequence[Path] = (),
    only: Sequence[str] = (),
    width: str | None = None,
    formats: Sequence[str] = FORMATS,
    shown: Shown = ALL,
) -> Iterator[str]:
    """Write ``<figure>.<format>``, and its caption as ``.txt``, one after the other; a line on each: files, or why not.

    order: the algorithm labels in the suite's order. also: folders of further suites. only: names of
    figures (default: all). width: of `style.WIDTHS` (default: a column for one panel, else two). shown: what of the
    records. Raises DataError when there is no record or a damaged one, ConfigError for a figure that does not exist.
    """
    paths = record_paths(folder)
    if not paths:
        raise DataError(f"no records below {folder}; run the suite first")
    inches = WIDTHS[width] if width else None
    if of_new_environments(paths[0]):
        entered = in_order(read_all(EnvironmentRecord, folder, None, also), order)
        visits = environment_figures.Visits(shown.of_environments(entered), inches)
        made = drawings(visits, _chosen(environment_figures.MAKERS, only), formats)
    else:
        records = in_order(read_all(Record, folder, None, also), order)
        runs = Runs(shown.of(records), shown.model, inches, shown.statistic)
        made = drawings(runs, _chosen(WITH_DATA, only), formats)
    output.mkdir(parents=True, exist_ok=True)
    for name, one in made:
        yield f"{name}: {_written(name, one, output)}"


def _chosen(makers: Makers[Source], only: Sequence[str]) -> Makers[Source]:
    refuse_unknown("figure", only, makers)
    return {name: make for name, make in makers.items() if not only or name in only}


def _written(name: str, one: Drawing | NotDrawnError, output: Path) -> str:
    if isinstance(one, NotDrawnError):
        return f"not made, {one}"
    contents = one.files | {"txt": f"{one.caption}\n".encode()}
    paths = [replace_file(output / f"{name}.{kind}", data) for kind, data in contents.items()]
    return " ".join(str(path) for path in paths)
