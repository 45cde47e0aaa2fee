"""Runs with a display of how far they are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from metaleaf.cli.options import Compute

if TYPE_CHECKING:
    from metaleaf.config.config import RunConfig
    from metaleaf.jobs.execute import Job


def run_all(configs: "Sequence[RunConfig]", compute: Compute, *, save: bool = False, job: "Job | None" = None) -> None:
    """Do the job for each of them, which is to run it."""
    from metaleaf.jobs import execute
    from metaleaf.terminal.display import Display

    jobs = execute.named(configs)
    with Display(len(jobs)) as display:
        execute.run_all(jobs, job or execute.compute, replace(compute.settings(), save=save), display)
