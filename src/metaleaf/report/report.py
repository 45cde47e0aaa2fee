"""Everything that a suite's records say, written as files: tables, figures and the HTML page."""

from collections.abc import Container, Sequence
from pathlib import Path

from metaleaf.errors import DataError
from metaleaf.files.whole_files import write_atomically
from metaleaf.records.environments import EnvironmentRecord
from metaleaf.records.records import Record, in_order, of_new_environments, read_all, record_paths
from metaleaf.report import client_report, environment_report
from metaleaf.report.shown import ALL, Shown


def write_report(
    suite_folder: Path,
    output: Path,
    *,
    order: Sequence[str] = (),
    only: Container[str] | None = None,
    baseline: str | None = None,
    also: Sequence[Path] = (),
    shown: Shown = ALL,
) -> list[Path]:
    """Write `table.{md,csv,tex}`, further CSV files, `<figure>.{png,svg,pdf}` and `index.html`; return the paths.

    `suite_folder` is `results/<suite>`; `order` has the algorithm labels in the suite's order (default: as
    `metaleaf.records.records.in_order` finds it); `only` the config hashes to report (default: all). The others are
    paired with the label `baseline`, or the majority class (default: the best, or on the track of new environments
    few_round); `also` has the folders of further suites that go into the same tables and figures. `shown` is what was
    chosen of all that (default: all). On the track of new clients tables and figures show one model, the CSV files have
    both; on that of new environments there is one. Nothing is written unless everything could be made, and every file
    is replaced as a whole.

    Raises DataError when there is no record or a damaged one, or a baseline without its pair; ConfigError when there is
    no such baseline.
    """
    paths = record_paths(suite_folder, only)
    if not paths:
        raise DataError(f"no records below {suite_folder}; run the suite first")
    if of_new_environments(paths[0]):  # a folder with records of both tracks is refused by either reader
        entered = in_order(read_all(EnvironmentRecord, suite_folder, only, also), order)
        contents = environment_report.contents(shown.of_environments(entered), baseline)
    else:
        records = in_order(read_all(Record, suite_folder, only, also), order)
        contents = client_report.contents(shown.of(records), shown, baseline)
    return [replace_file(output / name, data) for name, data in contents.items()]


def replace_file(path: Path, data: bytes) -> Path:
    """Write a file as a whole or not at all; returns its path."""
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return path
