"""Prepare a round while the one before it is computed: reading clients costs the rounds no time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """f(1), f(2), ... up to `last`, called in order from any number on; the next is made on a thread meanwhile.

    f must be a function of the number alone. What it raises is raised when its number is asked for.
    """

    def __init__(self, f: Callable[[int], T], last: int) -> None:
        self.f, self.last = f, last
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, number: int) -> T:
        """f(number)."""
        expected, future = self._next or (0, None)
        found = future.result() if future and expected == number else self.f(number)
        self._next = (number + 1, self._thread.submit(self.f, number + 1)) if number < self.last else None
        return found

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "ahead")
