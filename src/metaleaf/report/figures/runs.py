"""What the figures of the track of new clients are made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from matplotlib.axes import Axes

from metaleaf.errors import unknown
from metaleaf.metrics import Metric
from metaleaf.records.client_scores import ClientScores, Setting, client_scores
from metaleaf.records.records import Model, Record, tidy
from metaleaf.report.figures.drawing import NotDrawnError
from metaleaf.report.figures.style import Look, looks, short
from metaleaf.statistics.comparison import constant_of

STATISTICS = {
    "pooled": ("pooled", " over test points"),
    "mean": ("client_mean", ", mean over clients,"),
    "bottom10": ("bottom10", " of the worst tenth of clients"),
    "p10": ("p10", " of clients, 10th percentile,"),
    "p50": ("p50", " of clients, median,"),
    "p90": ("p90", " of clients, 90th percentile,"),
}
"""What figures of one number of each run can show: its key in `statistics.intervals.STATISTICS`, and in words."""


@dataclass(frozen=True)
class Runs:
    """The records of a suite and, computed once for all figures, what they show.

    width: of the figures in inches; None leaves it to each figure: a column for one panel, else two columns. number:
    of figures that show one number of each run, a key of `STATISTICS`.
    """

    records: Sequence[Record]
    model: Model = "selected"
    width: float | None = None
    number: str = "pooled"

    def __post_init__(self) -> None:
        if self.number not in STATISTICS:
            raise unknown("statistic", self.number, STATISTICS)

    @property
    def statistic(self) -> str:
        """The number's key in summaries and in `metaleaf.statistics.intervals`."""
        return STATISTICS[self.number][0]

    @property
    def in_words(self) -> str:
        """What the number is, for the start of a caption."""
        return f"{self.title}{STATISTICS[self.number][1]}"

    def metric(self, dataset: str) -> Metric:
        """What a dataset's scores are."""
        return next(record.content.metric for record in self.records if record.content.dataset == dataset)

    @cached_property
    def metrics(self) -> list[Metric]:
        """Those of all datasets."""
        return list(dict.fromkeys(self.metric(dataset) for dataset in self.datasets))

    @property
    def title(self) -> str:
        """Of the metric, or of all of them, at the start of a sentence."""
        return " or ".join(dict.fromkeys(metric.title for metric in self.metrics))

    @property
    def name(self) -> str:
        """The same within a sentence."""
        return " or ".join(dict.fromkeys(metric.name for metric in self.metrics))

    @property
    def constant(self) -> str:
        """What legends call the constant predictor."""
        return " or ".join(dict.fromkeys(constant_of(metric).lower() for metric in self.metrics))

    @property
    def share_y(self) -> bool:
        """Whether the panels of `settings` may have one axis."""
        return len(self.datasets) == 1

    def label(self, placed: Sequence[Axes], datasets: Sequence[str], what: str = "") -> None:
        """Name the vertical axes of panels: the first, or all where they show several metrics."""
        for axes, dataset in list(zip(placed, datasets, strict=True))[: None if len(self.metrics) > 1 else 1]:
            axes.set_ylabel(self.metric(dataset).labelled(what))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The finished rows of `tidy` for the model."""
        frame = tidy(self.records)
        if frame.empty:
            raise NotDrawnError("there are no records")
        frame = frame[(frame["status"] == "finished") & (frame["model"] == self.model)]
        if frame.empty:
            raise NotDrawnError("every run diverged")
        return frame

    @cached_property
    def scores(self) -> dict[Setting, dict[str, ClientScores]]:
        """Scores of every client, by setting and algorithm."""
        return client_scores(self.records, self.model)

    @property
    def names(self) -> list[str]:
        """The algorithms, as the records come."""
        return list(self.frame["name"].unique())

    @property
    def datasets(self) -> list[str]:
        """Their labels, as the records come."""
        return list(self.frame["dataset"].unique())

    @cached_property
    def look(self) -> dict[str, Look]:
        """How every algorithm is drawn: as its plugin, or by its name if another one here is of the same plugin."""
        first = self.frame.drop_duplicates("name").set_index("name")["record"]
        keys: dict[str, str] = {}
        for name, position in first.items():
            plugin = self.records[position].content.plugin
            keys[str(name)] = str(name) if plugin in keys.values() else plugin
        found = looks(list(keys.values()))
        return {name: found[key] for name, key in keys.items()}

    @cached_property
    def settings(self) -> list[Setting]:
        """One panel each: every dataset at its smallest support fraction, or the only one at all; its participants."""
        found = [Setting(dataset, support) for dataset in self.datasets for support in self.supports(dataset)]
        return [*(found if len(self.datasets) == 1 else self.smallest), *self.participants]

    @cached_property
    def participants(self) -> list[Setting]:
        """The participants of every dataset that scored them."""
        return [setting for setting in self.scores if setting.who == "participants"]

    @property
    def of_participants(self) -> str:
        """What a caption of `settings` adds about their panels."""
        return " Panels of participants are over training clients, on what they held out." if self.participants else ""

    @cached_property
    def smallest(self) -> list[Setting]:
        """Every dataset at its smallest support fraction."""
        if not all(map(self.supports, self.datasets)):
            raise NotDrawnError("no new clients are shown")
        return [Setting(dataset, self.supports(dataset)[0]) for dataset in self.datasets]

    def supports(self, dataset: str) -> list[float]:
        """The support fractions of a dataset's new clients, ascending."""
        new = (self.frame["dataset"] == dataset) & (self.frame["who"] == "new")
        return sorted(self.frame.loc[new, "support"].unique())

    def rows(self, setting: Setting) -> pd.DataFrame:
        """The rows of `frame` at a setting."""
        return self.frame[setting.of(self.frame)]


def title(setting: Setting) -> str:
    """Of a panel; in two lines where the dataset's name is long."""
    name = short(setting.dataset)
    share = "participants" if setting.who == "participants" else f"{100 * setting.support:g} % support"
    return f"{name}, {share}" if len(name) <= 12 else f"{name},\n{share}"
