"""FEMNIST: handwritten digits and letters of NIST Special Database 19, one client per writer.

Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018, arXiv:1812.01097; the images are those of
Grother, "NIST Special Database 19: Handprinted Forms and Characters Database", 1995. Read from whichever
source is there: NIST's own two archives, LEAF's JSON, or an archive of whole writers from public LEAF runs.

Images are 28 x 28 grey, paper 255 and ink near 0 (the opposite of MNIST), upright; labels are 0-9, A-Z, a-z.
Deviation from LEAF: its ``group_by_writer.py`` lists the first image of every writer but the first twice, so
that the copies can fall on both sides of a split; here one is dropped unless ``keep_duplicates`` is set.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import numpy as np
from PIL import Image

from metaleaf.dataset import Client, Published, Spec
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles, ZipReader
from metaleaf.raw.leaf import Arrays, read_shard

SIDE = 28
"""Width and height of an image."""

CLASSES = 62
"""10 digits, 26 capitals, 26 small letters."""

NIST = ("by_class.zip", "by_write.zip")
LEAF = "**/all_data_*.json"
# Where LEAF's own scripts leave their output. "auto" looks nowhere deeper: a sample of it may lie about.
LEAF_OUTPUT = tuple(f"{stage}/all_data_*.json" for stage in (".", "all_data", "train", "data/all_data", "data/train"))
WRITERS = "femnist_writers.npz"
MAX_ARRAY = 1 << 30
"""Most bytes of an array in it: all of NIST's images are 0.6 GiB."""

REMEDY = (
    "put by_class.zip and by_write.zip (https://www.nist.gov/srd/nist-special-database-19, 2nd edition), or "
    "LEAF's all_data_*.json, or femnist_writers.npz into $METALEAF_RAW/femnist/."
)

# A class is named with its character's code in hexadecimal. Beside hsf_N lies train_*, the same images.
_BY_CLASS = re.compile(r"(?:^|/)by_class/(3\d|[46][1-9a-f]|[57][0-9a])/hsf_\d/[^/]+\.png$")
_BY_WRITE = re.compile(r"(?:^|/)by_write/(hsf_\d)/([^/]+)/[^/]+/[^/]+\.png$")

Source = Literal["nist", "leaf", "writers"]
Part = tuple[bool, int, int]
"""Some examples of a writer: whether they are LEAF's test part, where they start in the spool, how many."""


