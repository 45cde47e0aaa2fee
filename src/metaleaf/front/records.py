"""Records from Python: as DataFrames, tables and figures, of one suite or several, shown as one chooses."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import pandas as pd

from metaleaf.config.config import flattened
from metaleaf.config.suite import order_of
from metaleaf.errors import ConfigError, DataError, of_system, refuse_unknown, unknown
from metaleaf.front.result import Result, copied
from metaleaf.records.records import MODELS, Record, in_order, of_new_environments, read_all, record_paths, tidy
from metaleaf.report import client_report
from metaleaf.report.figures.drawing import NotDrawnError
from metaleaf.report.figures.makers import WITH_DATA
from metaleaf.report.figures.runs import Runs
from metaleaf.report.figures.style import WIDTHS, encoded, styled
from metaleaf.report.markup import to_latex, to_markdown
from metaleaf.report.page import tables_html
from metaleaf.report.report import replace_file
from metaleaf.report.shown import ALL, Shown
from metaleaf.report.tables.tables import Table


class Plot:
    """A figure of matplotlib's and its caption; a notebook shows it."""

    def __init__(self, name: str, figure: Any, caption: str) -> None:
        self.name, self.figure, self.caption = name, figure, caption

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as .pdf, .svg or .png, by the end of the name."""
        target = Path(path)
        kind = target.suffix.removeprefix(".")
        if kind not in ("pdf", "svg", "png"):
            raise ConfigError(f"{target}: a figure ends in .pdf, .svg or .png.")
        return replace_file(target, self._encoded(kind))

    def _encoded(self, kind: str) -> bytes:
        with styled():
            return encoded(self.figure, (kind,))[kind]

    def _repr_png_(self) -> bytes:
        return self._encoded("png")

    def __repr__(self) -> str:
        return f"{self.name}: {self.caption}"


@dataclass(frozen=True)
class Records(Sequence[Record]):
    """Records of the track of new clients, in the order of their suites, and what is chosen to be shown of them.

    All tables and figures are of what is chosen (`choose`). `folder` holds the temporary folder of runs that are kept
    nowhere else.
    """

    all: tuple[Record, ...]
    shown: Shown = ALL
    folder: Any = None

    @cached_property
    def records(self) -> list[Record]:
        """What is shown of them."""
        return self.shown.of(self.all)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...
    def __getitem__(self, place: Any) -> Any:
        return self.records[place]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def choose(self, algorithms: Sequence[str] | Mapping[str, str] = (), **choices: Any) -> "Records":
        """The same records, shown otherwise.

        algorithms: labels in the order wanted, or a dict of what they are to be called. supports: fractions of new
        clients. model: "selected" or "final". metric: another one than the main one. statistic: of figures that show
        one number of a run. who: "all", "new" or "participants". columns: of the tables
        (`metaleaf.report.tables.clients.COLUMNS`).
        """
        known = ("supports", "model", "metric", "statistic", "who", "columns")
        refuse_unknown("choice", choices, known)
        refuse_unknown("model", [choices.get("model", "selected")], MODELS)
        refuse_unknown("kind of client", [choices.get("who", "all")], ("all", "new", "participants"))
        for name in ("supports", "columns"):
            if name in choices:
                choices[name] = (choices[name],) if isinstance(choices[name], str | float) else tuple(choices[name])
        algorithms = (algorithms,) if isinstance(algorithms, str) else algorithms
        if isinstance(algorithms, Mapping):
            algorithms = [f"{label}={name}" if name else label for label, name in algorithms.items()]
        if algorithms:
            choices["algorithms"] = tuple(algorithms)
        found = replace(self, shown=replace(self.shown, **choices))
        found.records  # noqa: B018  # what does not exist is said here, not where it is used
        return found

    # ------------------------------------------------------------------------------------------------ as DataFrames

    @property
    def runs(self) -> pd.DataFrame:
        """A row a run: what it is, its costs and hyper-parameters, and its main metric ``before@<support>``,
        ``after@<support>``, and of participants ``participants``, over all points.
        """
        scored = tidy(self.records)
        scored = scored[(scored["model"] == self.shown.model) | scored["model"].isna()]
        rows = []
        for place, record in enumerate(self.records):
            content = record.content
            row: dict[str, Any] = {"suite": content.suite, "dataset": content.dataset, "algorithm": content.algorithm}
            row |= {"name": content.title, "seed": content.seed, "status": content.status}
            row |= {"metric": content.metric.name, "rounds": content.rounds, "selected_round": content.selected_round}
            row |= content.cost.model_dump(exclude_none=True)
            for _, one in scored[scored["record"] == place].dropna(subset="support").iterrows():
                if one["who"] == "new":
                    row[f"before@{one['support']:g}"] = one["before_pooled"]
                    row[f"after@{one['support']:g}"] = one["after_pooled"]
                else:
                    row["participants"] = one["after_pooled"]
            rows.append(row | flattened(content.config["algorithm"]["hyperparameters"]) | {"path": str(record.path)})
        return pd.DataFrame(rows)

    @property
    def scores(self) -> pd.DataFrame:
        """A row a run, model, kind of client and support fraction, with all that summaries have (`tidy`)."""
        return tidy(self.records)

    def clients(self, who: str = "new") -> pd.DataFrame:
        """A row a run, support fraction, client and step: the scores of new clients, or of "participants".

        `score` is of the main metric; of the model that is shown.
        """
        if who not in ("new", "participants"):
            raise unknown("kind of client", who, ("new", "participants"))
        found = [_scored(record, record.scores_of(who)) for record in self.records]  # type: ignore[arg-type]
        frame = pd.concat(found, ignore_index=True)
        kept = frame["model"] == self.shown.model
        if self.shown.supports and who == "new":
            kept &= frame["support"].isin(self.shown.supports)
        return frame[kept].reset_index(drop=True)

    def rounds(self) -> pd.DataFrame:
        """A row a run and round: costs, and scores of validation clients where they were scored."""
        return pd.concat([_of(record, record.rounds) for record in self.records], ignore_index=True)

    def table(self) -> pd.DataFrame:
        """The numbers behind the tables: a row a setting and algorithm, with intervals."""
        return self._numbers.compared

    def pairs(self) -> pd.DataFrame:
        """Every two algorithms on the same clients under the same seeds, with intervals and corrected p-values."""
        return self._numbers.paired

    # ------------------------------------------------------------------------------------------- as tables and figures

    @cached_property
    def _numbers(self) -> client_report.Numbers:
        return client_report.numbers_of(self.records, self.shown.model)

    def _tables(self, baseline: str | None = None) -> list[Table]:
        return client_report.tables_of(self.records, self._numbers, baseline, self.shown.columns)

    def _glance(self) -> list[Table]:
        """The tables without those of pairs."""
        alone = self._numbers._replace(paired=self._numbers.paired.iloc[:0])
        return client_report.tables_of(self.records, alone, None, self.shown.columns)

    def to_markdown(self, baseline: str | None = None) -> str:
        """All tables. baseline: the label that the others are paired with, or majority (default: the best)."""
        return to_markdown(self._tables(baseline))

    def to_latex(self, baseline: str | None = None) -> str:
        """All tables, for `booktabs`."""
        return to_latex(self._tables(baseline))

    def show(self, baseline: str | None = None) -> None:
        """Print the tables."""
        print(self.to_markdown(baseline))

    def plot(self, figure: str = "overview", width: str | None = None) -> Plot:
        """One of the figures of docs/figures.md; width: single, double or neurips.

        ConfigError if there is no such figure, DataError with the reason if these records do not allow it.
        """
        if figure not in WITH_DATA:
            raise unknown("figure", figure, WITH_DATA)
        if width is not None and width not in WIDTHS:
            raise unknown("width", width, WIDTHS)
        runs = Runs(self.records, self.shown.model, WIDTHS[width] if width else None, self.shown.statistic)
        try:
            with styled():
                made = WITH_DATA[figure](runs)
        except NotDrawnError as reason:
            raise DataError(f"the figure {figure} cannot be made: {reason}.") from None
        return Plot(figure, made.figure, made.caption)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Copy all records, and the models that were kept, into a result store; the records' paths."""
        return [copied(record, Path(folder).expanduser()) for record in self.all]

    def report(self, folder: str | os.PathLike[str], baseline: str | None = None) -> list[Path]:
        """Write all tables and figures and the HTML page into a folder; the paths."""
        contents = client_report.contents(self.records, self.shown, baseline)
        try:
            return [replace_file(Path(folder) / name, data) for name, data in contents.items()]
        except OSError as error:
            raise of_system(error) from error

    def __repr__(self) -> str:
        return to_markdown(self._glance())

    def _repr_html_(self) -> str:
        return tables_html(self._glance())


