"""Everything that a suite's records say, written as files: tables, figures and the HTML page."""

import os
from collections.abc import Container, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from metaleaf import page, tables
from metaleaf.errors import DataError
from metaleaf.records import Model, in_order, read_records


def write_report(
    suite_folder: Path,
    output: Path,
    *,
    order: Sequence[str] = (),
    only: Container[str] | None = None,
    model: Model = "selected",
) -> list[Path]:
    """Write `table.{md,csv,tex}`, `<figure>.{png,svg,pdf}` and `index.html` into `output`; return the paths.

    `suite_folder` is `results/<suite>`; `order` has the algorithm labels in the suite's order (default: by
    label); `only` the config hashes to report (default: all). Tables and figures show `model`, the CSV has both.
    Nothing is written unless everything could be made, and every file is replaced as a whole.

    Raises DataError when there is no record or a damaged one.
    """
    from metaleaf import figures  # matplotlib is slow to import, and only a report needs it

    records = in_order(read_records(suite_folder, only), order)
    if not records:
        raise DataError(f"no records below {suite_folder}; run the suite first")
    made = tables.tables(records, model)
    drawn = figures.draw(records, model)
    contents = {f"{name}.{kind}": data for name, kinds in drawn.items() for kind, data in kinds.items()}
    texts = {
        "table.md": tables.to_markdown(made),
        "table.csv": tables.to_csv(records),
        "table.tex": tables.to_latex(made),
        "index.html": page.render(records, made, {name: kinds["svg"] for name, kinds in drawn.items()}),
    }
    contents |= {name: text.encode() for name, text in texts.items()}
    output.mkdir(parents=True, exist_ok=True)
    return [_replace(output / name, data) for name, data in contents.items()]


def _replace(path: Path, data: bytes) -> Path:
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.close()
            os.chmod(file.name, 0o644)  # a temporary file is private; a report is for everyone
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return path
