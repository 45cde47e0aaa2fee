"""metaleaf bench: the plain loops do what the plugins do, and the command measures, prints and writes it."""

import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.bench import check, compare, footprint, rates, report, scaling
from metaleaf.bench.check import SHAPES
from metaleaf.bench.compare import Ratio, interleaved, ratio
from metaleaf.bench.contenders import Loop, Metaleaf
from metaleaf.bench.limit import Limit
from metaleaf.bench.rows import Row, Settings
from metaleaf.bench.workloads import CPU, CUDA, Workload
from metaleaf.cli import main
from metaleaf.report.figures.style import as_files
from metaleaf.shots import Shots, permutation

NAMED = {work.name: work for work in CPU}


def small(work: Workload, **changes: Any) -> Workload:
    return replace(work, clients=3, mean=25, shape=SHAPES[work.model.removeprefix("small_")], **changes)


def faster(work: Workload) -> Workload:
    """With rates at which a mistake would show in the parameters."""
    options = {key: 0.1 if key == "inner_lr" else value for key, value in work.options.items()}
    return replace(work, options=options)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "LEAST", 0.0)
    monkeypatch.setattr(compare, "WARM", 0.0)
    monkeypatch.setattr(compare, "LONGEST", 0.0)
    monkeypatch.setattr(rates, "quick", small)


def plugin_order(shots: Shots) -> Tensor:
    return permutation(shots, 0)


DIFFERENT = {(work.algorithm, work.model, str(work.options)): work.name for work in CPU if not work.scores}


@pytest.mark.parametrize("name", DIFFERENT.values())
def test_a_plain_loop_trains_as_the_plugin_does(name: str) -> None:
    work = faster(small(NAMED[name]))
    ours, loop = Metaleaf(work, dtype=torch.float64), Loop(work, dtype=torch.float64, order=plugin_order)
    before = {key: value.clone() for key, value in loop.model.state_dict().items()}
    for _ in range(2):
        ours()
        loop()
    learned = ours.state.broadcast
    for key, value in (learned["params"] if loop.rates else learned).items():
        found = loop.model.get_parameter(key).detach()
        assert not torch.equal(found, before[key])
        # Adam divides by the root of its second moment, which magnifies rounding where a gradient is nearly zero; on
        # clients in every step anew, of 5e-4.
        assert_close(found, value, rtol=1e-7, atol=1e-7 if "adam" in name else 1e-9)
    for key, rate in loop.rates.items():
        assert_close(rate.detach(), learned["rates"][key], rtol=1e-7, atol=1e-9)
    assert len(loop.own) == (3 if work.algorithm == "ditto" else 0)
    for client, model in loop.own.items():
        for key, value in ours.cohort[client].memory.items():
            assert_close(model.get_parameter(key).detach(), value, rtol=1e-7, atol=1e-9)
            assert not torch.equal(value, learned[key])


@pytest.mark.parametrize("name", [work.name for work in CPU if work.scores])
def test_a_plain_loop_scores_as_the_engine_does(name: str) -> None:
    work = small(NAMED[name])
    ours, theirs = (contender(work, dtype=torch.float64)() for contender in (Metaleaf, Loop))
    assert len(ours) == len(theirs) == 3
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other, rtol=1e-9, atol=1e-9)
        assert not torch.equal(mine[0], mine[1])


