"""``metaleaf algorithms``."""

from dataclasses import dataclass

from metaleaf import registry


@dataclass(frozen=True)
class AlgorithmsCommand:
    """Tabulate all algorithms: family, paper, order, memory, and the bytes each really sends."""

    model: str | None = None
    """Count bytes on this model, with the examples of a dataset whose own it is (default: the dataset's)."""
    dataset: str | None = None
    """Count bytes on this dataset (default: the model's, or synthetic)."""
    markdown: bool = False
    """Print Markdown."""
    write: bool = False
    """Renew algorithms/README.md instead (its models are fixed)."""

    def main(self) -> None:
        """Print it."""
        from metaleaf.catalogue import catalogue

        if self.write:
            print(catalogue.write_readme())
            return
        default = "synthetic" if self.model is None else None
        place = catalogue.place(self.dataset or default, self.model)
        found = catalogue.entries(registry.names("algorithms"), [place])
        print(catalogue.markdown(found, place) if self.markdown else catalogue.text(found, place))
