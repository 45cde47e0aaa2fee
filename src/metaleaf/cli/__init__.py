"""A benchmark suite for federated meta-learning.

Exit codes: 0 done, 1 a check fails, 2 a user error, 3 not measured, 130 interrupted (143 terminated, 129 hung up).
"""

import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Collection, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from metaleaf import __version__
from metaleaf.config import registry
from metaleaf.errors import ConfigError, UserError, of_system
from metaleaf.terminal.visible import visible

# Everything that imports torch or matplotlib is imported by the command that needs it: help answers at once.
if TYPE_CHECKING:
    from metaleaf.config.config import RunConfig
    from metaleaf.config.sources import Choice
    from metaleaf.config.suite import Suite
    from metaleaf.jobs.execute import Job, Settings
    from metaleaf.report.shown import Shown


@dataclass(frozen=True)
class Compute:
    """How to compute; none of it decides the numbers, beyond rounding."""

    results: Path = Path("results")
    """Folder of the result store."""
    workers: int = 1
    """Runs computed at the same time, each in a process of its own."""
    threads: int | None = None
    """Threads of each process (default: the machine's, shared out)."""
    engine: Literal["auto", "sequential", "lowrank", "vectorised"] = "auto"
    """One client at a time, all at once, or whichever suits model and device."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    raw: Path | None = None
    """Folder with the publisher's raw files, if data has to be prepared; then no other is looked into."""
    again: bool = False
    """Make again what other code has made, or what was made from other data (docs/records.md)."""
    keep: bool = False
    """Take it as it is."""

    def settings(self) -> "Settings":
        """The same, checked."""
        import torch

        from metaleaf.jobs.execute import Settings

        if self.device != "cpu" and not self.device.startswith("cuda"):
            raise ConfigError(f"--device {self.device}: choose cpu or cuda.")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"--device {self.device}: this machine has no CUDA device; use cpu.")
        if self.workers < 1 or (self.threads is not None and self.threads < 1):
            raise ConfigError(f"workers and threads must be at least 1, got {self.workers} and {self.threads}.")
        how = (self.results, self.engine, self.device, self.workers, self.threads, self.raw)
        return Settings(*how, stale=_choice(self.again, self.keep))


@dataclass(frozen=True)
class RunCommand:
    """Run one algorithm on one dataset and print how its test clients fare."""

    dataset: str = "synthetic"
    algorithm: str = "maml"
    seed: int = 1
    name: str = "runs"
    """The suite's name under which the record is stored."""
    model: str | None = None
    """Default: the dataset's."""
    options: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An option of the dataset, ``--options clusters=4``; repeatable."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A hyper-parameter, ``--set inner_lr=0.1`` or ``--set server_optimizer.lr=0.01``; repeatable."""
    protocol: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A protocol setting, ``--protocol rounds=50``; repeatable."""
    save: bool = False
    """Keep the trained model beside the record, for `metaleaf evaluate` and `metaleaf export`."""
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Run it."""
        with _importing():
            from metaleaf.config.suite import suite_of

        for kind, name in ("datasets", self.dataset), ("algorithms", self.algorithm):
            registry.plugin(kind, name)  # an unknown one is said to be that, not to be no folder
        content = {
            "name": self.name,
            "title": f"{self.algorithm} on {self.dataset}",
            "seeds": [self.seed],
            "protocol": _assignments(self.protocol),
            "datasets": {self.dataset: {"model": self.model, "options": _assignments(self.options)}},
            "algorithms": {self.algorithm: {}},
        }
        suite = suite_of(content, "the run")
        config = suite.config(self.dataset, self.algorithm, self.seed, changes=_assignments(self.set))
        _run_configs([config], self.compute, save=self.save)
        print(_record_path(self.compute.results, config))


