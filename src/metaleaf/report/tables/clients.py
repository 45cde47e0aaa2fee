"""Tables of new clients and of participants: one per setting, pairs on the same clients, and both side by side."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from metaleaf.errors import unknown
from metaleaf.metrics import ACCURACY, Metric
from metaleaf.records.client_scores import Setting
from metaleaf.records.records import Content, Model, Record, names_of, tidy
from metaleaf.report.tables.tables import (
    BEST_ROUND,
    RELATIVE,
    ROUNDING,
    Cell,
    Field,
    Table,
    amount_cell,
    by_value,
    check_baseline,
    configuration_of,
    count_cell,
    integer,
    interval_cell,
    lay_out,
    p_cell,
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
from metaleaf.statistics.comparison import CONSTANT, CONSTANTS, MAJORITY, Scores, compared, constant_of
from metaleaf.statistics.late_gain import STILL_LEARNING
from metaleaf.statistics.paired import against_best

MAJORITY_LABEL = "majority"
"""The constant predictor, where a baseline is asked for."""

ALGORITHM = Field("", "Algorithm", lambda row: Cell(row["algorithm"]))

INTERVALS = "95 % intervals: bootstrap over seeds and clients (of one seed: over clients)."
MARKS = (
    "Bold: the best of a column; in Mean every algorithm that the paired test does not tell from it (5 %, "
    "Holm-corrected for all pairs). Underlined: the best of the others."
)


def tables(
    records: Sequence[Record],
    scores: Scores,
    numbers: pd.DataFrame,
    paired: pd.DataFrame,
    baseline: str | None = None,
    columns: Sequence[str] = (),
) -> list[Table]:
    """For each setting the comparison, with the protocol in its caption, and the pairs; where participants are scored,
    they follow beside the new clients.

    `scores`, `numbers` (of `metaleaf.statistics.comparison.comparison`) and `paired` (of `pairs`) are those of one
    model. `baseline` is the label that the others are paired with, `majority` among them (default: the best algorithm);
    `columns` are those of the comparison, of `COLUMNS` (default: all).

    Raises ConfigError when there is no such baseline or column, DataError when it has several configurations.
    """
    runs = tidy(records)
    check_baseline(baseline, {*runs["algorithm"], MAJORITY_LABEL})
    for column in columns:
        if column not in COLUMNS:
            raise unknown("column", column, COLUMNS)
    made = []
    for dataset, rows in numbers.groupby("dataset", sort=False):
        of_dataset = [record for record in records if record.content.dataset == dataset]
        asked = configuration_of(baseline, runs[runs["dataset"] == dataset])
        if baseline == MAJORITY_LABEL:
            asked = asked or constant_of(of_dataset[0].content.metric)
        settings = [Setting(*key) for key in rows[list(Setting._fields)].drop_duplicates().values.tolist()]
        for setting in settings:
            at = rows[setting.of(rows)] if len(settings) > 1 else rows  # a support of nan is equal to none
            tied, best = best_of(scores, setting, at)
            made.append(_compared(setting, at, of_dataset, tied, columns or COLUMNS))
            reference = asked if baseline else best
            if reference and not (against := _against(paired, setting, reference)).empty:
                made.append(_paired(setting, against, reference, of_dataset[0].content.metric))
        metric = of_dataset[0].content.metric
        made += [_beside(setting, settings, rows, metric) for setting in settings if setting.who == "participants"]
    return made


def best_of(scores: Scores, setting: Setting, rows: pd.DataFrame) -> tuple[set[str], str | None]:
    """The algorithms that the paired test does not tell from the best by mean over clients, and the best.

    `rows` are those of the comparison at the setting.
    """
    competing = rows[competes(rows)]
    here = scores.get(setting)
    tied = against_best(compared(here), competes=set(competing["algorithm"])) if here else set()
    means = competing.set_index("algorithm")["after_client_mean_mean"]
    if means.empty:
        return tied, None
    lower_is_better = here is not None and not next(iter(here.values())).metric.higher_is_better
    return tied, str(means.idxmin() if lower_is_better else means.idxmax())


def competes(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows of a comparison may be the best."""
    return ~rows["algorithm"].isin(CONSTANTS) & whole(rows)


