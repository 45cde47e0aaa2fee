"""What a metric is: a ratio of two sums over examples, so that a client's score and that of many come from one rule.

Records keep each client's sums; whoever reads them needs these facts and no code of the task's.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A ratio total / weight of two sums, by the names of the record's columns; ``n`` is the number of examples.

    form: the score is the ratio, its root (RMSE), or 1 minus the ratio (R2). low and high: its bounds, None where it
    has none. unit: ``%`` for shares, which are shown times 100, or that of the values. undefined: the score where the
    weight is 0; of a nan the client has none and is left out.
    """

    name: str
    total: str
    weight: str = "n"
    form: Literal["ratio", "root", "complement"] = "ratio"
    higher_is_better: bool = True
    low: float | None = 0.0
    high: float | None = 1.0
    unit: str = "%"
    undefined: float = math.nan

    def score(self, total: npt.ArrayLike, weight: npt.ArrayLike) -> Values:
        """Of sums of one shape; nan where there is none."""
        total, weight = np.asarray(total, dtype=float), np.asarray(weight, dtype=float)
        known = weight > 0
        ratio = np.divide(total, weight, out=np.full(np.broadcast(total, weight).shape, math.nan), where=known)
        if self.form == "ratio":
            found = ratio
        else:
            found = np.sqrt(ratio) if self.form == "root" else 1 - ratio
        return np.where(known, found, self.undefined)

    def defined(self, weight: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Where there is a score at all, of whatever total."""
        found: npt.NDArray[np.bool_] = (np.asarray(weight, dtype=float) > 0) | (not math.isnan(self.undefined))
        return found

    def better(self, one: npt.ArrayLike, other: npt.ArrayLike) -> Any:
        """Where the one score is better than the other; a nan is never better, and any number is better than it."""
        one, other = np.asarray(one), np.asarray(other)
        found = (one > other) if self.higher_is_better else (one < other)
        return found | (np.isnan(other) & ~np.isnan(one))

    @property
    def title(self) -> str:
        """The name as a sentence begins with it."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def in_unit(self) -> str:
        """For captions: "Accuracy in %", "RMSE in kW"."""
        return f"{self.title} in {self.unit}" if self.unit else self.title

    @property
    def label(self) -> str:
        """For axes: "Accuracy (%)", "RMSE (kW)"."""
        return self.labelled("")

    def labelled(self, what: str) -> str:
        """The same of some clients, after a space or a comma: "Accuracy of a client (%)"."""
        return f"{self.title}{what} ({self.unit})" if self.unit else f"{self.title}{what}"

    @property
    def scale(self) -> float:
        """What shown numbers are multiplied by: shares are shown in %."""
        return 100.0 if self.unit == "%" else 1.0

    def number(self, score: float) -> str:
        """As it stands in tables, which name the unit."""
        return f"{100 * score:.1f}" if self.unit == "%" else f"{score:#.4g}".rstrip(".")

    def exact(self, score: float) -> str:
        """One that somebody chose, such as a target, as they wrote it."""
        return f"{self.scale * score:g} {self.unit}".rstrip()

    def signed(self, difference: float) -> str:
        """A difference of scores, with its sign."""
        text = f"{100 * difference:+.1f}" if self.unit == "%" else f"{difference:+#.3g}".rstrip(".")
        return text.replace("-", "−") if float(text) else self.number(0.0)

    def best(self, values: Iterable[float]) -> float:
        """The best of some scores."""
        return max(values) if self.higher_is_better else min(values)

    def text(self, value: float, digits: int = 1) -> str:
        """A score as people read it: shares in %, other numbers with their unit."""
        if self.unit == "%":
            return f"{value:.{digits}%}"
        return f"{value:.{digits + 3}g} {self.unit}".rstrip()

    def apart(self, one: float, other: float) -> float:
        """How far two scores are apart, from 0 to 1: a share absolutely, what has no bounds relatively."""
        difference = abs(one - other)
        largest = 1.0 if self.high is not None else max(abs(one), abs(other), 1e-12)
        return min(difference / largest, 1.0)

    def facts(self) -> dict[str, Any]:
        """As a record has it: JSON without nan."""
        found = asdict(self)
        if math.isnan(self.undefined):
            del found["undefined"]
        return found


ACCURACY = Metric("accuracy", "correct")
"""What records report that do not say."""


REPORTED = "reported_"
"""What the columns begin with that an algorithm reports (`metaleaf.runs.reported`): numbers, or empty cells."""


def constant(column: str) -> str:
    """The column of the same sum for the constant predictor's answers; accuracy's is called as it always was."""
    return "majority" if column == "correct" else f"constant_{column}"
