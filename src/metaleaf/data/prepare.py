"""Turn a dataset plugin into prepared data: tensorflow-datasets records, then flat memory-mapped arrays.

A prepared dataset is one folder, ``<data home>/<name>/<version>-<hash of the options>/``::

    x.npy y.npy          all examples, client after client
    offsets.npy          client i owns the rows offsets[i]:offsets[i + 1]
    ids.npy environments.npy, and groups.npy of a spec that is grouped
    about.json           the manifest: options, spec, counts, sha256 of every file, raw files, versions
    tfds/                the canonical records, one per client, that the arrays were made from

The folder appears whole or not at all: it is written beside its place and renamed. tensorflow-datasets is not
imported until something really has to be prepared.
"""

import dataclasses
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from metaleaf.config.sources import REMEDY, Choice, of_dataset
from metaleaf.data import manifest
from metaleaf.data.client_store import ClientStore
from metaleaf.data.manifest import FORMAT, arrays
from metaleaf.data.stats import described
from metaleaf.dataset import Client, Dataset, parts_of
from metaleaf.dataset import options_of as given_to
from metaleaf.errors import DataError, StaleError
from metaleaf.files.verified import Verified
from metaleaf.raw import RawFiles, data_home, sha256_of, stamp_of
from metaleaf.terminal.progress import Advance, progress_of
from metaleaf.terminal.visible import visible

if TYPE_CHECKING:
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

SPLIT = "clients"
"""The one split of the records."""

MAX_ID = 256
"""Longest client id or environment, in characters: these arrays are as wide as their longest entry."""

BLOCK = 64
"""Records read at once."""

_MADE_WITH = ("metaleaf", "numpy", "pillow", "tensorflow-datasets", "array_record")


def options_of(dataset: Dataset) -> dict[str, Any]:
    """The options of a plugin as JSON can hold them."""
    plain: dict[str, Any] = json.loads(json.dumps(given_to(dataset), sort_keys=True, default=str))
    return plain


def prepared_directory(name: str, dataset: Dataset) -> Path:
    """Where this dataset, in its version and with these options, lies once it is prepared.

    A file that an option names relative to the current folder is another one in another folder.
    """
    options = json.dumps(options_of(dataset), sort_keys=True)
    options += "".join(f"\n{path.absolute()}" for path in _named_files(dataset) if not path.is_absolute())
    short = hashlib.sha256(options.encode()).hexdigest()[:8]
    return data_home() / name / f"{dataset.spec.version}-{short}"


def load(
    name: str, dataset: Dataset, *, raw: Path | None = None, progress: bool = True, stale: Choice = "refuse"
) -> ClientStore:
    """Open a dataset; prepare it first if that has not been done. Parameters and errors as in `prepare`."""
    return ClientStore.open(prepare(name, dataset, raw=raw, progress=progress, stale=stale))


def is_prepared(directory: Path) -> bool:
    """Whether a prepared dataset lies there (whole, since folders appear whole; see `verify` for damage)."""
    return (directory / "about.json").is_file()


