"""What the files bench_*.py share: a workload's round by metaleaf and by the plain loop, in one group."""

import os
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is imported

Timed = Callable[[str, str], None]


@pytest.fixture
def timed(benchmark: BenchmarkFixture) -> Timed:
    def run(name: str, side: str) -> None:
        from metaleaf.bench.contenders import Loop, Metaleaf
        from metaleaf.bench.rates import workloads
        from metaleaf.bench.rows import Settings

        work = workloads(Settings())[name]
        benchmark.group = name
        one_round = Metaleaf(work) if side == "metaleaf" else Loop(work)
        benchmark.pedantic(one_round, rounds=3, warmup_rounds=1)  # type: ignore[no-untyped-call]

    return run
