"""Run the cells of a gate suite with the ordinary runner, and read what they left in the store."""

from collections import Counter
from collections.abc import Sequence

from metaleaf.config.suite import Suite
from metaleaf.data import prepare
from metaleaf.errors import ConfigError, DataError, UserError
from metaleaf.gate.measures import Found, found
from metaleaf.jobs.execute import Settings, compute, run_all
from metaleaf.records.records import read_records
from metaleaf.terminal.display import Display


def check(suite: Suite) -> None:
    """ConfigError if the suite cannot be gated."""
    if suite.tuning:
        raise ConfigError(f"suite {suite.name}: a gate needs fixed hyper-parameters, not a [tuning] table.")
    if redrawn := [label for label, entry in suite.datasets.items() if entry.redraw]:
        raise ConfigError(f"suite {suite.name}: {redrawn[0]} has redraw set; a gate needs the same data every time.")
    if any(suite.protocol_for(dataset).environments for dataset in suite.datasets):
        raise ConfigError(f"suite {suite.name} is of the track of new environments; the gate is for new clients.")


def without_data(suite: Suite, settings: Settings) -> str | None:
    """Why the suite's data is not here, or None. What lies here raw is prepared; nothing is downloaded."""
    for entry, label in ((entry, label) for label, entry in suite.datasets.items()):
        config = suite.config(label, next(iter(suite.algorithms)), 0)
        try:
            prepare.prepare(config.dataset, config.build_dataset(), raw=settings.raw, download=False)
        except DataError as error:
            return f"{entry.name or label} is not here: {error}"
    return None


def measure(
    suite: Suite, seeds: Sequence[int], settings: Settings, cells: Sequence[tuple[str, str]] = ()
) -> dict[str, list[Found]]:
    """Run cells (default: all) with these seeds (default: the suite's), by ``<dataset>/<algorithm>``.

    A run that fails does not stop the others; it is printed, and its cell has none.
    """
    configs = [
        suite.config(dataset, algorithm, seed)
        for dataset, algorithm in cells or suite.grid()
        for seed in seeds or suite.seeds_for(algorithm)
    ]
    jobs = [(f"{c.dataset_label} {c.algorithm_label} seed {c.seed}", c) for c in configs]
    with Display(len(jobs)) as display:
        try:
            run_all(jobs, compute, settings, display)
        except UserError as error:
            display.say(str(error))
    runs: dict[str, list[Found]] = {f"{dataset}/{algorithm}": [] for dataset, algorithm in cells or suite.grid()}
    for record in read_records(settings.root / suite.name):
        runs[f"{record.content.dataset}/{record.content.algorithm}"].append(found(record.content))
    wanted = Counter(f"{config.dataset_label}/{config.algorithm_label}" for config in configs)
    return {name: each if len(each) == wanted[name] else [] for name, each in runs.items()}
