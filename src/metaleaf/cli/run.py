"""``metaleaf run``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from metaleaf import registry
from metaleaf.cli.options import Compute, assignments
from metaleaf.cli.process import importing
from metaleaf.cli.running import run_all

if TYPE_CHECKING:
    from metaleaf.config.config import RunConfig


@dataclass(frozen=True)
class RunCommand:
    """Run one algorithm on one dataset and print how its test clients fare."""

    dataset: str = "synthetic"
    algorithm: str = "maml"
    seed: int = 1
    name: str = "runs"
    """The suite's name under which the record is stored."""
    model: str | None = None
    """Its name, or with options as in a suite, ``--model '{name = "mlp", hidden = [64]}'`` (default: the dataset's)."""
    task: str | None = None
    """Likewise, ``--task '{name = "binary", metrics = ["auc"]}'`` (default: the dataset's)."""
    options: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An option of the dataset, ``--options clusters=4``; repeatable."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A hyper-parameter, ``--set inner_lr=0.1`` or ``--set server_optimizer.lr=0.01``; repeatable."""
    protocol: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A protocol setting, ``--protocol rounds=50``; repeatable."""
    protection: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A layer between clients and server, ``--protection 'clip={norm = 1.0}'``; repeatable (docs/protection.md)."""
    systems: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Who is there, on what devices, a line of it: ``--systems deadline=10.0``; repeatable (docs/systems.md)."""
    save: bool = False
    """Keep the trained model beside the record, for `metaleaf evaluate` and `metaleaf export`."""
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Run it."""
        with importing():
            from metaleaf.config.suite import one_cell

        for kind, name in ("datasets", self.dataset), ("algorithms", self.algorithm):
            registry.plugin(kind, name)  # an unknown one is said to be that, not to be no folder
        given = {
            "model": _named(self.model),
            "task": _named(self.task),
            "options": assignments(self.options),
            "protection": assignments(self.protection),
            "systems": assignments(self.systems),
        }
        config = one_cell(
            (self.dataset, given),
            self.algorithm,
            name=self.name,
            seed=self.seed,
            protocol=assignments(self.protocol),
            changes=assignments(self.set),
        )
        run_all([config], self.compute, save=self.save)
        print(record_path(self.compute.results, config))


def record_path(results: Path, config: "RunConfig") -> Path:
    """Where the cell's record is."""
    from metaleaf.runs.store import Cell

    return Cell(results, config).record_path


def _named(text: str | None) -> Any:
    """The name of a model or a task, or the table that the text is."""
    return assignments([f"given={text}"])["given"] if text and text.startswith("{") else text
