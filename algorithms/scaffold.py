"""SCAFFOLD: every local step is corrected by how the client's gradient is known to differ from the federation's.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh (2020), arXiv 1910.06378: algorithm 1 with option II for the control
variates, which start at zero. A client keeps its control variate c_i, so it has to be sampled again to gain by it.

Deviations: means over the cohort are weighted as the protocol says (the paper's are uniform: ``weighting = "uniform"``;
with samples as weights c follows the c_i by the clients' examples). ``decay`` is FedAvg's. New clients, which the paper
does not have, fine-tune the global model on their support set, without a correction, as in FedAvg(Meta). So do
participants on their data: a control variate corrects a client towards the federation's model, not towards its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt

from metaleaf.algorithm import About, Context, Reply, Space, State
from metaleaf.gradient import grad
from metaleaf.learning import FineTuning, count_steps, fit
from metaleaf.optimizers import SGD
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, add, subtract, zeros_like


@dataclass(frozen=True)
class SCAFFOLD(FineTuning):
    """SCAFFOLD; option II divides by the learning rate, so that clients train by plain SGD."""

    title: ClassVar[str] = "SCAFFOLD"
    about: ClassVar[About] = About(
        "averaging", "FedAvg whose local steps are corrected for drift", "Karimireddy et al. 2020, arXiv 1910.06378"
    )
    space: ClassVar[Space] = {
        "lr": (0.003, 0.01, 0.03, 0.1),
        "decay": (1.0, 0.99),
        "adapt_lr": (0.003, 0.01, 0.03, 0.1),
    }

    lr: PositiveFloat = 0.03
    server_lr: PositiveFloat = 1.0
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 10
    decay: PositiveFloat = 1.0

    def init(self, task: Task, params: Params) -> State:
        """The global model x and its control variate c."""
        return State({"params": params, "control": zeros_like(params)})

    def memory(self, task: Task, broadcast: Tree) -> Tree:
        """A client's control variate c_i."""
        return zeros_like(broadcast["control"])

    def client(self, task: Task, broadcast: Tree, episode: Episode) -> Reply:
        """How the model y and the control variate c_i moved."""
        params, control, own, data = broadcast["params"], broadcast["control"], episode.memory, episode.data
        rate, correction, slope = self.decay**episode.round, subtract(control, own), grad(task.loss)

        def corrected(y: Params, batch: Shots) -> Tree:
            return add(slope(y, batch), correction)

        trained = fit(
            task,
            params,
            data,
            SGD(self.lr),
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=rate,
            gradient=corrected,
        )
        moved, length = subtract(trained, params), count_steps(data, self.batch_size, self.epochs) * self.lr * rate
        kept = add(subtract(own, control), moved, -1 / length)
        return Reply({"params": moved, "control": subtract(kept, own)}, kept)

    def server(self, state: State, update: Tree, context: Context) -> State:
        """x moves by the mean of the models' moves, c by the cohort's part of that of the control variates."""
        # A tensor: `add` rounds otherwise with a number, and results/ has runs that were added up so.
        part = context.weights.new_tensor(len(context.cohort) / context.task.clients)
        params = add(state.broadcast["params"], update["params"], self.server_lr)
        control = add(state.broadcast["control"], update["control"], part)
        return State({"params": params, "control": control})

    def adapt(self, task: Task, broadcast: Tree, support: Shots) -> Iterator[Params]:
        """Gradient descent on the support set."""
        return super().adapt(task, broadcast["params"], support)
