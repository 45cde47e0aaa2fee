"""New environments in which the participants' updates pass through layers (`metaleaf.protection`).

Training environments are as ever: what is asked is what the layers do to a newcomer, its first meeting and its rounds.
"""

from typing import Any

import torch

from metaleaf import trees
from metaleaf.algorithm import Algorithm, Replies
from metaleaf.config.protection import pipeline_of
from metaleaf.environments.environments import Visit
from metaleaf.environments.newcomers import Newcomer, Session
from metaleaf.environments.run import EnvironmentRun
from metaleaf.errors import ConfigError
from metaleaf.gradient import over
from metaleaf.protection.attacks import malicious
from metaleaf.protection.pipeline import Pipeline, zeros
from metaleaf.seeds import derive
from metaleaf.shots import Shots
from metaleaf.trees import Tree


class ProtectedEnvironmentRun(EnvironmentRun):
    """An `EnvironmentRun` with the layers that its configuration declares, in validation and test environments.

    A method with a `start` or `proceed` of its own reads every update; the others read what the layers make of the
    mean. A share of those who may take part in an environment is malicious, drawn by the run's seed. What compression
    loses is lost: participants come and go.
    """

    pipeline: Pipeline

    def _algorithm(self) -> Algorithm:
        algorithm = super()._algorithm()
        self.pipeline = pipeline_of(self.config.protection)
        self.each = hasattr(algorithm, "start") or hasattr(algorithm, "proceed")
        self.pipeline.check(self.config.protocol.weighting, self.rules.participants, each=self.each)
        if hasattr(self.pipeline.aggregate, "trusted"):
            raise ConfigError("protection: nobody is trusted in a new environment: leave out aggregate fltrust.")
        if self.pipeline.attack is not None:
            self.pipeline.attack.check(self.spec)
        self._layers: dict[Visit, Tree] = {}
        return algorithm

    def _entered(self, newcomer: Newcomer, visits: list[Visit]) -> Session:
        shots, weights = self._cohorts(visits, 0)
        updates = over(over(newcomer.first))(shots)
        like = trees.zeros_like(trees.tree_map(lambda leaf: leaf[0, 0], updates))
        self._layers = {visit: self.pipeline.start(like) for visit in visits}
        session: Session = over(newcomer.start)(self._passed(visits, 0, updates, weights))
        return session

    def _advanced(self, newcomer: Newcomer, visits: list[Visit], number: int, session: Session) -> Session:
        def sent(one: Session, cohort: Shots) -> Tree:
            return over(lambda shots: newcomer.visit(one, shots))(cohort)

        shots, weights = self._cohorts(visits, number)
        updates = over(sent)(session, shots)
        following: Session = over(newcomer.proceed)(session, self._passed(visits, number, updates, weights))
        return following

    def _passed(self, visits: list[Visit], number: int, updates: Tree, weights: torch.Tensor) -> Replies:
        """What the environments' servers read of updates [environments, k, ...], and weights."""
        sent = zip(visits, trees.unstack(updates), weights, strict=True)
        passed: Replies = trees.stack([self._through(visit, number, Replies(*replies)) for visit, *replies in sent])
        return passed

    def _through(self, visit: Visit, number: int, replies: Replies) -> Replies:
        """One environment's. Where the layers make the mean, it stands in everyone's place."""
        cohort = torch.from_numpy(self.federation.new_cohort(*visit, number)).to(self.task.device)
        passed = self.pipeline(
            replies,
            cohort,
            self._are_malicious(visit, number).to(self.task.device),
            self._layers[visit],
            zeros(replies.updates),
            torch.tensor(derive(self.config.seed, "protection", *visit, number), device=self.task.device),
            each=self.each,
        )
        self._layers[visit] = passed.state
        if self.each:
            return Replies(*passed.update)
        everyone = trees.tree_map(lambda leaf: leaf.expand(len(cohort), *leaf.shape), passed.update)
        return Replies(everyone, replies.weights)

    def _are_malicious(self, visit: Visit, number: int) -> torch.Tensor:
        """Which of a cohort are, bool [k]."""
        name, cohort = visit[0], self.federation.new_cohort(*visit, number).tolist()
        if self.pipeline.attack is None:
            return torch.zeros(len(cohort), dtype=torch.bool)
        pool = sorted(self.federation.roles(*visit)[0].tolist())
        drawn = malicious(self.pipeline.attack.share, len(pool), derive(self.config.seed, name))
        bad = {pool[i] for i in drawn.tolist()}
        return torch.tensor([client in bad for client in cohort])

    def _cohorts(self, visits: list[Visit], number: int) -> tuple[Shots, torch.Tensor]:
        """With the examples of malicious clients changed, where the attack is on data."""
        shots, weights = super()._cohorts(visits, number)
        attack = self.pipeline.attack
        if not hasattr(attack, "poisoned"):
            return shots, weights
        changed = [
            trees.stack([attack.poisoned(one, self.spec) if bad else one for one, bad in zip(cohort, who, strict=True)])
            for visit, cohort in zip(visits, map(trees.unstack, trees.unstack(shots)), strict=True)
            for who in [self._are_malicious(visit, number).tolist()]
        ]
        return trees.stack(changed), weights

    def _travelling(self, updates: Tree) -> int:
        one, clients = trees.tree_map(lambda leaf: leaf[0], updates), self.rules.participants
        return clients * sum(self.pipeline.sent_bytes(one, clients))

    def _record(self, progress: Any, scores: dict[str, Any]) -> dict[str, Any]:
        record = super()._record(progress, scores)
        if self.pipeline.noise is not None:
            record["privacy"] = self._privacy()
        return record

    def _privacy(self) -> dict[str, Any]:
        """What the meetings in the smallest of the test environments tell about a client who is at all of them."""
        assert self.pipeline.noise is not None
        meetings = 1 + max(self.rules.rounds)
        pool = min(len(self.federation.roles(name, 0)[0]) for name in self.federation.environments["test"])
        return self.pipeline.noise.guarantee(meetings, self.rules.participants, pool, meetings)
