"""What one client costs: the trees that travel, and the FLOPs of its work, counted on tensors without data.

Counted are matrix products and convolutions, forward and backward, of higher order too (torch's FlopCounterMode);
element-wise work is not, as is usual. Padding never counts: the count is of one unpadded client.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from metaleaf import trees
from metaleaf.algorithm import Algorithm, Replies, Traffic
from metaleaf.shots import EnvironmentEpisode, Episode, Shots
from metaleaf.task import Task
from metaleaf.trees import Tree

_PROBES = np.array([[2, 2, 2], [4, 2, 2], [2, 4, 2], [2, 2, 4]])
"""Sizes of (support, query, data) to count at; all small, as operators without data still cost time."""


def exchanged(algorithm: Algorithm, broadcast: Tree, update: Tree) -> Traffic:
    """What one client receives and sends in a round; update is what the server reads, or what one client returns."""
    one = trees.unstack(update.updates)[0] if isinstance(update, Replies) else update
    if hasattr(algorithm, "traffic"):
        return cast(Traffic, algorithm.traffic(broadcast, one))
    return Traffic(broadcast, one)


class ClientFlops:
    """FLOPs of `Algorithm.client` for a client of any size: linear in its support, query and data examples.

    For the algorithms here this is exact: every product has the number of examples as a dimension. (An algorithm
    that multiplies matrices without examples would get that part into the constant.)
    """

    def __init__(self, task: Task, algorithm: Algorithm, broadcast: Tree, spec: Mapping[str, Any]) -> None:
        meta = Task(copy.deepcopy(task.model).to("meta"), clients=task.clients, cohort=task.cohort)
        empty = trees.to(broadcast, torch.device("meta"))
        memory = algorithm.memory(meta, empty) if hasattr(algorithm, "memory") else ()
        probes = [empty_episode(spec, *sizes)._replace(memory=memory) for sizes in _PROBES.tolist()]
        counts = [_count(partial(algorithm.client, meta, empty, probe)) for probe in probes]
        equations = np.column_stack([np.ones(len(_PROBES)), _PROBES])
        self._coefficients = np.linalg.solve(equations, np.array(counts, dtype=float))

    def __call__(self, episode: Episode) -> int:
        """FLOPs of one client's work on the (unpadded) episode."""
        sizes = [len(part.y) for part in (episode.support, episode.query, episode.data)]
        return round(float(self._coefficients @ np.array([1.0, *sizes])))


def count(task: Task, algorithm: Algorithm, broadcast: Tree, episode: EnvironmentEpisode) -> int:
    """FLOPs of `Algorithm.client` in one environment, padding included: so they depend on its participants' number."""
    meta = Task(copy.deepcopy(task.model).to("meta"), seed=task.seed, clients=task.clients, cohort=task.cohort)
    meta.rounds, meta.local_steps, meta.local_lr = task.rounds, task.local_steps, task.local_lr
    empty = trees.to((broadcast, episode), torch.device("meta"))
    return _count(partial(algorithm.client, meta, *empty))


def _count(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return int(counter.get_total_flops())


def empty_episode(spec: Mapping[str, Any], support: int, query: int, data: int) -> Episode:
    """An episode of those sizes on the device "meta"."""

    def shots(n: int) -> Shots:
        x = torch.empty((n, *spec["x_shape"]), dtype=getattr(torch, spec["x_dtype"]), device="meta")
        y = torch.empty(n, dtype=torch.int64, device="meta")
        return Shots(x, y, torch.empty((), dtype=torch.int64, device="meta"))

    return Episode(
        shots(support),
        shots(query),
        shots(data),
        torch.empty((), device="meta"),
        torch.empty((), dtype=torch.int64, device="meta"),
    )
