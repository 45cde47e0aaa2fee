"""A benchmark suite for federated meta-learning.

Exit codes: 0 done, 1 a check fails, 2 a user error, 3 not measured, 130 interrupted (143 terminated, 129 hung up).
"""

# Everything that imports torch or matplotlib is imported by the command that needs it: help answers at once.
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from metaleaf import __version__
from metaleaf.cli.algorithms import AlgorithmsCommand
from metaleaf.cli.bench import BenchCommand
from metaleaf.cli.data import DataCommand
from metaleaf.cli.evaluate import EvaluateCommand
from metaleaf.cli.export import ExportCommand
from metaleaf.cli.figures import FiguresCommand
from metaleaf.cli.gate import GateCommand
from metaleaf.cli.leak import LeakCommand
from metaleaf.cli.listing import ListCommand
from metaleaf.cli.new import NewCommand
from metaleaf.cli.process import interruptible, said
from metaleaf.cli.report import ReportCommand
from metaleaf.cli.run import RunCommand
from metaleaf.cli.site import SiteCommand
from metaleaf.cli.stability import StabilityCommand
from metaleaf.cli.submit import SubmitCommand
from metaleaf.cli.suite import SuiteCommand
from metaleaf.cli.tune import TuneCommand
from metaleaf.cli.verify import VerifyCommand
from metaleaf.errors import UserError, of_system
from metaleaf.terminal.visible import visible

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
    | Annotated[LeakCommand, tyro.conf.subcommand("leak")]
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
        with interruptible():
            command: Any = tyro.cli(Command, prog="metaleaf", description=__doc__, args=words, config=config)
            command.main()
    except (UserError, OSError) as error:
        found = of_system(error) if isinstance(error, OSError) else error
        print(f"metaleaf: {visible(str(found))}", file=sys.stderr)
        return found.exit_code
    except KeyboardInterrupt as interrupt:
        return said(interrupt.args[0] if interrupt.args else signal.SIGINT)
    return 0
