"""Threads that each work for one client at a time, with one computing thread of torch's each.

A client's batch of ten is too small for two threads to share, but two clients are not. Threads, not processes: torch
lets go of Python's lock while it computes, and the shared parameters are there once.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import torch

from metaleaf.task import Task

T = TypeVar("T")
R = TypeVar("R")


class Crew:
    """As many threads as torch computes with on the CPU; on a GPU, where one stream does the work, only this one."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.size = torch.get_num_threads() if task.device.type == "cpu" else 1
        self._own = threading.local()

    def map(self, work: Callable[[Task, T], R], items: Sequence[T]) -> Iterator[R]:
        """work(task, item) of each item, in the order of the items; few results are ahead of what is asked for."""
        if self.size == 1:
            yield from (work(self.task, item) for item in items)
            return
        ahead: deque[Future[R]] = deque()
        rest = iter(items)
        try:
            for item in rest:
                ahead.append(self._pool.submit(self._do, work, item))
                if len(ahead) > self.size:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.size, "client", initializer=torch.set_num_threads, initargs=(1,))

    def _do(self, work: Callable[[Task, T], R], item: T) -> R:
        if not hasattr(self._own, "model"):
            self._own.model = self.task.copied_model()
        return work(self.task.on(self._own.model), item)
