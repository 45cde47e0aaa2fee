"""``metaleaf evaluate``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metaleaf.cli.options import Compute, assignments


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

        question = Question(self.model, self.clients, self.supports, self.rounds, assignments(self.set))
        found = rescore(self.record, question, self.compute.settings())
        print(found.text)
        if self.output:
            write_csv(self.output, {str(name): found.clients[name].tolist() for name in found.clients})
            print(self.output)