@dataclass(frozen=True)
class SuiteCommand:
    """Run every cell of a suite that has no record yet, then write its report."""

    suite: tyro.conf.Positional[str]
    """A TOML file, or the name of a suite that comes with metaleaf."""
    algorithms: tuple[str, ...] = ()
    """Only these (labels)."""
    seeds: tuple[int, ...] = ()
    """Only these."""
    report: bool = True
    save: bool = False
    """Keep the trained models beside the records, for `metaleaf evaluate` and `metaleaf export`."""
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Run it."""
        with _importing():
            from metaleaf.config.suite import load_suite

        suite = load_suite(self.suite)
        cells = _cells(suite, self.compute.results, self.algorithms)
        _run_configs(_chosen(suite, cells, self.algorithms, self.seeds), self.compute, save=self.save)
        if self.report:
            _report_suite(suite, cells, self.compute.results)


@dataclass(frozen=True)
class TuneCommand:
    """Search hyper-parameters on validation clients, the same number of trials for every algorithm of a suite."""

    suite: tyro.conf.Positional[str]
    """A TOML file with a [tuning] table, or the name of a suite that comes with metaleaf."""
    algorithms: tuple[str, ...] = ()
    """Only these (labels)."""
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Run it."""
        from metaleaf.config.suite import load_suite
        from metaleaf.jobs import tune
        from metaleaf.jobs.execute import run_all
        from metaleaf.terminal.display import Display

        suite = load_suite(self.suite)
        _only(self.algorithms, suite.algorithms, "algorithm of the suite")
        pairs = [pair for pair in suite.grid() if not self.algorithms or pair[1] in self.algorithms]
        with Display(tune.length(suite, pairs), "trials") as display:
            for jobs in tune.batches(self.compute.results, suite, pairs):
                run_all(jobs, tune.attempt, self.compute.settings(), display)
        for dataset, algorithm in pairs:
            best = tune.chosen(self.compute.results, suite, dataset, algorithm)
            print(f"{dataset} {algorithm}: {best['chosen']} (validation {best['score']:.1%})")


@dataclass(frozen=True)
class Show:
    """What of the records is shown."""

    algorithms: tuple[str, ...] = ()
    """Only these labels, in this order; ``label=name`` calls it by another name."""
    supports: tuple[float, ...] = ()
    """Only these support fractions of new clients."""
    model: Literal["selected", "final"] = "selected"
    """That of the best round on validation clients, or of the last round."""
    metric: Literal["accuracy", "mean", "bottom10", "p10", "p50", "p90"] = "accuracy"
    """Of figures that show one number of each run: over points, or over clients."""

    def shown(self, columns: tuple[str, ...] = ()) -> "Shown":
        """The same, for those who read records."""
        from metaleaf.report.shown import Shown

        return Shown(self.algorithms, self.supports, self.model, columns, self.metric)


@dataclass(frozen=True)
class ReportCommand:
    """Write table, figures and page from the records below a folder."""

    folder: tyro.conf.Positional[Path]
    """A suite's folder in the result store, e.g. results/synthetic."""
    output: Path | None = None
    """Default: `report` in that folder."""
    baseline: str | None = None
    """The label that all others are paired with or majority (default: the best; new environments: few_round)."""
    also: tuple[Path, ...] = ()
    """Folders of further suites, for tables and figures of all."""
    columns: tuple[str, ...] = ()
    """Columns of the tables: before after mean bottom10 p10 p50 p90 hurt rounding seeds rounds bytes flops."""
    show: Show = field(default_factory=Show)

    def main(self) -> None:
        """Write it."""
        if self.also and not self.output:
            raise ConfigError("a report of several suites belongs to none of their folders: add --output.")
        output = self.output or self.folder / "report"
        shown = self.show.shown(self.columns)
        order = _order(self.folder, *self.also)
        _report(self.folder, output, order, baseline=self.baseline, also=self.also, shown=shown)


@dataclass(frozen=True)
class FiguresCommand:
    """Draw all figures that a suite's records allow, at the size of a paper."""

    suite: tyro.conf.Positional[str]
    """A suite's folder of records, e.g. results/synthetic, or the suite itself (a name, or a TOML file)."""
    output: Path | None = None
    """Default: `figures` in the folder of records."""
    only: tuple[str, ...] = ()
    """Names of figures (docs/figures.md)."""
    width: Literal["single", "double", "neurips"] | None = None
    """3.25, 6.75 or 5.5 inches (default: a single column for a figure of one panel, else double)."""
    formats: tuple[Literal["pdf", "svg", "png"], ...] = ("pdf", "svg", "png")
    also: tuple[Path, ...] = ()
    """Folders of further suites, for figures of all."""
    results: Path = Path("results")
    """Folder of the result store, if the suite is named."""
    show: Show = field(default_factory=Show)

    def main(self) -> None:
        """Draw them, with a line on each."""
        from metaleaf.config.suite import load_suite
        from metaleaf.report.figure_files import write_figures

        if self.also and not self.output:
            raise ConfigError("figures of several suites belong to none of their folders: add --output.")
        folder = Path(self.suite)
        if not folder.is_dir():
            folder = self.results / load_suite(self.suite).name
        output, order, shown = self.output or folder / "figures", _order(folder, *self.also), self.show.shown()
        written = write_figures(
            folder, output, order, also=self.also, only=self.only, width=self.width, formats=self.formats, shown=shown
        )
        for line in written:
            print(line, flush=True)


