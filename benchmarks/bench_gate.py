"""Every cell of the gate once, with what it reached beside its time: ``pytest benchmarks/bench_gate.py``.

Time is reported, accuracy decides: a cell whose accuracy moved fails, however fast it was.
"""

from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from metaleaf.gate import command, runs
from metaleaf.gate.compare import compare
from metaleaf.jobs.execute import Settings

GATED = command.suites((), None)
CELLS = [(one, *pair) for one in GATED for pair in one.suite.grid()]


def _name(value: Any) -> str:
    return value.suite.name if isinstance(value, command.Gated) else str(value)


@pytest.mark.parametrize(("gated", "dataset", "algorithm"), CELLS, ids=_name)
def test_cell(benchmark: BenchmarkFixture, tmp_path: Path, gated: command.Gated, dataset: str, algorithm: str) -> None:
    settings, cell = Settings(tmp_path, threads=1), f"{dataset}/{algorithm}"
    if reason := runs.without_data(gated.suite, settings):
        pytest.skip(reason)
    benchmark.group = f"{gated.suite.name}/{cell}"
    work = (gated.suite, (), settings, [(dataset, algorithm)])
    found = benchmark.pedantic(runs.measure, args=work, rounds=1)  # type: ignore[no-untyped-call]
    expected = gated.baseline.cells.get(cell) if gated.baseline else None
    compared = compare(benchmark.group, expected, found[cell], command.share(GATED, command.FALSE_ALARM))
    benchmark.extra_info["cell"] = benchmark.group
    benchmark.extra_info["measures"] = {one.measure: (one.found, one.tolerance) for one in compared if one.noise > 0}
    assert [one.sentence() for one in compared if one.verdict != "ok"] == []
