"""What an algorithm is: a frozen dataclass of hyper-parameters with four pure methods, written for one client.

A complete toy algorithm (one file in ``algorithms/``; the file's name is the name on the command line)::

    from dataclasses import dataclass
    from typing import ClassVar

    from metaleaf.algorithm import About, Space, State
    from metaleaf.gradient import grad
    from metaleaf.trees import add

    @dataclass(frozen=True)
    class OneStep:
        '''Clients send one gradient; the server follows it; nobody adapts.'''

        title: ClassVar[str] = "One step"
        about: ClassVar[About] = About("averaging", "clients send one gradient", "nobody 2026")
        space: ClassVar[Space] = {"lr": (0.01, 0.1, 1.0)}
        lr: float = 0.1

        def init(self, task, params):
            return State(broadcast=params)

        def client(self, task, params, episode):
            return grad(task.loss)(params, episode.data)

        def server(self, state, update):
            return State(add(state.broadcast, update, -self.lr))

        def adapt(self, task, params, support):
            yield params

The engine calls ``client`` for every member of the cohort, one by one or vectorised (torch.func.vmap), averages
what they return (weighted by the clients' number of examples, or uniformly) and hands the mean to ``server``. So
``client`` and ``adapt`` may not branch on the values of tensors, keep anything between calls, or touch files and
devices; nor draw from a generator, but from the client's seed (`metaleaf.seeds`; `metaleaf.shots.minibatches` has its
order from there). Tensors stay on their device (tested on "meta", which has shapes and no data) and in the dtype of
the parameters; docs/write-an-algorithm.md has all rules that are checked.

``task.loss`` is for learning: the model is in training mode, and its dropout draws from the examples' seed. Batches of
`minibatches` and steps of `metaleaf.learning.descend` have seeds of their own; a loop of your own hands it
``shots.at(step)``. ``task.logits``, ``task.features`` and ``task.loss(..., training=False)`` are in evaluation mode
unless they are given a seed. ``task.losses`` has the loss of each example; in ``task.loss`` they count by
``shots.weights``, which an algorithm may set: ``shots._replace(weights=...)``.

Optional parts of the contract, each declared by being there; the fragments go into the class above (``descend`` is in
`metaleaf.learning`, ``tree_map`` and ``norm`` in `metaleaf.trees`):

``federated: ClassVar[bool] = False``
    Nothing is ever sent; the run goes straight to evaluation.

``memory(task, broadcast) -> Tree``
    Clients keep something between the rounds they are sampled in: this is what one holds that never was. ``client``
    finds it in ``episode.memory`` and returns a `Reply`, what it sends and what it keeps. Memories live on disk and
    exist only for clients that were sampled. Test clients have none, so ``adapt`` decides what a new client does, and
    ``personal`` what becomes of a memory in the end::

        def memory(self, task, params):
            return {"visits": torch.zeros((), dtype=torch.int64, device=task.device)}

        def client(self, task, params, episode):
            return Reply(grad(task.loss)(params, episode.data), {"visits": episode.memory["visits"] + 1})

``personal(task, broadcast, episode) -> Iterator[Params]``
    The models that a participant, a client that trains, would use after the last round: first the one without anything
    of its own, then one after each step, as ``adapt`` yields them; the rules for ``adapt`` hold here, too.
    ``episode.data`` is all it trains on, ``episode.memory`` what it kept, ``episode.client`` its number. Without this
    method a participant does with its data what a new client does with its support,
    ``adapt(task, broadcast, episode.data)``. Own models that are trained beside the global one::

        def memory(self, task, params):
            return params

        def client(self, task, params, episode):
            own = last(descend(task, episode.memory, episode.data, 0.1, 5))
            return Reply(grad(task.loss)(params, episode.data), own)

        def personal(self, task, params, episode):
            yield params
            yield episode.memory

``send(task, state, client) -> Tree``
    What one client receives instead of the broadcast, from the server's whole state, ``kept`` too: ``client`` is given
    this in its place, and only this is counted. It is of the same names and shapes for all; ``client`` here is a number
    as in ``episode.client``, an int64 scalar, and the rules are those of the method ``client``. All other methods are
    still given the broadcast (``traffic`` what was sent), and a server that asks for its context knows who replied
    (``context.cohort``). Half of the clients get the model, the others its opposite::

        def send(self, task, state, client):
            return tree_map(lambda p: torch.where(client % 2 == 0, p, -p), state.broadcast)

``server(state, update, context) -> State``
    A third parameter of this name is given a `Context`: the task, the round, who took part with what weights, and a
    seed for public randomness (`metaleaf.seeds`: ``normal``, ``uniform``, ``integers``, ``choice``), another every
    round. A step that falls with the rounds::

        def server(self, state, update, context):
            return State(add(state.broadcast, update, -self.lr / (1 + context.round)))

``weighting: ClassVar[Literal["samples", "uniform"]]``
    How the clients of a cohort count, whatever the protocol says: by their numbers of examples, or all alike. Or a
    hyper-parameter of this name, so that suites can choose::

        weighting: ClassVar[str] = "uniform"

``each: ClassVar[bool] = True``
    ``server(state, replies)`` reads the cohort's updates one by one, not their mean: `Replies`, with every leaf stacked
    along a new first dimension, and the weights. A median instead of the mean::

        each: ClassVar[bool] = True

        def server(self, state, replies):
            return State(tree_map(lambda p, u: p - u.median(0).values, state.broadcast, replies.updates))

``predict(task, model, x, mask) -> Tensor``
    Prediction is not one forward pass: what the task's loss reads (``task.kind``), of several classes scores
    [n, classes], for x from a model, which then is whatever ``adapt`` yields. Two models that vote::

        def adapt(self, task, params, support):
            for own in descend(task, params, support, 0.1, 5):
                yield {"own": own, "shared": params}

        def predict(self, task, model, x, mask):
            return sum(task.logits(p, x, mask).log_softmax(-1) for p in model.values())

``serves: ClassVar[tuple[str, ...]]``
    The kinds of tasks (`metaleaf.tasks`) that the algorithm can serve, if these are not all, as where ``predict`` makes
    class scores. Others are refused::

        serves: ClassVar[tuple[str, ...]] = ("multiclass",)

``traffic(broadcast, update) -> Traffic``
    What really travels between the server and one client, where that is not the broadcast down and the update up: for
    methods that compress, or whose server would compute a part of what ``client`` computes here. Only counts bytes.
    Signs instead of a gradient, a byte each::

        def client(self, task, params, episode):
            return tree_map(torch.sign, grad(task.loss)(params, episode.data))

        def traffic(self, broadcast, update):
            return Traffic(down=broadcast, up=tree_map(torch.Tensor.char, update))

``report(task, state) -> Mapping[str, Tensor]``
    Numbers of the server's state, scalars by name, that go into a run's record at every evaluated round::

        def report(self, task, state):
            return {"length": norm(state.broadcast)}

``report_client(task, broadcast, client) -> Mapping[str, Tensor]``
    Numbers of one client at the end of the run, of the same names for all: ``client`` is a test client's support
    (`Shots`) or a participant's episode, as ``personal`` gets it; `metaleaf.shots.examples` has the examples of both::

        def report_client(self, task, params, client):
            return {"loss": task.loss(params, examples(client), training=False)}

Parts of a model are the model's affair: ``task.split(params, "head")`` and ``"norm"`` take it apart, and
``task.holding(part)`` is the task of training the rest. A model that has no such part is refused. ``episode.client`` is
the client's number among the ``task.clients`` that train, of whom ``task.cohort`` are sampled a round; where some come
back too late (docs/systems.md), ``context.cohort`` has fewer.
``task.params(draw)`` gives further random initial parameters. Batch normalisation uses the statistics of the batch at
hand (`metaleaf.models.BatchNorm`), so its scale and bias are parameters like all others: every algorithm averages them
unless its docstring says otherwise.

"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, cast

from torch import Tensor

from metaleaf.shots import AnyEpisode, Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, weighted_sum

Space = Mapping[str, tuple[Any, ...]]
"""Search space for tuning: values to try by hyper-parameter; ``a.b`` names the field b of the hyper-parameter a."""


Family = Literal["averaging", "server optimizer", "meta-gradient", "personalised", "clustered", "hypernetwork", "floor"]


class About(NamedTuple):
    """What lists of algorithms say of one, beside its title.

    sentence: what happens, in one clause without a full stop. paper: authors, year and arXiv number. order: the highest
    order of derivatives taken (1 for plain gradients).
    """

    family: Family
    sentence: str
    paper: str
    order: Literal[1, 2] = 1


class State(NamedTuple):
    """The server's state. Only `broadcast` is sent to clients, and its bytes are counted; `kept` stays at home."""

    broadcast: Tree
    kept: Tree = ()


