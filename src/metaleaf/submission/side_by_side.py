"""Two records of one cell side by side: what is the same, what differs by rounding, and what differs."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from metaleaf.metrics import Metric, Values
from metaleaf.records.environments import EnvironmentContent
from metaleaf.records.records import Head, reported, sums_of
from metaleaf.runs.run import COSTS, SIMULATED
from metaleaf.submission.entry import Entry
from metaleaf.submission.scores import totals

Outcome = Literal["same", "close", "different"]

ANSWERS = ("correct", "correct_after")
"""Sums that are shares of the examples."""

VALIDATION = "validation"
SCORES = (VALIDATION, "selected model", "final model")
"""Lines that are judged by the tolerance; all others are exact, or only said."""

APART = 1e-3
"""Relative difference of the norms of two updates that is more than a rounding or two."""


class Line(NamedTuple):
    """One line of the comparison; `close`: within the tolerance."""

    what: str
    record: str
    here: str
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.what:<22}{_cut(self.record)}{_cut(self.here)}  {self.outcome}"


def heading() -> str:
    """The line above all others."""
    return f"{'':<22}{_cut('record')}{_cut('here')}"


def _cut(text: str, width: int = 24) -> str:
    """Right-justified; of a longer text, which is a hash, the beginning."""
    return f"  {text[:width]:>{width}}"


def compare(record: Entry, here: Entry, tolerance: float) -> Iterator[Line]:
    """Hashes, facts and costs, which must be the same; scores over points, which may differ by `tolerance`."""
    for (what, theirs), (_, ours) in zip(_facts(record.content), _facts(here.content), strict=True):
        yield Line(what, str(theirs), str(ours), "same" if theirs == ours else "different")
    for name in (*COSTS, *(SIMULATED if here.config.systems else ())):
        yield _cost(name, record.rounds, here.rounds)
    yield _updates(record.rounds, here.rounds)
    yield _validation(record, here, tolerance)
    yield from _accuracies(record, here, tolerance)
    yield from _clients("clients", answers(record), record.clients, here.clients)
    if record.config.protocol.held_out:
        yield from _clients("participants", answers(record), record.participants, here.participants)


def _facts(content: Head) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = [
        ("split hash", content.data.split_hash),
        ("config hash", content.config_hash),
        ("status", content.status),
        ("parameters", content.parameters),
        ("rounds", content.rounds),
    ]
    if isinstance(content, EnvironmentContent):
        entered = content.scores.entry if content.scores else None
        found.append(("client updates", content.cost.client_updates))
        found.append(("bytes in environments", f"{entered.first} + {entered.round} R" if entered else "none"))
    return found


def _cost(name: str, record: pd.DataFrame, here: pd.DataFrame) -> Line:
    """The same only if it is the same after every single round: from these the cost to a target is read.

    Simulated costs are no whole numbers, and machines differ in their last digits.
    """
    before, now = (table[name].to_numpy(dtype=float) if name in table else np.zeros(0) for table in (record, here))
    same = before.shape == now.shape and np.allclose(before, now, rtol=1e-9 if name in SIMULATED else 0, atol=0)
    theirs, ours = (f"{values[-1]:,.0f}" if len(values) else "none" for values in (before, now))
    return Line(name.replace("_", " "), theirs, ours, "same" if same else "different")


def _validation(record: Entry, here: Entry, tolerance: float) -> Line:
    """The scores that select the model and say when a target is reached, after every evaluated round."""
    evaluated = [entry.rounds.set_index("round")["validation_after"].dropna() for entry in (record, here)]
    theirs, ours = (f"best {found.max():.4f}, round {found.idxmax()}" if len(found) else "none" for found in evaluated)
    before, now = (found.to_numpy(dtype=float) for found in evaluated)
    metric = record.content.metric
    same = list(evaluated[0].index) == list(evaluated[1].index)
    return Line(VALIDATION, theirs, ours, _outcome(metric, before, now, tolerance) if same else "different")


def _updates(record: pd.DataFrame, here: pd.DataFrame) -> Line:
    """Where two runs part: rounding does it late and by little at first, another method or other data at once."""
    theirs, ours = (table["update_norm"].to_numpy(dtype=float) for table in (record, here))
    if np.array_equal(theirs, ours, equal_nan=True):
        return Line("updates", "", "all the same", "same")
    length = min(len(theirs), len(ours))
    apart = ~np.isclose(theirs[:length], ours[:length], rtol=APART, equal_nan=True)
    text = f"{APART:.1%} apart at round {int(apart.argmax())}" if apart.any() else f"within {APART:.1%}"
    return Line("updates", "", text, "close")


def _accuracies(record: Entry, here: Entry, tolerance: float) -> Iterator[Line]:
    """Of every total of a model: at all supports, before and after, or after every number of rounds."""
    theirs, ours = (_by_total(entry) for entry in (record, here))
    if theirs.keys() != ours.keys():
        yield Line("scores", f"{len(theirs)} totals", f"{len(ours)} totals", "different")
        return
    for model in sorted({key[0] for key in theirs}, reverse=True):
        keys = [key for key in theirs if key[0] == model]
        before, now = (np.array([found[key] for key in keys]) for found in (theirs, ours))
        metric = record.content.metric
        farthest = max(map(metric.apart, before, now))
        text = f"differ by {farthest:.5f}" if farthest else "all the same"
        yield Line(f"{model} model", f"{len(keys)} scores", text, _outcome(metric, before, now, tolerance))


def moved(record: Entry, here: Entry) -> float:
    """The farthest that any score of a model moves (`Metric.apart`), a fraction; 1 where one of them has none."""
    return max((apart for what, apart in distances(record, here).items() if what != VALIDATION), default=0.0)


def distances(record: Entry, here: Entry) -> dict[str, float]:
    """How far apart the scores are, by the lines that are judged by them; 1 where they cannot be compared."""
    before, now = (entry.rounds.set_index("round")["validation_after"].dropna() for entry in (record, here))
    metric = record.content.metric
    same = before.index.equals(now.index)
    found = {VALIDATION: max(map(metric.apart, before, now), default=0.0) if same else 1.0}
    theirs, ours = (_by_total(entry) for entry in (record, here))
    for key in theirs.keys() | ours.keys():
        apart = metric.apart(theirs[key], ours[key]) if key in theirs and key in ours else 1.0
        line = f"{key[0]} model"
        found[line] = max(found.get(line, 0.0), apart)
    return found


def updates_apart(record: Entry, here: Entry) -> Values:
    """Relative difference of the norms of the cohorts' updates, round by round as far as both have them."""
    theirs, ours = (entry.rounds["update_norm"].to_numpy(dtype=float) for entry in (record, here))
    length = min(len(theirs), len(ours))
    largest = np.maximum(np.abs(theirs[:length]), np.abs(ours[:length]))
    apart: Values = np.abs(theirs[:length] - ours[:length]) / np.where(largest > 0, largest, 1.0)
    return np.where(np.isnan(apart), 1.0, apart)


