"""A run whose updates pass through layers on their way to the server (`metaleaf.protection`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithm import Algorithm, Context, State, received
from metaleaf.config.protection import pipeline_of
from metaleaf.data.deferred import made
from metaleaf.engine.cost import exchanged
from metaleaf.engine.memory import ClientMemory
from metaleaf.errors import ConfigError
from metaleaf.protection.attacks import malicious
from metaleaf.protection.pipeline import Pipeline, zeros
from metaleaf.runs.run import Arrived, Progress, Run
from metaleaf.runs.store import Cell
from metaleaf.seeds import derive
from metaleaf.shots import Episode
from metaleaf.trees import Tree


class OneByOne:
    """An algorithm whose clients' updates are gathered one by one, whatever its server reads."""

    each = True

    def __init__(self, algorithm: Algorithm) -> None:
        self.own = algorithm

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


class ProtectedRun(Run):
    """A `Run` with the layers that its configuration declares."""

    pipeline: Pipeline

    def _algorithm(self) -> Algorithm:
        algorithm = super()._algorithm()
        if not getattr(algorithm, "federated", True):
            raise ConfigError(f"protection: {self.config.algorithm} sends nothing: leave it out of this suite.")
        self.pipeline = pipeline_of(self.config.protection)
        weighting = getattr(algorithm, "weighting", None) or self.config.protocol.weighting
        self.pipeline.check(algorithm, weighting, len(self.federation.cohort(1)))
        self._check_fewer(algorithm, weighting)
        self.each = getattr(algorithm, "each", False)
        self.malicious = self._malicious(len(self.federation.clients["train"]))
        self.residuals = ClientMemory()
        return cast(Algorithm, OneByOne(algorithm))

    def _check_fewer(self, algorithm: Algorithm, weighting: str) -> None:
        """ConfigError if the layers make no sense for the smallest cohorts that may come back in time."""
        if self.fleet is None:
            return
        for size in range(self.fleet.systems.least, self.fleet.wanted):
            try:
                self.pipeline.check(algorithm, weighting, size)
            except ConfigError as error:
                raise ConfigError(f"{str(error).removesuffix('.')}, or systems.least, the fewest of a round.") from None

    def _malicious(self, clients: int) -> set[int]:
        """The numbers of the training clients that are."""
        attack = self.pipeline.attack
        if attack is None:
            return set()
        attack.check(self.spec)
        return set(malicious(attack.share, clients, self.config.seed).tolist())

    def _keep_in(self, cell: Cell) -> None:
        super()._keep_in(cell)
        self.residuals = ClientMemory(cell.partial / "residuals")

    def _first_layers(self, state: State) -> Tree:
        return self.pipeline.start(self._one(state)[1])

    def _nbytes(self, got: Tree, update: Tree, clients: int) -> tuple[int, int]:
        """With what layers add and save."""
        traffic = exchanged(self.algorithm, got, update)
        extra, up = self.pipeline.sent_bytes(update, clients)
        return trees.nbytes(traffic.down) + extra, trees.nbytes(traffic.up) if hasattr(
            self.algorithm, "traffic"
        ) else up

    def _drawn(self, cohort: Sequence[int], number: int, broadcast: Tree, written: Mapping[int, int]) -> list[Episode]:
        """With the examples of malicious clients changed, where the attack is on data."""
        episodes = super()._drawn(cohort, number, broadcast, written)
        if not hasattr(self.pipeline.attack, "poison"):
            return episodes
        poison = self.pipeline.attack.poison
        return [poison(made(one), self.spec) if int(one.client) in self.malicious else one for one in episodes]

    def _arrived(self, progress: Progress, update: Tree, episodes: Sequence[Episode], context: Context) -> Arrived:
        one = trees.tree_map(lambda leaf: leaf[0], update.updates)
        down, up = self._nbytes(received(self.algorithm, progress.state.broadcast, episodes[0]), one, len(episodes))
        passed = self.pipeline(
            update,
            context.cohort,
            self._are_malicious(context.cohort),
            progress.layers,
            self._left(progress, context.cohort, one),
            torch.tensor(derive(self.config.seed, "protection", int(context.round)), device=self.device),
            each=self.each,
        )
        kept = self._keep(progress, context, passed.residuals)
        progress = replace(progress, layers=passed.state, residuals=kept)
        return Arrived(passed.update, down, up, progress, passed.facts)

    def _are_malicious(self, cohort: Tensor) -> Tensor:
        return torch.tensor([client in self.malicious for client in cohort.tolist()], device=cohort.device)

    def _left(self, progress: Progress, cohort: Tensor, like: Tree) -> Tree:
        """What compression has left at each client of the cohort, stacked; () where nothing is kept."""
        if not self.pipeline.feeds_back:
            return ()
        fresh, rounds = zeros(like), progress.residuals
        clients = cohort.tolist()
        return trees.stack([self.residuals.get(i, rounds[i], fresh) if i in rounds else fresh for i in clients])

    def _keep(self, progress: Progress, context: Context, residuals: Tree) -> dict[int, int]:
        if not trees.leaves(residuals):
            return progress.residuals
        number, clients = int(context.round) + 1, context.cohort.tolist()
        for client, residual in zip(clients, trees.unstack(residuals), strict=True):
            self.residuals.put(client, number, residual)
        return {**progress.residuals, **dict.fromkeys(clients, number)}

    def _checkpoint(self, cell: Cell, progress: Progress) -> None:
        super()._checkpoint(cell, progress)
        self.residuals.tidy(progress.residuals)

    def _record(self, progress: Progress, scores: dict[str, Any]) -> dict[str, Any]:
        record = super()._record(progress, scores)
        if self.pipeline.noise is not None:
            record["privacy"] = self._privacy(progress.round)
        return record

    def _privacy(self, rounds: int) -> dict[str, Any]:
        """What the rounds tell about one client."""
        assert self.pipeline.noise is not None
        drawn = Counter(client for number in range(1, rounds + 1) for client in self.federation.cohort(number))
        most = max(drawn.values(), default=0)
        sizes = len(self.federation.cohort(1)), len(self.federation.clients["train"])
        return self.pipeline.noise.guarantee(rounds, *sizes, most)
