"""How a method does in environments it has never seen: it enters, trains federatedly, and is scored as it goes.

What happens in a new environment, of one method and one environment:

1. *First meeting.* Each of k participants gets the method's parameters, trains locally and sends what changed.
2. *Start.* From these the method makes the environment's initial parameters. By default it adds their weighted mean.
   This is R = 0.
3. *Rounds.* R times: k participants get the parameters, train, send the change; the mean is added.
4. *Scores.* After chosen rounds the parameters are scored on clients who never took part, before and after these
   have trained locally on their support set.

A plugin may define parts of this, otherwise they are as above; `metaleaf.algorithms.learned_start` defines most.

``params(broadcast) -> Params``
    The model's parameters in the broadcast; by default that is the broadcast itself.
``greeting(broadcast) -> Tree``
    What a participant gets at the first meeting, if not those; only its bytes are counted.
``local(task, broadcast, params, shots) -> Iterator[Params]``
    Local training, in rounds and as adaptation: the parameters before, and after each step.
``first(task, broadcast, shots) -> Tree``
    What a participant sends at the first meeting.
``start(task, broadcast, replies) -> Session``
    The start, from everything that was sent at the first meeting. A session is a dict of trees with the current
    parameters as "params" and whatever else the method keeps for the environment.
``visit(task, broadcast, session, shots) -> Tree``
    What a participant of a round sends.
``proceed(task, broadcast, session, replies) -> Session``
    The session after a round.
"""

from collections.abc import Iterator
from typing import Any

import torch

from metaleaf import trees
from metaleaf.algorithm import Algorithm, Replies
from metaleaf.errors import ConfigError
from metaleaf.gradient import over
from metaleaf.learning import last
from metaleaf.rounds import train
from metaleaf.shots import Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree

Session = dict[str, Tree]


def sent_params(task: Task, algorithm: Algorithm, broadcast: Tree) -> Params | None:
    """The model's parameters in what an algorithm broadcasts: by its `params`, else all of it; None if it is others."""
    found = getattr(algorithm, "params", lambda broadcast: broadcast)(broadcast)
    expected = {name: leaf.shape for name, leaf in task.params().items()}
    if not isinstance(found, dict) or {name: getattr(leaf, "shape", None) for name, leaf in found.items()} != expected:
        return None  # stacked models have the names, and other shapes
    return found


class Newcomer:
    """A method in new environments: the plugin's own parts, and the default for the others."""

    def __init__(self, task: Task, algorithm: Algorithm, broadcast: Tree) -> None:
        self.task, self.algorithm, self.broadcast = task, algorithm, broadcast
        params = sent_params(task, algorithm, broadcast)
        if params is None:
            name = type(algorithm).__name__
            raise ConfigError(
                f"{name} sends other things than the model's parameters, so it does not fit the track of new "
                "environments; with a method params(broadcast) it would (metaleaf.environments.newcomers)."
            )
        self.params = params

    def _part(self, name: str, otherwise: Any) -> Any:
        return getattr(self.algorithm, name, otherwise)

    def greeting(self) -> Tree:
        """What a participant gets at the first meeting."""
        return self._part("greeting", lambda broadcast: self.params)(self.broadcast)

    def local(self, params: Params, shots: Shots) -> Iterator[Params]:
        """Local training from the parameters: those before, and after each step."""
        own = self._part("local", lambda task, broadcast, params, shots: train(task, params, shots))
        models: Iterator[Params] = own(self.task, self.broadcast, params, shots)
        return models

    def first(self, shots: Shots) -> Tree:
        """What a participant sends at the first meeting."""
        if hasattr(self.algorithm, "first"):
            return self.algorithm.first(self.task, self.broadcast, shots)
        return trees.subtract(last(self.local(self.params, shots)), self.params)

    def start(self, replies: Replies) -> Session:
        """The session at R = 0."""
        if hasattr(self.algorithm, "start"):
            session: Session = self.algorithm.start(self.task, self.broadcast, replies)
            return session
        return {"params": trees.add(self.params, replies.mean())}

    def visit(self, session: Session, shots: Shots) -> Tree:
        """What a participant of a round sends."""
        if hasattr(self.algorithm, "visit"):
            return self.algorithm.visit(self.task, self.broadcast, session, shots)
        return trees.subtract(last(self.local(session["params"], shots)), session["params"])

    def proceed(self, session: Session, replies: Replies) -> Session:
        """The session after a round."""
        if hasattr(self.algorithm, "proceed"):
            following: Session = self.algorithm.proceed(self.task, self.broadcast, session, replies)
            return following
        return {**session, "params": trees.add(session["params"], replies.mean())}


def enter(newcomer: Newcomer, participants: Shots, weights: torch.Tensor) -> Session:
    """First meeting and start; participants [k, n, ...], weights [k]."""
    return newcomer.start(Replies(over(newcomer.first)(participants), weights))


def advance(newcomer: Newcomer, session: Session, participants: Shots, weights: torch.Tensor) -> Session:
    """One round."""
    updates = over(lambda shots: newcomer.visit(session, shots))(participants)
    return newcomer.proceed(session, Replies(updates, weights))


def scores(newcomer: Newcomer, session: Session, clients: tuple[Shots, Shots], adapt: bool) -> torch.Tensor:
    """Scores (`Task.score`) of c clients before and, if asked for, after adaptation: [c, 1 or 2, sums].

    clients: their support and query, stacked, [c, n, ...].
    """

    def one(held: Shots, judged: Shots) -> torch.Tensor:
        models = newcomer.local(session["params"], held)
        chosen = [next(models)]
        if adapt:
            chosen.append(last(models))
        return torch.stack([newcomer.task.score(params, judged) for params in chosen])

    found: torch.Tensor = over(one)(*clients)
    return found
