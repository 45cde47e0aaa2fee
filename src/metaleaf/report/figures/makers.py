"""All figures of the track of new clients.

Each is one function from `runs.Runs` to a figure and its caption, which raises NotDrawnError where the records do not
allow it. docs/figures.md says what they show.
"""

from collections.abc import Sequence

from metaleaf.records.records import Model, Record
from metaleaf.report.figures.adaptation import adaptation_steps, support
from metaleaf.report.figures.clients import clients
from metaleaf.report.figures.convergence import convergence, convergence_bytes, convergence_hours
from metaleaf.report.figures.cost import cost
from metaleaf.report.figures.critical_difference import critical_difference
from metaleaf.report.figures.distribution import ecdf, profile
from metaleaf.report.figures.drawing import Drawing, Makers, drawn
from metaleaf.report.figures.fairness import fairness
from metaleaf.report.figures.levels import protection
from metaleaf.report.figures.overview import overview
from metaleaf.report.figures.participants import participants
from metaleaf.report.figures.portrait import portrait
from metaleaf.report.figures.runs import Runs

MAKERS: Makers[Runs] = {
    "overview": overview,
    "convergence": convergence,
    "convergence_bytes": convergence_bytes,
    "convergence_hours": convergence_hours,
    "cost_to_target": cost,
    "adaptation_steps": adaptation_steps,
    "support": support,
    "participants": participants,
    "clients": clients,
    "ecdf": ecdf,
    "fairness": fairness,
    "profile": profile,
    "critical_difference": critical_difference,
    "protection": protection,
}
"""All figures that need nothing but records, in the order of the report."""

WITH_DATA: Makers[Runs] = {**MAKERS, "portrait": portrait}
"""And the one that needs prepared data."""


def draw(records: Sequence[Record], model: Model = "selected", number: str = "pooled") -> dict[str, Drawing]:
    """All figures of a report that the records allow, by name."""
    return drawn(Runs(records, model, number=number), MAKERS)