def _by_total(entry: Entry) -> dict[tuple[str, ...], float]:
    """The score by model, by support or rounds, and by side."""
    return {
        (where.split(".")[1], where, side): float(summary["pooled"])
        for where, sides in totals(entry).items()
        for side, summary in sides.items()
    }


def answers(entry: Entry) -> list[str]:
    """Columns of clients.csv that say how the model did; all else but losses says what was asked of whom."""
    sums = sums_of(entry.content.metrics)
    return [*sums, *(f"{name}_after" for name in sums)]


def _clients(who: str, answers: Sequence[str], record: pd.DataFrame, here: pd.DataFrame) -> Iterator[Line]:
    """Who was asked what must be the same; how many answers differ is said, and judged by the totals."""
    names = [str(name) for name in here]
    said = reported(here)
    losses = [name for name in names if name.startswith("loss")]
    asked = [name for name in names if name not in (*answers, *losses, *said)]
    if not record[asked].equals(here[asked]):
        yield Line(who, f"{len(record):,} scores", f"{len(here):,} other scores", "different")
        return
    for name in (name for name in answers if name in names):
        apart = (record[name] - here[name]).abs()
        farthest = float((apart / here["n"].clip(lower=1)).max()) if len(here) else 0.0
        each = f"{farthest:.1%}" if name in ANSWERS else f"{farthest:.2g} an example"
        text = f"{int((apart > 0).sum()):,} differ by {each}" if apart.any() else "all the same"
        yield Line(f"{who}' {name}", f"{len(record):,} scores", text, "close" if apart.any() else "same")
    for name in [*losses, *(name for name in said if name in record)]:
        theirs, ours = (f"sum {float(table[name].sum()):.6g}" for table in (record, here))
        yield Line(f"{who}' {name}", theirs, ours, "same" if record[name].equals(here[name]) else "close")


def _outcome(metric: Metric, record: Values, here: Values, tolerance: float) -> Outcome:
    if np.array_equal(record, here):
        return "same"
    return "close" if max(map(metric.apart, record, here)) <= tolerance else "different"
