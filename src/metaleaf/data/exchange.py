"""Take prepared data to other systems: LEAF's JSON, Parquet, a dataset of Hugging Face's (docs/exchange.md).

Each form says of itself what the data are (`metaleaf.raw.exchange`), so that importing it gives the same ``data_hash``.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from metaleaf.data.client_store import ClientStore
from metaleaf.errors import ConfigError, DataError, refuse_unknown
from metaleaf.files.whole_files import naming, write_atomically
from metaleaf.raw import exchange as notes
from metaleaf.raw.exchange import Note, note_of
from metaleaf.terminal.progress import Advance, progress_of

if TYPE_CHECKING:
    import pyarrow as pa

Form = Literal["leaf", "parquet", "huggingface"]

SHARD = 1 << 24
"""Numbers in one file of LEAF's JSON, unless a single client has more: a third of a gigabyte of text."""

MOST = 1 << 26
"""Numbers of one client in LEAF's JSON: what its readers can hold."""

BATCH = 16 << 20
"""Bytes of x that are in memory at a time, in Parquet and Arrow."""

SPLIT = "train"
"""Hugging Face's usual name where there is one split. Clients are divided by the protocol, not by files."""

ARROW = "data-00000-of-00001.arrow"

_OURS = re.compile(rf"all_data_\d+\.json|dataset_dict\.json|{SPLIT}(/(state\.json|dataset_info\.json|{ARROW}))?")
"""Files and folders of an export."""


def export(store: ClientStore, to: Form, output: Path, *, overwrite: bool = False, progress: bool = False) -> Path:
    """Write prepared data as a .parquet file, or as a new folder of LEAF's JSON or of a Hugging Face `DatasetDict`.

    It is written beside its place and renamed, and is there as a whole or not at all; about one client is in memory.
    ConfigError if something is there already, unless it is to be overwritten: a file, or a folder of an earlier export.
    DataError if the data cannot be written in this form.
    """
    refuse_unknown("form", [to], get_args(Form))
    output = Path(output)
    if to == "parquet" and output.suffix != ".parquet":
        raise ConfigError(f"{output}: the name of a Parquet file ends in .parquet.")
    _check_free(output, overwrite, to)
    with progress_of(f"export {store.about['name']}", store.x.nbytes, shown=progress) as advance:
        if to == "parquet":
            write_atomically(output, partial(_write_parquet, store, advance=advance))
        else:
            write = {"leaf": _write_leaf, "huggingface": _write_huggingface}[to]
            _write_folder(output, lambda folder: write(store, folder, advance))
    return output


def _check_free(output: Path, overwrite: bool, to: Form) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise ConfigError(f"{output} is there already: give another place, or --overwrite (overwrite=True).")
    if output.is_dir() == (to == "parquet"):
        raise ConfigError(f"{output} is {'a folder' if output.is_dir() else 'a file'}: give another place.")
    if output.is_dir():
        for path in output.rglob("*"):
            if not _OURS.fullmatch(path.relative_to(output).as_posix()):
                raise ConfigError(f"{output} holds {path.name}, which no export wrote: give another place.")


