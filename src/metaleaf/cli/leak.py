"""``metaleaf leak``."""

from dataclasses import dataclass, field
from typing import Literal

import tyro

from metaleaf.cli.options import Compute
from metaleaf.cli.process import importing


@dataclass(frozen=True)
class LeakCommand:
    """Attack updates of a suite's training clients, under each dataset's layers: what comes back of their examples."""

    suite: tyro.conf.Positional[str]
    """A TOML file, or the name of a suite that comes with metaleaf."""
    datasets: tuple[str, ...] = ()
    """Only these (labels)."""
    algorithms: tuple[str, ...] = ()
    """Only these (labels)."""
    clients: int = 4
    """Clients that are attacked, of the first round's cohort."""
    examples: tuple[int, ...] = (1,)
    """That each client has; several numbers are attacked one after the other."""
    model: Literal["untrained", "final", "selected"] = "untrained"
    """What was broadcast: the start, or that of the cell's run, which must have been made with --save."""
    distance: Literal["cosine", "squared"] = "cosine"
    """Of updates, which the attack makes small."""
    steps: int = 1000
    """Of the attack."""
    restarts: int = 1
    """Random starts; the best by the attack's own objective counts."""
    variation: float = 0.1
    """Weight of the images' total variation."""
    seed: int | None = None
    """The run's (default: the first of the suite's)."""
    compute: Compute = field(default_factory=Compute)

    def main(self) -> None:
        """Attack, and write what was found into the suite's folder of results."""
        with importing():
            from metaleaf.config.config import made
            from metaleaf.config.suite import load_suite
            from metaleaf.leakage.leakage import Leak, Question, leak
            from metaleaf.leakage.shown import lines, write

        how = {name: getattr(self, name) for name in ("distance", "steps", "restarts", "variation")}
        who = {name: getattr(self, name) for name in ("clients", "examples", "model")}
        question = made(Question, "leak", {**who, "inversion": how})
        suite, settings = load_suite(self.suite), self.compute.settings()
        found: list[Leak] = []
        for one in leak(suite, settings, question, datasets=self.datasets, algorithms=self.algorithms, seed=self.seed):
            print(*lines(one, suite, found), sep="\n", flush=True)
            found.append(one)
        print(*write(found, settings.root / suite.name), sep="\n")
