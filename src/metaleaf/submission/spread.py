"""Whether rounding could be all that there is between two runs of one cell: how far it moves one of them, measured.

Errors of rounding start at 1e-7 and grow from round to round, much or little. So two runs that differ by nothing else
have updates that part late, where those of a perturbed run part, too; another method, rate or data parts at once.
"""

import numpy as np

from metaleaf.metrics import Values
from metaleaf.submission.entry import Entry
from metaleaf.submission.side_by_side import APART, distances, updates_apart

REACH = 2
"""Times as far as rounding has moved a score here, a record may be away and still be rounding."""
GROWTH = 30
"""Times as far as rounding has moved an update here, a record's may be away in the same round."""


class Spread:
    """A record, the same run here, and what is known of how far rounding alone moves that run."""

    def __init__(self, record: Entry, here: Entry) -> None:
        self.here, self.away, self.apart = here, distances(record, here), updates_apart(record, here)
        self.names: list[str] = []
        self.moved = dict.fromkeys(self.away, 0.0)
        self.updates: Values = np.zeros(len(self.apart))
        """Farthest relative difference of updates in a round or any before it."""

    def add(self, name: str, other: Entry) -> None:
        """The run here computed in another way."""
        self.names.append(name)
        for line, moved in distances(self.here, other).items():
            self.moved[line] = max(self.moved.get(line, 0.0), moved)
        found = np.maximum.accumulate(updates_apart(self.here, other))[: len(self.updates)]
        # A run that diverged has fewer rounds; after them all may be.
        self.updates = np.maximum(self.updates, np.pad(found, (0, len(self.updates) - len(found)), constant_values=1.0))

    def parts(self) -> int | None:
        """The round at which the record's updates part from those here, if rounding has not come near to that."""
        if not (self.apart > APART).any():
            return None
        number = int((self.apart > APART).argmax())
        return number if self.apart[number] > GROWTH * self.updates[number] else None

    def explains(self, lines: list[str]) -> bool:
        """Whether rounding could be why these scores differ."""
        return self.parts() is None and all(self.away[line] <= REACH * self.moved[line] for line in lines)

    def described(self, line: str) -> str:
        """What was measured: of a score, and of the updates where these decide."""
        moves = f"computed otherwise here ({', '.join(self.names)}) it moves by {_points(self.moved[line])} at most"
        text = f"its {line} is {_points(self.away[line])} points away, and {moves}"
        if (number := self.parts()) is None:
            return text
        theirs, ours = self.apart[number], self.updates[number]
        return f"{text}; updates are {theirs:.1%} apart at round {number}, by rounding {ours:.0e}"


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f}"
