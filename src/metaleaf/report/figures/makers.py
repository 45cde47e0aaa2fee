"""All figures of the track of new clients.

Each is one function from `runs.Runs` to a figure and its caption, which raises NotDrawnError where the records do not
allow it. docs/figures.md says what they show.
"""

from collections.abc import Sequence

from metaleaf.figures.adaptation import adaptation_steps, support
from metaleaf.figures.clients import clients
from metaleaf.figures.convergence import convergence, convergence_bytes
from metaleaf.figures.cost import cost
from metaleaf.figures.critical_difference import critical_difference
from metaleaf.figures.distribution import ecdf, profile
from metaleaf.figures.drawing import Drawing, Makers, drawn
from metaleaf.figures.fairness import fairness
from metaleaf.figures.overview import overview
from metaleaf.figures.participants import participants
from metaleaf.figures.portrait import portrait
from metaleaf.figures.runs import Runs
from metaleaf.records import Model, Record

MAKERS: Makers[Runs] = {
    "overview": overview,
    "convergence": convergence,
    "convergence_bytes": convergence_bytes,
    "cost_to_target": cost,
    "adaptation_steps": adaptation_steps,
    "support": support,
    "participants": participants,
    "clients": clients,
    "ecdf": ecdf,
    "fairness": fairness,
    "profile": profile,
    "critical_difference": critical_difference,
}
"""All figures that need nothing but records, in the order of the report."""

WITH_DATA: Makers[Runs] = {**MAKERS, "portrait": portrait}
"""And the one that needs prepared data."""


def draw(records: Sequence[Record], model: Model = "selected", metric: str = "accuracy") -> dict[str, Drawing]:
    """All figures of a report that the records allow, by name."""
    return drawn(Runs(records, model, metric=metric), MAKERS)
