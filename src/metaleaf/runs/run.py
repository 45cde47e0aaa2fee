"""One run: train an algorithm on a federation round by round, validate, score the test clients and participants."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np
import torch

from metaleaf import models, tasks, trees
from metaleaf.algorithm import Algorithm, Context, State, received, respond, sent, step
from metaleaf.config.config import RunConfig
from metaleaf.config.provenance import device_facts, git_facts, versions
from metaleaf.config.sources import REMEDY, Choice, Sources, differing, of_run
from metaleaf.config.systems import fleet_of
from metaleaf.data.client_store import ClientStore
from metaleaf.data.federation import PARTS, Federation
from metaleaf.engine.cost import ClientFlops, empty_episode, exchanged
from metaleaf.engine.engine import Mode, engine
from metaleaf.engine.memory import ClientMemory
from metaleaf.errors import ConfigError, StaleError
from metaleaf.files import tensor_files
from metaleaf.runs.evaluate import client_columns, score_clients, score_participants
from metaleaf.runs.reported import of_server
from metaleaf.runs.rounding import AS_EVER, Rounding
from metaleaf.runs.saved import save_state
from metaleaf.runs.store import SCHEMA, Cell
from metaleaf.seeds import derive
from metaleaf.shots import Episode, Shots
from metaleaf.statistics.statistics import Columns, summaries
from metaleaf.task import Task
from metaleaf.trees import Tree

if TYPE_CHECKING:
    from metaleaf.systems.fleet import Fleet  # not imported by a run without systems

COSTS = ("bytes_down", "bytes_up", "flops")
"""Columns of rounds.csv that add up over the rounds."""
SIMULATED = ("simulated_seconds", "joules")
"""Columns that add up, too, where systems are simulated (docs/systems.md)."""
GROUP = 256
"""Participants scored at once, at most."""
GROUP_BYTES = 1 << 30
"""Bytes that the memories of participants scored at once may take."""

TRIED = 4
"""Examples that an engine is tried on."""

OnRound = Callable[[int, int, dict[str, Any]], None]
"""Called after every round with (round, rounds, the round's row, which has its validation in words)."""


@dataclass(frozen=True)
class Progress:
    """Where training stands after a round; everything a checkpoint holds."""

    state: State
    rows: list[dict[str, float]] = field(default_factory=list)
    best: Tree = None
    """What was broadcast at the round with the best validation score so far (at the start: before any)."""
    best_round: int = 0
    best_score: float | None = None
    diverged: str | None = None
    memories: dict[int, int] = field(default_factory=dict)
    """The round after which each client's memory was written, by client."""
    best_memories: dict[int, int] = field(default_factory=dict)
    """The same at the best round; empty where participants are not scored."""
    layers: Tree = ()
    """What layers between clients and server keep (`metaleaf.runs.protected`)."""
    residuals: dict[int, int] = field(default_factory=dict)
    """The round after which what compression left at a client was written, by client."""

    @property
    def round(self) -> int:
        """Rounds finished."""
        return int(self.rows[-1]["round"]) if self.rows else 0


class Arrived(NamedTuple):
    """A cohort's work at the server: what it reads, bytes that one client received and sent, entries of the row.

    progress: with what was kept on the way.
    """

    update: Tree
    down: int
    up: int
    progress: Progress
    facts: dict[str, float] = {}


class Run:
    """A configured run on a prepared dataset. Same configuration, machine and threads: the same bits.

    stale: what becomes of a checkpoint that other code has made; StaleError if that is to refuse it.
    """

    validation: ClassVar[tuple[str, ...]] = (
        "validation_before",
        "validation_after",
        "validation_client_mean",
        "validation_loss",
    )
    """Columns of every rounds.csv, also of a run that diverged before they were ever filled."""

    def __init__(
        self,
        config: RunConfig,
        store: ClientStore,
        *,
        mode: Mode = "auto",
        device: str = "cpu",
        rounding: Rounding = AS_EVER,
        stale: Choice = "refuse",
    ) -> None:
        self.config, self.store, self.rounding, self.stale = config, store, rounding, stale
        self.sources: Sources = of_run(config, type(self).__module__, store.about)
        self.spec = store.about["spec"]
        self.kind = tasks.of(self.spec, config.task)
        self.metric = self.kind.measured[0]
        self.federation = self._federation()
        self.fleet = self._fleet() if config.systems else None
        self._traffic: tuple[int, int] | None = None
        """Bytes down and up of any client in any round, once they are known: trees keep their shapes."""
        scale = self.federation.scale
        self.kind = self.kind.scaled(scale.y_mean, scale.y_sd)
        self.algorithm = self._algorithm()
        self._check_served()
        model = models.build(config.model, self.spec, derive(config.seed, "model"), self.kind)
        self.task = self._task(rounding.applied(model).to(device))
        self.engine = engine(self.task, self.algorithm, mode, device, self._examples())
        self.device = device
        self.memories = ClientMemory()
        self.rounds = self._rounds() if getattr(self.algorithm, "federated", True) else 0

    def _federation(self) -> Federation:
        return Federation(self.store, self.config.protocol, self.config.seed, self.kind.y_dtype)

    def _fleet(self) -> "Fleet":
        store, train, everybody = self.store, self.federation.clients["train"], np.arange(len(self.store.ids))
        about = {
            "ids": store.ids[train].tolist(),
            "groups": np.unique(store.environments[train], return_inverse=True)[1],
            "others": store.ids[np.setdiff1d(everybody, train)].tolist(),
            "rounds": self.config.protocol.rounds,
            "seed": self.config.seed,
        }
        return fleet_of(self.config.systems, about, len(self.federation.cohort(1)))

    def _algorithm(self) -> Algorithm:
        return self.config.build_algorithm()

    def _check_served(self) -> None:
        """ConfigError if the algorithm says which kinds of tasks it serves, and this is none of them."""
        serves = getattr(self.algorithm, "serves", None)
        if serves is not None and self.kind.name not in serves:
            raise ConfigError(
                f"{self.config.algorithm} serves the task {' or '.join(serves)}, and {self.config.dataset} asks for "
                f"{self.kind.name}: leave the algorithm or the dataset out."
            )

    def _task(self, model: models.Model) -> Task:
        clients, cohort = self.federation.clients["train"], self.federation.cohort(1)
        return Task(model, kind=self.kind, seed=self.config.seed, clients=len(clients), cohort=len(cohort))

    def _examples(self) -> Shots:
        """A few of the data, to try operators on."""
        scale = self.federation.scale
        x, y = scale.x(np.array(self.store.x[:TRIED])), scale.y(np.array(self.store.y[:TRIED]))
        return Shots(torch.from_numpy(x), torch.from_numpy(y.astype(self.kind.y_dtype)), torch.tensor(0))

    def _rounds(self) -> int:
        if getattr(self.algorithm, "unit", "client") == "environment":
            raise ConfigError(
                f"{self.config.algorithm} learns from whole environments: it needs the track of new environments "
                "([protocol.environments])."
            )
        return self.config.protocol.rounds

    def train(self, cell: Cell | None = None, on_round: OnRound | None = None) -> Progress:
        """Train to the last round, from the cell's checkpoint if it has one; checkpoints as it goes, and on Ctrl-C."""
        if cell:
            self._keep_in(cell)
        progress = self._resume(cell) or self._evaluated(self._start(), self._first_row(), 0.0)
        flops = self._flops(progress.state) if self.rounds else None
        begun = time.monotonic() - (progress.rows[-1]["seconds"] if progress.rows else 0.0)
        try:
            while progress.round < self.rounds and not progress.diverged:
                progress = self._round(progress, flops, begun)
                if on_round:
                    on_round(progress.round, self.rounds, self._said(progress.rows[-1]))
                if cell and self._is_milestone(progress.round):
                    self._checkpoint(cell, progress)
        except KeyboardInterrupt:
            if cell:
                self._checkpoint(cell, progress)
            raise
        return progress

    def _keep_in(self, cell: Cell) -> None:
        """Keep what clients remember beside the cell's checkpoint."""
        self.memories = ClientMemory(cell.partial / "memories")

    def _said(self, row: dict[str, float]) -> dict[str, Any]:
        """The row, with its validation in words."""
        score = row.get("validation_after")
        return row if score is None else {**row, "validation": self.metric.text(score)}

    def execute(self, cell: Cell, on_round: OnRound | None = None, *, save: bool = False) -> dict[str, Any]:
        """Train, score the test clients and write the record, which is returned.

        save: keep the trained model, too (`metaleaf.runs.saved`); a run that diverged has none.
        """
        started = datetime.now(UTC).isoformat(timespec="seconds")
        progress = self.train(cell, on_round)
        if self.fleet is not None and self.rounds and not any(row["arrived"] for row in progress.rows):
            raise ConfigError(
                f"systems: in {self.rounds} rounds no update came back in time: raise deadline, or let more be there."
            )
        begun = time.monotonic()
        clients, scores = self._test(progress)
        if not _finite(scores):
            progress = replace(progress, diverged=f"test clients' {self.metric.name} is not finite")
            clients, scores = self._test(progress)
        record = self._record(progress, scores)
        participants = None
        if self.config.protocol.held_out:
            participants, record["participants"] = self._participants(progress)
        record["timing"] = {
            "started": started,
            "seconds_train": progress.rows[-1]["seconds"],
            "seconds_evaluate": time.monotonic() - begun,
        }
        cell.forget()
        if save and not progress.diverged:
            selected = None if progress.best_round == progress.round else progress.best
            record["saved"] = save_state(cell.state_path, progress.state, selected)
        last = dict.fromkeys(self.validation, math.nan) | progress.rows[-1]
        cell.save(record, clients, [*progress.rows[:-1], last], participants)
        return record

    def _is_milestone(self, number: int) -> bool:
        """Whether this round is evaluated and checkpointed."""
        return number == self.rounds or (number > 0 and number % self.config.protocol.evaluate_every == 0)

    def _start(self) -> Progress:
        state = self._initial_state()
        return Progress(state, best=state.broadcast, layers=self._first_layers(state))

    def _first_layers(self, state: State) -> Tree:
        """What layers between clients and server keep, at first."""
        return ()

    def _first_row(self) -> dict[str, float]:
        """The row of round 0."""
        return {"round": 0, **({} if self.fleet is None else self.fleet.nothing())}

    def _initial_state(self) -> State:
        return self.algorithm.init(self.task, self.task.params())

    def _flops(self, state: State) -> Callable[[Any], int]:
        first = sent(self.algorithm, self.task, state, torch.tensor(0, device=self.device))
        return ClientFlops(self.task, self.algorithm, state.broadcast, self.spec, first)

    def _round(self, progress: Progress, flops: Callable[[Any], int] | None, begun: float) -> Progress:
        number, state = progress.round + 1, progress.state
        cohort, simulated = self._cohort(number, state, flops)
        if not cohort:  # nobody came back in time, which costs what it costs
            return self._evaluated(progress, self._summed(progress, {"round": number, **simulated}), begun)
        episodes = self._drawn(cohort, number, state.broadcast, progress.memories)
        if hasattr(self.algorithm, "send"):
            episodes = [self._addressed(state, episode) for episode in episodes]
        clients = [int(episode.client) for episode in episodes]
        weights = self.federation.weights(cohort, getattr(self.algorithm, "weighting", None))
        if self.fleet is not None:
            weights = self.fleet.weighed(weights, clients, number)
        update, memories = self.engine.gather(state.broadcast, episodes, weights)
        context = self._context(number, clients, weights)
        update, down, up, progress, facts = self._arrived(progress, update, episodes, context)
        row = {
            "round": number,
            "bytes_down": len(cohort) * down,
            "bytes_up": len(cohort) * up,
            "flops": sum(flops(episode) for episode in episodes if flops),
            "update_norm": trees.length(update),
            **facts,
            **simulated,  # in the place of what would be spent if all who are asked came back
        }
        row = self._summed(progress, row)
        written = {**progress.memories, **dict.fromkeys(cohort[: len(memories)], number)}
        for client, memory in zip(cohort, memories, strict=False):  # none for most algorithms
            self.memories.put(client, number, memory)
        return self._follow(replace(progress, memories=written), row, update, context, begun)

    def _cohort(self, number: int, state: State, flops: Any) -> tuple[list[int], dict[str, float]]:
        """The clients whose work reaches the server in a round; where systems are simulated, entries of its row."""
        if self.fleet is None:
            return self.federation.cohort(number), {}
        train = self.federation.clients["train"]
        asked = self.federation.cohort(number, train[self.fleet.there(number)], self.fleet.asked)
        if self._traffic is None:
            self._traffic = self._nbytes(*self._one(state), len(asked))
        down, up = self._traffic
        work = [(down, flops.of(*self.federation.sizes(client)), up) for client in asked]
        turn = self.fleet.turn(np.searchsorted(train, asked).tolist(), work)
        return train[turn.arrived].tolist(), turn.row

    def _one(self, state: State) -> tuple[Tree, Tree]:
        """What one client receives, and zeros in the shape of what it sends."""
        remembers = hasattr(self.algorithm, "memory")
        memory = cast(Any, self.algorithm).memory(self.task, state.broadcast) if remembers else ()
        empty = trees.to(empty_episode(self.spec, self.kind, 2, 2, 2), self.task.device)._replace(memory=memory)
        one = self._addressed(state, empty) if hasattr(self.algorithm, "send") else empty
        reply = respond(self.algorithm, self.task, state.broadcast, one)
        sent_back = trees.zeros_like(reply.update if remembers else reply)
        return received(self.algorithm, state.broadcast, one), sent_back

    def _nbytes(self, got: Tree, update: Tree, clients: int) -> tuple[int, int]:
        """Bytes down and up of one client of so many that receives this, of an update that it has sent."""
        traffic = exchanged(self.algorithm, got, update)
        return trees.nbytes(traffic.down), trees.nbytes(traffic.up)

    def _summed(self, progress: Progress, row: dict[str, float]) -> dict[str, float]:
        """The row with what adds up over the rounds."""
        return row | {key: row[key] + progress.rows[-1][key] for key in (*COSTS, *SIMULATED) if key in row}

    def _drawn(self, cohort: Sequence[int], number: int, broadcast: Tree, written: Mapping[int, int]) -> list[Episode]:
        """What the cohort trains on."""
        return self._episodes(cohort, number, broadcast, written)

    def _arrived(self, progress: Progress, update: Tree, episodes: Sequence[Episode], context: Context) -> Arrived:
        """What becomes of the cohort's work on its way to the server."""
        got = received(self.algorithm, progress.state.broadcast, episodes[0])
        return Arrived(update, *self._nbytes(got, update, len(episodes)), progress)

    def _addressed(self, state: State, episode: Episode) -> Episode:
        """The episode with what its client alone is sent."""
        return episode._replace(received=sent(self.algorithm, self.task, state, episode.client.to(self.device)))

    def _context(self, number: int, cohort: Sequence[int], weights: Sequence[float]) -> Context:
        seed = derive(self.config.seed, "server", number)
        context = Context(
            self.task,
            torch.tensor(number - 1.0),
            torch.tensor(cohort),
            torch.tensor(weights, dtype=torch.float64),
            torch.tensor(seed),
        )
        return Context(self.task, *trees.to(context[1:], torch.device(self.device)))

    def _follow(
        self, progress: Progress, row: dict[str, float], update: Tree, context: Context, begun: float
    ) -> Progress:
        """The progress after the server has followed the round's update."""
        number = int(row["round"])
        if not math.isfinite(row["update_norm"]):
            reason = f"round {number}: the cohort's mean update is not finite"
            rows = [*progress.rows, {**row, "seconds": time.monotonic() - begun}]
            return replace(progress, rows=rows, diverged=reason)
        state = step(self.algorithm, progress.state, update, context)
        return self._evaluated(replace(progress, state=state), row, begun)

    def _episodes(
        self, clients: Sequence[int], number: int, broadcast: Tree, written: Mapping[int, int]
    ) -> list[Episode]:
        """What these clients work with in round `number`, their memories of the rounds in `written`."""
        episodes = self.federation.episodes(clients, number)
        if not hasattr(self.algorithm, "memory"):
            return episodes
        fresh = self.algorithm.memory(self.task, broadcast)
        found = [self.memories.get(i, written[i], fresh) if i in written else fresh for i in clients]
        return [episode._replace(memory=memory) for episode, memory in zip(episodes, found, strict=True)]

    def _evaluated(self, progress: Progress, row: dict[str, float], begun: float) -> Progress:
        """The progress with this round's row, validated if it is the round's turn."""
        number = int(row["round"])
        row = {**dict.fromkeys(COSTS, 0), "update_norm": 0.0, **row}
        # As a resumed run would find it: how a tensor lies in memory decides how products with it are rounded.
        progress = replace(progress, state=trees.owned(progress.state), best=trees.owned(progress.best))
        if self._is_milestone(number):
            broadcast = progress.state.broadcast
            row |= self._validate(broadcast)
            row |= of_server(self.task, self.algorithm, progress.state)
            score = row["validation_after"]
            if not math.isfinite(score):
                reason = f"round {number}: the validation clients' {self.metric.name} is not finite"
                progress = replace(progress, diverged=reason)
            elif progress.best_score is None or self.metric.better(score, progress.best_score):
                progress = replace(
                    progress,
                    best=broadcast,
                    best_round=number,
                    best_score=score,
                    best_memories=progress.memories if self.config.protocol.held_out else {},
                )
        row["seconds"] = time.monotonic() - begun if number else 0.0
        return replace(progress, rows=[*progress.rows, row])

    def _validate(self, broadcast: Tree) -> dict[str, float]:
        """The row's entries on the validation clients; `validation_after` selects the model."""
        clients = [int(i) for i in self.federation.clients["validation"]]
        support = self.config.protocol.support
        table = score_clients(self.engine, self.federation, broadcast, clients, support, every_step=False)
        found = summaries(table, self.metric)
        return {
            "validation_before": found["before"]["pooled"],
            "validation_after": found["after"]["pooled"],
            "validation_client_mean": found["after"]["client_mean"],
            "validation_loss": found["after"]["loss"],
        }

    def _test(self, progress: Progress) -> tuple[Columns, dict[str, Any]]:
        if progress.diverged:
            return self._no_clients(), {}
        clients = [int(i) for i in self.federation.clients["test"]]
        tables: list[Columns] = []
        scores: dict[str, Any] = {"final": {}, "selected": {}}
        for support in self.config.protocol.test_supports:
            final = self._score(progress.state.broadcast, clients, support)
            same = progress.best_round == progress.round
            selected = final if same else self._score(progress.best, clients, support)
            for model, table in (("final", final), ("selected", selected)):
                scores[model][str(support)] = summaries(table, self.metric)
                tables.append(_named(model, table))
        return _below(tables), scores

    def _score(self, broadcast: Tree, clients: Sequence[int], support: float) -> Columns:
        return score_clients(self.engine, self.federation, broadcast, clients, support, reports=self.algorithm)

    def _no_clients(self) -> Columns:
        return dict.fromkeys(("model", *client_columns(self.kind.columns)), ())

    def _participants(self, progress: Progress) -> tuple[Columns, dict[str, Any]]:
        """Scores of all training clients on what they held out, with the memories of the model's round."""
        if progress.diverged:
            return self._no_clients(), {}
        final = self._score_participants(progress.state.broadcast, progress.round, progress.memories)
        selected = final
        if progress.best_round != progress.round:
            selected = self._score_participants(progress.best, progress.best_round, progress.best_memories)
        tables = {"final": final, "selected": selected}
        scores = {model: summaries(table, self.metric) for model, table in tables.items()}
        return _below([_named(model, table) for model, table in tables.items()]), scores

    def _score_participants(self, broadcast: Tree, number: int, written: Mapping[int, int]) -> Columns:
        """After round `number`. In groups: all memories at once may be too much."""
        clients = [int(i) for i in self.federation.clients["train"]]
        fresh = self.algorithm.memory(self.task, broadcast) if hasattr(self.algorithm, "memory") else ()
        size = max(1, min(GROUP, GROUP_BYTES // max(1, trees.nbytes(fresh))))
        known, tables = (self.engine, self.federation, broadcast), []
        for start in range(0, len(clients), size):
            group = clients[start : start + size]
            episodes = self._episodes(group, number + 1, broadcast, written)
            tables.append(score_participants(*known, group, episodes, self.algorithm))
        return _below(tables)

    def _record(self, progress: Progress, scores: dict[str, Any]) -> dict[str, Any]:
        config, federation, last = self.config, self.federation, progress.rows[-1]
        return {
            "schema": SCHEMA,
            "suite": config.suite,
            "dataset": config.dataset_label,
            "algorithm": config.algorithm_label,
            "title": config.title,
            "place": config.place,
            "seed": config.seed,
            "config_hash": config.config_hash(),
            "status": "diverged" if progress.diverged else "finished",
            "reason": progress.diverged,
            "config": config.resolved(),
            "tuning": config.tuning,
            "data": {
                "name": config.dataset,
                "version": self.spec["version"],
                "data_hash": self.store.about["data_hash"],
                "split_hash": federation.split_hash(),
                "clients": {part: len(federation.clients[part]) for part in PARTS},
                "examples": {part: federation.examples(part) for part in PARTS},
                "classes": self.spec["classes"],
                **({"scale": federation.scale.given} if federation.scale.given else {}),
            },
            "metrics": [metric.facts() for metric in self.kind.measured],
            "parameters": sum(leaf.numel() for leaf in self.task.params().values()),
            "rounds": progress.round,
            "selected_round": progress.best_round,
            "cost": {
                **{key: int(last[key]) for key in COSTS},
                **{key: last[key] for key in SIMULATED if key in last},
            },
            "scores": scores,
            "sources": self.sources,
            "versions": versions(config),
            "git": git_facts(),
            "device": device_facts(self.device),
            "engine": {"mode": self.engine.mode, "threads": torch.get_num_threads(), **self.rounding.said()},
        }

    def _made_by(self) -> dict[str, Any]:
        """What has to be the same for a resumed run to be bit-identical; a checkpoint of anything else is not used."""
        return {
            "metric": self.metric.facts(),
            "config": self.config.config_hash(),
            "data": self.store.about["data_hash"],
            "split": self.federation.split_hash(),
            "engine": [self.engine.mode, self.rounding.said()] if self.rounding.said() else self.engine.mode,
            "device": device_facts(self.device),
            "sources": self.sources,
            "versions": versions(self.config),
        }

    def _checkpoint(self, cell: Cell, progress: Progress) -> None:
        tensors = trees.named_leaves({"state": tuple(progress.state), "best": progress.best, "layers": progress.layers})
        note = {
            "rows": progress.rows,
            "best_round": progress.best_round,
            "best_score": progress.best_score,
            "diverged": progress.diverged,
            "memories": progress.memories,
            "best_memories": progress.best_memories,
            "residuals": progress.residuals,
            "made_by": self._made_by(),
        }
        cell.save_checkpoint(tensors, note)
        self.memories.tidy(progress.memories, progress.best_memories)

    def _goes_on_from(self, made_by: dict[str, Any]) -> bool:
        """Whether to go on from a checkpoint made by that; StaleError if only the code differs and nobody has chosen.

        Afterwards the run's sources are those which both have.
        """
        if {**made_by, "sources": None} != {**self._made_by(), "sources": None}:
            return False
        before = made_by.get("sources") or {}
        differs = differing(before, self.sources)
        if differs and self.stale == "refuse":
            raise StaleError(f"its checkpoint was made by other code ({', '.join(differs)}): {REMEDY}")
        if differs and self.stale == "again":
            return False
        self.sources = {part: now if before.get(part) == now else None for part, now in self.sources.items()}
        return True

    def _resume(self, cell: Cell | None) -> Progress | None:
        """The progress of the cell's checkpoint; None if there is none, it is of another run, or damaged."""
        if cell is None:
            return None
        try:
            saved = cell.load_checkpoint()
        except tensor_files.Damaged as error:
            warnings.warn(f"the checkpoint {cell.checkpoint} is damaged ({error}): the run starts again.", stacklevel=3)
            return None
        if saved is None or not self._goes_on_from(saved[1].get("made_by") or {}):
            return None
        tensors, note = saved
        shape = self._initial_state()
        tree = {"state": tuple(shape), "best": shape.broadcast, "layers": self._first_layers(shape)}
        tree = trees.to(trees.with_named_leaves(tree, tensors), self.task.device)
        return Progress(
            State(*tree["state"]),
            note["rows"],
            tree["best"],
            note["best_round"],
            note["best_score"],
            note["diverged"],
            layers=tree["layers"],
            **{
                key: {int(client): number for client, number in note.get(key, {}).items()}
                for key in ("memories", "best_memories", "residuals")
            },
        )


def _finite(scores: Any) -> bool:
    """Whether all numbers of nested dicts are, but for losses."""
    if isinstance(scores, dict):
        return all(_finite(value) for key, value in scores.items() if key != "loss")
    return math.isfinite(scores)


def _named(model: str, table: Columns) -> Columns:
    return {"model": np.full(len(table["n"]), model), **table}


def _below(tables: Sequence[Columns]) -> Columns:
    """The tables one below the other."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