def test_flops_are_those_of_the_layers() -> None:
    conv1, conv2 = 28 * 28 * 32 * 25 * 2, 14 * 14 * 64 * 25 * 32 * 2
    forward = conv1 + conv2 + 3136 * 2048 * 2 + 2048 * 62 * 2
    cnn = 3 * forward - conv1  # no gradient by the image
    recurrent = 2 * 4 * 256 * 256
    lstm = (
        3 * (80 * (2 * 4 * 256 * (8 + 256) + 2 * recurrent) + 2 * 256 * 80) - 2 * recurrent
    )  # nor by the first states
    for name, expected in (("fedavg-cnn-10", cnn), ("fedavg-lstm", lstm)):
        work = NAMED[name]
        cohort = work.cohort()[:2]
        found, samples = work.flops(cohort), sum(len(episode.data.y) for episode in cohort)
        assert found == samples * expected
    cohort = NAMED["evaluate-cnn"].cohort()[:2]
    steps, scored = (sum(len(part.y) for part in parts) for parts in zip(*(one[:2] for one in cohort), strict=True))
    assert NAMED["evaluate-cnn"].flops(cohort) == 5 * steps * cnn + 2 * scored * forward


def test_cohorts_are_as_announced_and_the_same_every_time() -> None:
    work = NAMED["fedavg-cnn-50"]
    sizes = replace(work, clients=5000).sizes()
    assert sizes.mean() == pytest.approx(200, rel=0.03)
    assert sum(work.weights()) == pytest.approx(1)
    first, second = NAMED["maml-cnn-4"].cohort(), NAMED["maml-cnn-4"].cohort()
    assert [len(episode.data.y) for episode in first] == NAMED["maml-cnn-4"].sizes().tolist()
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.data.x, b.data.x)
        assert len(a.support.y) == len(a.data.y) // 5 == len(a.data.y) - len(a.query.y)


def test_contenders_take_turns_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "WARM", 0.0)
    monkeypatch.setattr(compare, "LONGEST", 0.0)
    calls = []

    def contender(name: str, seconds: Sequence[float]) -> compare.Contender:
        left = iter(seconds)

        def run() -> float:
            calls.append(name)
            return next(left)

        return run

    times = interleaved({"a": contender("a", [9, 1, 2, 3]), "b": contender("b", [9, 4, 2, 9])}, 3)
    assert calls == ["a", "b"] * 4
    assert times == {"a": [1, 2, 3], "b": [4, 2, 9]}
    assert ratio(times["b"], times["a"]) == Ratio(2, 1, 4)


def test_the_limit_counts_a_product() -> None:
    limit = Limit(size=64)
    limit()
    assert limit.flops == 2 * 64**3
    assert_close(limit.product(limit.a, limit.a).shape, torch.Size([64, 64]))


@pytest.mark.parametrize(
    ("row", "met", "text"),
    [
        (Row("a", "samples/s", 1234, "pfl", 400, Ratio(3.1, 3, 3.2), (2.2, 3), 0.4, (0.5, 0.75)), False, "2.2x, 50%"),
        (Row("a", "samples/s", 1234, "pfl", 400, Ratio(3.1, 3, 3.2), (2.2, 3), 0.6, (0.5, 0.75)), True, "2.2x, 50%"),
        (Row("a", "s", 2.0, at_most=(3, 1)), True, "under 3 s"),
        (Row("a", "s", 4.0, at_most=(3, 1)), False, "under 3 s"),
        (Row("a", "s", 4.0), None, ""),
    ],
)
def test_a_row_says_whether_its_goal_is_met(row: Row, met: bool | None, text: str) -> None:
    assert row.met is met
    assert report.cells(row)[6:8] == [text, {None: "", True: "yes", False: "no"}[met]]


@pytest.mark.usefixtures("tiny")
def test_the_command_prints_a_table_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    words = ["bench", "fedavg-cnn-10", "*logistic", "loading", "--quick", "--threads", "1", "--output", str(path)]
    assert main(words) == 0
    out = capsys.readouterr().out
    found = json.loads(path.read_text())
    works = ["fedavg-cnn-10", "fedavg-logistic", "evaluate-logistic", "loading-cnn", "loading-logistic"]
    assert [row["work"] for row in found["rows"]] == works
    assert found["machine"]["threads"] == 1
    first = found["rows"][0]
    assert {name: len(times) for name, times in first["seconds"].items()} == {"metaleaf": 2, "loop": 2}
    assert first["against"] == "loop"
    assert 0 < first["share"] < 1
    table = path.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + len(works)
    for work, line in zip(works, table[2:], strict=True):
        assert line.startswith(f"| {work} |")
        assert work in out


