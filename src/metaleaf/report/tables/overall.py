"""Algorithms over several datasets: their scores side by side, one number for all, and ranks."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from metaleaf.metrics import Metric
from metaleaf.records.client_scores import ClientScores, Setting
from metaleaf.records.records import Record, Who
from metaleaf.report.tables.clients import (
    ALGORITHM,
    INTERVALS,
    best_of,
    budget,
    competes,
    score_field,
    title_of,
    with_interval,
)
from metaleaf.report.tables.tables import BEST_ROUND, Cell, Field, Table, interval_cell, lay_out, slug, tuning_sentence
from metaleaf.statistics.aggregates import Ranking, overall, ranking
from metaleaf.statistics.comparison import CONSTANTS, Scores, constant_of, majority
from metaleaf.statistics.intervals import Estimate


@dataclass(frozen=True)
class Overall:
    """What algorithms reach over the datasets on which the same kind of client was scored at one support fraction.

    `means` of the runs' means over clients after adaptation: the interquartile mean and its interval, of the algorithms
    that are complete (all seeds on every dataset) and of the constant predictor. `ranking` of the complete ones, if
    there are two. `lacking` says of the others what they lack.
    """

    support: float
    who: Who
    model: str
    metric: Metric
    datasets: tuple[str, ...]
    means: dict[str, Estimate]
    ranking: Ranking | None
    lacking: dict[str, str]


def over_datasets(scores: Scores, numbers: pd.DataFrame) -> list[Overall]:
    """One for each kind of client, support and metric at which several datasets were scored; all of one model."""
    shared = Counter((setting.who, setting.support, _metric(found)) for setting, found in scores.items())
    several = [key for key, count in shared.items() if count > 1]
    return [_at(*key, scores, numbers) for key in sorted(several, key=lambda key: (key[0], key[1], key[2].name))]


def _metric(found: Mapping[str, ClientScores]) -> Metric:
    return next(iter(found.values())).metric


def to_frame(found: Sequence[Overall]) -> pd.DataFrame:
    """A row an algorithm and support fraction.

    Columns: `support`, `who`, `model`, `algorithm`, `datasets` (their number), `iqm`, `iqm_low`, `iqm_high`, `rank`
    (mean over datasets), `lacks` (why it has none of these four), and, the same in all rows of a support fraction,
    `friedman_p` and `critical_difference` (of Nemenyi's test).
    """
    rows = []
    for one in found:
        ranks = one.ranking.ranks if one.ranking else {}
        for name in [*one.means, *one.lacking]:
            row = {"support": one.support, "who": one.who, "model": one.model, "algorithm": name}
            row["datasets"] = len(one.datasets)
            row |= dict(zip(("iqm", "iqm_low", "iqm_high"), one.means.get(name, _NONE), strict=True))
            row |= {"rank": ranks.get(name, np.nan), "lacks": one.lacking.get(name, "")}
            row["friedman_p"] = one.ranking.p if one.ranking else np.nan
            row["critical_difference"] = one.ranking.critical if one.ranking else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def tables(records: Sequence[Record], scores: Scores, numbers: pd.DataFrame, found: Sequence[Overall]) -> list[Table]:
    """Each as a table: the datasets side by side, interquartile mean and rank; the protocol in the caption."""
    return [
        _table(one, records, scores, numbers[(numbers["support"] == one.support) & (numbers["who"] == one.who)])
        for one in found
    ]


_NONE = Estimate(np.nan, np.nan, np.nan)


def _at(who: Who, support: float, metric: Metric, scores: Scores, numbers: pd.DataFrame) -> Overall:
    algorithms = {
        one.dataset: found
        for one, found in scores.items()
        if (one.who, one.support, _metric(found)) == (who, support, metric)
    }
    here = numbers[(numbers["support"] == support) & (numbers["who"] == who) & numbers["dataset"].isin(algorithms)]
    lacking = _lacking(here)
    complete = [name for name in here["algorithm"].unique() if name not in CONSTANTS and name not in lacking]
    means = {constant_of(metric): overall({dataset: majority(found).scores() for dataset, found in algorithms.items()})}
    for name in complete:
        means[name] = overall({dataset: found[name].scores() for dataset, found in algorithms.items()})
    blocks = np.array([[found[name].scores().mean() for name in complete] for found in algorithms.values()])
    sign = 1 if metric.higher_is_better else -1
    ranks = ranking(complete, sign * blocks) if len(complete) > 1 else None
    return Overall(support, who, str(here["model"].iloc[0]), metric, tuple(algorithms), means, ranks, lacking)


def _lacking(here: pd.DataFrame) -> dict[str, str]:
    """What keeps an algorithm out, by name, e.g. ``no result on a; fewer seeds on b``."""
    parts = {str(dataset): part for dataset, part in here.groupby("dataset", sort=False)}
    scored = {dataset: set(part.loc[part["seeds"] > 0, "algorithm"]) for dataset, part in parts.items()}
    entire = {dataset: set(part.loc[competes(part), "algorithm"]) for dataset, part in parts.items()}
    found = {}
    for name in here.loc[~here["algorithm"].isin(CONSTANTS), "algorithm"].unique():
        absent = [dataset for dataset in parts if name not in scored[dataset]]
        fewer = [dataset for dataset in parts if name in scored[dataset] - entire[dataset]]
        reasons = (("no result on", absent), ("fewer seeds on", fewer))
        if absent or fewer:
            found[str(name)] = "; ".join(f"{what} {', '.join(where)}" for what, where in reasons if where)
    return found


# -------------------------------------------------------------------------------------------------- text


def _table(one: Overall, records: Sequence[Record], scores: Scores, here: pd.DataFrame) -> Table:
    rows = pd.DataFrame({"algorithm": here["algorithm"].unique()})
    fields = [ALGORITHM]
    for dataset in one.datasets:
        at = here[here["dataset"] == dataset]
        tied, _ = best_of(scores, Setting(dataset, one.support, one.who), at)
        among = set(at.loc[competes(at), "algorithm"])
        field = score_field(one.metric, "Mean over clients, after", dataset, "after_client_mean")
        fields.append(field._replace(show=_of_dataset(at, one.metric), tied=tied, among=among))
    ranks = one.ranking.ranks if one.ranking else {}
    fields += [
        score_field(one.metric, "Over datasets", "IQM", "")._replace(show=_iqm(one), among=ranks),
        Field("Over datasets", "Rank", lambda row: _rank_cell(ranks.get(row["algorithm"])), min, None, ranks),
    ]
    title = title_of(Setting("Over datasets", one.support, one.who))
    layout = lay_out(rows, fields, [False] * len(rows))
    return Table(slug(title), title, _caption(one, records), *layout, baseline=constant_of(one.metric))


def _iqm(one: Overall) -> Callable[[pd.Series], Cell]:
    return lambda row: interval_cell(*one.means.get(row["algorithm"], _NONE), one.metric)


def _of_dataset(at: pd.DataFrame, metric: Metric) -> Callable[[pd.Series], Cell]:
    """The algorithm's score on one dataset, whose rows of the comparison these are."""
    found = {row["algorithm"]: row for _, row in at.iterrows()}
    show = with_interval("after_client_mean", metric)

    def cell(row: pd.Series) -> Cell:
        its = found.get(row["algorithm"])
        if its is None:
            return Cell("–")
        return Cell("diverged") if its["diverged"] and not its["seeds"] else show(its)

    return cell


def _rank_cell(rank: float | None) -> Cell:
    return Cell("–") if rank is None else Cell(f"{rank:.1f}", rank)


def _caption(one: Overall, records: Sequence[Record]) -> str:
    of_dataset = {name: [r for r in records if r.content.dataset == name] for name in one.datasets}
    chosen = BEST_ROUND.format(one.metric.name) if one.model == "selected" else "the last round"
    lacking = "; ".join(f"{name} ({what})" for name, what in one.lacking.items())
    asked = "on the query examples of test clients, mean over clients, each adapting on"
    if one.who == "participants":
        asked = "on what training clients held out, mean over clients, each having kept"
    sentences = [
        f"{one.metric.in_unit} {asked} {100 * one.support:g} % of its examples; model of {chosen}.",
        *(f"{name}: {budget(its)}. {tuning_sentence(r.content for r in its)}" for name, its in of_dataset.items()),
        INTERVALS,
        "IQM: interquartile mean over datasets and seeds, every dataset counting once.",
        _ranks_sentence(one.ranking, len(one.datasets)),
        f"Without IQM and rank: {lacking}." if lacking else "",
        "Bold: the best of a column; in those of the datasets every algorithm that the paired test does not tell",
        "from it (5 %, Holm-corrected for all pairs). Underlined: the best of the others.",
        "Only algorithms with all seeds compete.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _ranks_sentence(ranks: Ranking | None, datasets: int) -> str:
    if ranks is None:
        return "Ranks need two algorithms with all seeds on every dataset."
    start = f"Rank: mean over {datasets} datasets; Friedman's test of no difference: p = {ranks.p:.2g}."
    if not ranks.p < 0.05:
        return f"{start} So the ranks tell no two algorithms apart."
    groups = "; ".join(", ".join(group) for group in ranks.groups) or "none"
    return f"{start} Nemenyi's test does not tell apart those less than {ranks.critical:.2f} apart: {groups}."