def title_of(setting: Setting) -> str:
    """Dataset and support fraction, which is nan where every run diverged, or participants and what they held out."""
    if setting.who == "participants":
        return f"{setting.dataset}, participants ({held_out(setting)} held out)"
    return setting.dataset if math.isnan(setting.support) else f"{setting.dataset}, {100 * setting.support:g} % support"


def held_out(setting: Setting) -> str:
    """The part of their examples that participants held out, in percent."""
    return f"{100 * (1 - setting.support):.4g} %"


COLUMNS = (
    *("before", "after", "mean", "bottom10", "p10", "p50", "p90", "hurt"),
    *("rounding", "late_gain", "seeds", "rounds", "bytes", "flops"),
)
"""Names of a comparison's columns, beside the algorithm's, to choose and order them by. Rounding may be missing."""


def _compared(
    setting: Setting, rows: pd.DataFrame, records: Sequence[Record], tied: set[str], columns: Sequence[str]
) -> Table:
    algorithms = rows[~rows["algorithm"].isin(CONSTANTS)]
    metric = records[0].content.metric
    scored = partial(score_field, metric)
    byte_unit, flop_unit = unit_of(algorithms["bytes"].max()), unit_of(algorithms["flops"].max())
    over_clients = "Over clients, after"
    rounding = rounding_fields("", rows)
    found = (
        scored(metric.title, "Before", "before_pooled"),
        scored(metric.title, "After", "after_pooled")._replace(show=partial(_after, metric)),
        scored(over_clients, "Mean", "after_client_mean")._replace(tied=tied),
        scored(over_clients, "Worst 10 %", "after_bottom10"),
        *(
            scored(over_clients, name, f"after_{name}")._replace(show=_plain(f"after_{name}", metric))
            for name in _SPREAD
        ),
        Field(over_clients, "Hurt", _plain("after_hurt")),
        *rounding,
        Field("", "Late gain", lambda row: interval_cell(row["late_gain"], math.nan, math.nan, metric, metric.signed)),
        Field("Cost", "Seeds", seeds_cell),
        Field("Cost", "Rounds", lambda row: count_cell(row["rounds"])),
        Field("Cost", f"{byte_unit[1]}B sent", lambda row: amount_cell(row["bytes"], byte_unit[0])),
        Field("Cost", f"{flop_unit[1]}FLOPs", lambda row: amount_cell(row["flops"], flop_unit[0])),
    )
    by_name = dict(zip((name for name in COLUMNS if name != "rounding" or rounding), found, strict=True))
    fields = [ALGORITHM, *(by_name[column] for column in columns if column in by_name)]
    title = title_of(setting)
    caption = _caption(records, setting, rows["model"].iloc[0])
    layout = lay_out(rows, fields, competes(rows).tolist())
    return Table(slug(title), title, caption, *layout, baseline=constant_of(metric))


_SPREAD = ("p10", "p50", "p90")


def score_field(metric: Metric, group: str, heading: str, key: str) -> Field:
    """A column of scores, ``<side>_<statistic>``, with their intervals."""
    return Field(group, heading, with_interval(key, metric), metric.best, prints=printed(metric))


def printed(metric: Metric) -> Callable[[float], str]:
    """What stands in a cell, from its value."""
    return lambda value: metric.number(value / metric.scale)


def with_interval(key: str, metric: Metric) -> Callable[[pd.Series], Cell]:
    """The mean and interval of ``<side>_<statistic>`` in a row of the comparison."""
    return lambda row: interval_cell(row[f"{key}_mean"], row[f"{key}_low"], row[f"{key}_high"], metric)


def _plain(key: str, metric: Metric = ACCURACY) -> Callable[[pd.Series], Cell]:
    return lambda row: score_cell(row[f"{key}_mean"], metric=metric)


def _after(metric: Metric, row: pd.Series) -> Cell:
    return Cell("diverged") if row["diverged"] and not row["seeds"] else with_interval("after_pooled", metric)(row)


# ------------------------------------------------------------------------------------------------- pairs


def _against(paired: pd.DataFrame, setting: Setting, reference: str) -> pd.DataFrame:
    """The pairs with `reference`, turned so that it is the other: a row an algorithm, `<side>_<column>`."""
    here = paired[setting.of(paired)]
    first, second = here[here["name"] == reference], here[here["other"] == reference]
    turned = first.assign(
        name=first["other"],
        other=reference,
        difference=-first["difference"],
        low=-first["high"],
        high=-first["low"],
        improvement=1 - first["improvement"],
    )
    both = pd.concat([second, turned]).rename(columns={"name": "algorithm"})
    found = {side: both[both["side"] == side].set_index("algorithm") for side in ("before", "after")}
    seeds = found["after"]["seeds"]
    sides = [part[_SHOWN].reindex(seeds.index).add_prefix(f"{side}_") for side, part in found.items()]
    return pd.concat([seeds, *sides], axis=1).reset_index()