@dataclass(frozen=True)
class SubmitCommand:
    """Check a contributed set of records against the rules (docs/rules.md). Exit code 1: a rule is broken."""

    action: tyro.conf.Positional[Literal["check"]]
    folder: tyro.conf.Positional[Path]
    """A suite's folder of a result store, e.g. results/synthetic."""
    suite: str | None = None
    """The suite's TOML file (default: the one that comes with metaleaf under the records' name)."""
    beside: Path | None = None
    """A folder of records that these must be comparable with, e.g. the leaderboard's."""
    partial: bool = False
    """Accept that cells or seeds are missing."""

    def main(self) -> None:
        """Check it."""
        from metaleaf.submission.check import check

        print(check(self.folder, self.suite, self.beside, self.partial))


@dataclass(frozen=True)
class VerifyCommand:
    """Run the cell of a record again and compare. Exit codes: 0 the same, 1 different, 3 could not be measured."""

    record: tyro.conf.Positional[Path]
    """A record's JSON file, .../seed-<n>.json, with its two tables beside it."""
    tolerance: float = 0.01
    """Largest difference of an accuracy over points that may be rounding; hashes and costs must be the same."""
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Run it."""
        from metaleaf.submission.verify import verify

        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"tolerance must be a fraction from 0, got {self.tolerance}.")
        print(verify(self.record, self.compute.settings(), self.tolerance))


@dataclass(frozen=True)
class EvaluateCommand:
    """Score the model of a finished run again, without training. The run must have been made with --save."""

    record: tyro.conf.Positional[Path]
    """A record's JSON file, .../seed-<n>.json, with its tables and its model beside it."""
    model: Literal["final", "selected"] = "selected"
    clients: tuple[str, ...] = ("test",)
    """``train``, ``validation`` or ``test``, or ids of clients."""
    supports: tuple[float, ...] = ()
    """Support fractions (default: the record's)."""
    rounds: tuple[int, ...] = ()
    """In new environments: rounds after which they are scored (default: the record's)."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A hyper-parameter of adaptation, ``--set adapt_steps=10``; repeatable. Nothing is trained again."""
    output: Path | None = None
    """Write the scores of every client here, with the columns of a record's clients.csv."""
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Score it."""
        from metaleaf.reuse.rescore import Question, rescore
        from metaleaf.runs.store import write_csv

        question = Question(self.model, self.clients, self.supports, self.rounds, _assignments(self.set))
        found = rescore(self.record, question, self.compute.settings())
        print(found.text)
        if self.output:
            write_csv(self.output, {str(name): found.clients[name].tolist() for name in found.clients})
            print(self.output)


@dataclass(frozen=True)
class ExportCommand:
    """Write the model of a run with --save as a plain state_dict, and a loader beside it."""

    record: tyro.conf.Positional[Path]
    """A record's JSON file, .../seed-<n>.json, with its tables and its model beside it."""
    model: Literal["final", "selected"] = "selected"
    output: Path | None = None
    """A .safetensors file, or .pt as of torch.save (default: named after the run, in this folder)."""

    def main(self) -> None:
        """Write both."""
        from metaleaf.reuse.export import export

        print(*export(self.record, self.output, self.model), sep="\n")


