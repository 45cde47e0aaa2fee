"""A run on the track of new environments: train within a budget of client updates, then enter new environments."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from metaleaf import trees
from metaleaf.algorithm import Replies, State
from metaleaf.config.config import NewEnvironments, RunConfig
from metaleaf.config.provenance import device_facts, versions
from metaleaf.config.sources import of_run
from metaleaf.engine.cost import count
from metaleaf.engine.vectorisable import obstacle
from metaleaf.environments.environments import EnvironmentFederation, Visit
from metaleaf.environments.newcomers import Newcomer, Session, advance, enter, scores
from metaleaf.environments.starts import kept, start_of
from metaleaf.errors import ConfigError
from metaleaf.gradient import over
from metaleaf.metrics import Metric
from metaleaf.models import Model
from metaleaf.runs.evaluate import counts
from metaleaf.runs.run import COSTS, Progress, Run
from metaleaf.shots import EnvironmentEpisode, Shots
from metaleaf.statistics.statistics import Columns, summarise
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


def client_columns(sums: Sequence[str]) -> tuple[str, ...]:
    """Columns of clients.csv on this track, with these sums: a client some rounds after an environment's start."""
    scores = (*sums, "loss")
    whose = ("model", "environment", "draw", "rounds", "client", "n")
    return (*whose, *scores, *(f"{name}_after" for name in scores))


GROUP = 8
"""Environments entered side by side."""


