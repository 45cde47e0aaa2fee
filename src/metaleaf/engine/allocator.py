"""What C's allocator does with memory that is freed."""

import torch

LARGEST = (32 << 20) - (64 << 10)
"""Bytes of a block, just below those that glibc gives back at once whatever happened before."""


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to 64 MiB, for the next step or round.

    It gives back what exceeds twice the largest block that was ever freed (mallopt(3), M_MMAP_THRESHOLD). Every page of
    it that is needed again has to be found and cleared, which for small clients takes longer than their arithmetic.
    So a block of the largest size that counts is freed, unused. Other allocators do not notice.
    """
    torch.empty(LARGEST, dtype=torch.uint8)