def _write_folder(output: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `output`, then rename it."""
    partial, old = (output.with_name(f".{output.name}.{word}") for word in ("partial", "old"))
    with naming(output):
        for left in (partial, old):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            write(partial)
            for path in (*partial.rglob("*"), partial):
                _sync(path)
            if output.exists():
                output.rename(old)
            partial.rename(output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# LEAF's JSON


def _write_leaf(store: ClientStore, folder: Path, advance: Advance) -> None:
    note = note_of(store.about)
    per_example = math.prod(note.spec.x_shape) + math.prod(note.spec.y_shape)
    shards = _shards(store.counts * per_example, store.ids)
    for i, clients in enumerate(shards):
        with (folder / f"all_data_{i}.json").open("w", encoding="ascii") as file:
            _write_shard(store, clients, note, file, advance)


def _shards(numbers: np.ndarray, ids: np.ndarray) -> list[range]:
    """Which clients, of so many numbers each, are in which file."""
    if (numbers > MOST).any():
        large = str(ids[numbers.argmax()])
        raise DataError(f"client {large!r} has {numbers.max():,} numbers, too many for LEAF's JSON: export to parquet.")
    starts, room = [0], SHARD
    for i, n in enumerate(numbers.tolist()):
        if n > room and i > starts[-1]:
            starts.append(i)
            room = SHARD
        room -= n
    return [range(*ends) for ends in zip(starts, [*starts[1:], len(numbers)], strict=True)]


def _write_shard(store: ClientStore, clients: range, note: Note, file: IO[str], advance: Advance) -> None:
    rows = slice(clients.start, clients.stop)
    head: dict[str, Any] = {
        "users": store.ids[rows].tolist(),
        "num_samples": store.counts[rows].tolist(),
    }
    if (store.environments != "").any():
        head["hierarchies"] = store.environments[rows].tolist()
    file.write(f'{{"{notes.KEY}": {note.text()}, {json.dumps(head)[1:-1]}, "user_data": {{')
    for i in clients:
        x, y = store.client(i)
        user = {"x": x.tolist(), "y": y.tolist()}
        if store.groups is not None:
            user["groups"] = store.groups[store.offsets[i] : store.offsets[i + 1]].tolist()
        file.write(f"{', ' if i > clients.start else ''}{json.dumps(str(store.ids[i]))}: {json.dumps(user)}")
        advance(x.nbytes, f"{i + 1:,} clients")
    file.write("}}\n")


# Columns: Parquet, Arrow


def _write_parquet(store: ClientStore, path: Path, advance: Advance) -> None:
    import pyarrow.parquet as pq

    schema = _schema(store)
    with pq.ParquetWriter(path, schema) as writer:
        for batch in _batches(store, schema, advance):
            writer.write_batch(batch)


def _write_huggingface(store: ClientStore, folder: Path, advance: Advance) -> None:
    import pyarrow as pa

    schema, about = _schema(store), store.about
    split = folder / SPLIT
    split.mkdir()
    with pa.OSFile(str(split / ARROW), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in _batches(store, schema, advance):
            writer.write_batch(batch)
    state = {
        "_data_files": [{"filename": ARROW}],
        "_fingerprint": about["data_hash"][:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": SPLIT,
    }
    info = {
        "citation": about["spec"].get("citation", ""),
        "description": f"{about['name']} {about['version']}, exported by metaleaf; a row an example.",
        "features": _features(store),
        "homepage": about["spec"].get("homepage", ""),
        "license": about["spec"].get("licence", ""),
    }
    contents = {f"{SPLIT}/state.json": state, f"{SPLIT}/dataset_info.json": info}
    for name, content in {**contents, "dataset_dict.json": {"splits": [SPLIT]}}.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _schema(store: ClientStore) -> "pa.Schema":
    """A column each for client, environment, x, y and, where there are any, groups."""
    import pyarrow as pa

    x, y = _nested(pa.from_numpy_dtype(store.x.dtype), store.x.shape[1:]), pa.int64()
    if not _is_class(store):
        y = _nested(pa.from_numpy_dtype(store.y.dtype), store.y.shape[1:])
    kinds = [pa.string(), pa.string(), x, y, pa.int32()]
    names = notes.COLUMNS if store.groups is not None else notes.COLUMNS[:-1]
    metadata = {
        notes.KEY: note_of(store.about).text(),
        "huggingface": json.dumps({"info": {"features": _features(store)}}),
    }
    return pa.schema(list(zip(names, kinds, strict=False)), metadata=metadata)


def _is_class(store: ClientStore) -> bool:
    """Whether y is one class an example."""
    return bool(store.about["spec"]["classes"]) and store.y.ndim == 1


def _nested(kind: "pa.DataType", shape: tuple[int, ...]) -> "pa.DataType":
    import pyarrow as pa

    for length in reversed(shape):
        kind = pa.list_(kind, length)
    return kind


def _features(store: ClientStore) -> dict[str, Any]:
    """The columns as Hugging Face calls them."""
    spec = store.about["spec"]
    text = {"dtype": "string", "_type": "Value"}
    y = _feature(store.y)
    if _is_class(store):
        names = spec.get("labels") or range(spec["classes"])
        y = {"names": [str(name) for name in names], "_type": "ClassLabel"}
    groups = {notes.GROUP: {"dtype": "int32", "_type": "Value"}} if store.groups is not None else {}
    return {notes.CLIENT: text, notes.ENVIRONMENT: text, notes.X: _feature(store.x), notes.Y: y, **groups}


def _feature(array: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {"dtype": array.dtype.name, "_type": "Value"}
    for length in reversed(array.shape[1:]):
        found = {"feature": found, "length": length, "_type": "Sequence"}
    return found


def _batches(store: ClientStore, schema: "pa.Schema", advance: Advance) -> Iterator["pa.RecordBatch"]:
    """The rows in their order."""
    import pyarrow as pa

    samples = len(store.y)
    step = max(1, BATCH * samples // max(1, store.x.nbytes))
    for start in range(0, samples, step):
        rows = slice(start, min(start + step, samples))
        owners = np.searchsorted(store.offsets, np.arange(rows.start, rows.stop), side="right") - 1
        # As lists: of numpy's texts Arrow takes what is before a NUL.
        columns = [pa.array(texts[owners].tolist(), pa.string()) for texts in (store.ids, store.environments)]
        y = store.y[rows].astype(np.int64) if _is_class(store) else store.y[rows]
        columns += [_lists(store.x[rows]), _lists(y)]
        if store.groups is not None:
            columns.append(pa.array(store.groups[rows]))
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
        advance(store.x[rows].nbytes, f"{rows.stop:,} examples")


def _lists(values: np.ndarray) -> "pa.Array":
    """[n, ...] as lists of lists."""
    import pyarrow as pa

    found = pa.array(np.ascontiguousarray(values).reshape(-1))
    for length in reversed(values.shape[1:]):
        found = pa.FixedSizeListArray.from_arrays(found, length)
    return found
