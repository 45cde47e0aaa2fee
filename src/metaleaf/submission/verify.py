"""Run the cell of a record once more and compare: hashes and costs exactly, scores as far as rounding allows.

The same configuration on the same machine with the same versions and threads gives the same bits. Another machine
rounds otherwise, and a model that was trained for many rounds on other roundings answers a few examples otherwise: so
accuracies over points may differ by a tolerance, and what differs is said. Where they differ by more, the cell is
computed in other ways that differ by rounding only (`metaleaf.submission.stability`): a record is different only if it
is clearly farther away than those are (`metaleaf.submission.spread`). If it is not, rounding decides this run, and
nothing is proved here.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from metaleaf.config.sources import differing
from metaleaf.data.prepare import load
from metaleaf.errors import ConfigError, UserError
from metaleaf.jobs.execute import Settings, compute, run_all
from metaleaf.runs.store import Cell
from metaleaf.submission import scores, single
from metaleaf.submission.entry import Entry, as_recorded, entry, read_one
from metaleaf.submission.problem import Problem
from metaleaf.submission.side_by_side import SCORES, Line, compare, distances, heading
from metaleaf.submission.spread import Spread
from metaleaf.submission.stability import Variant, variants
from metaleaf.terminal.display import Display
from metaleaf.terminal.visible import visible

ENOUGH = 3
"""Other ways to compute a cell after which updates that rounding does not move say enough."""


class Different(UserError):
    """The run gives something else than the record says."""

    exit_code = 1


class NotMeasured(UserError):
    """The run could not be done here."""

    exit_code = 3


def verify(path: Path, settings: Settings, tolerance: float) -> str:
    """Run the cell of the record at `path` again in a temporary store, print a comparison, and say how it ended.

    tolerance: largest difference of an accuracy over points, a fraction, that may be rounding.
    Computes with the record's engine and threads where `settings` do not say otherwise and this machine has them.
    Raises Different; NotMeasured (an unknown plugin, no data, a run that fails, or that rounding decides); DataError if
    `path` is no record.
    """
    given = _given(path)
    _consistent(given)
    try:
        store = load(given.config.dataset, given.config.build_dataset(), raw=settings.raw, stale=settings.stale)
    except UserError as error:
        raise NotMeasured(f"cannot verify {path}: {error}") from None
    hashes = given.content.data.data_hash, str(store.about["data_hash"])
    data = Line("data hash", *hashes, "same" if hashes[0] == hashes[1] else "different")
    if data.outcome == "different":
        print(heading(), data, sep="\n")
        raise Different(f"{path} was made from other data than what is prepared here.")
    with TemporaryDirectory(prefix="metaleaf-verify-") as folder:
        stores = Path(folder)
        settings = as_recorded(replace(settings, root=stores / "here"), given.made.engine)
        here = _again(given, settings)
        lines = [data, *compare(given, here, tolerance)]
        print(heading(), *lines, sep="\n")
        if code := _other_code(given, here):
            print(visible(code))
        different = [line.what for line in lines if line.outcome == "different"]
        if different:
            what = f"{path} is not what this run gives ({', '.join(different)}; tolerance {tolerance})"
            if not set(different) <= set(SCORES):
                raise Different(f"{what}; {code}." if code else f"{what}.")
            _judge(what, given, here, different, lambda v: _again(here, v.settings(settings, stores / v.name)))
    close = any(line.outcome == "close" for line in lines)
    return f"{path} is verified, " + (f"with accuracies within {tolerance}." if close else "bit for bit.")


def _other_code(given: Entry, here: Entry) -> str:
    """Whether the record was made by the code that is here, where that is known or in doubt; a sentence, or nothing."""
    if given.made.sources is None:
        return "the record does not say what code made it"
    parts = differing(given.made.sources, here.made.sources or {})
    return f"the record was made by other code than what is here: {', '.join(parts)}" if parts else ""


def _judge(
    what: str, given: Entry, here: Entry, different: list[str], computed: Callable[[Variant], Entry]
) -> NoReturn:
    """NotMeasured if rounding could be all that is different, else Different."""
    spread = Spread(given, here)
    for variant in variants(here):
        spread.add(variant.name, computed(variant))
        if spread.explains(different) or (spread.parts() is not None and len(spread.names) >= ENOUGH):
            break
    measured = spread.described(max(different, key=distances(given, here).__getitem__))
    if spread.explains(different):
        raise NotMeasured(
            f"{what}, but rounding decides so much of this run that it can only be verified with the versions, machine "
            f"and threads that the record names, or a wider --tolerance: {measured}."
        )
    code = _other_code(given, here)
    raise Different(f"{what}: {measured}; {code}." if code else f"{what}: {measured}.")


def _given(path: Path) -> Entry:
    try:
        return read_one(path)
    except ConfigError as error:
        raise NotMeasured(f"cannot verify {path}: {error}") from None


def _consistent(given: Entry) -> None:
    """Different if the record contradicts itself: then it need not be run."""
    rules = {**single.RULES, **scores.RULES}
    del rules["place"]  # a single record may lie anywhere
    problems = [Problem(rule, given.where, what) for rule, broken in rules.items() for what in broken(given)]
    if problems:
        print(*problems, sep="\n")
        raise Different(f"{given.where} contradicts itself, in {len(problems)} places.")


def _again(given: Entry, settings: Settings) -> Entry:
    """The record of the run done here, in the settings' store."""
    try:
        with Display(1) as display:
            # The data was looked at before, and how the hyper-parameters were found is not what is verified.
            alone = replace(settings, workers=1, stale="keep")
            run_all([(given.cell, given.config)], compute, alone, display)
    except UserError as error:
        raise NotMeasured(f"cannot verify {given.where}: {error}") from None
    path = Cell(settings.root, given.config).record_path
    return entry(path, path.name)
