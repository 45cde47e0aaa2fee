"""Other libraries' federations: what plugin reads a path, and datasets in memory as Parquet. None is imported here."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

from metaleaf.errors import ConfigError, DataError
from metaleaf.raw.exchange import KEY

if TYPE_CHECKING:
    import pyarrow as pa

_BY_SUFFIX = {
    ".npz": "arrays",
    ".json": "leaf_json",
    ".h5": "tff",
    ".hdf5": "tff",
    ".sqlite": "tff",
    ".lzma": "tff",
    ".arrow": "huggingface",
}


@runtime_checkable
class Columns(Protocol):
    """A `Dataset` of Hugging Face's."""

    features: Any

    def with_format(self, type: str) -> Any:
        """The same, whose slices are of Arrow's, for example."""


@runtime_checkable
class Partitioned(Protocol):
    """A `FederatedDataset` of flwr-datasets."""

    @property
    def partitioners(self) -> Any:
        """By split."""

    def load_partition(self, partition_id: int, split: str) -> Any:
        """A `Dataset`."""


def is_dataset(data: object) -> TypeGuard[Columns | Mapping[str, Columns]]:
    """Whether it is a `Dataset` of Hugging Face's, or a `DatasetDict`."""
    if isinstance(data, Mapping) and data:
        return all(isinstance(one, Columns) for one in data.values())
    return isinstance(data, Columns)


def kind_of(path: Path) -> str:
    """The plugin that reads such a file, or such a folder."""
    if path.is_dir():
        suffixes = {file.suffix for file in path.iterdir()}
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file() or ".parquet" in suffixes:
            return "huggingface"
        return "tff" if suffixes & {".h5", ".hdf5", ".sqlite", ".lzma"} else "leaf_json"
    if path.suffix == ".parquet" and path.is_file() and _is_exported(path):
        return "huggingface"
    return _BY_SUFFIX.get(path.suffix, "table")


def _is_exported(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return KEY.encode() in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False  # who reads it will say so


def as_parquet(data: "Columns | Mapping[str, Columns] | Partitioned", client: str) -> bytes:
    """All rows, the partition of each in the column `client` if there are partitions; DataError if that cannot be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    try:
        whole = pa.concat_tables([*(_of_partitions(data, client) if isinstance(data, Partitioned) else _tables(data))])
        pq.write_table(whole, buffer)
    except pa.ArrowException as error:
        raise DataError(f"the dataset cannot be kept: {str(error).splitlines()[0]}.") from error
    return buffer.getvalue()


def _tables(data: "Columns | Mapping[str, Columns]") -> Iterator["pa.Table"]:
    for dataset in data.values() if isinstance(data, Mapping) else [data]:
        table = dataset.with_format("arrow")[:]
        yield table.replace_schema_metadata(dataset.features.arrow_schema.metadata)


def _of_partitions(data: Partitioned, client: str) -> Iterator["pa.Table"]:
    """Of each partition, by its natural id if it has one, else its number; one after the other, split after split."""
    import pyarrow as pa

    for split, partitioner in data.partitioners.items():
        data.load_partition(0, split)  # a partitioner has no data before
        names = getattr(partitioner, "partition_id_to_natural_id", {})
        for i in range(partitioner.num_partitions):
            for table in _tables(data.load_partition(i, split)):
                if client in table.column_names:
                    raise ConfigError(f"the dataset has a column {client!r} already: client = another name for ours.")
                owner = pa.array([str(names.get(i, i))] * len(table), pa.string())
                yield table.append_column(client, owner)
