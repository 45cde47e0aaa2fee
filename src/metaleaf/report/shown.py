"""What a person chose to see of records, in a report as in figures: algorithms in an order of one's own, under names of
one's own, at some support fractions.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from metaleaf.config.labels import printable
from metaleaf.errors import ConfigError, unknown
from metaleaf.metrics import Metric
from metaleaf.records.records import AnyRecord, Model, Record, Scores, Who
from metaleaf.statistics.statistics import summaries


@dataclass(frozen=True)
class Shown:
    """What is shown of records; by default all of it.

    algorithms: labels in the order wanted, ``label`` or ``label=name`` to call it otherwise. supports: fractions of new
    clients. model: of the last round or of the selected one. columns: of the tables of comparisons
    (`metaleaf.report.tables.clients.COLUMNS`). metric: another one of those that the records report than their main
    one. statistic: of the figures that show one number of each run (`metaleaf.report.figures.runs.STATISTICS`). who:
    new clients or participants alone. All but algorithms are of the track of new clients.
    """

    algorithms: Sequence[str] = ()
    supports: Sequence[float] = ()
    model: Model = "selected"
    columns: Sequence[str] = ()
    metric: str = ""
    statistic: str = "pooled"
    who: Who | Literal["all"] = "all"

    def of(self, records: Sequence[Record]) -> list[Record]:
        """The records that are shown, as they are shown; ConfigError for what none of them has."""
        found = _supported(_renamed(records, self.algorithms), self.supports)
        if self.who != "all":
            found = [_only(record, self.who) for record in found]
        return [_measured(record, self.metric) for record in found] if self.metric else found

    def of_environments(self, records: Sequence[AnyRecord]) -> list[AnyRecord]:
        """The same on the track of new environments, where algorithms are all that can be chosen."""
        plain = Shown(self.algorithms)
        for name in ("supports", "model", "columns", "metric", "statistic", "who"):
            if getattr(self, name) != getattr(plain, name):
                raise ConfigError(f"--{name}: reports of new environments have none to choose.")
        return _renamed(records, self.algorithms)


ALL = Shown()
"""Everything that the records have."""


def _renamed(records: Sequence[AnyRecord], algorithms: Sequence[str]) -> list[AnyRecord]:
    if not algorithms:
        return list(records)
    known = {record.content.algorithm for record in records}
    names: dict[str, str] = {}
    for word in algorithms:
        label, renames, name = word.partition("=")
        if label not in known:
            raise unknown("algorithm of the records", label, known)
        if label in names:
            raise ConfigError(f"--algorithms: {label} is there twice.")
        try:
            names[label] = printable(name) if renames else ""
        except ValueError as error:
            raise ConfigError(f"--algorithms: the name {name!r} of {label} {error}.") from None
    return [_called(record, names[label]) for label in names for record in records if record.content.algorithm == label]


def _called(record: AnyRecord, name: str) -> AnyRecord:
    return replace(record, content=record.content.model_copy(update={"title": name})) if name else record


def _supported(records: Sequence[Record], supports: Sequence[float]) -> list[Record]:
    if not supports:
        return list(records)
    scores = [by_support for record in records for by_support in record.content.scores.values()]
    known = sorted({float(key) for by_support in scores for key in by_support})
    for support in supports:
        if support not in known:
            raise ConfigError(f"--supports: the records have no {support:g}, but {', '.join(f'{s:g}' for s in known)}.")
    return [_at(record, supports) for record in records]


def _at(record: Record, supports: Sequence[float]) -> Record:
    scores = {
        model: {key: found for key, found in by_support.items() if float(key) in supports}
        for model, by_support in record.content.scores.items()
    }
    return Record(record.path, record.content.model_copy(update={"scores": scores}))


def _only(record: Record, who: Who) -> Record:
    """The record with the scores of those alone; ConfigError if it has none of participants."""
    content = record.content
    if who == "new":
        return Record(record.path, content.model_copy(update={"participants": None}))
    if not content.held_out:
        raise ConfigError(f"--who: {record.path} has no participants' scores, as its protocol holds nothing out.")
    return Record(record.path, content.model_copy(update={"scores": {model: {} for model in content.scores}}))


def _measured(record: Record, name: str) -> Record:
    """The record with that metric as its main one; its totals are summed anew from its clients."""
    content = record.content
    by_name = {_plain(metric.name): metric for metric in content.metrics}
    if _plain(name) not in by_name:
        raise unknown("metric of the records", name, [metric.name for metric in content.metrics])
    metric = by_name[_plain(name)]
    if metric == content.metric:
        return record
    new = record.clients
    scores = {
        model: {key: _summed(new[(new["model"] == model) & (new["support"] == float(key))], metric) for key in found}
        for model, found in content.scores.items()
    }
    own = content.participants and {
        model: _summed(record.participants[record.participants["model"] == model], metric)
        for model in content.participants
    }
    metrics = (metric, *(other for other in content.metrics if other != metric))
    changed = {"metrics": metrics, "scores": scores, "participants": own}
    return Record(record.path, content.model_copy(update=changed))


def _plain(name: str) -> str:
    """As people type it: R² as r2."""
    return unicodedata.normalize("NFKC", name).casefold()


def _summed(clients: pd.DataFrame, metric: Metric) -> Scores:
    return Scores.model_validate(summaries(clients, metric))
