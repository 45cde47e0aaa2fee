"""``metaleaf new``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class NewCommand:
    """Write a new plugin that works, and its test, to start from."""

    what: tyro.conf.Positional[Literal["algorithm"]]
    name: tyro.conf.Positional[str]
    """In snake_case; the plugin's name on the command line."""
    to: Path | None = None
    """A folder of a package of your own (default: this repository's algorithms/ and tests/)."""

    def main(self) -> None:
        """Write both, and say what is next."""
        from metaleaf.catalogue.starter import class_name, module_name, new_algorithm

        plugin, test = new_algorithm(self.name, self.to)
        print(plugin, test, "", "Next:", f"  pytest {test}", sep="\n")
        if self.to is None:
            print("  metaleaf algorithms --write    # renews algorithms/README.md")
        else:
            print("  # in your pyproject.toml, then install your package:")
            print('  [project.entry-points."metaleaf.algorithms"]')
            print(f'  {self.name} = "{module_name(self.to, self.name)}:{class_name(self.name)}"')
        print(f"  metaleaf run --algorithm {self.name}")