@pytest.mark.usefixtures("tiny")
def test_a_federation_grows_without_changing_its_rounds() -> None:
    (row,) = footprint.growth(Settings(repeats=1, quick=True))
    assert row.against == "200 clients"
    assert row.ratio is not None


@pytest.mark.usefixtures("tiny")
def test_scaling_is_a_table_and_a_figure() -> None:
    frame = scaling.measure(Settings(repeats=1, quick=True))
    assert set(frame["sweep"]) == {"clients", "samples", "threads"}
    assert (frame["samples_per_s"] > 0).all()
    profile = scaling.operators(Settings(quick=True))
    assert profile["work"].nunique() == 4
    assert profile["operator"].str.startswith("aten::").any()
    assert profile["share"].between(0, 1).all()
    assert (profile.groupby("work")["share"].sum() <= 1).all()
    assert [len(axes.lines) for axes in scaling.draw(frame).axes] == [2, 2, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(as_files({"scaling": lambda: scaling.draw(frame)})["scaling"]) == {"pdf", "png", "svg"}


def test_every_engine_gives_the_same_numbers() -> None:
    outcomes = list(check.check("cpu", ["maml", "scaffold"], ["logistic", "cnn"]))
    assert {outcome.mode for outcome in outcomes} >= {"sequential", "lowrank", "vectorised"}
    assert [str(outcome) for outcome in outcomes if not outcome.equal] == []


def test_a_check_finds_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = check._numbers

    def wrong(work: Workload, device: str, mode: Any) -> Any:
        if mode == "lowrank":
            raise RuntimeError("no such operator\nmore")
        update, scores = numbers(work, device, "sequential")
        return (update, [2 * score for score in scores]) if mode == "vectorised" else (update, scores)

    monkeypatch.setattr(check, "_numbers", wrong)
    failed = {outcome.mode: outcome for outcome in check.check("cpu", ["fedavg"], ["logistic"]) if not outcome.equal}
    assert set(failed) == {"lowrank", "vectorised"}
    assert str(failed["lowrank"]) == "fedavg logistic lowrank: no such operator"
    assert failed["vectorised"].error > 0.5


def test_every_workload_is_in_a_file_of_pytest_benchmark() -> None:
    folder = Path(__file__).resolve().parent.parent / "benchmarks"
    text = "".join(path.read_text() for path in folder.glob("bench_*.py"))
    assert all(f'"{work.name}"' in text for work in CPU)
    assert len({work.name for work in CUDA}) == len(CUDA)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bench", "fedavg-cn"], "unknown benchmark 'fedavg-cn': did you mean"),
        (["bench", "--pfl", "/nowhere/python"], "--pfl /nowhere/python: No such file"),
        (["bench", "--pfl", "/bin/false"], "--pfl /bin/false: it cannot import pfl; install it"),
        (["bench", "--repeats", "0"], "repeats must be at least 1, got 0"),
        (["bench", "--device", "tpu"], "device tpu: choose cpu or cuda"),
    ],
)
def test_errors_are_one_sentence(capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert sentence in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cuda", "--check"]) == 2
    assert "this machine has no CUDA device" in capsys.readouterr().err


def test_a_server_that_sends_each_client_its_own_is_timed() -> None:
    run = Metaleaf(Workload("pfedhn", "pfedhn", "logistic", 3, mean=20))
    before = trees.length(run.state.broadcast)
    run()
    assert trees.length(run.state.broadcast) != before


def test_peak_memory_is_a_number() -> None:
    words = [sys.executable, "-m", "metaleaf.bench.peak", "fedavg-logistic", "1", "True"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 50 < float(done.stdout) < 5000
