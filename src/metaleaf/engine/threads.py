"""Threads that compute side by side, each with one computing thread of torch's."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


def side_by_side(count: int, name: str) -> ThreadPoolExecutor:
    """So many threads that do not share their operators with others, which takes longer where these are small."""
    return ThreadPoolExecutor(count, name, initializer=torch.set_num_threads, initargs=(1,))


@contextmanager
def alone() -> Iterator[None]:
    """Within the block, this thread computes alone, too.

    Threads of its own would wait for more of its work, and OpenMP's wait by going round and round on cores that the
    others need.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