class Reply(NamedTuple):
    """What a client of an algorithm with a memory returns: what it sends, and what it keeps until its next round."""

    update: Tree
    memory: Tree


class Replies(NamedTuple):
    """The updates of a cohort of k one by one: each leaf [k, ...]; weights float64 [k] sum to 1."""

    updates: Tree
    weights: Tensor

    def mean(self) -> Tree:
        """The weighted mean of the updates."""
        return weighted_sum(self.updates, self.weights)


class Context(NamedTuple):
    """What the server's step may know beside the update.

    round counts from 0 and is a float scalar, as in `Episode`. cohort: who took part, int64 [k], the clients' numbers
    as `Episode.client` has them (of methods that learn from whole environments, the environments' numbers). weights:
    theirs, float64 [k], which sum to 1. seed: int64 scalar, another every round, the same for everybody.
    """

    task: Task
    round: Tensor
    cohort: Tensor
    weights: Tensor
    seed: Tensor


class Traffic(NamedTuple):
    """The trees that travel down to one client and up from it in a round."""

    down: Tree
    up: Tree


class Algorithm(Protocol):
    """A federated algorithm. All methods are pure: the same arguments give the same result."""

    title: ClassVar[str]
    """How the algorithm is called in tables."""
    about: ClassVar[About]
    space: ClassVar[Space]

    def init(self, task: Task, params: Params) -> State:
        """The server's state before round 1, from the model's initial parameters."""
        ...

    def client(self, task: Task, broadcast: Tree, episode: Episode) -> Tree:
        """What one client sends: a tree of tensors, averaged over the cohort."""
        ...

    def server(self, state: State, update: Tree) -> State:
        """The next state, from the cohort's mean update; see above for a third parameter, `context`."""
        ...

    def adapt(self, task: Task, broadcast: Tree, support: Shots) -> Iterator[Params]:
        """The models that a client may use: first the one before adaptation, then one after each step.

        The number of models may not depend on the client.
        """
        ...


def sent(algorithm: Algorithm, task: Task, state: State, client: Tensor) -> Tree:
    """What the client of that number alone is sent, for `Episode.received`: nothing where there is no `send`."""
    return algorithm.send(task, state, client) if hasattr(algorithm, "send") else ()


def received(algorithm: Algorithm, broadcast: Tree, episode: AnyEpisode) -> Tree:
    """What the client receives: the broadcast or, where there is `send`, what it alone was sent."""
    return cast(Episode, episode).received if hasattr(algorithm, "send") else broadcast


def respond(algorithm: Algorithm, task: Task, broadcast: Tree, episode: AnyEpisode) -> Any:
    """What the client returns, given what it received."""
    return algorithm.client(task, received(algorithm, broadcast, episode), cast(Episode, episode))


def step(algorithm: Algorithm, state: State, update: Tree, context: Context) -> State:
    """The server's next state; the context is given to a server that asks for it."""
    asks = "context" in inspect.signature(algorithm.server).parameters
    found: State = algorithm.server(state, update, **({"context": context} if asks else {}))
    return found