def prepare(
    name: str,
    dataset: Dataset,
    *,
    raw: Path | None = None,
    download: bool = True,
    again: bool = False,
    stale: Choice = "refuse",
    progress: bool = True,
) -> Path:
    """Prepare a dataset and return its folder; if it is there already, only return it.

    raw: a folder with the publisher's files, searched instead of ``$METALEAF_RAW``. download: whether the
    publisher's URL may be used. again: prepare anew even if it is there (when better raw files have come).
    stale: what to do with prepared data that the plugin's present code did not make. progress: report on stderr.
    StaleError if such data is there and is to be refused. DataError if raw files are missing, damaged or unsafe, if a
    client is malformed, or if the disk is full; nothing half-written stays. A client without examples is left out and
    named in the manifest.

    Safe to run twice at once: the second waits for the first and uses what it made.
    """
    target, files = prepared_directory(name, dataset), RawFiles(name, raw, download, shown=progress)

    def will_do() -> bool:
        return not again and is_prepared(target) and _accepted(target, dataset, files, stale)

    if will_do():
        _tidy(target)
        return target
    with _only_one(target, progress):
        if will_do():  # by now: another process has prepared it
            return target
        # Under the lock, a folder of this name is what a killed process has left.
        staging = _staging(target)
        _remove(staging)
        try:
            _write(staging, name, dataset, files, progress)
            _commit(staging, target)
        except Exception as error:
            if _disk_is_full(error):
                home = data_home()
                raise DataError(f"{home} has no space left for {name}: free some or set METALEAF_DATA.") from error
            if isinstance(error, KeyError) and "getpwuid" in str(error):  # the record writer asks who owns its files
                raise DataError(
                    f"user {os.getuid()} has no name on this machine, which tensorflow-datasets needs to prepare "
                    f"{name}: prepare it as another user, and set METALEAF_DATA to where it lies."
                ) from error
            raise
        finally:
            _remove(staging)
    return target


def _accepted(directory: Path, dataset: Dataset, raw: RawFiles, stale: Choice) -> bool:
    """Whether to take what is prepared; StaleError if it is outdated and nobody has chosen."""
    about = manifest.read(directory)
    if not (made := [*_other_files(directory, about, raw), *_other_code(directory, about, raw.dataset, dataset)]):
        return True
    outdated = f"{directory} was prepared {' and '.join(made)}"
    if stale == "refuse":
        raise StaleError(f"{outdated}: {REMEDY}")
    if stale == "keep":
        _say(directory, f"{outdated}; it is kept")
    return stale == "keep"


_said: set[Path] = set()


def _say(directory: Path, sentence: str) -> None:
    """Say something of a folder, once."""
    if directory not in _said:
        _said.add(directory)
        print(f"metaleaf: {sentence} (`metaleaf data prepare` with --again prepares it anew).", file=sys.stderr)


def _other_code(directory: Path, about: Mapping[str, Any], name: str, dataset: Dataset) -> list[str]:
    before, now = about.get("source_hash"), of_dataset(name, dataset)
    if before is None and now is not None:
        _say(directory, f"{directory} does not say what code prepared it; it is taken as it is")
    return ["by other code than its plugin has now"] if before and now and before != now else []


def _other_files(directory: Path, about: Mapping[str, Any], raw: RawFiles) -> list[str]:
    """How the raw files that are there now differ from those that were used; no longer to have them is no difference.

    Unless a folder of raw files was named: then it is to be that of the data.
    """
    verified, found = Verified(directory), []
    for used in about["raw"]:
        path = raw.where(used["name"], used.get("dataset") or raw.dataset)
        if path is None:
            found += [f"from a {used['name']} that is not in {raw.looked_in()}"] if raw.only_here else []
        elif not verified.same(path, used["sha256"]):
            found.append(f"from another {used['name']} than {path}")
    verified.save()
    return found[:1]


def tfds_builder(
    name: str, dataset: Dataset, *, raw: RawFiles | None = None, data_dir: Path | None = None
) -> "tfds.core.DatasetBuilder":
    """The plugin as a tensorflow-datasets builder: one record {client, environment, x, y} per client.

    data_dir: root of the record files, by default those of the prepared folder. After `prepare`, the
    builder's ``as_data_source("clients")`` reads the records, also in worker processes. Where there are none
    yet, its ``download_and_prepare()`` makes them from the files in ``raw``.
    """
    import tensorflow_datasets as tfds

    root = data_dir or prepared_directory(name, dataset) / "tfds"
    records = root / _tfds_name(name) / dataset.spec.version
    if (records / "dataset_info.json").is_file():
        return tfds.builder_from_directory(records)
    return _builder(name, dataset, root, lambda: _checked(name, dataset, raw or RawFiles(name), _Seen()))


