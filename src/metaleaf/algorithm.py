"""What an algorithm is: a frozen dataclass of hyper-parameters with four pure methods, written for one client.

A complete toy algorithm (one file in ``algorithms/``; the file's name is the name on the command line)::

    @dataclass(frozen=True)
    class OneStep:
        '''Clients send one gradient; the server follows it; nobody adapts.'''

        title: ClassVar[str] = "One step"
        space: ClassVar[Space] = {"lr": (0.01, 0.1, 1.0)}
        lr: float = 0.1

        def init(self, task, params):
            return State(broadcast=params)

        def client(self, task, params, episode):
            return grad(task.loss)(params, episode.data)  # metaleaf.gradient.grad

        def server(self, state, update):
            return State(add(state.broadcast, update, -self.lr))

        def adapt(self, task, params, support):
            yield params

The engine calls ``client`` for every member of the cohort, one by one or vectorised (torch.func.vmap), averages
what they return (weighted by the clients' number of examples, or uniformly) and hands the mean to ``server``. So
``client`` and ``adapt`` may not branch on the values of tensors, draw random numbers (`metaleaf.shots.minibatches`
has its order from the client's seed), keep anything between calls, or touch files and devices.

Optional parts of the contract:

- ``federated: ClassVar[bool] = False``: nothing is ever sent; the run goes straight to evaluation.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree

Space = Mapping[str, tuple[Any, ...]]
"""Search space for tuning: values to try by hyper-parameter; ``a.b`` names the field b of the hyper-parameter a."""


class State(NamedTuple):
    """The server's state. Only `broadcast` is sent to clients, and its bytes are counted; `kept` stays at home."""

    broadcast: Tree
    kept: Tree = ()


class Algorithm(Protocol):
    """A federated algorithm. All methods are pure: the same arguments give the same result."""

    title: ClassVar[str]
    """How the algorithm is called in tables."""
    space: ClassVar[Space]

    def init(self, task: Task, params: Params) -> State:
        """The server's state before round 1, from the model's initial parameters."""
        ...

    def client(self, task: Task, broadcast: Tree, episode: Episode) -> Tree:
        """What one client sends: a tree of tensors, averaged over the cohort."""
        ...

    def server(self, state: State, update: Tree) -> State:
        """The next state, from the cohort's mean update."""
        ...

    def adapt(self, task: Task, broadcast: Tree, support: Shots) -> Iterator[Params]:
        """The models that a client may use: first the one before adaptation, then one after each step.

        The number of models may not depend on the client.
        """
        ...
