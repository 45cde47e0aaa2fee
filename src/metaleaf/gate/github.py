"""What GitHub Actions shows: annotations on standard output, and the page of the job."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from metaleaf.gate.compare import Comparison


def annotations(compared: Sequence[Comparison]) -> Iterator[str]:
    """A workflow command for everything that is not well; none outside GitHub Actions."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    for one in compared:
        if one.verdict != "ok":
            kind = "error" if one.alarm else "warning"
            yield f"::{kind} title={_property(f'metaleaf gate: {one.verdict}')}::{_message(one.sentence())}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def add_to_job_page(markdown: str) -> None:
    """Append to the file that GitHub Actions names for the job's summary, if it does."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(markdown)
