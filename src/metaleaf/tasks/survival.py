"""How soon an event comes, where of many it is only known that it had not come until they were last seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metaleaf.errors import ConfigError
from metaleaf.metrics import Metric
from metaleaf.shots import Shots
from metaleaf.tasks._kind import Kind, Spec, Sum, finite


def _at_risk(time: Tensor) -> Tensor:
    """Whom each example (row) is compared with at its time: those still observed then, and itself; bool [n, n].

    Who was observed for no time is nobody's risk, and so are rows that pad a client, whose y is 0.
    """
    itself = torch.eye(time.shape[0], dtype=torch.bool, device=time.device)
    return itself | ((time >= time.unsqueeze(-1)) & (time > 0))


def _pairs(y: Tensor, real: Tensor) -> Tensor:
    """Where the row's event is known to have come before the column's, bool [n, n].

    Two events at the same time are not compared; who was last seen at that time lived longer.
    """
    time, event = y[:, 0], y[:, 1] > 0
    sooner = (time.unsqueeze(-1) < time) | ((time.unsqueeze(-1) == time) & ~event)
    return (event & real).unsqueeze(-1) & real & sooner


def _concordant(outputs: Tensor, y: Tensor, real: Tensor) -> Tensor:
    """Pairs whose first has the higher risk, equal ones counting half."""
    risk, usable = outputs.squeeze(-1), real & finite(outputs)
    first = risk.unsqueeze(-1)
    return torch.where(_pairs(y, usable), ((first > risk).double() + (first >= risk).double()) / 2, 0.0).sum()


def _comparable(outputs: Tensor, y: Tensor, real: Tensor) -> Tensor:
    return _pairs(y, real).double().sum()


@dataclass(frozen=True)
class Survival(Kind):
    """The log risk, [n, 1], of y [n, 2]: time (above 0) and whether the event came then (1) or observation ended (0).

    The loss of an example whose event came is Cox's: the negative log of its share in the risk of all examples at hand
    that were observed as long or longer (Breslow's form where times are equal); of others it is 0. Its mean over
    examples, `Task.loss`, is the negative log partial likelihood over the number of examples, those without event
    included. An example is only compared with those of its client and its batch: an event alone has loss 0. Time and
    memory grow with the square of their number.

    Metric: the C-index (Harrell et al. 1982, JAMA 247), over the pairs within each client. The constant answer, the
    same risk for all, has 0.5.
    """

    metrics: tuple[str, ...] = ("c_index",)

    known: ClassVar[Mapping[str, Metric]] = {"c_index": Metric("C-index", "concordant", "comparable")}
    sums: ClassVar[Mapping[str, Sum]] = {"concordant": _concordant, "comparable": _comparable}
    at_once: ClassVar[frozenset[str]] = frozenset(sums)
    y_dtype: ClassVar[str] = "float32"

    def check(self, spec: Spec) -> None:
        """See `Kind`."""
        if spec["classes"] or list(spec.get("y_shape", ())) != [2]:
            self.refuse(spec, "time and event, shape [2]")
        if spec.get("standardise", "") not in ("", "x"):
            raise ConfigError(f"task {self.name!r} needs times and events as they are: standardise x alone.")

    def outputs(self, spec: Spec) -> int:
        """See `Kind`."""
        return 1

    def losses(self, outputs: Tensor, y: Tensor, padded: bool = False) -> Tensor:
        """See `Kind`."""
        risk, time, event = outputs.squeeze(-1), y[:, 0], y[:, 1] > 0
        among = torch.where(_at_risk(time), risk, -torch.inf).logsumexp(-1)
        return torch.where(event, among - risk, 0.0)

    def answer_shape(self, spec: Spec) -> tuple[int, ...]:
        """See `Kind`: a log risk."""
        return ()

    def constant(self, support: Shots, query: Shots) -> Tensor:
        """See `Kind`."""
        return torch.zeros(len(query.y), 1, dtype=torch.float64, device=query.y.device)
