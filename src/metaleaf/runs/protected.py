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
from metaleaf.protection.pipeline import Pipeline, numbers, zeros
from metaleaf.runs.run import Arrived, Progress, Run
from metaleaf.runs.store import Cell
from metaleaf.seeds import choice, derive
from metaleaf.shots import Episode
from metaleaf.trees import Tree


class _OneByOne:
    each = True

    def __init__(self, algorithm: Algorithm) -> None:
        self.own = algorithm

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


def one_by_one(algorithm: Algorithm) -> Algorithm:
    """The algorithm, by its own name, with clients' updates gathered one by one, whatever its server reads."""
    return cast(Algorithm, type(type(algorithm).__name__, (_OneByOne,), {})(algorithm))


class ProtectedRun(Run):
    """A `Run` with the layers that its configuration declares."""

    pipeline: Pipeline

    def _algorithm(self) -> Algorithm:
        algorithm = super()._algorithm()
        if not getattr(algorithm, "federated", True):
            raise ConfigError(f"protection: {self.config.algorithm} sends nothing: leave it out of this suite.")
        self.pipeline = pipeline_of(self.config.protection)
        weighting = getattr(algorithm, "weighting", None) or self.config.protocol.weighting
        self.each = getattr(algorithm, "each", False)
        self._check(weighting, hasattr(algorithm, "traffic"))
        self.malicious = self._malicious(len(self.federation.clients["train"]))
        self.trusted = self._trusted([int(client) for client in self.federation.clients["train"]])
        self.residuals = ClientMemory()
        return one_by_one(algorithm)

    def _check(self, weighting: str, counts_itself: bool) -> None:
        """ConfigError if the layers make no sense with this algorithm, or for the fewest clients that may come back."""
        wanted, how = len(self.federation.cohort(1)), {"each": self.each, "traffic": counts_itself}
        self.pipeline.check(weighting, wanted, **how)
        for size in range(self.fleet.systems.least if self.fleet else wanted, wanted):
            try:
                self.pipeline.check(weighting, size, **how)
            except ConfigError as error:
                raise ConfigError(f"{str(error).removesuffix('.')}, or systems.least, the fewest of a round.") from None

    def _malicious(self, clients: int) -> set[int]:
        """The numbers of the training clients that are."""
        attack = self.pipeline.attack
        if attack is None:
            return set()
        attack.check(self.spec)
        return set(malicious(attack.share, clients, self.config.seed).tolist())

    def _trusted(self, clients: list[int]) -> list[int]:
        """The training clients of whom the server has the examples, where a rule asks for some."""
        wanted = getattr(self.pipeline.aggregate, "trusted", 0)
        honest = [client for number, client in enumerate(clients) if number not in self.malicious]
        if wanted > len(honest):
            raise ConfigError(
                f"protection: aggregate trusts {wanted} clients, and only {len(honest)} that train are honest: lower "
                "trusted or share."
            )
        drawn = choice(torch.tensor(derive(self.config.seed, "trusted")), len(honest), wanted)
        return sorted(honest[i] for i in drawn.tolist())

    def _keep_in(self, cell: Cell) -> None:
        super()._keep_in(cell)
        self.residuals = ClientMemory(cell.partial / "residuals")

    def _first_layers(self, state: State) -> Tree:
        return self.pipeline.start(self._one(state)[1])

    def _nbytes(self, got: Tree, update: Tree, clients: int) -> tuple[int, int]:
        """With what layers add and save."""
        traffic = exchanged(self.algorithm, got, update)
        extra, up = self.pipeline.sent_bytes(update, clients)
        if hasattr(self.algorithm, "traffic"):
            up = trees.nbytes(traffic.up)
        return trees.nbytes(traffic.down) + extra, up

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
            self._with_trusted(progress, int(context.round) + 1),
            self._left(progress, context.cohort, one),
            torch.tensor(derive(self.config.seed, "protection", int(context.round)), device=self.device),
            each=self.each,
        )
        kept = self._keep(progress, context, passed.residuals)
        progress = replace(progress, layers=passed.state, residuals=kept)
        return Arrived(passed.update, down, up, progress, passed.facts)

    def _with_trusted(self, progress: Progress, number: int) -> Tree:
        """What the layers have kept, with the update that the server itself makes of trusted clients' examples."""
        if not self.trusted:
            return progress.layers
        broadcast = progress.state.broadcast
        episodes = self._drawn(self.trusted, number, broadcast, {})
        if hasattr(self.algorithm, "send"):
            episodes = [self._addressed(progress.state, episode) for episode in episodes]
        replies, _ = self.engine.gather(broadcast, episodes, [1 / len(episodes)] * len(episodes))
        return {**progress.layers, "rule": numbers(replies.mean())}

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
        if hasattr(self.pipeline.attack, "triggered") and not progress.diverged:
            models = {"final": progress.state.broadcast, "selected": progress.best}
            record["backdoor"] = {model: self._deceived(broadcast) for model, broadcast in models.items()}
        if self.pipeline.noise is not None:
            record["privacy"] = self._privacy(progress.round)
        return record

    def _deceived(self, broadcast: Tree) -> dict[str, dict[str, float]]:
        """By support: the share of the test clients' query examples with the trigger that are taken for the target.

        Before and after clients adapt, on support examples without it.
        """
        clients = [int(i) for i in self.federation.clients["test"]]
        found = {}
        for support in self.config.protocol.test_supports:
            pairs = [
                (own, self.pipeline.attack.triggered(made(query)))
                for own, query in self.federation.support_queries(clients, support)
            ]
            if asked := [pair for pair in pairs if len(pair[1].y)]:
                n, *sums, _ = torch.stack(self.engine.score(broadcast, asked, False)).sum(0).T
                known = {"n": n, **dict(zip(self.kind.columns, sums, strict=True))}
                shares = (known[self.metric.total] / known[self.metric.weight]).tolist()
                found[str(support)] = {"before": shares[0], "after": shares[-1]}
        return found

    def _privacy(self, rounds: int) -> dict[str, Any]:
        """What the rounds tell about one client."""
        assert self.pipeline.noise is not None
        drawn = Counter(client for number in range(1, rounds + 1) for client in self.federation.cohort(number))
        most = max(drawn.values(), default=0)
        sizes = len(self.federation.cohort(1)), len(self.federation.clients["train"])
        return self.pipeline.noise.guarantee(rounds, *sizes, most)
