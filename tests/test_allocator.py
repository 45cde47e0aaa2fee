"""What is freed is there for the next round."""

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other rules")
def test_freed_memory_is_kept_for_the_next_round() -> None:
    """In a process of its own: the allocator's rules are the process's."""
    program = """
import resource, torch
from metaleaf.engine.allocator import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        kept = [torch.zeros(2 << 20, dtype=torch.uint8) for _ in range(4)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
before = pages()
keep_freed_memory()
pages()
print(before, pages())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 1000, "otherwise there is nothing to gain here"
    assert after < before / 20