@dataclass(frozen=True)
class StabilityCommand:
    """Compute a suite's records with other engines, threads, precision and perturbed starts; say how far scores move.

    What is measured is written into the records (`rounding`); stop it and start it again at will.
    """

    suite: tyro.conf.Positional[str]
    """A TOML file, or the name of a suite that comes with metaleaf."""
    datasets: tuple[str, ...] = ()
    """Only these (labels)."""
    algorithms: tuple[str, ...] = ()
    """Only these (labels)."""
    seeds: tuple[int, ...] = ()
    """Only these."""
    report: bool = True
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Measure, and write the suite's report again."""
        with _importing():
            from metaleaf.config.suite import load_suite
            from metaleaf.submission.stability import measure

        suite = load_suite(self.suite)
        _only(self.datasets, suite.datasets, "dataset of the suite")
        cells = _cells(suite, self.compute.results, self.algorithms)
        asked = self.datasets or suite.datasets
        chosen = _chosen(suite, cells, self.algorithms, self.seeds)
        _run_configs([cell for cell in chosen if cell.dataset_label in asked], self.compute, job=measure)
        if self.report:
            _report_suite(suite, cells, self.compute.results)


@dataclass(frozen=True)
class SiteCommand:
    """Write the leaderboard: one page with the results of every suite below a folder."""

    results: tyro.conf.Positional[Path] = Path("results")
    """Folder of the result store."""
    output: Path = Path("site")
    """A folder for index.html."""

    def main(self) -> None:
        """Write it, and say what could not be shown."""
        from metaleaf.errors import DataError
        from metaleaf.report.site.page import write_site

        path, refused = write_site(self.results, self.output)
        print(f"open {path} ({path.stat().st_size / 1e6:.1f} MB)")
        for sentence in refused:
            print(f"metaleaf: {visible(sentence)}", file=sys.stderr)
        if refused:
            raise DataError(f"{path} is written without these {len(refused)}.")


