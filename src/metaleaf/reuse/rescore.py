"""Score the model of a finished run again, without training: at other supports, after other steps, on other clients.

It takes a record, the model that its run kept (`metaleaf.runs.saved`) and the data that the record was made from. Asked
for nothing else, it gives the record's own scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from metaleaf import trees
from metaleaf.config.config import RunConfig, override, resolve
from metaleaf.config.sources import differing
from metaleaf.data.client_store import ClientStore
from metaleaf.data.federation import PARTS, Federation
from metaleaf.data.prepare import load
from metaleaf.environments import run as environment_run
from metaleaf.environments.run import EnvironmentRun
from metaleaf.errors import ConfigError, DataError, unknown
from metaleaf.jobs.execute import Settings, runner
from metaleaf.metrics import ACCURACY, Metric
from metaleaf.records.records import Model, reported
from metaleaf.runs.evaluate import client_columns, score_clients
from metaleaf.runs.run import Run
from metaleaf.runs.saved import load_state
from metaleaf.statistics.statistics import summaries
from metaleaf.submission.entry import Entry, as_recorded, read_one
from metaleaf.submission.side_by_side import answers
from metaleaf.trees import Tree


@dataclass(frozen=True)
class Question:
    """What is asked of a model. What is empty is as the record has it."""

    model: Model = "selected"
    clients: tuple[str, ...] = ("test",)
    """A part of the split (train, validation, test), or ids of clients; in new environments the part's environments."""
    supports: tuple[float, ...] = ()
    """Support fractions, between 0 and 1."""
    rounds: tuple[int, ...] = ()
    """Rounds in a new environment after which it is scored."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Hyper-parameters by dotted key, e.g. {"adapt_steps": 10}. Nothing is trained again: only adaptation has them."""


class Rescored(NamedTuple):
    """The answer: `clients` as in a record's clients.csv, `scores` as a model's in a record, and both as a table."""

    clients: pd.DataFrame
    scores: dict[str, Any]
    text: str


def rescore(path: Path, question: Question, settings: Settings) -> Rescored:
    """Ask the model of the record at `path`.

    Computes with the record's engine and threads where the settings leave them open and this machine has them.
    ConfigError or DataError names what is wrong with the question, the record, its model or the data.
    """
    given = read_one(path)
    _check(question, given)
    config = _changed(given.config, question.changes)
    settings = as_recorded(settings, given.made.engine)
    torch.set_num_threads(settings.threads_per_worker())
    run = runner(config)(config, _data(given, settings), mode=settings.mode, device=settings.device)
    if run.federation.split_hash() != given.content.data.split_hash:
        raise DataError(
            f"{path}: this version of metaleaf splits clients otherwise; use the one that the record names."
        )
    state = load_state(path, given.content, run.algorithm.init(run.task, run.task.params()))
    broadcast = trees.to(state.broadcast(question.model), run.task.device)
    if isinstance(run, EnvironmentRun):
        clients = _in_environments(run, broadcast, question)
        scores = {
            str(number): environment_run.summaries(part, run.metric) for number, part in clients.groupby("rounds")
        }
    else:
        clients = _of_clients(run, broadcast, question)
        scores = {str(support): summaries(part, run.metric) for support, part in clients.groupby("support")}
    return Rescored(clients, scores, "\n".join(_lines(given, question, run, clients, scores)))


def _check(question: Question, given: Entry) -> None:
    if given.content.status == "diverged":
        raise DataError(f"the run of {given.where} diverged: it has no model to score.")
    new_environments = given.config.protocol.environments is not None
    if new_environments and question.supports:
        raise ConfigError("new environments are scored after rounds, not at supports: use --rounds.")
    if new_environments and (len(question.clients) > 1 or question.clients[0] not in PARTS[1:]):
        raise ConfigError("of new environments choose a part, --clients validation or test.")
    if not new_environments and question.rounds:
        raise ConfigError("rounds are those in new environments; clients are scored at --supports.")
    if not question.clients or min(question.rounds, default=0) < 0 or not all(0 < p < 1 for p in question.supports):
        raise ConfigError(
            f"choose at least one client, supports between 0 and 1, and rounds from 0; got {len(question.clients)} "
            f"clients, {list(question.supports)} and {list(question.rounds)}."
        )


def _changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    given = override(config.hyperparameters, changes)
    return config.model_copy(update={"hyperparameters": resolve("algorithms", config.algorithm, given)})


def _data(given: Entry, settings: Settings) -> ClientStore:
    store = load(given.config.dataset, given.config.build_dataset(), raw=settings.raw, stale=settings.stale)
    if store.about["data_hash"] != given.content.data.data_hash:
        raise DataError(f"{given.where} was made from other data than what is prepared here.")
    return store


