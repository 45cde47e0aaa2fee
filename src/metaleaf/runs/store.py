"""The result store: a folder per configuration, a record per seed (docs/records.md), checkpoints of open runs."""

import csv
import fcntl
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from torch import Tensor

from metaleaf.config.config import RunConfig
from metaleaf.errors import DataError
from metaleaf.files import tensor_files
from metaleaf.files.whole_files import write_atomically
from metaleaf.statistics.statistics import Columns

SCHEMA = 1


class Cell:
    """Where one run leaves its record: ``<root>/<suite>/<dataset>/<algorithm>/<config hash>/seed-<n>``."""

    def __init__(self, root: Path, config: RunConfig) -> None:
        labels = (config.suite, config.dataset_label, config.algorithm_label)
        self.folder = root.joinpath(*labels, config.config_hash())
        self.stem = f"seed-{config.seed}"
        self.record_path = self.folder / f"{self.stem}.json"
        self.state_path = self.folder / f"{self.stem}.safetensors"
        """The trained model, if the run is to keep it (`metaleaf.runs.saved`)."""
        self.partial = self.folder / f"{self.stem}.partial"

    def done(self) -> bool:
        """Whether the record exists; it is written last, so then everything does."""
        return self.record_path.exists()

    def record(self) -> dict[str, Any]:
        """The finished record; DataError if it lacks what says how it was made."""
        try:
            found: dict[str, Any] = json.loads(self.record_path.read_text(encoding="utf-8"))
            found["data"]["data_hash"], dict(found.get("sources") or {}), found["title"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the record {self.record_path} is damaged ({error}): delete it to run it again."
            ) from error
        return found

    def forget(self) -> None:
        """Let the record be none before what it speaks of is replaced: it is of an earlier run of this cell."""
        self.record_path.unlink(missing_ok=True)

    def has_model(self, record: Mapping[str, Any]) -> bool:
        """Whether the finished run's model lies beside its record; a run that diverged has none to keep."""
        return record.get("status") == "diverged" or ("saved" in record and self.state_path.exists())

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Hold the cell while it is computed; yields False if another process holds it. Freed when the process dies."""
        with self._lock_file() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
            if self.done():
                shutil.rmtree(self.partial, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what a process that was killed just after it had written the record has left, if that may be."""
        if self.partial.exists():
            with suppress(OSError), self.claimed():
                pass

    def _lock_file(self) -> TextIO:
        while True:
            self.partial.mkdir(parents=True, exist_ok=True)
            try:
                return open(self.partial / "lock", "w", encoding="utf-8")
            except FileNotFoundError:
                continue  # a process that has just finished the cell removed the folder in between

    def save(
        self,
        record: Mapping[str, Any],
        clients: Columns,
        rounds: Sequence[Mapping[str, float]],
        participants: Columns | None = None,
    ) -> None:
        """Write the finished run, the record last, and drop its checkpoint; a saved state lies there already."""
        if "saved" not in record:
            self.state_path.unlink(missing_ok=True)  # of an earlier run of this cell
        names = {name: None for row in rounds for name in row}
        by_name = {name: [row.get(name, math.nan) for row in rounds] for name in names}
        write_csv(self.folder / f"{self.stem}.clients.csv", clients)
        write_csv(self.folder / f"{self.stem}.rounds.csv", by_name)
        if participants is not None:
            write_csv(self.folder / f"{self.stem}.participants.csv", participants)
        write_json(self.record_path, record)
        shutil.rmtree(self.partial, ignore_errors=True)

    @property
    def checkpoint(self) -> Path:
        """Where the run under way is saved."""
        return self.partial / "checkpoint.safetensors"

    def save_checkpoint(self, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        """Write tensors and a JSON note as one file."""
        write_atomically(self.checkpoint, lambda path: tensor_files.write(path, tensors, note))

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None; `tensor_files.Damaged` if it is not as it was written."""
        return tensor_files.read(self.checkpoint) if self.checkpoint.exists() else None


def write_csv(path: Path, columns: Columns) -> None:
    """Write a table; what is not a number becomes an empty cell."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            # The writer quotes a cell with a carriage return only where lines end in one.
            writer = csv.writer(_LineFeeds(file))
            writer.writerow(columns)
            writer.writerows(zip(*map(_cells, columns.values()), strict=True))

    write_atomically(path, write)


class _LineFeeds:
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON that any reader accepts: numbers that are not finite become null."""
    text = json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def _cells(column: Any) -> list[Any]:
    return ["" if value != value else value for value in np.asarray(column).tolist()]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
