"""How figures are made one after the other, of whatever track their source is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from matplotlib.figure import Figure

from metaleaf.report.figures.style import FORMATS, encoded, styled


class Picture(NamedTuple):
    """A figure, and what a reader has to know to read it: what is shown, and how the intervals were made."""

    figure: Figure
    caption: str


class NotDrawnError(Exception):
    """The records do not allow this figure; says why."""


class Drawing(NamedTuple):
    """A figure as files: its caption, and their contents by format."""

    caption: str
    files: dict[str, bytes]


Source = TypeVar("Source")

Makers = Mapping[str, Callable[[Source], Picture]]
"""By the figure's name: draws it from the source, or raises NotDrawnError."""


def drawings(
    source: Source, makers: Makers[Source], formats: Sequence[str] = FORMATS
) -> Iterator[tuple[str, Drawing | NotDrawnError]]:
    """Make one figure after the other: its name, and the figure or why the records do not allow it.

    The same records give the same bytes with the same version of matplotlib. Raises DataError on damaged records.
    """
    for name, make in makers.items():
        with styled():
            try:
                picture = make(source)
                made: Drawing | NotDrawnError = Drawing(picture.caption, encoded(picture.figure, formats))
            except NotDrawnError as reason:
                made = reason
        yield name, made


def drawn(source: Source, makers: Makers[Source], formats: Sequence[str] = FORMATS) -> dict[str, Drawing]:
    """The figures that the records allow, by name, in their order."""
    return {name: made for name, made in drawings(source, makers, formats) if isinstance(made, Drawing)}