def _of_clients(run: Run, broadcast: Tree, question: Question) -> pd.DataFrame:
    clients = _numbers(run.federation, question.clients)
    supports = question.supports or run.config.protocol.test_supports
    known = run.engine, run.federation, broadcast, clients
    tables = [pd.DataFrame(score_clients(*known, p, reports=run.algorithm)) for p in supports]
    found = pd.concat(tables, ignore_index=True).assign(model=question.model)
    return found[["model", *client_columns(run.kind.columns), *reported(found)]]


def _in_environments(run: EnvironmentRun, broadcast: Tree, question: Question) -> pd.DataFrame:
    rounds = question.rounds or run.rules.rounds
    frame = run.enter(question.clients[0], broadcast, rounds, draws=run.rules.draws, adapt=True)
    return frame.assign(model=question.model)[[*environment_run.client_columns(run.kind.columns)]]


def _numbers(federation: Federation, names: Sequence[str]) -> list[int]:
    """The clients of a part, or with these ids."""
    if len(names) == 1 and names[0] in PARTS:
        return [int(i) for i in federation.clients[names[0]]]
    known = {str(name): number for number, name in enumerate(federation.store.ids)}
    for name in names:
        if name not in known:
            raise unknown(f"client of {federation.store.about['name']}", name, known)
    return [known[name] for name in dict.fromkeys(names)]


# ------------------------------------------------------------------------------------------------------ as a table


def _lines(given: Entry, question: Question, run: Run, clients: pd.DataFrame, scores: Mapping[str, Any]) -> list[str]:
    content = given.content
    number = content.rounds if question.model == "final" else content.selected_round
    about = f"{given.cell}, {question.model} model (round {number} of {content.rounds}), not trained again"
    changes = [_change(given.config, key, value) for key, value in question.changes.items()]
    if other := differing(given.made.sources or {}, run.sources):
        changes.append(f"changed: the code since the run ({', '.join(other)})")
    by = "rounds" if given.config.protocol.environments else "support"
    heading = [
        by,
        "clients",
        "before",
        "after",
        "mean",
        "worst 10 %",
        "hurt",
        "majority" if content.metric == ACCURACY else "constant",
        "as recorded",
    ]
    rows = [
        [key, *_row(found, content.metric), _recorded(given, question, clients, by, float(key))]
        for key, found in scores.items()
    ]
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    table = ["  ".join(map(str.rjust, row, widths)).rstrip() for row in [heading, *rows]]
    return [about, *changes, _who(question, run.federation, clients), "", *table]


def _row(found: Mapping[str, Mapping[str, float]], metric: Metric) -> list[str]:
    """Before, after and the constant answer over points; the others over clients, after adaptation. Shares in %."""
    before, after, majority = found["before"], found["after"], found.get("majority", {})
    scores = [before["pooled"], after["pooled"], after["client_mean"], after["bottom10"]]
    said = [metric.number(score) for score in scores]
    hurt = "" if after.get("hurt") is None else f"{100 * after['hurt']:.1f}"
    constant = metric.number(majority["pooled"]) if majority else ""
    return [str(after["clients"]), *said, hurt, constant]


def _change(config: RunConfig, key: str, value: object) -> str:
    before: Any = config.hyperparameters
    for part in key.split("."):
        before = before.get(part) if isinstance(before, Mapping) else None
    return f"changed: {key} = {value} (the record's: {before})"


def _who(question: Question, federation: Federation, clients: pd.DataFrame) -> str:
    if len(question.clients) > 1 or question.clients[0] not in PARTS:
        names = set(clients["client"])
        parts = {part: {str(federation.store.ids[i]) for i in federation.clients[part]} & names for part in PARTS}
        found = [f"{len(some)} of {part}" for part, some in parts.items() if some]
        left = len(names) - sum(map(len, parts.values()))
        return f"clients: {', '.join([*found, *([f'{left} of no part'] if left else [])])}"
    trained = ", whose examples were trained on" if question.clients[0] == "train" else ""
    return f"clients: {question.clients[0]}{trained}"


def _recorded(given: Entry, question: Question, clients: pd.DataFrame, by: str, value: float) -> str:
    """Whether the record has the same numbers of right answers, where it was asked the same; else nothing."""
    if question.changes or question.clients != ("test",):
        return ""
    recorded = given.clients[given.clients["model"] == question.model]
    before, now = (_answers(given, frame[frame[by] == value]) for frame in (recorded, clients))
    if before.keys() != now.keys():
        return ""
    apart = sum(before[key] != now[key] for key in now)
    return f"{apart:,} of {len(now):,} differ" if apart else "same"


def _answers(given: Entry, frame: pd.DataFrame) -> dict[tuple[str, ...], tuple[float, ...]]:
    """How the model did by client, and step or draw."""
    keys = [frame[name].astype(str) for name in ("environment", "client", "step", "draw") if name in frame]
    found = [frame[name] for name in answers(given) if name in frame]
    return dict(zip(zip(*keys, strict=True), zip(*found, strict=True), strict=True))
