"""The gate's parts: its test and rate of false alarms, verdicts, files, history and steps."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metaleaf.errors import DataError
from metaleaf.gate import baseline, github, history, junit, report
from metaleaf.gate.baseline import Baseline
from metaleaf.gate.compare import Comparison, compare, number_of_measures, spread, tolerance
from metaleaf.gate.measures import Found
from metaleaf.gate.steps import penalty, segment, steps

HASHES = {"configuration": "c" * 12, "data": "d" * 64, "split": "5" * 64}
NAME = "suite/data/maml"
EACH = 0.01 / 2


def runs(accuracies: Sequence[float], losses: Sequence[float], first: int = 1) -> list[Found]:
    return [
        Found(first + i, HASHES, {"points@0.5": 400}, {"after_accuracy@0.5": accuracy, "after_loss@0.5": loss})
        for i, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True))
    ]


BASE = baseline.make("suite", {"data/maml": runs([0.80, 0.81, 0.82, 0.81, 0.81], [0.5, 0.52, 0.48, 0.5, 0.5], 1001)})
CELL = BASE.cells["data/maml"]


def verdicts(found: Sequence[Found]) -> dict[str, str]:
    return {one.measure: one.verdict for one in compare(NAME, CELL, found, EACH)}


def test_nothing_moves_within_the_tolerance() -> None:
    assert set(verdicts(runs([0.812, 0.806], [0.51, 0.49])).values()) == {"ok"}


def test_worse_is_a_regression_and_much_better_is_suspicious() -> None:
    found = verdicts(runs([0.70, 0.70], [0.2, 0.2]))
    assert found == {
        "points@0.5": "ok",
        "after_accuracy@0.5": "regression",
        "after_loss@0.5": "suspicious improvement",
    }
    assert verdicts(runs([0.95, 0.95], [0.9, 0.9]))["after_loss@0.5"] == "regression"


def test_a_loss_that_is_not_finite_is_a_regression() -> None:
    assert verdicts(runs([0.81], [float("nan")]))["after_loss@0.5"] == "regression"


def test_counts_have_to_be_equal() -> None:
    fewer = [replace(run, counts={"points@0.5": 399}) for run in runs([0.81], [0.5])]
    one = compare(NAME, CELL, fewer, EACH)[0]
    assert (one.verdict, one.alarm) == ("count changed", True)
    assert one.sentence() == f"{NAME} points@0.5: count changed: 399, was 400"


def test_a_run_that_diverges_is_a_regression() -> None:
    diverged = [replace(runs([0.8], [0.5])[0], diverged="round 3: not finite", measures={})]
    one = compare(NAME, CELL, diverged, EACH)[0]
    assert one.verdict == "regression"
    assert "round 3" in one.sentence()


@pytest.mark.parametrize("what", sorted(HASHES))
def test_another_configuration_or_data_is_not_measured(what: str) -> None:
    other = [replace(run, hashes={**HASHES, what: "0" * 12}) for run in runs([0.81], [0.5])]
    (one,) = compare(NAME, CELL, other, EACH)
    assert (one.verdict, one.alarm) == ("not measured", False)
    assert what in one.reason


def test_a_cell_without_baseline_or_runs_is_not_measured() -> None:
    assert compare(NAME, None, runs([0.81], [0.5]), EACH)[0].verdict == "not measured"
    assert compare(NAME, CELL, [], EACH)[0].verdict == "not measured"


def test_the_rate_of_false_alarms_is_the_declared_one() -> None:
    rng, n, k, rate = np.random.default_rng(0), 8, 3, 0.1
    base, new = rng.normal(size=(20_000, n)), rng.normal(size=(20_000, k))
    allowed = np.array([tolerance(sd, n, k, rate) for sd in base.std(1, ddof=1)])
    alarms = np.abs(new.mean(1) - base.mean(1)) > allowed
    assert abs(alarms.mean() - rate) < 0.01  # the standard error is 0.002


def test_an_accuracy_that_never_varied_is_given_the_spread_of_its_query_examples() -> None:
    cell = baseline.make("suite", {"data/maml": runs([0.9] * 20, [0.5] * 20, 1001)}).cells["data/maml"]
    assert spread("after_accuracy@0.5", cell) == pytest.approx((0.9 * 0.1 / 400) ** 0.5)
    assert spread("after_loss@0.5", cell) == 0
    one_example_less = compare(NAME, cell, runs([0.8975], [0.5]), EACH)
    assert [one.verdict for one in one_example_less] == ["ok"] * 3


def test_every_measure_of_every_suite_shares_the_rate() -> None:
    assert number_of_measures([BASE, BASE]) == 4


def test_a_baseline_survives_its_file_and_refuses_to_be_edited(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    assert baseline.read(path) is None
    baseline.write(path, BASE)
    assert baseline.read(path) == Baseline.model_validate(BASE.model_dump())
    content = json.loads(path.read_text())
    content["cells"]["data/maml"]["measures"]["after_accuracy@0.5"]["mean"] = 0.7
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="not those of the values"):
        baseline.read(path)


def test_a_baseline_needs_runs_that_work_on_the_same_data() -> None:
    first, second = runs([0.8, 0.8], [0.5, 0.5])
    with pytest.raises(DataError, match="two seeds"):
        baseline.make("suite", {"data/maml": [first]})
    with pytest.raises(DataError, match="other data"):
        baseline.make("suite", {"data/maml": [first, replace(second, counts={"points@0.5": 1})]})
    with pytest.raises(DataError, match="not finite"):
        baseline.make("suite", {"data/maml": [first, replace(second, measures={"after_loss@0.5": float("nan")})]})


MOVED = [
    Comparison(NAME, "after_accuracy@0.5", "regression", 0.81, 0.7, 0.02, 0.01),
    Comparison(NAME, "after_loss@0.5", "ok", 0.5, 0.51, 0.1, 0.01),
    Comparison("other/a|b<c>/maml", "", "not measured", reason="the data\nchanged"),
]


def test_the_summary_says_what_moved_and_lets_nothing_out_of_its_table() -> None:
    page = report.markdown(MOVED, {"gate_femnist": "no | data"}, 0.01)
    assert "**1 moved; 1 cells could not be measured (2 values of 1 cells compared, false-alarm rate 0.01)**" in page
    assert "| suite/data/maml | after_accuracy@0.5 | regression | 81.00 % | 70.00 % | -11.00 % | 2.00 % |" in page
    assert "other/a\\|b&lt;c>/maml" in page
    assert "the data changed" in page
    assert "Skipped gate_femnist: no \\| data" in page


def test_junit_has_a_case_for_every_comparison() -> None:
    root = ET.fromstring(junit.render(MOVED, {"gate_femnist": "no data"}))
    cases = {(case.get("classname"), case.get("name")): case for case in root.iter("testcase")}
    assert len(cases) == 4
    failure = cases["suite.data.maml", "after_accuracy@0.5"].find("failure")
    assert failure is not None
    assert failure.get("message") == MOVED[0].sentence()
    assert len(cases["suite.data.maml", "after_loss@0.5"]) == 0
    assert cases["other.a|b<c>.maml", "cell"].find("error") is not None
    assert cases["gate_femnist", "gate_femnist"].find("skipped") is not None
    assert [suite.get("failures") for suite in root] == ["1", "0", None]


def test_annotations_are_escaped_and_only_for_github(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert list(github.annotations(MOVED)) == []
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    error, warning = github.annotations(MOVED)
    assert error == (
        "::error title=metaleaf gate%3A regression::suite/data/maml after_accuracy@0.5: regression: 70.00 %25, "
        "was 81.00 %25, tolerance 2.00 %25"
    )
    assert warning.startswith("::warning title=metaleaf gate%3A not measured::")
    assert warning.endswith("the data%0Achanged")


def test_the_job_page_is_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    github.add_to_job_page("after\n")
    assert page.read_text() == "before\nafter\n"


def test_a_history_grows_by_a_line_and_names_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for _ in range(2):
        history.append(path, history.entry(MOVED))
    first, second = history.read(path)
    assert (
        first.values
        == second.values
        == {f"{NAME} after_accuracy@0.5": (0.7, 0.01), f"{NAME} after_loss@0.5": (0.51, 0.01)}
    )
    assert first.alarms == 1
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(DataError, match="line 3"):
        history.read(path)


def entries(values: Sequence[float] | np.ndarray, error: float) -> list[history.Entry]:
    points = [{f"{NAME} after_accuracy@0.5": history.Value(value, error)} for value in values]
    return [history.Entry(time=f"run {i}", revision=None, alarms=0, values=point) for i, point in enumerate(points)]


def test_a_step_is_found_where_it_is() -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, 60)
    levels = np.repeat([0.80, 0.77, 0.79], [20, 25, 15])
    found = steps(entries(levels + noise, 0.01), 0.01)
    assert [abs(step.at - place) <= 1 for step, place in zip(found, (20, 45), strict=True)] == [True, True]
    assert found[0].before == pytest.approx(0.80, abs=0.01)
    assert found[0].after == pytest.approx(0.77, abs=0.01)


def test_a_step_too_small_for_one_run_is_found_over_many() -> None:
    noise = np.random.default_rng(2).normal(0, 0.01, 100)
    found = steps(entries(0.8 - 0.012 * (np.arange(100) >= 50) + noise, 0.01), 0.01)
    assert len(found) == 1


def test_series_without_a_step_have_none_at_the_declared_rate() -> None:
    rng, length, rate = np.random.default_rng(3), 30, 0.1
    errors, price = np.ones(length), penalty(length - 1, rate)
    alarms = sum(bool(segment(rng.normal(size=length), errors, price)) for _ in range(1000))
    assert 0 < alarms / 1000 <= rate


def test_a_measure_that_was_not_always_measured_keeps_its_places() -> None:
    some = entries([1.0, 1.0, 1.0, 2.0, 2.0], 0.1)
    some.insert(1, history.Entry(time="", revision=None, alarms=0, values={}))
    assert [step.at for step in steps(some, 0.01)] == [4]
    assert steps([], 0.01) == []
