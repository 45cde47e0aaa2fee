"""A federation's clients, to look at and to run on: of a dataset by its name, or one's own data."""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from metaleaf import registry, tasks
from metaleaf.config.config import build, explain, resolve
from metaleaf.config.labels import Label
from metaleaf.config.sources import Choice
from metaleaf.data.client_store import ClientStore
from metaleaf.data.prepare import load as open_prepared
from metaleaf.data.stats import described, stats_table
from metaleaf.dataset import Client
from metaleaf.errors import ConfigError, DataError, refuse_unknown
from metaleaf.files.whole_files import write_atomically
from metaleaf.front.foreign import Columns, Partitioned, as_parquet, is_dataset, kind_of
from metaleaf.front.html import as_text
from metaleaf.front.plugins import named, plain
from metaleaf.raw import brought_home
from metaleaf.raw.exchange import CLIENT

Given = pd.DataFrame | str | os.PathLike[str] | Mapping[Any, tuple[Any, Any]] | Columns | Partitioned
"""One's own data: a table, a path, x and y of each client by its id, or what another library has in memory."""


class Clients(Sequence[Client]):
    """The clients of a prepared dataset, in its order; each has `id`, `environment`, `x` [n, ...] and `y` [n, ...].

    y: as it was given, classes by their labels if they have any. name, options: the dataset plugin and what it was
    given, as in a suite. label: what tables call it.
    """

    def __init__(
        self, name: str, options: Mapping[str, Any], label: str = "", raw: Path | None = None, stale: Choice = "refuse"
    ) -> None:
        self.name, self.options, self.label = name, resolve("datasets", name, options), _checked(label or name)
        refuse_unknown("choice of stale", [stale], get_args(Choice))
        self.raw = raw
        self.plugin = build("datasets", name, options)
        self.store: ClientStore = open_prepared(name, self.plugin, raw=raw, stale=stale)

    def __len__(self) -> int:
        return len(self.store)

    @overload
    def __getitem__(self, place: int | str) -> Client: ...
    @overload
    def __getitem__(self, place: slice) -> list[Client]: ...
    def __getitem__(self, place: Any) -> Any:
        """The client at a place, or with an id; a slice gives a list."""
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if isinstance(place, str):
            place = self._place(place)
        if not isinstance(place, int | np.integer):
            raise TypeError(f"clients are asked for by place, id or slice, not {type(place).__name__}")
        if not -len(self) <= place < len(self):
            raise IndexError(f"{self.label} has {len(self)} clients, no number {place}")
        i = int(place) % len(self)
        x, y = self.store.client(i)
        if self.labels:
            y = np.array(self.labels)[y]
        return Client(str(self.store.ids[i]), str(self.store.environments[i]), x, y)

    def __iter__(self) -> Iterator[Client]:
        return (self[i] for i in range(len(self)))

    def _place(self, name: str) -> int:
        if not len(found := np.flatnonzero(self.store.ids == name)):
            raise KeyError(f"{self.label} has no client {name!r}")
        return int(found[0])

    def __contains__(self, one: object) -> bool:
        """Whether there is a client with that id."""
        return (one.id if isinstance(one, Client) else one) in self.ids

    def index(self, one: Any, *_: Any) -> int:
        """The place of a client, or of that with an id; ValueError if there is none."""
        return self.ids.index(one.id if isinstance(one, Client) else one)

    @property
    def ids(self) -> list[str]:
        """Of the clients, in order."""
        return [str(name) for name in self.store.ids]

    @property
    def environments(self) -> list[str]:
        """The group of each client."""
        return [str(name) for name in self.store.environments]

    @cached_property
    def labels(self) -> tuple[Any, ...]:
        """What classes are called that are not 0, 1, ...; empty where they are."""
        return tuple(self.store.about["spec"].get("labels", ()))

    @cached_property
    def task(self) -> str:
        """What is asked of models, unless a run says otherwise."""
        return tasks.of(self.store.about["spec"]).name

    def stats(self) -> pd.DataFrame:
        """A row a client: id, environment, examples; of classes how many it has and the most frequent one's share, of
        numbers their mean and standard deviation.
        """
        classes = bool(self.store.about["spec"]["classes"])
        rows = [(_classes if classes else _numbers)(self.store.client(i)[1]) for i in range(len(self))]
        found = pd.DataFrame({"client": self.ids, "environment": self.environments, "examples": self.store.counts})
        return found.join(pd.DataFrame(rows))

    def __repr__(self) -> str:
        figures = stats_table(self.store, probed=False).partition("\n")[2]
        return f"{self.label}: {described(self.store.about['spec'])}\n{figures}"

    def _repr_html_(self) -> str:
        return as_text(repr(self))


def _classes(y: np.ndarray) -> dict[str, float]:
    counts = np.bincount(y[y >= 0].ravel(), minlength=1)
    return {"classes": int(np.count_nonzero(counts)), "majority_share": counts.max() / max(1, counts.sum())}


def _numbers(y: np.ndarray) -> dict[str, float]:
    return {"y_mean": float(y.mean()), "y_sd": float(y.std())}


