"""pFedMe: the server learns a model near which every client's own is found, by the clients' Moreau envelopes.

Dinh, Tran, Nguyen (2020), arXiv 2006.08848, algorithm 1. On each batch a client approximates its own model theta, the
minimiser of the batch's loss + strength / 2 |theta - w|^2, by `steps` steps of gradient descent, and then moves its
copy w of the global model by -lr * strength * (w - theta), a step on the envelope of its loss. The server takes `beta`
of the way to the mean of the clients' w.

What the paper leaves open: the first batch's theta starts at w, and every other's where the last one ended, as in the
authors' code; the batches are those of `epochs` passes over the client's data (the paper counts R of them).

Deviations: only the cohort trains (in the paper all clients do, and the server averages some); the cohort's mean is
weighted as the protocol says (the paper's is uniform: ``weighting = "uniform"``). A new client, which the paper does
not have, finds its theta near the received w: gradient descent on the same problem for its support set, all at once, by
the rate `personal_lr`. A participant does so on its data: theta belongs to a w, and one kept since an earlier round
would belong to an older one. The model before adaptation is w.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from metaleaf.algorithm import About, Space, State
from metaleaf.learning import last, passes, proximal, where_real
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, add, subtract


@dataclass(frozen=True)
class PFedMe:
    """Personal models by Moreau envelopes; `strength` is the paper's lambda, `lr` its eta, `steps` its K."""

    title: ClassVar[str] = "pFedMe"
    about: ClassVar[About] = About(
        "personalised",
        "a global model that follows own models found near it, by Moreau envelopes",
        "Dinh et al. 2020, arXiv 2006.08848",
    )
    space: ClassVar[Space] = {
        "lr": (0.005, 0.01, 0.03, 0.1),
        "personal_lr": (0.003, 0.01, 0.03, 0.1),
        "strength": (1.0, 5.0, 15.0),
    }

    lr: PositiveFloat = 0.03
    personal_lr: PositiveFloat = 0.03
    strength: PositiveFloat = 15.0
    steps: PositiveInt = 5
    beta: PositiveFloat = 1.0
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    adapt_steps: NonNegativeInt = 5

    def init(self, task: Task, params: Params) -> State:
        """The global model."""
        return State(params)

    def client(self, task: Task, params: Params, episode: Episode) -> Tree:
        """How the client's copy of the global model moved."""
        w = own = params
        for batch in passes(episode.data, self.batch_size, self.epochs):
            found = last(self._near(task, w, own, batch, self.steps))
            w = where_real(batch, add(w, subtract(w, found), -self.lr * self.strength), w)
            own = where_real(batch, found, own)
        return subtract(w, params)

    def _near(self, task: Task, w: Params, start: Params, shots: Shots, steps: int) -> Iterator[Params]:
        """Gradient descent on the loss + strength / 2 |theta - w|^2: theta before, and after each step."""
        gradient, theta = proximal(task, w, self.strength), start
        yield theta
        for step in range(steps):
            theta = add(theta, gradient(theta, shots.at(step)), -self.personal_lr)
            yield theta

    def server(self, state: State, update: Tree) -> State:
        """Part of the way to the clients' mean, or beyond it."""
        return State(add(state.broadcast, update, self.beta))

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """The own model near the global one, on the support set."""
        return self._near(task, params, params, support, self.adapt_steps)
