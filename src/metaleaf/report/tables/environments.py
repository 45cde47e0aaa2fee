"""Tables of the track of new environments: scores by rounds in a new environment, and pairs with a baseline."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from metaleaf.metrics import Metric
from metaleaf.records.environments import SIDES, EnvironmentRecord, runs, visited
from metaleaf.records.records import names_of
from metaleaf.report.tables.clients import points_of, printed
from metaleaf.report.tables.tables import (
    BEST_ROUND,
    ROUNDING,
    Cell,
    Field,
    Layout,
    Table,
    amount_cell,
    by_value,
    check_baseline,
    configuration_of,
    count_cell,
    integer,
    lay_out,
    rounding_fields,
    score_cell,
    seeds_cell,
    slug,
    span,
    systems_and_protection,
    tuning_sentence,
    unit_of,
    whole,
)
from metaleaf.statistics.environments import differences, mean_and_two_errors, paired

BASELINE = "few_round"
"""Label that the others are paired with where no other is asked for."""

ALGORITHM = Field("", "Algorithm", lambda row: Cell(row["algorithm"]))
SEEDS = Field("Training", "Seeds", seeds_cell)

_TITLES = {"before": "before local adaptation", "after": "after local adaptation"}


def comparison(records: Sequence[EnvironmentRecord], baseline: str | None = None) -> pd.DataFrame:
    """The numbers behind the tables: a row per dataset, algorithm and rounds in a new environment.

    Columns: `dataset`, `label`, `algorithm` (its name), `rounds` (nan where every run diverged), `seeds` (finished),
    `diverged` (seeds), `rounding` (how far it moves a score of the worst seed; nan where it was not measured), `pairs`
    (of seed and environment), `bytes` (in the environment so far), `client_updates` (in training), and for each side,
    `before` and `after` local adaptation, `<side>_mean` and `<side>_errors` (two standard errors) over pairs. Against
    the baseline, where the method is another and both have finished a seed:
    `baseline`, and each column of `metaleaf.statistics.environments.paired` as `<side>_<column>`, over those seeds.
    """
    each, seen = runs(records), visited(records)
    label = _baseline(each, baseline)
    rows: list[dict[str, Any]] = []
    for dataset, of_dataset in each.groupby("dataset", sort=False):
        of_seen = seen[seen["dataset"] == dataset]
        rounds = sorted(of_seen["rounds"].unique()) or [math.nan]
        scores = {str(name): part for name, part in of_seen.groupby("name")}
        metric = records[int(of_dataset["record"].iloc[0])].content.metric
        pair_with = _pair_with(of_dataset, scores, label, metric.higher_is_better)
        for name, its in of_dataset.groupby("name", sort=False):
            found = scores.get(str(name), of_seen.head(0))
            against = pair_with(str(name))
            about = {"dataset": dataset, "label": its["algorithm"].iloc[0], "algorithm": name} | _effort(its)
            rows += [about | _scores(its, found, number) | against.get(number, {}) for number in rounds]
    return pd.DataFrame(rows)


def tables(records: Sequence[EnvironmentRecord], numbers: pd.DataFrame) -> list[Table]:
    """Of each dataset the scores before and after local adaptation, their costs, and the pairs; from `comparison`."""
    made = []
    for dataset in numbers["dataset"].unique():
        of_dataset = [record for record in records if record.content.dataset == dataset]
        rows = numbers[numbers["dataset"] == dataset]
        made += [*(_scored(side, dataset, rows, of_dataset) for side in SIDES), _costs(dataset, rows)]
        if "baseline" in rows and rows["baseline"].notna().any():
            made.append(_paired(dataset, rows[rows["baseline"].notna()], of_dataset[0].content.metric))
    return made


# ------------------------------------------------------------------------------------------------- numbers


def _effort(its: pd.DataFrame) -> dict[str, Any]:
    """Of one method's runs."""
    diverged = int((its["status"] == "diverged").sum())
    updates = its["client_updates"].mean()
    found = {"seeds": len(its) - diverged, "diverged": diverged, "client_updates": updates}
    return {**found, "rounding": its["rounding"].max()}


