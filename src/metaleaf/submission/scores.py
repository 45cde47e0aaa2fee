"""Rules on scores: every client once, no more right than asked, and sums that are the record's totals."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from metaleaf.environments import run as environment_run
from metaleaf.errors import DataError
from metaleaf.metrics import Metric, constant
from metaleaf.records.environments import EnvironmentContent
from metaleaf.records.records import MODELS, Content, Part
from metaleaf.statistics.statistics import summaries
from metaleaf.submission.entry import Entry
from metaleaf.submission.single import Rule

CLOSE = 1e-9
"""Relative difference of sums that is rounding."""


def counts(entry: Entry) -> Iterator[str]:
    """Of n query examples, at most n are right; of any share, at most all."""
    shares = [metric for metric in entry.content.metrics if metric.form == "ratio" and metric.high == 1]
    for table, metric in product((entry.clients, entry.participants), shares):
        for total, weight in sides(metric):
            if total in table and (wrong := table[table[total] > table[weight] + CLOSE]).size:
                client, whole = wrong["client"].iloc[0], "examples" if weight == "n" else weight
                of = f"{wrong[total].iloc[0]:.10g} of {wrong[weight].iloc[0]:.10g} {whole}"
                yield f"{total} is {of} of the client {client}"


def sides(metric: Metric) -> list[tuple[str, str]]:
    """The columns of a metric's two sums wherever they stand: before and after, and of the constant predictor."""
    found = [(metric.total, metric.weight)]
    for other in (lambda name: f"{name}_after", constant):
        found.append((other(metric.total), "n" if metric.weight == "n" else other(metric.weight)))
    return found


def clients(entry: Entry) -> Iterator[str]:
    """Every test client, and every participant, is scored once wherever they are, always on the same examples."""
    if entry.content.status != "finished":
        return
    protocol, counts = entry.config.protocol, entry.content.data.clients
    if protocol.environments:
        yield from _in_environments(entry)
        return
    yield from _all_of(entry.clients, counts.test, protocol.test_supports)
    if not protocol.held_out and entry.record.path.with_suffix(".participants.csv").exists():
        yield "has a table of participants, though its protocol holds nothing out"
    if protocol.held_out:
        yield from (f"participants: {what}" for what in _all_of(entry.participants, counts.train, [protocol.kept]))


def _all_of(table: pd.DataFrame, count: int, supports: Sequence[float]) -> Iterator[str]:
    yield from _once(table, ["model", "support", "step"], count)
    steps: dict[Any, list[int]] = table.groupby(["model", "support"])["step"].unique().map(sorted).to_dict()
    for model, support in product(MODELS, supports):
        found = steps.pop((model, support), [])
        if not found or found != list(range(len(found))):
            yield f"the {model} model at support {support} lacks its scores before adaptation or after a step"
    for model, support in steps:
        yield f"has scores of the {model} model at support {support}, which its protocol does not"


def _in_environments(entry: Entry) -> Iterator[str]:
    table, rules = entry.clients, entry.config.protocol.environments
    assert rules is not None
    environments = entry.content.data.environments.test if isinstance(entry.content, EnvironmentContent) else 0
    yield from _once(table, ["environment", "draw", "rounds"], rules.scored)
    visits = table.groupby(["draw", "rounds"])["environment"].nunique()
    asked = [visit for visit in visits.index.tolist() if visit[0] < rules.draws and visit[1] in rules.rounds]
    if not len(asked) == len(visits) == rules.draws * len(rules.rounds):
        yield f"must have {rules.draws} draws, after {list(rules.rounds)} rounds each, and no others"
    if set(table["model"]) != {"selected"}:
        yield "must have scores of the selected model only"
    for draw, rounds in visits.index[visits != environments].tolist():
        yield f"draw {draw} after {rounds} rounds has not all of the {environments} test environments"


def _once(table: pd.DataFrame, keys: list[str], expected: int) -> Iterator[str]:
    """So many clients wherever the keys are the same, none of them twice."""
    repeated = table[table.duplicated([*keys, "client"])]
    if not repeated.empty:
        yield f"the client {repeated['client'].iloc[0]} is scored twice ({_at(keys, repeated[keys].iloc[0].tolist())})"
    sizes = table.groupby(keys).size()
    for key in sizes.index[sizes != expected].tolist()[:1]:
        yield f"{sizes[key]} clients are scored ({_at(keys, key)}), {expected} must be"


def _at(keys: list[str], values: Iterable[object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True))


def sums(entry: Entry) -> Iterator[str]:
    """The totals in the JSON are what the clients' scores add up to."""
    if entry.content.status != "finished":
        if entry.clients.size or entry.participants.size or totals(entry):
            yield "diverged, and so must have no scores"
        return
    try:
        expected = _summed(entry)
    except DataError as error:
        yield str(error)
        return
    recorded = totals(entry)
    if set(expected) != set(recorded):
        yield f"has totals of {', '.join(sorted(recorded))}, but clients of {', '.join(sorted(expected))}"
    for where in sorted(set(expected) & set(recorded)):
        for side, summary in expected[where].items():
            given = recorded[where].get(side, {})
            for name, value in summary.items():
                if not _same(given.get(name), value):
                    yield f"{where}.{side}.{name} is {given.get(name)}, but its clients' is {value}"


Totals = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Where (`scores.` or `participants.`, model, and support or rounds) -> side -> summary."""


def _summed(entry: Entry) -> Totals:
    table = entry.clients
    if entry.config.protocol.environments:
        groups = table.groupby("rounds")
        metric = entry.content.metric
        return {f"scores.selected.{rounds}": environment_run.summaries(rows, metric) for rounds, rows in groups}
    by_model = {f"scores.{m}.{support}": rows for (m, support), rows in table.groupby(["model", "support"])}
    by_model |= {f"participants.{m}": rows for m, rows in entry.participants.groupby("model")}
    return {where: summaries(rows, entry.content.metric) for where, rows in by_model.items()}


def totals(entry: Entry) -> Totals:
    """The totals in the JSON."""
    content = entry.content
    if isinstance(content, Content):
        found = {
            f"scores.{m}.{float(p)}": one for m, by_support in content.scores.items() for p, one in by_support.items()
        }
        found |= {f"participants.{m}": one for m, one in (content.participants or {}).items()}
        return {where: _plain(one) for where, one in found.items()}
    if isinstance(content, EnvironmentContent) and content.scores:
        return {f"scores.selected.{rounds}": _plain(sides) for rounds, sides in content.scores.selected.items()}
    return {}


def _plain(part: Part) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = part.model_dump()
    return found


def _same(given: float | None, value: float) -> bool:
    """JSON holds no number that is not finite: a diverging loss is null there. Counts are the same or not."""
    if isinstance(value, int):
        return given == value
    if given is None or not math.isfinite(value):
        return given is None and not math.isfinite(value)
    return math.isclose(given, value, rel_tol=CLOSE, abs_tol=1e-12)


RULES: dict[str, Rule] = {"counts": counts, "clients": clients, "sums": sums}