@dataclass(frozen=True)
class DataCommand:
    """Prepare, list, describe or verify datasets."""

    action: tyro.conf.Positional[Literal["prepare", "list", "stats", "verify"]]
    dataset: tyro.conf.Positional[str] = ""
    options: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An option of the dataset, ``--options source=leaf``; repeatable."""
    raw: Path | None = None
    """The only folder to look into for raw files (default: $METALEAF_RAW/<dataset>, else the publisher's URL)."""
    again: bool = False
    """Prepare anew what is there already."""
    keep: bool = False
    """Take what is there, though other code or other files made it."""

    def main(self) -> None:
        """Do it."""
        from metaleaf.config.config import build
        from metaleaf.data import prepare

        if self.action == "list":
            for name in _loadable("datasets"):
                try:
                    directory = prepare.prepared_directory(name, build("datasets", name, {}))
                    print(f"{name:<24}{directory if prepare.is_prepared(directory) else 'not prepared'}")
                except ConfigError as error:  # it has an option without a default
                    print(visible(f"{name:<24}{error}"))
            return
        if not self.dataset:
            raise ConfigError(f"metaleaf data {self.action} needs a dataset: {', '.join(registry.names('datasets'))}.")
        dataset = build("datasets", self.dataset, _assignments(self.options))
        stale = _choice(self.again, self.keep)
        if self.action == "prepare":
            print(prepare.prepare(self.dataset, dataset, raw=self.raw, again=self.again, stale=stale))
        elif self.action == "stats":
            print(prepare.stats_table(prepare.load(self.dataset, dataset, raw=self.raw, stale=stale)))
        else:
            directory = prepare.prepared_directory(self.dataset, dataset)
            prepare.verify(directory)
            print(f"{directory} is whole")


@dataclass(frozen=True)
class ListCommand:
    """List algorithms, datasets, models or suites."""

    what: tyro.conf.Positional[Literal["algorithms", "datasets", "models", "suites"]]

    def main(self) -> None:
        """Print one a line."""
        from metaleaf.config.suite import SUITES
        from metaleaf.models import MODELS

        if self.what in registry.METHOD:
            for name, plugin in _loadable(self.what).items():
                doc = (plugin.__doc__ or "").strip() or "(no docstring)"
                print(visible(f"{name:<24}{doc.splitlines()[0]}"))
            return
        for name in sorted(MODELS) if self.what == "models" else sorted(p.stem for p in SUITES.glob("*.toml")):
            print(name)


@dataclass(frozen=True)
class AlgorithmsCommand:
    """Tabulate all algorithms: family, paper, order, memory, and the bytes each really sends."""

    model: str | None = None
    """Count bytes on this model, with the examples of a dataset whose own it is (default: the dataset's)."""
    dataset: str | None = None
    """Count bytes on this dataset (default: the model's, or synthetic)."""
    markdown: bool = False
    """Print Markdown."""
    write: bool = False
    """Renew algorithms/README.md instead (its models are fixed)."""

    def main(self) -> None:
        """Print it."""
        from metaleaf.catalogue import catalogue

        if self.write:
            print(catalogue.write_readme())
            return
        default = "synthetic" if self.model is None else None
        place = catalogue.place(self.dataset or default, self.model)
        found = catalogue.entries(registry.names("algorithms"), [place])
        print(catalogue.markdown(found, place) if self.markdown else catalogue.text(found, place))


@dataclass(frozen=True)
class NewCommand:
    """Write a new plugin that works, and its test, to start from."""

    what: tyro.conf.Positional[Literal["algorithm"]]
    name: tyro.conf.Positional[str]
    """In snake_case; the plugin's name on the command line."""
    to: Path | None = None
    """A folder of a package of your own (default: this repository's algorithms/ and tests/)."""

    def main(self) -> None:
        """Write both, and say what is next."""
        from metaleaf.catalogue.starter import class_name, module_name, new_algorithm

        plugin, test = new_algorithm(self.name, self.to)
        print(plugin, test, "", "Next:", f"  pytest {test}", sep="\n")
        if self.to is None:
            print("  metaleaf algorithms --write    # renews algorithms/README.md")
        else:
            print("  # in your pyproject.toml, then install your package:")
            print('  [project.entry-points."metaleaf.algorithms"]')
            print(f'  {self.name} = "{module_name(self.to, self.name)}:{class_name(self.name)}"')
        print(f"  metaleaf run --algorithm {self.name}")


@dataclass(frozen=True)
class BenchCommand:
    """Measure rounds beside plain PyTorch loops (and pfl), interleaved, and print ratios and the % of the limit."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Only these benchmarks; patterns such as 'maml*' are welcome."""
    quick: bool = False
    """A few small clients: to see that it works, not for figures."""
    repeats: int | None = None
    """Turns that are measured, after one that warms up (default: 5, or 2 if it is to be quick)."""
    threads: int | None = None
    """Default: the machine's cores."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    pfl: Path | None = None
    """The Python of an environment with pfl-research, to measure against it as well."""
    check: bool = False
    """First compare the numbers of all engines on the device with one client after the other on the CPU."""
    output: Path | None = None
    """A JSON file for all measurements; the table is written beside it, as Markdown."""
    scaling: Path | None = None
    """Instead: a folder for how cost grows with clients, samples and threads, and where a round's time goes."""

    def main(self) -> None:
        """Measure."""
        with _importing():  # otherwise the collector would look through it all in the middle of a measurement
            from metaleaf.bench import command
            from metaleaf.bench.rows import Settings

        Compute(device=self.device, threads=self.threads).settings()  # refuses what cannot be
        repeats = (2 if self.quick else 5) if self.repeats is None else self.repeats
        if repeats < 1:
            raise ConfigError(f"repeats must be at least 1, got {repeats}.")
        settings = Settings(repeats, self.threads or os.cpu_count() or 1, self.device, self.quick, self.pfl)
        if self.scaling:
            command.scale(settings, self.scaling)
        else:
            command.run(self.names, settings, checks=self.check, output=self.output)


@dataclass(frozen=True)
class GateCommand:
    """Compare suites with their baselines; exit code 1: something moved, 3: not everything could be measured."""

    suites: tyro.conf.Positional[tuple[str, ...]] = ()
    """TOML files, or names of suites that come with metaleaf (default: its gate suites whose data is here)."""
    baselines: Path | None = None
    """Folder of the baselines (default: `baselines` beside each suite)."""
    update: bool = False
    """Measure the baselines anew instead of comparing with them."""
    seeds: tuple[int, ...] = ()
    """Default: the suite's; for --update 1001 to 1020."""
    false_alarm: float = 0.01
    """Probability that a gate run alarms though nothing has changed."""
    junit: Path | None = None
    """Write JUnit XML here."""
    summary: Path | None = None
    """Write a Markdown summary here."""
    history: Path | None = None
    """Append one line of JSON here."""
    steps: Path | None = None
    """Instead: find the steps in a history."""
    between: tuple[Path, Path] | None = None
    """Instead: compare two JSON files of ``pytest benchmarks/bench_gate.py``, an old and a new one."""
    compute: Compute = field(default_factory=lambda: Compute(results=Path("runs/gate")))

    def main(self) -> None:
        """Measure and compare."""
        from metaleaf.gate import command, revisions

        if self.steps:
            command.show_steps(self.steps, self.false_alarm)
            return
        if self.between:
            revisions.show(*self.between)
            return
        gated, settings = command.suites(self.suites, self.baselines), self.compute.settings()
        if self.update:
            command.update(gated, self.seeds, settings)
        else:
            files = command.Files(self.junit, self.summary, self.history)
            command.run(gated, self.seeds, settings, self.false_alarm, files)


Command = (
    Annotated[RunCommand, tyro.conf.subcommand("run")]
    | Annotated[SuiteCommand, tyro.conf.subcommand("suite")]
    | Annotated[TuneCommand, tyro.conf.subcommand("tune")]
    | Annotated[ReportCommand, tyro.conf.subcommand("report")]
    | Annotated[SubmitCommand, tyro.conf.subcommand("submit")]
    | Annotated[VerifyCommand, tyro.conf.subcommand("verify")]
    | Annotated[EvaluateCommand, tyro.conf.subcommand("evaluate")]
    | Annotated[ExportCommand, tyro.conf.subcommand("export")]
    | Annotated[StabilityCommand, tyro.conf.subcommand("stability")]
    | Annotated[FiguresCommand, tyro.conf.subcommand("figures")]
    | Annotated[SiteCommand, tyro.conf.subcommand("site")]
    | Annotated[DataCommand, tyro.conf.subcommand("data")]
    | Annotated[ListCommand, tyro.conf.subcommand("list")]
    | Annotated[AlgorithmsCommand, tyro.conf.subcommand("algorithms")]
    | Annotated[NewCommand, tyro.conf.subcommand("new")]
    | Annotated[BenchCommand, tyro.conf.subcommand("bench")]
    | Annotated[GateCommand, tyro.conf.subcommand("gate")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    # Threads that wait by spinning ruin a machine that has other work; read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Figures need none, and matplotlib would not be imported where a notebook names one that is not installed here.
    os.environ["MPLBACKEND"] = "agg"
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "±" gets a "?"
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words == ["--version"]:
        print(f"metaleaf {__version__}")
        return 0
    config = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
    try:
        with _interruptible():
            command: Any = tyro.cli(Command, prog="metaleaf", description=__doc__, args=words, config=config)
            command.main()
    except (UserError, OSError) as error:
        found = of_system(error) if isinstance(error, OSError) else error
        print(f"metaleaf: {visible(str(found))}", file=sys.stderr)
        return found.exit_code
    except KeyboardInterrupt as interrupt:
        return _said(interrupt.args[0] if interrupt.args else signal.SIGINT)
    return 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """What asks a process to end interrupts it as Ctrl-C does, so that what is under way is saved."""
    kept = {}
    if threading.current_thread() is threading.main_thread():
        kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    # What is ignored stays so (nohup), and what whoever calls us has taken over.
    ours = [number for number, how in kept.items() if how in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, kept[number])


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch" and frame.f_code.co_name == "<module>":
            os._exit(_said(number))  # torch's C++ aborts if its import raises this, and nothing is under way
        frame = frame.f_back
    raise KeyboardInterrupt(number)


def _said(number: int) -> int:
    """Say that the command was interrupted; the exit code."""
    how = {signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}.get(signal.Signals(number), "interrupted")
    print(f"metaleaf: {how}; finished runs are kept, the same command goes on from here.", file=sys.stderr, flush=True)
    return 128 + number


@contextmanager
def _importing() -> Iterator[None]:
    """Without the garbage collector, now and for what is there then.

    An import leaves no garbage, and what it brings stays. To look through all of torch, in its import, in the run and
    at the end, would take a fifth of the time of a short run.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _cells(suite: "Suite", results: Path, algorithms: Sequence[str] = ()) -> "list[RunConfig]":
    """The suite's cells, seed by seed so that a table is comparable as early as possible.

    If algorithms are named, the others need not have been searched; those that were not are left out.
    """
    from metaleaf.jobs import tune

    cells = []
    for dataset, algorithm in suite.grid():
        try:
            tuning = tune.chosen(results, suite, dataset, algorithm) if suite.tuning else None
        except ConfigError:
            if not algorithms or algorithm in algorithms:
                raise
            continue
        changes = tuning["chosen"] if tuning else None
        for seed in suite.seeds_for(algorithm):
            cells.append(suite.config(dataset, algorithm, seed, changes=changes, tuning=tuning))
    return sorted(cells, key=lambda config: config.seed)


def _chosen(
    suite: "Suite", cells: "Sequence[RunConfig]", algorithms: Sequence[str], seeds: Sequence[int]
) -> "list[RunConfig]":
    """The cells of these algorithms and seeds, or all; ConfigError names one that the suite does not have."""
    _only(algorithms, suite.algorithms, "algorithm of the suite")
    _only(seeds, {seed for label in suite.algorithms for seed in suite.seeds_for(label)}, "seed of the suite")
    return [
        cell
        for cell in cells
        if (not algorithms or cell.algorithm_label in algorithms) and (not seeds or cell.seed in seeds)
    ]


def _loadable(kind: str) -> dict[str, type[Any]]:
    """The plugins that can be loaded; a line on stderr on each that cannot."""
    found, refused = registry.loadable(kind)
    for sentence in refused:
        print(f"metaleaf: {visible(sentence)}", file=sys.stderr)
    return found


def _run_configs(
    configs: "Sequence[RunConfig]", compute: Compute, *, save: bool = False, job: "Job | None" = None
) -> None:
    """Do the job for each of them, which is to run it."""
    from metaleaf.jobs import execute
    from metaleaf.terminal.display import Display

    jobs = [(f"{c.dataset_label} {c.algorithm_label} seed {c.seed}", c) for c in configs]
    with Display(len(jobs)) as display:
        execute.run_all(jobs, job or execute.compute, replace(compute.settings(), save=save), display)


def _report_suite(suite: "Suite", cells: "Sequence[RunConfig]", results: Path) -> None:
    """The report of its records; those of an earlier wording of the suite stay in the store, but out of it."""
    folder = results / suite.name
    _report(folder, folder / "report", tuple(suite.algorithms), {cell.config_hash() for cell in cells})


def _record_path(results: Path, config: "RunConfig") -> Path:
    from metaleaf.runs.store import Cell

    return Cell(results, config).record_path


def _report(
    folder: Path,
    output: Path,
    order: Sequence[str] = (),
    only: Container[str] | None = None,
    baseline: str | None = None,
    also: Sequence[Path] = (),
    shown: "Shown | None" = None,
) -> None:
    from metaleaf.report.report import write_report
    from metaleaf.report.shown import ALL

    written = write_report(folder, output, order=order, only=only, baseline=baseline, also=also, shown=shown or ALL)
    table = next((path for path in written if path.suffix == ".md"), None)
    if table:
        print(table.read_text(encoding="utf-8"))
    page = next((path for path in written if path.suffix == ".html"), output)
    print(f"{len(written)} files in {output}; open {page}")


def _choice(again: bool, keep: bool) -> "Choice":
    if again and keep:
        raise ConfigError("--again and --keep: choose one of them.")
    return "again" if again else "keep" if keep else "refuse"


def _order(*folders: Path) -> tuple[str, ...]:
    """The algorithms in the order of the suites that come under the folders' names, where there are any."""
    from metaleaf.config.suite import SUITES, load_suite

    paths = (SUITES / f"{folder.resolve().name}.toml" for folder in folders)
    labels = (label for path in paths if path.is_file() for label in load_suite(str(path)).algorithms)
    return tuple(dict.fromkeys(labels))


def _only(chosen: Sequence[Any], known: Collection[Any], kind: str) -> None:
    from metaleaf.errors import unknown

    for name in chosen:
        if name not in known:
            raise unknown(kind, str(name), [str(one) for one in known])


def _assignments(words: Sequence[str]) -> dict[str, Any]:
    """``["a=1", "b=x"]`` as {"a": 1, "b": "x"}; values are read as TOML where they are TOML, else as text."""
    import tomllib

    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r} is not an assignment: write key=value.")
        try:
            found[key] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found


if __name__ == "__main__":
    sys.exit(main())