def _scores(its: pd.DataFrame, found: pd.DataFrame, rounds: float) -> dict[str, Any]:
    at = found[found["rounds"] == rounds]
    row: dict[str, Any] = {"rounds": rounds, "pairs": len(at)}
    row["bytes"] = its["first"].mean() + rounds * its["each"].mean()
    for side in SIDES:
        row[f"{side}_mean"], row[f"{side}_errors"] = mean_and_two_errors(at[side].to_numpy(dtype=float))
    return row


def _baseline(each: pd.DataFrame, asked: str | None) -> str | None:
    """The baseline's label; None when none is asked for and the usual one is not there."""
    known = set(each["algorithm"])
    check_baseline(asked, known)
    return asked or (BASELINE if BASELINE in known else None)


def _pair_with(
    of_dataset: pd.DataFrame, scores: dict[str, pd.DataFrame], label: str | None, higher_is_better: bool
) -> Callable[[str], dict[float, dict[str, Any]]]:
    """What a method's name has against the baseline, by rounds."""
    other = configuration_of(label, of_dataset)
    shaped = {
        name: found.pivot_table(index=["seed", "environment"], columns="rounds", values=list(SIDES))[list(SIDES)]
        for name, found in scores.items()
    }

    def against(name: str) -> dict[float, dict[str, Any]]:
        if other is None or name == other or not {name, other} <= set(shaped):
            return {}
        return _against(shaped[name], shaped[other], (name, other), higher_is_better)

    return against


def _against(
    method: pd.DataFrame, baseline: pd.DataFrame, names: tuple[str, str], higher_is_better: bool
) -> dict[float, dict[str, Any]]:
    """The columns of `comparison` against the baseline, by rounds; over the seeds that both have finished."""
    seeds = set(method.index.unique("seed")) & set(baseline.index.unique("seed"))
    if not seeds:
        return {}
    ours, theirs = (frame[frame.index.get_level_values("seed").isin(seeds)] for frame in (method, baseline))
    found = paired(differences(ours, theirs, names), higher_is_better=higher_is_better).rename(
        columns={"errors": "difference_errors"}
    )
    return {
        rounds: {"baseline": names[1]}
        | {f"{side}_{key}": value for side in SIDES for key, value in found.loc[(side, rounds)].items()}
        for rounds in found.index.unique("rounds")
    }


# ---------------------------------------------------------------------------------------- numbers -> text


def _scored(side: str, dataset: str, rows: pd.DataFrame, records: Sequence[EnvironmentRecord]) -> Table:
    """Scores of one side by rounds."""
    metric = records[0].content.metric

    def score(row: pd.Series) -> Cell:
        return Cell("diverged") if not row["seeds"] else score_cell(row[f"{side}_mean"], row[f"{side}_errors"], metric)

    by_rounds = [
        field._replace(better=metric.best, prints=printed(metric))
        for field in _by_rounds(metric.labelled(" after R rounds"), rows, score)
    ]
    fields = [*by_rounds, *rounding_fields("", rows), SEEDS]
    title = f"{dataset}, {metric.name} {_TITLES[side]}"
    return Table(slug(title), title, _caption(rows, records), *_one_row_each(rows, fields))


def _costs(dataset: str, rows: pd.DataFrame) -> Table:
    """What the scores took: bytes in the environment by rounds, client updates in training."""
    unit, prefix = unit_of(rows["bytes"].max())
    fields = [
        *_by_rounds(f"{prefix}B sent by round R", rows, lambda row: amount_cell(row["bytes"], unit)),
        Field("Training", "Client updates", lambda row: count_cell(row["client_updates"])),
        SEEDS,
    ]
    title = f"{dataset}, {prefix}B sent in the new environment"
    sentences = (
        f"{prefix}B sent and received by all participants in one new environment, from the first meeting to round R.",
        "Client updates: one client's local work in one round of training, all of them counted.",
    )
    return Table(slug(title), title, " ".join(sentences), *_one_row_each(rows, fields))


