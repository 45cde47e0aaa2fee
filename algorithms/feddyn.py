"""FedDyn: each client's loss is regularised anew every round, so that all clients' optima become the federation's.

Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama (2021), arXiv 2111.04263, algorithm 1. Client k minimises
L_k(y) - <g_k, y> + alpha / 2 ||y - w||^2 from the model w that it received, and its g_k falls by alpha (y - w), so that
after an exact minimisation it is the gradient of L_k at y. On the server h falls by alpha times the mean of y - w,
times the part of all clients that the cohort is; the next w is the mean of the y minus h / alpha. g_k and h start at 0,
and a client keeps its g_k, so it has to be sampled again to gain by it.

Deviations: means over the cohort are weighted as the protocol says (the paper's are uniform, ``weighting = "uniform"``;
with the clients' examples for weights, the optimum is that of the loss weighted so). There is no weight decay (in the
paper's experiments 0.001). ``decay`` is FedAvg's. New clients, which the paper does not have, fine-tune the global
model on their support set by their plain loss, as in FedAvg(Meta). So do participants on their data: g_k draws a client
to the federation's model, not to its own.
"""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt

from metaleaf.algorithm import About, Context, Reply, Space, State
from metaleaf.learning import FineTuning, fit, proximal
from metaleaf.optimizers import SGD, Optimizer
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, add, subtract, zeros_like


@dataclass(frozen=True)
class FedDyn(FineTuning):
    """FedDyn. Only the model travels; the server keeps h at home."""

    title: ClassVar[str] = "FedDyn"
    about: ClassVar[About] = About(
        "averaging",
        "FedAvg with a regulariser that makes the clients' optima meet",
        "Acar et al. 2021, arXiv 2111.04263",
    )
    space: ClassVar[Space] = {
        "client_optimizer.lr": (0.003, 0.01, 0.03, 0.1),
        "alpha": (0.001, 0.01, 0.1, 1.0),
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
    }

    alpha: PositiveFloat = 0.1
    client_optimizer: Optimizer = SGD(lr=0.03)
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    decay: PositiveFloat = 1.0

    def init(self, task: Task, params: Params) -> State:
        """The global model, and h."""
        return State(params, zeros_like(params))

    def memory(self, task: Task, params: Params) -> Tree:
        """A client's g_k."""
        return zeros_like(params)

    def client(self, task: Task, params: Params, episode: Episode) -> Reply:
        """How the model moved; g_k is kept."""
        near, own = proximal(task, params, self.alpha), episode.memory

        def gradient(y: Params, batch: Shots) -> Params:
            found: Params = subtract(near(y, batch), own)
            return found

        trained = fit(
            task,
            params,
            episode.data,
            self.client_optimizer,
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=self.decay**episode.round,
            gradient=gradient,
        )
        moved = subtract(trained, params)
        return Reply(moved, add(own, moved, -self.alpha))

    def server(self, state: State, moved: Tree, context: Context) -> State:
        """h by the cohort's part of the federation, then the mean of the models minus h / alpha."""
        part = len(context.cohort) / context.task.clients
        h = add(state.kept, moved, -self.alpha * part)
        return State(add(add(state.broadcast, moved), h, -1 / self.alpha), h)
