"""What ``metaleaf gate`` does: measure, compare, print, write."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from metaleaf.config.suite import SUITES, Suite, load_suite
from metaleaf.errors import ConfigError, UserError
from metaleaf.files.whole_files import write_atomically
from metaleaf.gate import baseline, github, history, junit, report, runs
from metaleaf.gate.baseline import Baseline
from metaleaf.gate.compare import Comparison, compare, number_of_measures
from metaleaf.gate.measures import text
from metaleaf.gate.steps import steps
from metaleaf.jobs.execute import Settings
from metaleaf.terminal.visible import visible

FALSE_ALARM = 0.01
"""The rate, unless another is given."""


def shipped() -> list[str]:
    """The suites that come with metaleaf and have a baseline."""
    return sorted(path.stem for path in (SUITES / "baselines").glob("*.json"))


class Alarm(UserError):
    """Something moved."""

    exit_code = 1


class NotMeasured(UserError):
    """Nothing moved, but not everything could be measured."""

    exit_code = 3


@dataclass(frozen=True)
class Files:
    """What to write, where given."""

    junit: Path | None = None
    summary: Path | None = None
    history: Path | None = None


@dataclass(frozen=True)
class Gated:
    """A suite with its baseline, if it has one."""

    suite: Suite
    path: Path
    baseline: Baseline | None


def suites(names: Sequence[str], folder: Path | None) -> list[Gated]:
    """The named suites (default: the shipped ones), each with its baseline.

    A baseline lies in the folder, by default in `baselines` beside the suite's file.
    """
    found = []
    for name in names or shipped():
        suite, file = load_suite(name), Path(name)
        runs.check(suite)
        home = file.parent if file.suffix == ".toml" or file.is_file() else SUITES
        path = baseline.path_of(folder or home / "baselines", suite.name)
        found.append(Gated(suite, path, baseline.read(path)))
    if len({one.suite.name for one in found}) < len(found):
        raise ConfigError("two suites of the gate have the same name; rename one.")
    return found


def run(gated: Sequence[Gated], seeds: Sequence[int], settings: Settings, false_alarm: float, files: Files) -> None:
    """Measure, compare and report. Raises Alarm or NotMeasured, after everything is written."""
    if not 0 < false_alarm < 1:
        raise ConfigError(f"false-alarm rate {false_alarm}: give a fraction between 0 and 1, such as 0.01.")
    for one in gated:
        _check_seeds(one, seeds)
    compared, skipped = outcome(gated, seeds, _fresh(settings), false_alarm)
    report.show(compared, skipped, false_alarm)
    _write(compared, skipped, false_alarm, files)
    if any(one.alarm for one in compared):
        raise Alarm(f"gate: {report.conclusion(compared, false_alarm)}.")
    if not compared or any(one.verdict == "not measured" for one in compared):
        raise NotMeasured(f"gate: {report.conclusion(compared, false_alarm)}.")


def outcome(
    gated: Sequence[Gated], seeds: Sequence[int], settings: Settings, false_alarm: float
) -> tuple[list[Comparison], dict[str, str]]:
    """All comparisons, and why each suite was skipped that was."""
    each = share(gated, false_alarm)
    compared: list[Comparison] = []
    skipped: dict[str, str] = {}
    for one in gated:
        if reason := runs.without_data(one.suite, settings):
            skipped[one.suite.name] = reason
            continue
        cells = one.baseline.cells if one.baseline else {}
        for name, found in runs.measure(one.suite, seeds, settings).items():
            compared += compare(f"{one.suite.name}/{name}", cells.get(name), found, each)
    return compared, skipped


def share(gated: Sequence[Gated], false_alarm: float) -> float:
    """What is left of the rate of false alarms for each measure."""
    return false_alarm / max(1, number_of_measures([one.baseline for one in gated if one.baseline]))


def update(gated: Sequence[Gated], seeds: Sequence[int], settings: Settings) -> None:
    """Measure every suite that has its data and write its baseline; none is written of a suite that is not whole."""
    settings, incomplete = _fresh(settings), []
    for one in gated:
        new = seeds or baseline.SEEDS
        _disjoint(one.suite, new, _own_seeds(one.suite, ()))
        if reason := runs.without_data(one.suite, settings):
            print(visible(f"skipped {one.suite.name}: {reason}"))
            incomplete.append(one.suite.name)
            continue
        measured = runs.measure(one.suite, new, settings)
        if missing := [name for name, found in measured.items() if not found]:
            raise NotMeasured(f"gate: {one.suite.name}/{missing[0]} lacks runs; its baseline is left as it was.")
        made = baseline.make(one.suite.name, measured)
        baseline.write(one.path, made)
        for name, cell in made.cells.items():
            for measure, values in cell.measures.items():
                spread = f"{text(measure, values.mean)} ± {text(measure, values.sd)}"
                print(f"{one.suite.name}/{name} {measure}: {spread} ({values.n} seeds)")
        print(f"{one.path} written: have it reviewed.")
    if len(incomplete) == len(gated):
        raise NotMeasured("gate: nothing could be measured, no baseline was written.")


def show_steps(path: Path, false_alarm: float) -> None:
    """Print the steps of a history."""
    entries = history.read(path)
    found = steps(entries, false_alarm)
    for step in found:
        measure, entry = step.name.rpartition(" ")[2], entries[step.at]
        revision = (entry.revision or "unknown revision")[:12]
        change = f"{text(measure, step.before)} -> {text(measure, step.after)}"
        print(visible(f"{entry.time} {revision} (run {step.at + 1} of {len(entries)}): {step.name}: {change}"))
    if not found:
        print(f"no step in {len(entries)} runs (false-alarm rate {false_alarm:.2g})")


def _fresh(settings: Settings) -> Settings:
    """A folder of its own, because what a store holds already is not run again, and code changes between two gates."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    return replace(settings, root=settings.root / now)


def _own_seeds(suite: Suite, seeds: Sequence[int]) -> set[int]:
    return set(seeds) or {seed for algorithm in suite.algorithms for seed in suite.seeds_for(algorithm)}


def _check_seeds(one: Gated, seeds: Sequence[int]) -> None:
    used = [seed for cell in (one.baseline.cells if one.baseline else {}).values() for seed in cell.seeds]
    _disjoint(one.suite, used, _own_seeds(one.suite, seeds))


def _disjoint(suite: Suite, of_baseline: Sequence[int], of_gate: set[int]) -> None:
    if both := sorted(of_gate.intersection(of_baseline)):
        raise ConfigError(
            f"suite {suite.name}: seed {both[0]} is one of the baseline's; the gate's have to be others, so that the "
            "two are independent: change the suite's seeds or give --seeds."
        )


def _write(compared: Sequence[Comparison], skipped: dict[str, str], false_alarm: float, files: Files) -> None:
    for line in github.annotations(compared):
        print(visible(line))
    page = report.markdown(compared, skipped, false_alarm)
    github.add_to_job_page(page)
    if files.summary:
        write_atomically(files.summary, partial(Path.write_text, data=page, encoding="utf-8"))
    if files.junit:
        write_atomically(files.junit, partial(Path.write_bytes, data=junit.render(compared, skipped)))
    if files.history:
        history.append(files.history, history.entry(compared))
