"""Rules that every record keeps by itself: its place, its hash, its rounds and what they cost."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from metaleaf import tasks
from metaleaf.config.config import digest
from metaleaf.runs.run import COSTS, SIMULATED
from metaleaf.runs.saved import is_named, state_path
from metaleaf.submission.entry import Entry

Rule = Callable[[Entry], Iterator[str]]
"""Yields what is wrong, if anything."""

APART = 1e-12
"""Relative difference of two readings of one number that is not whole."""


def place(entry: Entry) -> Iterator[str]:
    """The folders say what the record says."""
    content = entry.content
    stem = f"seed-{content.seed}.json"
    expected = (content.dataset, content.algorithm, content.config_hash, stem)
    if PurePosixPath(entry.where).parts != expected:
        yield f"the record says that it is {'/'.join(expected)}"
    if content.data.name != entry.config.dataset:
        yield f"data.name is {content.data.name}, but its configuration's dataset is {entry.config.dataset}"
    if entry.record.path.resolve().parents[3].name != content.suite:
        yield f"is of the suite {content.suite}, and so the folder must be called"


def config_hash(entry: Entry) -> Iterator[str]:
    """The hash is that of the configuration."""
    found = digest(entry.content.config)[:12]
    if found != entry.content.config_hash:
        yield f"config_hash is {entry.content.config_hash}, but the configuration's is {found}"


def metrics(entry: Entry) -> Iterator[str]:
    """The scores are of the metrics that the task has: a record does not say by itself which direction is better."""
    spec = dataclasses.asdict(entry.config.build_dataset().spec)
    if entry.content.metrics != (expected := tasks.of(spec, entry.config.task).measured):
        yield f"its metrics are not those of its task: {', '.join(metric.name for metric in expected)}"


def rounds(entry: Entry) -> Iterator[str]:
    """rounds.csv has every round once, costs that never fall, and in its last row the record's."""
    table, content = entry.rounds, entry.content
    if len(table) != content.rounds + 1 or list(table["round"]) != list(range(len(table))):
        yield f"rounds.csv does not have the rounds 0 to {content.rounds}, each once and in order"
        return
    simulated = SIMULATED if entry.config.systems else ()
    columns = [*(name for name in (*COSTS, "client_updates") if hasattr(content.cost, name)), *simulated]
    if missing := [name for name in columns if name not in table]:
        yield f"rounds.csv lacks the column {missing[0]!r}"
        return
    for name in columns:
        if not (table[name].diff().iloc[1:] >= 0).all() or not table[name].iloc[0] >= 0:
            yield f"{name} falls or is missing in rounds.csv, though it adds up over the rounds"
        said, last = getattr(content.cost, name), table[name].iloc[-1]
        if said is None or not math.isclose(last, said, rel_tol=APART if name in SIMULATED else 0):
            yield f"cost.{name} is {said if said is None else f'{said:.0f}'}, but rounds.csv ends at {last:.0f}"
    if content.status == "finished":
        yield from _length(entry)


def _length(entry: Entry) -> Iterator[str]:
    rules, protocol = entry.config.protocol.environments, entry.config.protocol
    if rules:
        spent = getattr(entry.content.cost, "client_updates", 0)
        if spent > rules.budget:
            yield f"spent {spent:,} client updates of a budget of {rules.budget:,}"
        return
    federated = getattr(entry.config.build_algorithm(), "federated", True)
    if entry.content.rounds != (expected := protocol.rounds if federated else 0):
        yield f"has {entry.content.rounds} rounds; its protocol has {expected}"


def selected(entry: Entry) -> Iterator[str]:
    """The selected round is the first of those with the best validation score after adaptation."""
    content, evaluated = entry.content, entry.rounds.dropna(subset="validation_after")
    if content.status != "finished":
        return
    if evaluated.empty:
        yield "no round was evaluated on the validation clients"
        return
    every = entry.config.protocol.evaluate_every
    if unplanned := [r for r in evaluated["round"] if r % every != 0 and r != content.rounds]:
        yield f"round {unplanned[0]} was evaluated, though only every {every} rounds and the last are"
    scores = evaluated["validation_after"]
    best = evaluated["round"].iloc[int(scores.argmax() if content.metric.higher_is_better else scores.argmin())]
    if content.selected_round != best:
        yield f"selected_round is {content.selected_round}, but round {best:.0f} has the best validation_after"


def saved(entry: Entry) -> Iterator[str]:
    """A saved model beside the record is the one that it names; it need not be there."""
    path, about = state_path(entry.record.path), entry.content.saved
    if not path.exists():
        return
    if about is None:
        yield f"{path.name} lies beside it, but the record keeps no model"
    elif not is_named(path, about):
        yield f"{path.name} is not the file that the record names, by its size and SHA-256"


def rounding(entry: Entry) -> Iterator[str]:
    """What rounding moves is the farthest of its variants."""
    found = entry.content.rounding
    if found and not found.variants.get(found.by) == found.moved == max(found.variants.values()):
        yield f"rounding.moved is {found.moved} by {found.by!r}, which is not the farthest of its variants"


RULES: dict[str, Rule] = {
    "place": place,
    "hash": config_hash,
    "metrics": metrics,
    "rounds": rounds,
    "selected": selected,
    "saved": saved,
    "rounding": rounding,
}
