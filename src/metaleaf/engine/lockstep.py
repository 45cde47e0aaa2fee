"""Clients that wait for one another at each product with weights they share, so that one product serves them all.

A client's batch of ten uses a matrix of millions of weights for too little: reading it from memory is most of the
time. Five clients' batches read it once. Each client runs on a thread of its own, one at a time, until it needs such a
product; the last to come makes it for all, and they go on. Plugins and models are as for one client, and a client that
has finished is no longer waited for.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")

_own = threading.local()


def product(x: Tensor, matrix: Tensor, backwards: bool) -> Tensor:
    """X W' (or x W, backwards) without a gradient; x [n, in] (or [n, out]), matrix W [out, in]."""
    team: Team | None = getattr(_own, "team", None)
    if team is None or id(matrix) not in team.shared:
        return _multiply(x, matrix, backwards)
    return team.product(x, matrix, backwards)


def _multiply(x: Tensor, matrix: Tensor, backwards: bool) -> Tensor:
    return x @ matrix if backwards else F.linear(x, matrix)


@dataclass(eq=False)
class _Request:
    member: int
    x: Tensor
    matrix: Tensor
    backwards: bool
    done: threading.Event = field(default_factory=threading.Event)
    answer: Tensor | None = None
    error: BaseException | None = None


class Team:
    """Clients in lockstep; at most `seats` of them run at one time."""

    def __init__(self, shared: Collection[Tensor], seats: int = 1) -> None:
        self.shared = {id(matrix) for matrix in shared}
        self._seats = threading.Semaphore(seats)
        self._lock = threading.Lock()
        """Of what follows: who waits for a product, and how many are at work at all."""
        self._waiting: list[_Request] = []
        self._members = 0

    def map(self, threads: Executor, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """work(item) of each item, on as many of the threads as there are items."""
        self._members = len(items)
        futures = [threads.submit(self._run, work, i, item) for i, item in enumerate(items)]
        wait(futures)  # of all: when one has failed, the others must be at rest before anything else is tried
        return [future.result() for future in futures]

    def _run(self, work: Callable[[T], R], member: int, item: T) -> R:
        with self._seats:
            _own.team, _own.member = self, member
            try:
                return work(item)
            finally:
                _own.team = None
                self._serve_if_all_wait(leaving=1)

    def product(self, x: Tensor, matrix: Tensor, backwards: bool) -> Tensor:
        """The client's part of a product of all who are still at work."""
        request = _Request(_own.member, x, matrix, backwards)
        self._serve_if_all_wait(request)
        if not request.done.is_set():
            self._seats.release()
            request.done.wait()
            self._seats.acquire()
        if request.error is not None:
            raise request.error
        assert request.answer is not None
        return request.answer

    def _serve_if_all_wait(self, *requests: _Request, leaving: int = 0) -> None:
        with self._lock:
            self._waiting += requests
            self._members -= leaving
            if len(self._waiting) < self._members:
                return
            waiting, self._waiting = self._waiting, []
        # In the members' order, not in that of their coming: sums must not depend on the threads' luck.
        kinds: dict[Any, list[_Request]] = {}
        for request in sorted(waiting, key=lambda request: request.member):
            kinds.setdefault((id(request.matrix), request.backwards), []).append(request)
        for alike in kinds.values():
            _serve(alike)


def _serve(requests: Sequence[_Request]) -> None:
    try:
        x = torch.cat([request.x for request in requests])
        y = _multiply(x, requests[0].matrix, requests[0].backwards)
        for request, part in zip(requests, torch.split(y, [len(request.x) for request in requests]), strict=True):
            request.answer = part.clone()  # of its own: a model may go on with it in place
    except BaseException as error:
        for request in requests:
            request.error = error
    finally:
        for request in requests:
            request.done.set()