_SHOWN = ["difference", "low", "high", "improvement", "p_holm"]


def _paired(setting: Setting, rows: pd.DataFrame, reference: str, metric: Metric) -> Table:
    fields = [ALGORITHM, *_difference_fields("before", metric), *_difference_fields("after", metric)]
    fields.append(Field("", "Seeds", lambda row: count_cell(row["seeds"])))
    title = f"{title_of(setting)}, difference from {reference}"
    sentences = (
        f"Difference in {points_of(metric)} from {reference} on the same clients under the same seeds:",
        "mean over clients, each counting once, with its 95 % interval.",
        "Better: share of clients that are better off than there, ties counting half.",
        "p: of no difference, in the paired test over seeds and clients, Holm-corrected for all pairs of algorithms",
        "(those of one seed say nothing of other seeds). Seeds: those that both have.",
    )
    return Table(
        slug(title),
        title,
        " ".join(sentences),
        *lay_out(rows, fields, [False] * len(rows)),
        baseline=constant_of(metric),
    )


def points_of(metric: Metric) -> str:
    """What differences are in."""
    if metric.unit == "%":
        return "percentage points"
    better = "higher" if metric.higher_is_better else "lower"
    return f"{metric.name}{f' in {metric.unit}' if metric.unit else ''} ({better} is better)"


def _difference_fields(side: str, metric: Metric) -> list[Field]:
    def difference(row: pd.Series) -> Cell:
        low, high = row[f"{side}_low"], row[f"{side}_high"]
        return interval_cell(row[f"{side}_difference"], low, high, metric, metric.signed)

    group = f"{side.capitalize()} adaptation"
    return [
        Field(group, side.capitalize(), difference),
        Field(group, "Better", lambda row: score_cell(row[f"{side}_improvement"])),
        Field(group, "p", lambda row: p_cell(row[f"{side}_p_holm"])),
    ]


# ------------------------------------------------------------------------------- new clients and participants


def nearest(setting: Setting, settings: Iterable[Setting]) -> Setting | None:
    """Where new clients have most nearly as much of their examples as these participants kept."""
    new = [one for one in settings if one.dataset == setting.dataset and one.who == "new"]
    return min(new, key=lambda one: abs(one.support - setting.support), default=None)


def _beside(setting: Setting, settings: Sequence[Setting], rows: pd.DataFrame, metric: Metric) -> Table:
    """New clients at every support and the participants of `setting`, mean over clients; a row an algorithm."""
    means = {one: rows[one.of(rows)].set_index("algorithm") for one in settings}
    shown = pd.DataFrame({"algorithm": rows["algorithm"].unique()})
    competing = shown["algorithm"].isin(rows.loc[setting.of(rows) & competes(rows), "algorithm"]).tolist()

    def mean(group: str, heading: str, one: Setting) -> Field:
        show = with_interval("after_client_mean", metric)
        field = score_field(metric, group, heading, "after_client_mean")
        return field._replace(show=lambda row: show(means[one].loc[row["algorithm"]]))

    fields = [ALGORITHM]
    for one in (one for one in settings if one.who == "new"):
        fields.append(mean("New clients, after", f"{100 * one.support:g} % support", one))
    fields.append(mean("Participants", "After", setting))
    closest = nearest(setting, settings)
    sentences = [
        f"{metric.in_unit}, mean over clients, each counting once: of new clients after they adapted, and of "
        f"participants on the {held_out(setting)} of their examples that they held out, with the model that each would "
        "use.",
    ]
    if closest:

        def gap(row: pd.Series) -> Cell:
            ends = (means[one].loc[row["algorithm"], "after_client_mean_mean"] for one in (setting, closest))
            participants, new = map(float, ends)
            return interval_cell(participants - new, math.nan, math.nan, metric, metric.signed)

        fields.append(Field("Participants", "Gap", gap))
        points = "points" if metric.unit == "%" else points_of(metric)
        sentences.append(
            f"Gap: participants' mean less that of new clients at {100 * closest.support:g} % support, in {points}; "
            f"these are other clients, so it has no test, and the {constant_of(metric).lower()} shows what part of it "
            "is the clients'."
        )
    sentences += [INTERVALS, "Bold: the best of a column. Underlined: the best of the others."]
    title = f"{setting.dataset}, new clients beside participants"
    layout = lay_out(shown, fields, competing)
    return Table(slug(title), title, " ".join(sentences), *layout, baseline=constant_of(metric))


