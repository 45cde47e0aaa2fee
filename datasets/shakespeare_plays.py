"""Shakespeare's plays as environments: the roles of one play are the clients of one environment.

The text and its roles are those of `metaleaf.datasets.shakespeare`. An example is a short piece of a role's text and
the character after it; pieces do not overlap and are spread evenly over all that the role says, every role the same
number of them. Plays are declared 60/20/20 as train, validation and test, drawn by the seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.datasets.shakespeare import REMEDY, TEXT_NAMES, Shakespeare, texts, user_id
from metaleaf.errors import ConfigError, DataError
from metaleaf.seeds import derive

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

PARTS = ("train", "validation", "test")
LIMITS = {"window": (1, 1000), "examples": (2, 10**4), "seed": (0, 2**32 - 1)}
"""Least and greatest value of each option."""


@dataclass(frozen=True)
class ShakespearePlays:
    """36 plays with 668 roles, when made from the 1994 text with the default options.

    window: characters of an example. examples: of each role; roles that say less are left out. seed: draws which
    plays are for training. ConfigError for an option outside `LIMITS`.
    """

    window: int = 20
    examples: int = 40
    seed: int = 0

    spec: ClassVar[Spec] = replace(
        Shakespeare.spec, version="1.0.0", x_shape=(20,), model="char_mlp", window=0, published=None
    )

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"shakespeare_plays: {name} is {getattr(self, name)}, not from {low} to {high}.")
        # The window is an option here, so an instance has its own spec.
        object.__setattr__(self, "spec", replace(self.spec, x_shape=(self.window,)))

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield clients "<play>_<role>" in environments "<part>/<play>", in the order of the text.

        x uint8 [examples, window], y uint8 [examples]. DataError if the text is not there or damaged, or has fewer
        than five plays.
        """
        files = raw.of("shakespeare")
        roles = texts(files, files.require(TEXT_NAMES, REMEDY))
        parts = self.parts(sorted({play for play, _, _ in roles}))
        for play, role, codes in roles:
            pieces = len(codes) // (self.window + 1)
            if pieces >= self.examples:
                chosen = np.linspace(0, pieces - 1, self.examples).astype(int)
                rows = codes[: pieces * (self.window + 1)].reshape(pieces, self.window + 1)[chosen]
                yield Client(user_id(play, role), f"{parts[play]}/{play}", rows[:, :-1], rows[:, -1])

    def parts(self, plays: list[str]) -> dict[str, str]:
        """The part of each play; DataError for fewer than five."""
        if len(plays) < 5:
            raise DataError(f"shakespeare_plays: the text has {len(plays)} plays, but three parts need 5: {REMEDY}")
        shuffled = np.random.default_rng(derive(self.seed, "shakespeare_plays")).permutation(plays)
        held_out = len(plays) // 5
        cut = len(plays) - 2 * held_out
        pieces = np.split(shuffled, [cut, cut + held_out])
        return {str(play): part for part, piece in zip(PARTS, pieces, strict=True) for play in piece}
