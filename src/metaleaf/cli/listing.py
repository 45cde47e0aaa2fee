"""``metaleaf list``."""

import sys
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from metaleaf import registry
from metaleaf.terminal.visible import visible


@dataclass(frozen=True)
class ListCommand:
    """List algorithms, datasets, models, tasks or suites."""

    what: tyro.conf.Positional[Literal["algorithms", "datasets", "models", "tasks", "suites"]]

    def main(self) -> None:
        """Print one a line."""
        from metaleaf.config.suite import SUITES

        if self.what in registry.METHOD:
            for name, plugin in loadable(self.what).items():
                doc = (plugin.__doc__ or "").strip() or "(no docstring)"
                print(visible(f"{name:<24}{doc.splitlines()[0]}"))
            return
        for name in sorted(path.stem for path in SUITES.glob("*.toml")):
            print(name)


def loadable(kind: str) -> dict[str, type[Any]]:
    """The plugins that can be loaded; a line on stderr on each that cannot."""
    found, refused = registry.loadable(kind)
    for sentence in refused:
        print(f"metaleaf: {visible(sentence)}", file=sys.stderr)
    return found