@dataclass(frozen=True)
class Femnist:
    """Handwritten characters, one client per writer.

    source: "nist" (by_class.zip and by_write.zip), "leaf" (LEAF's JSON), "writers" (femnist_writers.npz), or
    "auto", the first of these that is there. keep_duplicates: keep the second copy of each writer's first
    image, as LEAF does. whole_writers: of source "writers", leave out those whom LEAF's sampling cut short.

    A client's environment is its partition in NIST's database (source "nist") or, from its number, the
    partitions that it can be in: the writers of hsf_0-3 were employees, those of hsf_4 high-school students.
    """

    source: Literal["auto", "nist", "leaf", "writers"] = "auto"
    keep_duplicates: bool = False
    whole_writers: bool = True

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(SIDE, SIDE),
        x_dtype="uint8",
        classes=CLASSES,
        model="cnn",
        licence="NIST SD19: work of the US government, free to use; LEAF: BSD 2-Clause",
        homepage="https://leaf.cmu.edu",
        citation="""@article{caldas2018leaf,
  title = {LEAF: A Benchmark for Federated Settings},
  author = {Caldas, Sebastian and Duddu, Sai Meher Karthik and Wu, Peter and Li, Tian
            and Kone{\\v{c}}n{\\'y}, Jakub and McMahan, H. Brendan and Smith, Virginia and Talwalkar, Ameet},
  journal = {arXiv preprint arXiv:1812.01097},
  year = {2018}
}
@techreport{grother1995nist,
  title = {NIST Special Database 19: Handprinted Forms and Characters Database},
  author = {Grother, Patrick J.},
  institution = {National Institute of Standards and Technology},
  year = {1995}
}""",
        published=Published(3550, 805_263, 226.83, 88.94, "https://leaf.cmu.edu"),
    )
    target: ClassVar[float] = 0.7
    """Most of our methods reach it within 100 rounds of 4 writers, some at half of that, one not at all."""

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        """Yield the writers, sorted by id. DataError if no source is there or it is damaged."""
        source = _first_source(raw) if self.source == "auto" else self.source
        readers: Mapping[str, Callable[[RawFiles], Iterator[Client]]] = {
            "nist": self._from_nist,
            "leaf": self._from_leaf,
            "writers": self._from_writers,
        }
        return readers[source](raw)

    def _from_nist(self, raw: RawFiles) -> Iterator[Client]:
        by_class, by_write = (raw.require([name], REMEDY) for name in NIST)
        with raw.zip(by_class) as archive:
            classes = _classes_by_hash(archive)
        with raw.zip(by_write) as archive:
            images_of = _images_by_writer(archive)
            first_listed = min(images_of, key=lambda writer: images_of[writer][0], default="")
            for writer in sorted(images_of):
                names = images_of[writer]
                x, y = _read_images(archive, by_write, names, classes)
                if self.keep_duplicates and writer != first_listed:
                    x, y = np.concatenate([x[:1], x]), np.concatenate([y[:1], y])
                partition = _partition_of(names[0])
                yield Client(writer, partition, x, y)

    def _from_leaf(self, raw: RawFiles) -> Iterator[Client]:
        with raw.scratch() as spool:
            parts: dict[str, list[Part]] = {}
            for path in _shards(raw):
                for writer, _, x, y in read_shard(raw, path, _pictures):
                    part = (_is_test(path), spool.tell(), len(y))
                    spool.write(x.tobytes() + y.tobytes())
                    _add_part(parts.setdefault(writer, []), part, writer, path)
            for writer in sorted(parts):
                pieces = [_read_part(spool, start, count) for _, start, count in sorted(parts[writer])]
                x, y = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
                kept = slice(None) if self.keep_duplicates else ~_second_copies(x, y)
                yield Client(writer, environment_of(writer), x[kept], y[kept])

    def _from_writers(self, raw: RawFiles) -> Iterator[Client]:
        path = raw.require([WRITERS], REMEDY)
        images, labels, writer, duplicate, writers, truncated = _read_writers(raw, path)
        kept = np.ones_like(duplicate) if self.keep_duplicates else ~duplicate
        starts = np.searchsorted(writer, np.arange(len(writers) + 1))  # rows of one writer are contiguous
        for i in np.argsort(writers):
            if self.whole_writers and truncated[i]:
                continue
            rows = np.arange(starts[i], starts[i + 1])
            rows = rows[kept[rows]]
            name = str(writers[i])
            yield Client(name, environment_of(name), images[rows], labels[rows])


def environment_of(writer: str) -> str:
    """NIST's partitions that a writer (``fNNNN_FF``: number, form) can be in; "nist" if the id says nothing.

    NIST numbered the writers of hsf_0 to hsf_3 below 2100 and those of hsf_4 from 2100 to 2599; the later
    partitions (there is no hsf_5) have the numbers above. See the QMNIST documentation of Yadav and Bottou.
    """
    match = re.fullmatch(r"f(\d{4})_\d\d", writer)
    if match is None:
        return "nist"
    number = int(match[1])
    return "hsf_0-3" if number < 2100 else "hsf_4" if number < 2600 else "hsf_6-8"


def _first_source(raw: RawFiles) -> Source:
    found = raw.find(*NIST, *LEAF_OUTPUT, WRITERS)
    if found is None or found.name in NIST:
        return "nist"  # if nothing is there, this is what can be downloaded
    return "writers" if found.name == WRITERS else "leaf"


# NIST's archives


def _classes_by_hash(archive: ZipReader) -> dict[bytes, int]:
    """The class of each image by the MD5 of its file: what joins the two archives. The first class wins."""
    classes: dict[bytes, int] = {}
    for name in archive.names():
        if match := _BY_CLASS.search(name):
            classes.setdefault(_md5(archive.read(name)), _class_of(match[1]))
    return classes


def _class_of(code: str) -> int:
    """Class of a folder that is named with a character's code in hexadecimal."""
    return "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".index(chr(int(code, 16)))


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _images_by_writer(archive: ZipReader) -> dict[str, list[str]]:
    images: dict[str, list[str]] = {}
    for name in archive.names():
        if match := _BY_WRITE.search(name):
            images.setdefault(match[2], []).append(name)
    return images


def _partition_of(name: str) -> str:
    match = _BY_WRITE.search(name)
    assert match is not None
    return match[1]


def _read_images(
    archive: ZipReader, path: Path, names: list[str], classes: dict[bytes, int]
) -> tuple[np.ndarray, np.ndarray]:
    x = np.empty((len(names), SIDE, SIDE), np.uint8)
    y = np.empty(len(names), np.uint8)
    for i, name in enumerate(names):
        data = archive.read(name)
        if (label := classes.get(_md5(data))) is None:
            raise DataError(f"{path}: {name} is not in by_class.zip: take both archives of the same edition.")
        x[i], y[i] = _shrink(data, f"{path}: {name}"), label
    return x, y