def _by_rounds(group: str, rows: pd.DataFrame, show: Callable[[pd.Series], Cell]) -> list[Field]:
    """A column for each number of rounds, with what `show` makes of the algorithm's row at it."""
    cells = {(row["algorithm"], row["rounds"]): row for _, row in rows.iterrows()}

    def at(rounds: int) -> Callable[[pd.Series], Cell]:
        return lambda row: show(cells[row["algorithm"], rounds])

    return [Field(group, f"R = {number}", at(number)) for number in rows["rounds"].dropna().astype(int).unique()]


def _one_row_each(rows: pd.DataFrame, fields: Sequence[Field]) -> Layout:
    """A row for each algorithm, which `fields` follow."""
    once = rows.drop_duplicates("algorithm")
    return lay_out(once, [ALGORITHM, *fields], whole(once).tolist())


def _paired(dataset: str, rows: pd.DataFrame, metric: Metric) -> Table:
    """Differences from the baseline: a row per method and rounds."""
    baseline = rows["baseline"].iloc[0]
    fields = [ALGORITHM, Field("", "R", lambda row: count_cell(row["rounds"]))]
    for side in SIDES:
        fields += _difference_fields(side, metric)
    fields.append(SEEDS)
    title = f"{dataset}, difference from {baseline}"
    sentences = (
        f"Difference in {points_of(metric)} from {baseline} in the same environments of the same seeds,",
        "after R rounds in the environment: mean,",
        "95 % interval of a bootstrap that draws seeds, then environments within each;",
        "±: two standard errors over pairs of environment and seed;",
        "gain: pairs in which the method is better, not as good.",
    )
    return Table(slug(title), title, " ".join(sentences), *lay_out(rows, fields, [False] * len(rows)))


def _difference_fields(side: str, metric: Metric) -> list[Field]:
    def mean(row: pd.Series) -> Cell:
        value = row[f"{side}_difference"]
        return Cell(metric.signed(value), metric.scale * value)

    def interval(row: pd.Series) -> Cell:
        low = row[f"{side}_low"]
        return Cell(f"[{metric.signed(low)}, {metric.signed(row[f'{side}_high'])}]", metric.scale * low)

    def gains(row: pd.Series) -> Cell:
        won, pairs = row[f"{side}_gains"], row[f"{side}_pairs"]
        return Cell(f"{won:.0f} of {pairs:.0f}", won / pairs)

    group = _TITLES[side].capitalize()
    return [
        Field(group, side.capitalize(), mean),
        Field(group, "95 % interval", interval),
        Field(group, "±", lambda row: score_cell(row[f"{side}_difference_errors"], metric=metric)),
        Field(group, "Gain", gains),
    ]


def _caption(rows: pd.DataFrame, records: Sequence[EnvironmentRecord]) -> str:
    """The protocol in a few sentences: what makes the numbers of this table comparable."""
    contents = [record.content for record in records]
    train, validation, test = (
        span(getattr(content.data.environments, part) for content in contents)
        for part in ("train", "validation", "test")
    )
    rules = [content.environments or {} for content in contents]
    participants, scored, draws, steps = (
        span(integer(rule.get(key)) for rule in rules) for key in ("participants", "scored", "draws", "local_steps")
    )
    budgets = list(zip(names_of(records), (integer(rule.get("budget")) for rule in rules), strict=True))
    within = "within" if len({budget for _, budget in budgets}) == 1 else "within unequal budgets of"
    pairs = span(int(number) for number in rows["pairs"] if number)
    metric = contents[0].metric
    sentences = (
        f"{metric.title} in {test} new environments, over {scored} clients of each who never take part;",
        f"R rounds of {participants} participants follow the first meeting (R = 0), in {draws} draws.",
        f"Trained on {train} environments {within} {by_value(budgets)} client updates, validated on {validation};",
        f"model of {BEST_ROUND.format(metric.name)}.",
        f"Mean ± two standard errors over {pairs or 'no'} pairs of environment and seed, each counting once.",
        f"Local adaptation: {steps} steps.",
        tuning_sentence(contents),
        *systems_and_protection(contents),
        *([ROUNDING] if any(content.rounding for content in contents) else []),
        "Bold: the best algorithm among those with all seeds; underlined: the second.",
    )
    return " ".join(sentences)
