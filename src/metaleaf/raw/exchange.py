"""What an exported federation says of itself, so that whoever imports it prepares the same data again.

`metaleaf.data.exchange` writes it: as the first key of LEAF's JSON, and into the metadata of Parquet's and Arrow's
schema. Files that come from elsewhere have none; what they hold is found out (`metaleaf.datasets._exchange`).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from metaleaf.dataset import Spec
from metaleaf.errors import DataError

KEY = "metaleaf"
"""Of the note, in JSON and in a schema's metadata."""

CLIENT, ENVIRONMENT, X, Y, GROUP = COLUMNS = ("client", "environment", "x", "y", "group")
"""What the columns of a table are called: a row an example."""

MOST_TEXT = 16 << 20
"""Bytes of a note at most: the names of a million classes."""

MOST_NUMBERS = 1 << 26
"""In one example: numpy cannot have rows of 2 GiB."""


@dataclass(frozen=True)
class Note:
    """The spec of a federation, and how many clients and examples it has, which shows what was cut off.

    data_hash: of the prepared data that was exported, of the dataset `name`.
    """

    spec: Spec
    clients: int
    samples: int
    data_hash: str = ""
    name: str = ""
    format: Literal[1] = 1

    def text(self) -> str:
        """As JSON, in one line of ASCII."""
        return json.dumps(asdict(self))


def note_of(about: Mapping[str, Any]) -> Note:
    """What a manifest says; DataError if that is no spec."""
    return _read(json.dumps({name: about[name] for name in ("spec", "clients", "samples", "data_hash", "name")}))


def read(text: str | bytes, where: object) -> Note:
    """The note that a file holds, which nobody vouches for; DataError if it makes no sense."""
    if len(text) > MOST_TEXT:
        raise DataError(f"{where}: its note by metaleaf has more than {MOST_TEXT:,} bytes.")
    try:
        return _read(text)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _read(text: str | bytes) -> Note:
    try:
        note: Note = _adapter().validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, problem["loc"])) or "it"
        raise DataError(f"its note by metaleaf is damaged ({place}: {problem['msg']}): export it again.") from None
    if wrong := _wrong(note):
        raise DataError(f"its note by metaleaf makes no sense ({wrong}): export it again.")
    return note


@cache
def _adapter() -> TypeAdapter[Note]:
    return TypeAdapter(Note)


def _wrong(note: Note) -> str:
    """What in a note cannot be, or nothing."""
    spec = note.spec
    for shape in (spec.x_shape, spec.y_shape):
        if min(shape, default=1) < 1 or math.prod(shape) > MOST_NUMBERS:
            return f"an example of shape {list(shape)[:9]}"
    for name in (spec.x_dtype, spec.y_dtype or "uint8"):
        if name not in _DTYPES:
            return f"numbers of type {name[:20]!r}"
    if min(spec.classes, spec.window, note.clients - 1, note.samples - note.clients) < 0:
        return "a number that is too small"
    if len(spec.labels) not in (0, spec.classes):
        return f"{len(spec.labels)} names for {spec.classes} classes"
    return ""


_DTYPES = {np.dtype(code).name for code in "?bhilBHILefd"}
