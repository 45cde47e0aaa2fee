"""Who runs a workload: metaleaf's engine, or a plain loop. A call is a round, after which the model has moved on."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from metaleaf import trees
from metaleaf.algorithm import Context, State, sent, step
from metaleaf.bench import loops
from metaleaf.bench.workloads import Workload
from metaleaf.engine.engine import Mode, engine
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


class Metaleaf:
    """The workload by metaleaf's engine."""

    def __init__(
        self, work: Workload, device: str = "cpu", mode: Mode = "auto", dtype: torch.dtype = torch.float32
    ) -> None:
        self.work, self.cohort, self.weights = work, work.cohort(), work.weights()
        self.algorithm: Any = work.build_algorithm()
        task = Task(work.build_model().to(device, dtype), clients=work.clients, cohort=work.clients)
        self.state = self.algorithm.init(task, task.params())
        few = self.cohort[0].data.take(torch.arange(4))
        self.engine = engine(task, self.algorithm, mode, device, few)
        if hasattr(self.algorithm, "memory"):
            fresh = self.algorithm.memory(task, self.state.broadcast)
            self.cohort = [episode._replace(memory=fresh) for episode in self.cohort]
        self.cohort = [
            episode._replace(received=sent(self.algorithm, task, self.state, episode.client.to(device)))
            for episode in self.cohort
        ]
        cohort = torch.arange(len(self.cohort)), torch.tensor(self.weights, dtype=torch.float64)
        known = trees.to((torch.tensor(0.0), *cohort, torch.tensor(0)), torch.device(device))
        self.context = Context(task, *known)
        self.later = self.stepped() if work.scores else self.state

    def __call__(self) -> list[Tensor]:
        """A round; evaluation returns each client's scores."""
        if self.work.scores:
            return self.score()
        self.state = self.stepped()
        return []

    def stepped(self) -> State:
        """The server's state after a round."""
        return step(self.algorithm, self.state, self.update(), self.context)

    def update(self) -> Tree:
        """What the server reads of the cohort, whose clients keep what they remember."""
        found = self.engine.gather(self.state.broadcast, self.cohort, self.weights)
        for place, memory in enumerate(found.memories):
            self.cohort[place] = self.cohort[place]._replace(memory=memory)
        return found.update

    def score(self) -> list[Tensor]:
        """Each client's (examples, correct, summed loss), before and after adapting."""
        clients = [(episode.support, episode.query) for episode in self.cohort]
        found = self.engine.score(self.state.broadcast, clients, every_step=False)
        # As in a run, where the server has learnt between two evaluations.
        self.state, self.later = self.later, self.state
        return found


class Loop:
    """The workload by a plain loop on a plain module, with the hyper-parameters of metaleaf's plugin."""

    def __init__(
        self,
        work: Workload,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        order: loops.Order = loops.shuffled,
    ) -> None:
        self.cohort, self.model = work.cohort(), work.build_textbook().to(device, dtype)
        self.rates: Params = {}
        self.own: dict[int, nn.Module] = {}
        # cuDNN's LSTM has no second derivative; torch's own has.
        self.without_cudnn = work.model == "lstm" and work.algorithm in ("maml", "meta_sgd")
        self.round = self._round(work, work.build_algorithm(), order)

    def _round(self, work: Workload, plugin: Any, order: loops.Order) -> loops.Round:
        if work.scores:
            return loops.evaluation(self.model, plugin.adapt_lr, plugin.adapt_steps)
        server_lr = plugin.server_optimizer.lr
        if hasattr(plugin, "client_optimizer"):
            local = getattr(loops, plugin.client_optimizer.name)(plugin.client_optimizer.lr)
            if work.algorithm == "ditto":
                known = plugin.batch_size, plugin.strength, server_lr
                return loops.ditto(self.model, self.own, local, *known, order)
            return loops.fedavg(self.model, local, plugin.batch_size, server_lr, order)
        if work.algorithm == "meta_sgd":
            trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
            self.rates = {name: torch.full_like(p, plugin.inner_lr).requires_grad_() for name, p in trained.items()}
            return loops.meta_sgd(self.model, self.rates, plugin.inner_steps, server_lr)
        return loops.maml(self.model, plugin.inner_lr, plugin.inner_steps, server_lr, plugin.first_order)

    def __call__(self) -> list[Tensor]:
        """A round."""
        with torch.backends.cudnn.flags(enabled=False) if self.without_cudnn else nullcontext():
            return self.round(self.cohort)
