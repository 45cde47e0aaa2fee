"""Shakespeare's roles, the next character at every position, as McMahan et al. 2017 and TensorFlow Federated have it.

The text and its roles are those of `metaleaf.datasets.shakespeare`, which asks only for the character after each window
of 80. Here all that a role says is cut into pieces of 80 that do not overlap, and every character but the first is
asked for, once. It is the form in which most papers report 50 to 57 % on Shakespeare.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.datasets.shakespeare import REMEDY, TEXT_NAMES, WINDOW, Shakespeare, texts, user_id

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

PADDING = 0
"""What follows a role's last character in x: the newline, which no role of the 1994 text says."""

UNJUDGED = -1
"""What follows it in y."""


@dataclass(frozen=True)
class ShakespeareSequence:
    """1,145 roles in 36 plays: all that say more than two lines. Pieces stand in the order in which they are said."""

    spec: ClassVar[Spec] = replace(
        Shakespeare.spec,
        version="1.0.0",
        y_shape=(WINDOW,),
        y_dtype="int8",
        task="sequence",
        # The network of McMahan et al. and of LEAF, with a prediction from every state.
        model={"name": "small_lstm", "width": 256, "layers": 2},
        small_model="gru",
        # A piece's last answer is the next one's first character: one piece apart, support and query share none.
        window=1,
        published=None,
    )

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the roles in the order of the text; x uint8 [n, 80], y int8 [n, 80], the environment is the play.

        DataError if the text is not there, damaged, or another edition.
        """
        files = raw.of("shakespeare")
        for play, role, codes in texts(files, files.require(TEXT_NAMES, REMEDY)):
            yield Client(user_id(play, role), play, *pieces(codes))


def pieces(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is said, uint8 [characters], as x [n, 80] and at every position the character that follows, y [n, 80]."""
    n = -(-(len(codes) - 1) // WINDOW)
    x, y = np.full(n * WINDOW, PADDING, np.uint8), np.full(n * WINDOW, UNJUDGED, np.int8)
    x[: len(codes) - 1], y[: len(codes) - 1] = codes[:-1], codes[1:]
    return x.reshape(n, WINDOW), y.reshape(n, WINDOW)