def verify(directory: Path, *, progress: bool = True) -> ClientStore:
    """Read a whole prepared folder and compare it with its manifest; return the store if all is well.

    DataError names the file that is missing or damaged: a hash differs, offsets do not grow from 0 to the
    number of samples, an id occurs twice, or y holds what is not one of the dataset's classes, or no number.
    """
    about, verified = manifest.read(directory), Verified(directory)
    recorded: dict[str, str] = about["hashes"] | about["records"]
    sizes = {name: _size(directory / name) for name in recorded}
    with progress_of(f"verify {directory.name}", sum(sizes.values()), shown=progress) as advance:
        for name, expected in recorded.items():
            manifest.check_file(directory / name, expected, verified, anew=True)
            advance(sizes[name], name)
    verified.save()
    store = ClientStore.open(directory)
    _check_arrays(store, directory)
    return store


@dataclasses.dataclass
class _Seen:
    """What the pass over the plugin learns about its clients; grows by a few bytes a client."""

    ids: list[str] = dataclasses.field(default_factory=list)
    environments: list[str] = dataclasses.field(default_factory=list)
    counts: list[int] = dataclasses.field(default_factory=list)
    empty: list[str] = dataclasses.field(default_factory=list)


def _checked(name: str, dataset: Dataset, raw: RawFiles, seen: _Seen) -> Iterator[Client]:
    """The plugin's clients as they may be stored; DataError on a malformed one. Notes each in ``seen``."""
    known: set[str] = set()
    for client in dataset.clients(raw):
        _check_kinds(name, client)
        if client.id in known:
            raise DataError(f"{name}: the client id {client.id!r} occurs twice.")
        known.add(client.id)
        if len(client.y) == 0:
            seen.empty.append(client.id)
            continue
        yield _fit(name, dataset, client)
        seen.ids.append(client.id)
        seen.environments.append(client.environment)
        seen.counts.append(len(client.y))
    if not seen.ids:
        raise DataError(f"{name}: the raw files hold no client with examples.")


def _check_kinds(name: str, client: object) -> None:
    """DataError unless it is a `Client` of two texts and two arrays, with one y an example."""
    if not isinstance(client, Client):
        raise DataError(f"{name}: clients() must yield metaleaf.dataset.Client, it yields {type(client).__name__}.")
    kinds = {"id": str, "environment": str, "x": np.ndarray, "y": np.ndarray}
    for field, kind in kinds.items():
        if not isinstance(found := getattr(client, field), kind):
            raise DataError(f"{name}: {field} of client {client.id!r} is {type(found).__name__}, not {kind.__name__}.")
    for text in (client.id, client.environment):
        if text.endswith("\0") or any("\ud800" <= c <= "\udfff" for c in text):
            raise DataError(
                f"{name}: {text[:MAX_ID]!r} of client {client.id[:MAX_ID]!r} ends in a NUL or is no Unicode."
            )
    if client.y.ndim == 0 or client.x.shape[:1] != client.y.shape[:1]:
        shapes = f"x {list(client.x.shape)} and y {list(client.y.shape)}"
        raise DataError(f"{name}: client {client.id!r} has {shapes}, not one y for each of n examples.")


def _fit(name: str, dataset: Dataset, client: Client) -> Client:
    spec, (who, environment, x, y, _) = dataset.spec, client
    expected = (len(y), *spec.x_shape)
    _check_y(name, dataset, who, y)
    if x.shape != expected or x.dtype != spec.x_dtype:
        raise DataError(f"{name}: x of client {who!r} is {x.dtype}{x.shape}, not {spec.x_dtype}{expected}.")
    finite = np.isfinite(x) | np.isnan(x) if spec.standardise else np.isfinite(x)
    if x.dtype.kind == "f" and not finite.all():
        raise DataError(f"{name}: client {who!r} has a value that is not a finite number.")
    if max(len(who), len(environment)) > MAX_ID:
        raise DataError(f"{name}: the id of client {who[:20]!r}... or its environment is over {MAX_ID} characters.")
    return Client(who, environment, x, y.astype(spec.stored), _groups(name, dataset, client))


