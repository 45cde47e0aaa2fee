"""Names that people give, folders of the result store and titles of tables: one rule for suites and for records."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

RESERVED = ("tuning", "report", "figures")
"""Folders of a suite that are not labels."""

LONGEST = 100
"""Most characters of a name."""


def printable(text: str) -> str:
    """The text; ValueError for one that would damage an SVG or a LaTeX file, or that nobody could see."""
    if not text.strip():
        raise ValueError("must not be empty")
    if hidden := [character for character in text if not character.isprintable()]:
        raise ValueError(f"must be printable text, without U+{ord(hidden[0]):04X}")
    return text


def _folder(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text) or text in RESERVED:
        allowed = "letters, digits, '_', '-' and '.', one of the first two first"
        raise ValueError(f"names a folder: use {allowed}, not {', '.join(RESERVED)}")
    return text


Printable = Annotated[str, Field(max_length=LONGEST), AfterValidator(printable)]
"""What tables and figures show of a suite or a record, such as a title."""

Label = Annotated[str, Field(max_length=LONGEST), AfterValidator(_folder)]
"""Names of suites, datasets and algorithms, which are folders of the result store."""
