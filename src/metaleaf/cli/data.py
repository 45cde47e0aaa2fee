"""``metaleaf data``."""

import sys
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
    """Prepare, list, describe, verify or export datasets, make a table of them, or renew a card, by its path."""

    action: tyro.conf.Positional[Literal["prepare", "list", "stats", "table", "verify", "export", "card"]]
    datasets: tyro.conf.Positional[tuple[str, ...]] = ()
    """Their names; a table is of all that are prepared unless some are named."""
    options: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An option of the dataset, ``--options source=leaf``; repeatable."""
    raw: Path | None = None
    """The only folder to look into for raw files (default: $METALEAF_RAW/<dataset>, else the publisher's URL)."""
    again: bool = False
    """Prepare anew what is there already."""
    keep: bool = False
    """Take what is there, though other code or other files made it."""
    to: Literal["leaf", "parquet", "huggingface"] = "parquet"
    """Of export: LEAF's JSON, a Parquet file, or a folder for Hugging Face's datasets.load_from_disk."""
    output: Path | None = None
    """Of export: the new folder, or the .parquet file."""
    overwrite: bool = False
    """Of export: replace the export that is there."""

    def main(self) -> None:
        """Do it."""
        if self.action == "list":
            for name, found in _defaults():
                print(visible(f"{name:<24}{found or 'not prepared'}"))
            return
        if self.action == "table":
            from metaleaf.data.stats import markdown

            names = self.datasets or [name for name, found in _defaults() if isinstance(found, Path)]
            print(markdown(self._store(name) for name in names))
            return
        if not self.datasets:
            raise ConfigError(f"metaleaf data {self.action} needs a dataset: {', '.join(registry.names('datasets'))}.")
        if self.action == "export" and len(self.datasets) > 1:
            raise ConfigError("metaleaf data export makes one export: name one dataset.")
        actions = {"prepare": self._prepare, "stats": self._stats, "verify": self._verify, "export": self._export}
        for name in self.datasets:
            actions.get(self.action, self._card)(name)

    def _prepare(self, name: str) -> None:
        from metaleaf.data import prepare

        dataset, stale = self._dataset(name), choice(self.again, self.keep)
        directory = prepare.prepare(name, dataset, raw=self.raw, again=self.again, stale=stale)
        prepare.verify(directory)
        print(directory)

    def _stats(self, name: str) -> None:
        from metaleaf.data import stats

        store = self._store(name)
        print(f"{stats.stats_table(store)}\n{stats.described(store.about['spec'])}")

    def _verify(self, name: str) -> None:
        from metaleaf.data import prepare

        directory = prepare.prepared_directory(name, self._dataset(name))
        prepare.verify(directory)
        print(f"{directory} is whole")

    def _export(self, name: str) -> None:
        from metaleaf.data import exchange

        if self.output is None:
            raise ConfigError("metaleaf data export needs a place: --output FOLDER, or --output FILE.parquet.")
        store = self._store(name)
        print(exchange.export(store, self.to, self.output, overwrite=self.overwrite, progress=True))
        if terms := store.about["spec"].get("terms"):
            print(visible(f"{name}: {terms}"), file=sys.stderr)

    def _card(self, path: str) -> None:
        from metaleaf.catalogue import cards

        cards.renew(cards.read(Path(path), assignments))

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
