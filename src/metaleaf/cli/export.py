"""``metaleaf export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class ExportCommand:
    """Write the model of a run with --save as a plain state_dict, and a loader beside it."""

    record: tyro.conf.Positional[Path]
    """A record's JSON file, .../seed-<n>.json, with its tables and its model beside it."""
    model: Literal["final", "selected"] = "selected"
    output: Path | None = None
    """A .safetensors file, or .pt as of torch.save (default: named after the run, in this folder)."""

    def main(self) -> None:
        """Write both."""
        from metaleaf.reuse.export import export

        print(*export(self.record, self.output, self.model), sep="\n")
