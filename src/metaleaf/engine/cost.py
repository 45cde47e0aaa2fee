"""What one client costs: the trees that travel, and the FLOPs of its work, counted while tiny clients do it.

Counted are matrix products and convolutions, forward and backward, of higher order too (torch's formulas);
element-wise work is not, as is usual. Padding never counts: the count is of one unpadded client.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from metaleaf import trees
from metaleaf.algorithm import Algorithm, Replies, Traffic, respond
from metaleaf.gradient import as_written
from metaleaf.shots import EnvironmentEpisode, Episode, Shots
from metaleaf.task import Task
from metaleaf.tasks import Kind
from metaleaf.trees import Tree

_PROBES = np.array([[2, 2, 2], [4, 2, 2], [2, 4, 2], [2, 2, 4]])
"""Sizes of (support, query, data) to count at."""
_LENGTHS = (3, 4)
"""Lengths of rows that recurrent models are counted at; a longer row is more of the same steps."""


def exchanged(algorithm: Algorithm, received: Tree, update: Tree) -> Traffic:
    """What travels to and from one client in a round; update is what the server reads, or what one client returns."""
    one = trees.unstack(update.updates)[0] if isinstance(update, Replies) else update
    if hasattr(algorithm, "traffic"):
        return cast(Traffic, algorithm.traffic(received, one))
    return Traffic(received, one)


class ClientFlops:
    """FLOPs of `Algorithm.client` for a client of any size: linear in its support, query and data examples.

    For the algorithms here this is exact: every product has the number of examples as a dimension. (An algorithm
    that multiplies matrices without examples would get that part into the constant.)
    """

    def __init__(
        self, task: Task, algorithm: Algorithm, broadcast: Tree, spec: Mapping[str, Any], received: Tree = ()
    ) -> None:
        own = Task(copy.deepcopy(task.model).to("cpu"), kind=task.kind, clients=task.clients, cohort=task.cohort)
        broadcast, received = trees.to((broadcast, received), torch.device("cpu"))
        self._coefficients: list[float] = _coefficients(own, algorithm, broadcast, received, spec).tolist()

    def __call__(self, episode: Episode) -> int:
        """FLOPs of one client's work on the (unpadded) episode."""
        return self.of(episode.support.y.shape[0], episode.query.y.shape[0], episode.data.y.shape[0])

    def of(self, support: int, query: int, data: int) -> int:
        """The same of an episode with so many examples."""
        constant, *each = self._coefficients
        return round(constant + each[0] * support + each[1] * query + each[2] * data)


def _coefficients(
    task: Task, algorithm: Algorithm, broadcast: Tree, received: Tree, spec: Mapping[str, Any]
) -> np.ndarray:
    """(constant, per support, per query, per data example)."""
    length = spec["x_shape"][0]
    if getattr(task.model, "recurrent", False) and length > max(_LENGTHS):
        short = (_shortened(spec, task.kind, n) for n in _LENGTHS)
        few, more = (_coefficients(task, algorithm, broadcast, received, one) for one in short)
        return np.asarray(few + (length - _LENGTHS[0]) * (more - few))
    memory = algorithm.memory(task, broadcast) if hasattr(algorithm, "memory") else ()
    own = {"memory": memory, "received": received}
    probes = [empty_episode(spec, task.kind, *sizes)._replace(**own) for sizes in _PROBES.tolist()]
    counts = [_count(partial(respond, algorithm, task, broadcast, probe)) for probe in probes]
    equations = np.column_stack([np.ones(len(_PROBES)), _PROBES])
    found: np.ndarray = np.linalg.solve(equations, np.array(counts, dtype=float))
    return found


def _shortened(spec: Mapping[str, Any], kind: Kind, n: int) -> dict[str, Any]:
    """The data with sequences of that length."""
    y_shape = (n,) if kind.positions(spec) else spec.get("y_shape", ())
    return {**spec, "x_shape": (n, *spec["x_shape"][1:]), "y_shape": y_shape}


def count(task: Task, algorithm: Algorithm, broadcast: Tree, episode: EnvironmentEpisode) -> int:
    """FLOPs of `Algorithm.client` in one environment, padding included: so they depend on its participants' number."""
    sizes: dict[str, Any] = {"seed": task.seed, "clients": task.clients, "cohort": task.cohort}
    meta = Task(copy.deepcopy(task.model).to("meta"), kind=task.kind, **sizes)
    meta.rounds, meta.local_steps, meta.local_lr = task.rounds, task.local_steps, task.local_lr
    empty = trees.to((broadcast, episode), torch.device("meta"))
    return _count(partial(algorithm.client, meta, *empty))


def _count(work: Callable[[], Any]) -> int:
    with _Counter() as counter, torch.no_grad(), as_written(), _without_onednn():
        work()
    return int(counter.total)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums up torch's formulas for the operators' FLOPs; torch's own counter imports the whole of torch.compile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped it would have to be imported, which takes seconds, and nothing is compiled here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.total += int(flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=found))
        return found


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Its LSTM is one operator, for which there is no formula."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a setting of Intel's GPUs that flags() restores with the others
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def empty_episode(spec: Mapping[str, Any], kind: Kind, support: int, query: int, data: int) -> Episode:
    """An episode of zeros of those sizes."""

    def shots(n: int) -> Shots:
        x = torch.zeros((n, *spec["x_shape"]), dtype=getattr(torch, spec["x_dtype"]))
        y = torch.zeros((n, *spec.get("y_shape", ())), dtype=getattr(torch, kind.y_dtype))
        return Shots(x, y, torch.tensor(0))

    return Episode(shots(support), shots(query), shots(data), torch.tensor(0.0))
