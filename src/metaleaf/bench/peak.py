"""``python -m metaleaf.bench.peak NAME THREADS QUICK``: a round, then this process's peak memory in MiB."""

import sys
from pathlib import Path

import torch

from metaleaf.bench.contenders import Metaleaf
from metaleaf.bench.rates import workloads
from metaleaf.bench.rows import Settings


def main(name: str, threads: str, quick: str) -> None:
    """Print it. From Linux's own count for this program: what `getrusage` has may be the parent's."""
    torch.set_num_threads(int(threads))
    Metaleaf(workloads(Settings(quick=quick == "True"))[name])()
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    print(next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main(*sys.argv[1:])