def load(
    dataset: Any, *, raw: str | os.PathLike[str] | None = None, stale: Choice = "refuse", **options: Any
) -> Clients:
    """The clients of a dataset: by its name and options, or a dataset plugin of your own; prepared if it is not yet.

    raw: the folder with the publisher's files (default: $METALEAF_RAW). stale: what becomes of prepared data whose
    files or code have changed: "refuse", "again" or "keep". ConfigError and DataError say what is wrong.
    """
    if isinstance(dataset, str) and dataset not in registry.names("datasets") and Path(dataset).suffix:
        raise ConfigError(f"{dataset!r} is no dataset but looks like a file: use metaleaf.clients({dataset!r}).")
    name, own = named("datasets", dataset)
    return Clients(name, {**own, **options}, raw=Path(raw) if raw else None, stale=stale)


def clients(data: Given, *, name: str = "", stale: Choice = "refuse", **options: Any) -> Clients:
    """Your own data as clients.

    data: a DataFrame, or the path of a CSV or Parquet file, a row an example (options of `metaleaf.datasets.table`:
    client, target, time, environment, features, drop, target_type, standardise); or a dict of (x, y) by client, or the
    path of an .npz file (options of `metaleaf.datasets.arrays`: ordered, target_type). name: what tables call it.
    stale: as in `load`.

    Of other systems (docs/exchange.md): the path of LEAF's JSON (options of `metaleaf.datasets.leaf_json`), of
    TensorFlow Federated's files (`metaleaf.datasets.tff`), of what metaleaf has exported; a `Dataset` or `DatasetDict`
    of Hugging Face's, or the folder of one (`metaleaf.datasets.huggingface`); a `FederatedDataset` of flwr-datasets.

    What is in memory is kept under the data home, in a file named by its content, so that the same data are prepared
    once and other processes find them.
    """
    if isinstance(data, pd.DataFrame):
        path, plugin = _kept(_parquet(data), ".parquet"), "table"
    elif isinstance(data, str | os.PathLike):
        path = os.fspath(data)
        plugin = kind_of(Path(path).expanduser())
    elif isinstance(data, Partitioned) or is_dataset(data):
        path, plugin = _kept(as_parquet(data, str(options.get("client", CLIENT))), ".parquet"), "huggingface"
    elif isinstance(data, Mapping):
        path, plugin = _kept(_arrays(data), ".npz"), "arrays"
    else:
        raise ConfigError(f"clients of {type(data).__name__}: give a DataFrame, a path, or a dict of (x, y) by client.")
    return Clients(plugin, plain({"path": path, **options}), name, stale=stale)


def _checked(label: str) -> str:
    """The label, which names a folder of the result store."""
    try:
        return TypeAdapter(Label).validate_python(label)
    except ValidationError as error:
        raise ConfigError(explain(error, f"name = {label!r}")) from None


def _kept(content: bytes, suffix: str) -> str:
    """The name of the file in the home of what was brought, which has this content."""
    name = f"{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
    path = brought_home() / name
    if not path.exists():
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return name


def _parquet(frame: pd.DataFrame) -> bytes:
    """The table, without its index."""
    buffer = io.BytesIO()
    try:
        frame.rename(columns=str).to_parquet(buffer, index=False)
    except (ValueError, TypeError, OverflowError, NotImplementedError) as error:  # pyarrow's own are among these
        raise DataError(f"the table cannot be kept: {str(error).splitlines()[0]}.") from error
    return buffer.getvalue()


def _arrays(data: Mapping[Any, tuple[Any, Any]]) -> bytes:
    """All clients' arrays one below the other, with the client of each row."""
    if not data:
        raise DataError("there are no clients: give a dict of (x, y) by client.")
    xs, ys, ids = [], [], []
    for name, pair in data.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DataError(f"client {name!r} is a {type(pair).__name__}: give a pair (x, y) of arrays.")
        x, y = (_array(values, str(name)) for values in pair)
        if str(name) in ids:
            raise DataError(f"two clients are called {str(name)!r}.")
        if x.ndim < 1 or x.shape[:1] != y.shape[:1]:
            raise DataError(f"client {name!r} has x {list(x.shape)} and y {list(y.shape)}, not one y an example.")
        xs.append(x)
        ys.append(y)
        ids += [str(name)] * len(x)
    try:
        found = {"x": np.concatenate(xs), "y": np.concatenate(ys), "client": np.array(ids)}
    except ValueError as error:
        raise DataError(f"the clients' arrays have different shapes: {error}.") from None
    buffer = io.BytesIO()
    np.savez(buffer, **found)  # type: ignore[arg-type]
    return buffer.getvalue()


def _array(values: Any, name: str) -> np.ndarray:
    """As an array of numbers or texts."""
    try:
        found = np.asarray(values)
        found = np.array(found.tolist()) if found.dtype == object else found
    except ValueError as error:
        raise DataError(f"client {name!r}: its values are of different lengths ({error}).") from None
    if found.dtype == object:
        raise DataError(f"client {name!r} has values that are neither numbers nor texts.")
    return found


def dataset_entry(given: Any) -> tuple[str, dict[str, Any]]:
    """The label of clients, and their entry in a suite: of `Clients`, a dataset's name or a plugin."""
    found = given if isinstance(given, Clients) else load(given)
    return found.label, {"name": found.name, "options": found.options}