def _groups(name: str, dataset: Dataset, client: Client) -> np.ndarray | None:
    """A client's groups as they are stored; DataError unless there is one number an example, or none where none are."""
    if not dataset.spec.grouped and client.groups is None:
        return None
    groups = client.groups
    fits = groups is not None and groups.shape == client.y.shape[:1] and groups.dtype.kind in "iu"
    if groups is None or not fits or not dataset.spec.grouped:
        wanted = "one whole number an example" if dataset.spec.grouped else "none, as its spec is not grouped"
        found = "none" if groups is None else f"{groups.dtype}{list(groups.shape)}"
        raise DataError(f"{name}: client {client.id!r} has groups {found}, not {wanted}.")
    return np.unique(groups, return_inverse=True)[1].astype(np.int32)


def _check_y(name: str, dataset: Dataset, who: str, y: np.ndarray) -> None:
    """DataError unless y is what the spec says: classes, or finite numbers."""
    spec = dataset.spec
    if y.shape[1:] != tuple(spec.y_shape):
        wanted = ", ".join(map(str, ("n", *spec.y_shape)))
        raise DataError(f"{name}: y of client {who!r} has shape {list(y.shape)}, not [{wanted}].")
    if spec.stored.kind == "f":
        if y.dtype.kind not in "fiu" or not np.isfinite(y).all():
            raise DataError(f"{name}: client {who!r} has a y that is not a finite number.")
        return
    if y.dtype.kind not in "iu":
        raise DataError(f"{name}: y of client {who!r} is {y.dtype}, not one integer an example.")
    least = -1 if spec.stored.kind == "i" else 0
    if y.min() < least or y.max() >= spec.classes:
        raise DataError(f"{name}: client {who!r} has a label that is not in {least}..{spec.classes - 1}.")


def _tfds_name(name: str) -> str:
    return name.replace("-", "_")


def _builder(
    name: str, dataset: Dataset, data_dir: Path, clients: Callable[[], Iterator[Client]]
) -> "tfds.core.DatasetBuilder":
    import tensorflow_datasets as tfds

    spec, about = dataset.spec, type(parts_of(dataset)[0]).__doc__
    tfds_name = _tfds_name(name)

    def records() -> Iterator[tuple[int, dict[str, Any]]]:
        for key, client in enumerate(clients()):
            record: dict[str, Any] = {"client": client.id, "environment": client.environment}
            record |= {"x": client.x, "y": client.y}
            if spec.grouped:
                record["groups"] = client.groups
            del client
            yield key, record
            # The writer counts the records with itertools.tee and so keeps each to the end: leave it nothing.
            record.clear()

    # Not a GeneratorBasedBuilder: even with disable_shuffling its shuffler holds all records in memory.
    class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[misc,call-arg]
        __doc__ = about
        VERSION = tfds.core.Version(spec.version)

        def _info(self) -> tfds.core.DatasetInfo:
            tensor = tfds.features.Tensor
            features = {
                "client": tfds.features.Text(),
                "environment": tfds.features.Text(),
                # zlib: the default encoding of integers, a varint each, is an order of magnitude slower.
                "x": tensor(shape=(None, *spec.x_shape), dtype=np.dtype(spec.x_dtype), encoding="zlib"),
                "y": tensor(shape=(None, *spec.y_shape), dtype=spec.stored, encoding="zlib"),
            }
            if spec.grouped:
                features["groups"] = tensor(shape=(None,), dtype=np.int32, encoding="zlib")
            return tfds.core.DatasetInfo(
                builder=self,
                description=about,
                features=tfds.features.FeaturesDict(features),
                homepage=spec.homepage,
                citation=spec.citation,
                license=spec.licence,
                disable_shuffling=True,
            )

        def _shard_iterators_per_split(self, dl_manager: object) -> dict[str, list[Callable[[], Any]]]:
            return {SPLIT: [records]}

    Builder.name = tfds_name
    Builder.__name__ = Builder.__qualname__ = "".join(word.capitalize() for word in tfds_name.split("_"))
    # array_record: readable without TensorFlow. (The parquet writer loses records.)
    return Builder(data_dir=os.fspath(data_dir), file_format="array_record")