def _shrink(data: bytes, name: str) -> np.ndarray:
    """A NIST image (128 x 128, black on white) as LEAF's 28 x 28 greys."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (128, 128):
                raise DataError(f"{name} is {image.size[0]} x {image.size[1]}, not 128 x 128.")
            grey = image.convert("L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is not a whole PNG image ({error}): fetch the archive again.") from error
    grey.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(grey)


# LEAF's JSON


def _shards(raw: RawFiles) -> list[Path]:
    """LEAF's files to read. Its data folder has the same writers at several stages: take the earliest."""
    found = raw.find_all(LEAF)
    if not found:
        raise DataError(f"femnist: no {LEAF} in {raw.looked_in()}: {REMEDY}")
    for stage in ("all_data",), ("rem_user_data",), ("sampled_data",), ("train", "test"):
        if shards := [path for path in found if path.parent.name in stage]:
            return shards
    top = min(found, key=lambda path: len(path.parts)).parent
    return [path for path in found if path.parent == top]


def _is_test(path: Path) -> bool:
    return path.parent.name == "test" or "_test_" in path.name


def _pictures(x: list[Any], y: list[Any]) -> Arrays:
    """A writer's images uint8 [n, 28, 28] and labels uint8 [n]; ValueError if they are none."""
    scaled, labels = np.asarray(x, np.float64) * 255, np.asarray(y)
    n = len(x)
    if n and scaled.shape not in ((n, SIDE * SIDE), (n, SIDE, SIDE)):
        raise ValueError(f"x has the shape {list(scaled.shape)}, not {SIDE * SIDE} pixels for each of {n} examples")
    pixels = np.rint(scaled)
    if not np.allclose(pixels, scaled, atol=1e-3) or (n and (pixels.min() < 0 or pixels.max() > 255)):
        raise ValueError("a pixel is not a multiple of 1/255 between 0 and 1")
    if labels.size and (labels.dtype.kind != "i" or labels.min() < 0 or labels.max() >= CLASSES):
        raise ValueError(f"a label is not in 0..{CLASSES - 1}")
    return pixels.reshape(n, SIDE, SIDE).astype(np.uint8), labels.astype(np.uint8)


def _add_part(parts: list[Part], part: Part, writer: str, path: Path) -> None:
    """A writer has at most one train and one test part; a third would be another run's copy of them."""
    if any(is_test == part[0] for is_test, _, _ in parts):
        raise DataError(f"{path}: writer {writer} is in another file too: use the files of one LEAF run only.")
    parts.append(part)


def _read_part(spool: IO[bytes], start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    spool.seek(start)
    data = np.frombuffer(spool.read(count * (SIDE * SIDE + 1)), np.uint8)
    return data[: count * SIDE * SIDE].reshape(count, SIDE, SIDE), data[count * SIDE * SIDE :]


def _second_copies(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """True for each row whose image and label are those of an earlier row; bool [n]."""
    rows = np.concatenate([x.reshape(len(x), SIDE * SIDE), y[:, None]], axis=1)
    first = np.unique(rows, axis=0, return_index=True)[1]
    copies = np.ones(len(x), bool)
    copies[first] = False
    return copies


# The archive of whole writers


def _read_writers(raw: RawFiles, path: Path) -> list[np.ndarray]:
    """The archive's images, labels, writer (of each row), duplicate; writers (ids) and writer_truncated."""
    names = ("images", "labels", "writer", "duplicate", "writers", "writer_truncated")
    with raw.zip(path, member_limit=MAX_ARRAY) as archive:
        arrays = [archive.array(f"{name}.npy") for name in names]
    images, labels, writer, duplicate, writers, truncated = arrays
    whole = images.ndim == 3 and images.shape[1:] == (SIDE, SIDE) and writers.ndim == 1
    fit = whole and labels.shape == writer.shape == duplicate.shape == images.shape[:1]
    typed = images.dtype == np.uint8 and duplicate.dtype == truncated.dtype == np.bool_ and writers.dtype.kind == "U"
    if not (fit and typed and truncated.shape == writers.shape and _numbers(writer, len(writers))):
        raise DataError(f"{path} is not an archive of whole writers: its arrays do not fit together.")
    return arrays


def _numbers(writer: np.ndarray, writers: int) -> bool:
    """Whether these are numbers of writers, those of one together."""
    if writer.dtype.kind not in "iu":
        return False
    return not len(writer) or bool((writer[1:] >= writer[:-1]).all() and writer[0] >= 0 and writer[-1] < writers)
