"""``metaleaf data``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metaleaf import registry
from metaleaf.cli.listing import loadable
from metaleaf.cli.options import assignments, choice
from metaleaf.errors import ConfigError
from metaleaf.terminal.visible import visible


@dataclass(frozen=True)
class DataCommand:
    """Prepare, list, describe, verify or export datasets; or renew the figures of a dataset's card, by its path."""

    action: tyro.conf.Positional[Literal["prepare", "list", "stats", "verify", "export", "card"]]
    dataset: tyro.conf.Positional[str] = ""
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
        from metaleaf.config.config import build
        from metaleaf.data import exchange, prepare, stats

        if self.action == "list":
            for name in loadable("datasets"):
                try:
                    directory = prepare.prepared_directory(name, build("datasets", name, {}))
                    print(f"{name:<24}{directory if prepare.is_prepared(directory) else 'not prepared'}")
                except ConfigError as error:  # it has an option without a default
                    print(visible(f"{name:<24}{error}"))
            return
        if not self.dataset:
            raise ConfigError(f"metaleaf data {self.action} needs a dataset: {', '.join(registry.names('datasets'))}.")
        if self.action == "card":
            from metaleaf.catalogue import cards

            cards.renew(cards.read(Path(self.dataset), assignments))
            return
        dataset = build("datasets", self.dataset, assignments(self.options))
        stale = choice(self.again, self.keep)
        if self.action == "prepare":
            directory = prepare.prepare(self.dataset, dataset, raw=self.raw, again=self.again, stale=stale)
            prepare.verify(directory)
            print(directory)
        elif self.action == "stats":
            store = prepare.load(self.dataset, dataset, raw=self.raw, stale=stale)
            print(f"{stats.stats_table(store)}\n{stats.described(store.about['spec'])}")
        elif self.action == "export":
            if self.output is None:
                raise ConfigError("metaleaf data export needs a place: --output FOLDER, or --output FILE.parquet.")
            store = prepare.load(self.dataset, dataset, raw=self.raw, stale=stale)
            print(exchange.export(store, self.to, self.output, overwrite=self.overwrite, progress=True))
            if terms := store.about["spec"].get("terms"):
                print(visible(f"{self.dataset}: {terms}"), file=sys.stderr)
        else:
            directory = prepare.prepared_directory(self.dataset, dataset)
            prepare.verify(directory)
            print(f"{directory} is whole")
