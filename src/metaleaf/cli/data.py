"""``metaleaf data``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro

from metaleaf import registry
from metaleaf.cli.listing import loadable
from metaleaf.cli.options import assignments, choice
from metaleaf.errors import ConfigError
from metaleaf.terminal.visible import visible

if TYPE_CHECKING:
    from metaleaf.data.client_store import ClientStore
    from metaleaf.dataset import Dataset


@dataclass(frozen=True)
class DataCommand:
    """Prepare, list, describe or verify datasets; or make a Markdown table of several, by default all prepared ones."""

    action: tyro.conf.Positional[Literal["prepare", "list", "stats", "table", "verify"]]
    datasets: tyro.conf.Positional[tuple[str, ...]] = ()
    """Their names."""
    options: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An option of the dataset, ``--options source=leaf``; repeatable."""
    raw: Path | None = None
    """The only folder to look into for raw files (default: $METALEAF_RAW/<dataset>, else the publisher's URL)."""
    again: bool = False
    """Prepare anew what is there already."""
    keep: bool = False
    """Take what is there, though other code or other files made it."""

    def main(self) -> None:
        """Do it."""
        if self.action == "list":
            for name, found in _defaults():
                print(visible(f"{name:<24}{found or 'not prepared'}"))
        elif self.action == "table":
            from metaleaf.data.stats import markdown

            names = self.datasets or [name for name, found in _defaults() if isinstance(found, Path)]
            print(markdown(self._store(name) for name in names))
        elif self.datasets:
            for name in self.datasets:
                print(self._done(name))
        else:
            raise ConfigError(f"metaleaf data {self.action} needs a dataset: {', '.join(registry.names('datasets'))}.")

    def _done(self, name: str) -> str:
        """Do it with one of the datasets; what there is to say of it."""
        from metaleaf.data import prepare, stats

        if self.action == "stats":
            store = self._store(name)
            return f"{stats.stats_table(store)}\n{stats.described(store.about['spec'])}"
        if self.action == "prepare":
            dataset, stale = self._dataset(name), choice(self.again, self.keep)
            directory = prepare.prepare(name, dataset, raw=self.raw, again=self.again, stale=stale)
        else:
            directory = prepare.prepared_directory(name, self._dataset(name))
        prepare.verify(directory)
        return str(directory) if self.action == "prepare" else f"{directory} is whole"

    def _dataset(self, name: str) -> "Dataset":
        from metaleaf.config.config import build

        return cast("Dataset", build("datasets", name, assignments(self.options)))

    def _store(self, name: str) -> "ClientStore":
        from metaleaf.data.prepare import load

        return load(name, self._dataset(name), raw=self.raw, stale=choice(self.again, self.keep))


def _defaults() -> Iterator[tuple[str, Path | str]]:
    """Each dataset, with where it lies prepared with its own options, or why it has no such place; else empty."""
    from metaleaf.config.config import build
    from metaleaf.data import prepare

    for name in loadable("datasets"):
        try:
            directory = prepare.prepared_directory(name, build("datasets", name, {}))
        except ConfigError as error:  # it has an option without a default
            yield name, str(error)
        else:
            yield name, directory if prepare.is_prepared(directory) else ""