def _of(record: Record, table: pd.DataFrame) -> pd.DataFrame:
    """The table with the run that it is of."""
    content = record.content
    run: dict[str, Any] = {
        "suite": content.suite,
        "dataset": content.dataset,
        "algorithm": content.algorithm,
        "name": content.title,
        "seed": content.seed,
    }
    return table.assign(**run)[[*run, *table.columns]]


def _scored(record: Record, table: pd.DataFrame) -> pd.DataFrame:
    metric = record.content.metric
    score = metric.score(table[metric.total].to_numpy(float), table[metric.weight].to_numpy(float))
    return _of(record, table.assign(score=score))


def read(*sources: str | os.PathLike[str] | Result) -> Records:
    """The records below folders, e.g. ``results/lite_femnist``, of results, or single ones; several side by side.

    DataError where there is none, one is damaged, or they cannot be compared: other clients, data, models or metrics.
    """
    if not sources:
        raise ConfigError("give a folder of records, e.g. metaleaf.read('results/synthetic').")
    if strange := [source for source in sources if not isinstance(source, str | os.PathLike | Result)]:
        raise ConfigError(f"give folders of records or results, not a {type(strange[0]).__name__}.")
    paths = [source.path if isinstance(source, Result) else Path(source).expanduser() for source in sources]
    folders = [path.parent if path.suffix == ".json" else path for path in paths]
    for folder in folders:
        if not (found := record_paths(folder)):
            raise DataError(f"no records below {folder}; run the suite first")
        if of_new_environments(found[0]):
            raise ConfigError(f"{folder} is of the track of new environments: use `metaleaf report {folder}`.")
    records = read_all(Record, folders[0], also=folders[1:])
    kept = [source for source in sources if isinstance(source, Result)]
    return Records(tuple(in_order(records, order_of(*folders))), folder=kept)