def _write(staging: Path, name: str, dataset: Dataset, raw: RawFiles, progress: bool) -> None:
    staging.mkdir(parents=True)
    raw.use(*_named_files(dataset))
    seen = _Seen()
    with progress_of(f"prepare {name}", shown=progress) as advance:
        clients = _counted(_checked(name, dataset, raw, seen), advance)
        builder = _builder(name, dataset, staging / "tfds", lambda: clients)
        with redirect_stdout(io.StringIO()):  # its own report names a folder that is about to be renamed
            builder.download_and_prepare(download_dir=os.fspath(staging / "downloads"))
    _remove(staging / "downloads")
    with progress_of(f"flatten {name}", _bytes(dataset, seen), shown=progress) as advance:
        _flatten(builder, dataset, seen, staging, advance)
    about = _about(staging, name, dataset, seen, raw)
    manifest.write(staging, about)
    _note(staging, about, raw)
    if progress:
        print(visible(f"{name}: {described(about['spec'])}"), file=sys.stderr)
    if dataset.spec.terms:
        print(visible(f"{name}: {dataset.spec.terms}"), file=sys.stderr)


def _named_files(dataset: Dataset) -> list[Path]:
    """Files that options name."""
    values = vars(parts_of(dataset)[0]).values()
    paths = [Path(value) for value in values if isinstance(value, str | os.PathLike)]
    return [path for path in paths if path.suffix and os.path.isfile(path)]


def _counted(clients: Iterator[Client], advance: Advance) -> Iterator[Client]:
    for i, client in enumerate(clients, start=1):
        yield client
        advance(client.x.nbytes + client.y.nbytes, f"{i:,} clients")


def _bytes(dataset: Dataset, seen: _Seen) -> int:
    spec = dataset.spec
    x, y = math.prod(spec.x_shape) * np.dtype(spec.x_dtype).itemsize, math.prod(spec.y_shape) * spec.stored.itemsize
    return sum(seen.counts) * (x + y)


def _flatten(
    builder: "tfds.core.DatasetBuilder", dataset: Dataset, seen: _Seen, folder: Path, advance: Advance
) -> None:
    """Stream the records into the flat arrays, one client in memory at a time."""
    samples = sum(seen.counts)
    with ExitStack() as files:
        shape = (samples, *dataset.spec.x_shape)
        x_file = files.enter_context(_array_file(folder / "x.npy", np.dtype(dataset.spec.x_dtype), shape))
        y_shape = (samples, *dataset.spec.y_shape)
        y_file = files.enter_context(_array_file(folder / "y.npy", dataset.spec.stored, y_shape))
        if dataset.spec.grouped:
            groups_file = files.enter_context(_array_file(folder / "groups.npy", np.dtype(np.int32), (samples,)))
        for i, record in enumerate(in_blocks(builder.as_data_source(SPLIT))):
            x, y = record["x"], record["y"]
            if record["client"].decode() != seen.ids[i] or len(y) != seen.counts[i]:
                raise DataError(f"{builder.name}: record {i} is not that of client {seen.ids[i]!r}.")
            x_file.write(np.ascontiguousarray(x).data)
            y_file.write(np.ascontiguousarray(y).data)
            if dataset.spec.grouped:
                groups_file.write(np.ascontiguousarray(record["groups"]).data)
            advance(x.nbytes + y.nbytes, f"{i + 1:,} clients")
    np.save(folder / "offsets.npy", np.concatenate(([0], np.cumsum(seen.counts, dtype=np.int64))))
    np.save(folder / "ids.npy", np.array(seen.ids))
    np.save(folder / "environments.npy", np.array(seen.environments))


def in_blocks(source: Any) -> Iterator[Any]:
    """The records of a data source in order. One by one each would take a time that grows with their number."""
    for start in range(0, len(source), BLOCK):
        yield from source.__getitems__(range(start, min(start + BLOCK, len(source))))