class EnvironmentRun(Run):
    """See `metaleaf.environments.newcomers` for what happens in a new environment, and docs/protocol.md for the rules.

    A plugin learns from clients, as on the other tracks, or from whole environments::

        unit: ClassVar[str] = "environment"

        def client_updates(self, participants, queries):  # how many it asks for in one environment and round
            return participants + queries

        def client(self, task, broadcast, episode):  # metaleaf.shots.EnvironmentEpisode
            ...

    Before its first round it may ask all training environments something: ``prepare(task, state, ask) -> State``, of
    the same shape. ``ask(work)`` does work(episode) in each of them and stacks the results;
    ``prepare_updates(members)`` says how many client updates that takes, from the number of clients in each. With
    ``keeps_first = True`` everyone's first update is asked for then, too, and handed to `client` as ``episode.first``
    (so the parameters that the updates are taken at must never change).
    """

    validation = ("validation_before", "validation_after", "validation_loss")
    federation: EnvironmentFederation
    _heard: dict[str, Tree] | None = None

    def _federation(self) -> EnvironmentFederation:
        self.rules = cast(NewEnvironments, self.config.protocol.environments)
        return EnvironmentFederation(self.store, self.config.protocol, self.rules, self.config.seed, self.kind.y_dtype)

    def _task(self, model: Model) -> Task:
        task = super()._task(model)
        task.local_steps, task.local_lr = self.rules.local_steps, self.rules.local_lr
        if reason := obstacle(task, self.algorithm, self._examples()):
            raise ConfigError(
                f"model {self.config.model!r} does not fit the track of new environments, whose clients run side by "
                f"side: {reason}."
            )
        return task

    def _rounds(self) -> int:
        self.by_environment = getattr(self.algorithm, "unit", "client") == "environment"
        if self.by_environment and hasattr(self.algorithm, "send"):
            raise ConfigError(
                f"{self.config.algorithm} learns from whole environments, to which nothing of their own is sent: leave "
                "out its method send."
            )
        spent, rounds = self._spent_before(), 0
        if spent > self.rules.budget:
            raise ConfigError(
                f"{self.config.algorithm_label}: the budget of {self.rules.budget} client updates is less than the "
                f"{spent} that its start and preparation take: raise budget."
            )
        while (spent := spent + self._updates_in(rounds + 1)) <= self.rules.budget:
            rounds += 1
        self.task.rounds = max(rounds, 1)
        return rounds

    def _spent_before(self) -> int:
        """Client updates that start and preparation take."""
        start = math.floor(self.config.start.share * self.rules.budget) if self.config.start else 0
        if not hasattr(self.algorithm, "prepare_updates"):
            return start
        members = [len(self.federation.chosen(name)) for name in self.federation.environments["train"]]
        return start + int(self.algorithm.prepare_updates(members))

    def _updates_in(self, number: int) -> int:
        """Client updates that round `number` takes."""
        if not self.by_environment:
            return self.task.cohort
        participants = self.federation.participants(number)
        each: int = cast(Any, self.algorithm).client_updates(participants, self.rules.queries)
        return each * min(self.rules.environments_per_round, len(self.federation.environments["train"]))

    def _is_milestone(self, number: int) -> bool:
        """The start itself is a candidate, too."""
        return number == 0 or super()._is_milestone(number)

    # ---- training

    def _initial_state(self) -> State:
        if self.config.start is None:
            return super()._initial_state()
        return self.algorithm.init(self.task, self.start_params())

    def start_params(self) -> Params:
        """The parameters that the configured start reaches."""
        start = start_of(self.config)
        sources = of_run(start, __name__, self.store.about)
        made_by = [self.store.about["data_hash"], sources, versions(start), device_facts(self.device)]
        rounding = [self.rounding] if self.rounding.said() else []
        params = kept([start.resolved(), start.seed, *made_by, *rounding], lambda: self._reached(start))
        return {name: params[name].to(self.task.device) for name in self.task.params()}

    def _reached(self, start: RunConfig) -> Params:
        other = EnvironmentRun(start, self.store, mode="auto", device=self.device, rounding=self.rounding)
        progress = other.train()
        if progress.diverged:
            raise ConfigError(f"{start.algorithm_label}: its start {start.algorithm} diverged ({progress.diverged}).")
        return other.algorithm_params(progress.state.broadcast)

    def _start(self) -> Progress:
        state = self._initial_state()
        if hasattr(self.algorithm, "prepare"):
            names = self.federation.environments["train"]
            episodes = [self.federation.whole_environment(name) for name in names]
            state = self.algorithm.prepare(self.task, state, lambda work: self._in_groups(work, episodes))
        return Progress(state, best=state.broadcast)

    def _in_groups(self, work: Callable[..., Tree], items: Sequence[Tree]) -> Tree:
        """The work done on each item, side by side in groups; results stacked."""
        parts = []
        for start in range(0, len(items), GROUP):
            stacked = trees.to(trees.stack(items[start : start + GROUP]), self.task.device)
            with torch.no_grad():
                parts.append(over(work)(stacked))
        return trees.tree_map(lambda *leaves: torch.cat(leaves), *parts)

    def _first_row(self) -> dict[str, float]:
        model = trees.nbytes(self.task.params())
        spent = self._spent_before()
        # On this track a client update is the unit: the parameters down, something of their size up.
        return {"round": 0, "client_updates": spent, "bytes_down": spent * model, "bytes_up": spent * model}

    def _flops(self, state: State) -> Callable[[Any], int]:
        if not self.by_environment:
            return super()._flops(state)
        found: dict[int, int] = {}

        def flops(episode: EnvironmentEpisode) -> int:
            size = len(episode.weights)
            if size not in found:
                found[size] = count(self.task, self.algorithm, state.broadcast, episode)
            return found[size]

        return flops

    def _round(self, progress: Progress, flops: Callable[[Any], int] | None, begun: float) -> Progress:
        if not self.by_environment:
            progress = super()._round(progress, flops, begun)
            spent = progress.rows[-2]["client_updates"] + self.task.cohort
            rows = [*progress.rows[:-1], {**progress.rows[-1], "client_updates": spent}]
            return replace(progress, rows=rows)
        number, state = progress.round + 1, progress.state
        cohort = self.federation.environment_cohort(number)
        episodes = [self._environment_episode(name, progress) for name in cohort]
        weights = [1 / len(episodes)] * len(episodes)
        update, _ = self.engine.gather(state.broadcast, episodes, weights)
        spent, model = self._updates_in(number), trees.nbytes(self.task.params())
        row = {
            "round": number,
            "client_updates": spent,
            "bytes_down": spent * model,
            "bytes_up": spent * model,
            "flops": len(episodes) * flops(episodes[0]) if flops else 0,
            "update_norm": trees.length(update),
        }
        row |= {key: row[key] + progress.rows[-1][key] for key in (*COSTS, "client_updates")}
        known = self.federation.environments["train"]
        context = self._context(number, [known.index(name) for name in cohort], weights)
        return self._follow(progress, row, update, context, begun)

    def _environment_episode(self, name: str, progress: Progress) -> EnvironmentEpisode:
        number = progress.round + 1
        episode = self.federation.environment_episode(name, number)
        if not getattr(self.algorithm, "keeps_first", False):
            return episode
        turn = self.federation.turn(name, number)[: len(episode.weights)]
        rows = torch.from_numpy(np.ascontiguousarray(turn))
        first = self._first_updates(progress.state.broadcast)[name]
        return episode._replace(first=trees.tree_map(lambda leaf: leaf[rows], first))

    def _first_updates(self, broadcast: Tree) -> dict[str, Tree]:
        """The first updates of everyone who is ever asked, by environment: taken once, they stay as they are."""
        if self._heard is None:
            newcomer, names = Newcomer(self.task, self.algorithm, broadcast), self.federation.environments["train"]
            episodes = [self.federation.whole_environment(name) for name in names]
            stacked = self._in_groups(lambda episode: over(newcomer.first)(episode.participants), episodes)
            self._heard = dict(zip(names, trees.unstack(stacked), strict=True))
        return self._heard

    # ---- scoring

    def _validate(self, broadcast: Tree) -> dict[str, float]:
        rounds = self.rules.validation_rounds
        found = self.enter("validation", broadcast, rounds, draws=1, adapt=False)
        sums = found.groupby("rounds").sum(numeric_only=True)
        scores = self.metric.score(sums[self.metric.total], sums[self.metric.weight])
        loss = float((found["loss"] * found["n"]).sum() / found["n"].sum())
        entries = {f"validation_{r}": float(score) for r, score in zip(sums.index, scores, strict=True)}
        mean = float(scores.mean())
        return {**entries, "validation_before": mean, "validation_after": mean, "validation_loss": loss}

    def _test(self, progress: Progress) -> tuple[Columns, dict[str, Any]]:
        if progress.diverged:
            return self._no_clients(), {}
        frame = self.enter("test", progress.best, self.rules.rounds, draws=self.rules.draws, adapt=True)
        table = {name: frame[name].tolist() for name in self._no_clients() if name != "model"}
        found = {str(number): summaries(part, self.metric) for number, part in frame.groupby("rounds")}
        return {"model": ["selected"] * len(frame), **table}, {"selected": found, "entry": self._entry_bytes(progress)}

    def _no_clients(self) -> Columns:
        """A client of a test environment, some rounds after its start, has a row of these columns."""
        return dict.fromkeys(client_columns(self.kind.columns), ())

    def enter(self, part: str, broadcast: Tree, rounds: Sequence[int], *, draws: int, adapt: bool) -> pd.DataFrame:
        """Scores of the method in every environment of a part, after each of these rounds."""
        newcomer = Newcomer(self.task, self.algorithm, broadcast)
        visits = [(name, draw) for name in self.federation.environments[part] for draw in range(draws)]
        frames = []
        for start in range(0, len(visits), GROUP):
            group = visits[start : start + GROUP]
            frames += self._enter_group(newcomer, group, rounds, adapt)
        return pd.concat(frames, ignore_index=True)

    def algorithm_params(self, broadcast: Tree) -> Params:
        """The model's parameters in what the algorithm broadcasts."""
        return Newcomer(self.task, self.algorithm, broadcast).params

    def _enter_group(
        self, newcomer: Newcomer, visits: list[Visit], rounds: Sequence[int], adapt: bool
    ) -> list[pd.DataFrame]:
        clients = [self.federation.roles(*visit)[1] for visit in visits]
        halves = self._placed([self.federation.stacked_halves(scored) for scored in clients])
        with torch.no_grad():
            session = self._entered(newcomer, visits)
            frames = []
            for number in range(max(rounds) + 1):
                if number:
                    session = self._advanced(newcomer, visits, number, session)
                if number in rounds:
                    found = over(lambda session, both: scores(newcomer, session, both, adapt))(session, halves)
                    frames += [
                        self._frame(visit, number, scored, table)
                        for visit, scored, table in zip(visits, clients, found.cpu().numpy(), strict=True)
                    ]
        return frames

    def _entered(self, newcomer: Newcomer, visits: list[Visit]) -> Session:
        """The sessions at R = 0 of all visits, stacked."""
        session: Session = over(lambda cohort: enter(newcomer, *cohort))(self._cohorts(visits, 0))
        return session

    def _advanced(self, newcomer: Newcomer, visits: list[Visit], number: int, session: Session) -> Session:
        """The sessions a round later."""
        following: Session = over(lambda one, cohort: advance(newcomer, one, *cohort))(
            session, self._cohorts(visits, number)
        )
        return following

    def _cohorts(self, visits: list[Visit], number: int) -> tuple[Shots, torch.Tensor]:
        size = self.rules.participants
        cohorts = [self.federation.new_cohort(*visit, number) for visit in visits]
        stacked: tuple[Shots, torch.Tensor] = self._placed([self.federation.stacked(c, size) for c in cohorts])
        return stacked

    def _placed(self, items: Sequence[Tree]) -> Any:
        return trees.to(trees.stack(items), self.task.device)

    def _frame(self, visit: Visit, number: int, clients: np.ndarray, found: np.ndarray) -> pd.DataFrame:
        """found: [clients, 1 or 2, sums], scores (`Task.score`) before and after adaptation."""
        n = found[:, 0, 0]
        frame = pd.DataFrame({"client": [str(self.federation.store.ids[i]) for i in clients], "n": n.astype(int)})
        frame = frame.assign(environment=visit[0], draw=visit[1], rounds=number)
        for step, suffix in enumerate(("", "_after")[: found.shape[1]]):
            _, *sums, loss = found[:, step].T
            for name, column in zip(self.kind.columns, sums, strict=True):
                frame[f"{name}{suffix}"] = counts(column)
            frame[f"loss{suffix}"] = loss / np.maximum(n, 1)
        return frame

    def _entry_bytes(self, progress: Progress) -> dict[str, int]:
        """Bytes of a new environment's first meeting and of each round after it, both ways, all participants."""
        newcomer = Newcomer(self.task, self.algorithm, progress.best)
        visit = (self.federation.environments["test"][0], 0)
        shots, weights = (trees.tree_map(lambda leaf: leaf[0], part) for part in self._cohorts([visit], 0))
        with torch.no_grad():
            first = over(newcomer.first)(shots)
            session: Session = newcomer.start(Replies(first, weights))
            later = over(lambda one: newcomer.visit(session, one))(shots)
        down = {"first": newcomer.greeting(), "round": session["params"]}
        up = {"first": first, "round": later}
        return {when: len(weights) * trees.nbytes(down[when]) + self._travelling(up[when]) for when in down}

    def _travelling(self, updates: Tree) -> int:
        """Bytes of the updates [k, ...] of all participants, with what else they need to send them."""
        return trees.nbytes(updates)

    def _record(self, progress: Progress, scores: dict[str, Any]) -> dict[str, Any]:
        record = super()._record(progress, scores)
        record["cost"]["client_updates"] = int(progress.rows[-1]["client_updates"])
        record["data"]["environments"] = {part: len(names) for part, names in self.federation.environments.items()}
        return record


def summaries(frame: pd.DataFrame, metric: Metric) -> dict[str, dict[str, float]]:
    """The summaries of one number of rounds, over the scored clients of all test environments and draws."""
    sums = {metric.total, metric.weight, "loss"} - {"n"}
    after = frame.assign(**{name: frame[f"{name}_after"] for name in sums})
    return {"before": summarise(frame, metric), "after": summarise(after, metric)}