# ----------------------------------------------------------------------------------------------- caption


def _caption(records: Sequence[Record], setting: Setting, model: Model) -> str:
    """The protocol in a few sentences: what makes the numbers of this table comparable."""
    contents = [record.content for record in records]
    train, validation, test = (
        span(getattr(c.data.clients, part) for c in contents) for part in ("train", "validation", "test")
    )
    metric = contents[0].metric
    chosen = BEST_ROUND.format(metric.name) if model == "selected" else "the last round"
    share = "" if math.isnan(setting.support) else f", each adapting on {100 * setting.support:g} % of its examples"
    asked = f"{metric.in_unit} on the query examples of {test} test clients{share};"
    own = "support"
    if setting.who == "participants":
        asked = (
            f"{metric.in_unit} on the {held_out(setting)} of their examples that the training clients held out, with "
            "the model that each would use after training (before: without anything of its own);"
        )
        own = "examples that it did not hold out"
    rounding = ROUNDING if metric.high is not None else RELATIVE
    sentences = (
        asked,
        f"trained on {train} clients, validated on {validation}.",
        f"{budget(records)}, model of {chosen}.",
        INTERVALS,
        tuning_sentence(contents),
        *systems_and_protection(contents),
        *_deceived(contents, setting, model),
        f"Hurt: share of clients whose {metric.name} {'fell' if metric.higher_is_better else 'rose'} by adapting.",
        f"{constant_of(metric)}: {_CONSTANT[constant_of(metric)]} the client's own {own}.",
        *([rounding] if any(content.rounding for content in contents) else []),
        _late_gain(metric),
        MARKS,
        "Only algorithms with all seeds compete.",
    )
    return " ".join(sentences)


def _deceived(contents: Sequence[Content], setting: Setting, model: Model) -> list[str]:
    """Of a backdoor: how often its trigger works on new clients that have adapted, means over seeds."""
    found: dict[str, list[float]] = {}
    for content in contents:
        shares = (content.backdoor or {}).get(model, {}).get(str(setting.support))
        if shares and setting.who == "new":
            found.setdefault(content.title, []).append(shares.after)
    if not found:
        return []
    said = by_value((title, f"{100 * sum(shares) / len(shares):.1f} %") for title, shares in found.items())
    return [f"Examples with the backdoor's trigger that are taken for its target, after adaptation: {said}."]


def _late_gain(metric: Metric) -> str:
    enough = f"above {100 * STILL_LEARNING:g} an algorithm is still learning, and " if metric.unit == "%" else ""
    return (
        f"Late gain: how much better validation is in the last quarter of the rounds than in the quarter before; "
        f"{enough}far below 0 it has fallen apart."
    )


_CONSTANT = {
    MAJORITY: "the most frequent one in",
    CONSTANT: "always the same, as suggested by",
}


def budget(records: Sequence[Record]) -> str:
    """Rounds, their clients, and seeds."""
    named = zip(names_of(records), records, strict=True)
    trained = [(name, _training(record)) for name, record in named if record.content.rounds]
    seeds = len({record.content.seed for record in records})
    over = f"mean over {seeds} seeds" if seeds > 1 else "one seed"
    if len({what for _, what in trained}) > 1:
        return f"Not all trained as long, or with as many clients: {by_value(trained)}; {over}"
    return f"{by_value(trained) or '0 rounds'}, {over}"


def _training(record: Record) -> str:
    """What the run was to do, even if it diverged on the way."""
    cohort, rounds = _protocol(record, "clients_per_round"), _protocol(record, "rounds") or record.content.rounds
    return f"{rounds} rounds of {cohort} clients" if cohort else f"{rounds} rounds"


def _protocol(record: Record, key: str) -> int | None:
    protocol: Any = record.content.config.get("protocol")
    return integer(protocol.get(key)) if isinstance(protocol, dict) else None