@contextmanager
def _array_file(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """An .npy file whose rows are still to be written, in order. (A memory map would fill memory.)"""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield file


def _about(folder: Path, name: str, dataset: Dataset, seen: _Seen, raw: RawFiles) -> dict[str, Any]:
    hashes = {f"{array}.npy": sha256_of(folder / f"{array}.npy") for array in arrays(dataset.spec.grouped)}
    records = sorted(path for path in (folder / "tfds").rglob("*") if path.is_file())
    return {
        "format": FORMAT,
        "name": name,
        "version": dataset.spec.version,
        "options": options_of(dataset),
        "spec": dataclasses.asdict(dataset.spec),
        "clients": len(seen.ids),
        "samples": sum(seen.counts),
        "empty_clients": seen.empty,
        "data_hash": manifest.data_hash(hashes),
        "source_hash": of_dataset(name, dataset),
        "hashes": hashes,
        "records": {path.relative_to(folder).as_posix(): sha256_of(path) for path in records},
        "raw": [used._asdict() for used in raw.used()],
        "created_by": {"python": platform.python_version()} | {name: version(name) for name in _MADE_WITH},
    }


def _note(folder: Path, about: Mapping[str, Any], raw: RawFiles) -> None:
    """Remember the hashes that have just been made, so that nothing is read again to be verified."""
    verified = Verified(folder)
    for name, sha256 in about["hashes"].items():
        verified.note(folder / name, stamp_of(folder / name), sha256)
    for used in about["raw"]:
        if path := raw.where(used["name"], used["dataset"]):
            verified.note(path, stamp_of(path), used["sha256"])
    verified.save()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} is missing ({error.strerror}): prepare again.") from error


def _check_arrays(store: ClientStore, directory: Path) -> None:
    def require(holds: bool, array: str, what: str) -> None:
        if not holds:
            raise DataError(f"{directory / array}.npy is damaged ({what}): prepare again.")

    offsets, clients, samples = store.offsets, len(store), len(store.y)
    require(bool(offsets[0] == 0 and (store.counts > 0).all()), "offsets", "it does not grow from 0")
    require(bool(offsets[-1] == samples == len(store.x)), "offsets", "it does not end at the number of samples")
    require(len(store.ids) == len(set(store.ids.tolist())) == clients, "ids", "not one id per client")
    require(len(store.environments) == clients, "environments", "not one environment per client")
    classes = store.about["spec"]["classes"]
    require(not classes or bool(store.y.max() < classes), "y", "a label is not one of the classes")
    require(store.groups is None or bool((store.groups >= 0).all()), "groups", "a group is below 0")
    require(bool(np.isfinite(store.y).all()), "y", "it holds something other than finite numbers")


@contextmanager
def _only_one(target: Path, shown: bool) -> Iterator[None]:
    """Hold this dataset's lock. The system lets go of it when its process ends, also when that is killed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock_of(target).open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if shown:
                print(f"waiting for another process that prepares {target}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _staging(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _retired(target: Path) -> Path:
    return target.with_name(f"{target.name}.retired.partial")


def _tidy(target: Path) -> None:
    """Remove what a process that was killed over preparing it anew has left, unless one is at work, if that may be."""
    left = [folder for folder in (_staging(target), _retired(target)) if folder.exists()]
    if not left:
        return
    with suppress(OSError), _lock_of(target).open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for folder in left:
            _remove(folder)


def _lock_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.lock")


def _commit(staging: Path, target: Path) -> None:
    """Make sure that everything is on the disk, then move it into place in one step."""
    for path in (*staging.rglob("*"), staging):
        _sync(path)
    retired = _retired(target)
    _remove(retired)
    if target.exists():
        target.rename(retired)  # whoever has it open keeps reading the old files
    staging.rename(target)
    _sync(target.parent)
    _remove(retired)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _disk_is_full(error: Exception) -> bool:
    # The record writer is C++ and reports a full disk as a RuntimeError.
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left" in str(error)
