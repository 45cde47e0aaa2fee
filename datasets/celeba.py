"""CelebA: photographs of people's faces, one client per person; does the person smile?

Liu, Luo, Wang and Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015; as a federation in Caldas et al.,
"LEAF: A Benchmark for Federated Settings", 2018, arXiv:1812.01097. As LEAF does, whoever has fewer than five images is
left out, and each image is made 84 x 84, whatever that does to its proportions.

Read from whichever source is there: the publisher's images and annotations, LEAF's JSON beside these images, or an
archive of face crops that were cut from the originals in another way.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from metaleaf.dataset import Client, Published, Spec
from metaleaf.errors import ConfigError, DataError, unknown
from metaleaf.raw import RawFiles, ZipReader
from metaleaf.raw.leaf import Arrays, read_shard

IMAGES, IDENTITIES, ATTRIBUTES = "img_align_celeba.zip", "identity_CelebA.txt", "list_attr_celeba.txt"
"""The publisher's aligned images, whose each is, and what is to be seen on it."""
FACES, TABLE = "celeba_faces84.zip", "faces84.csv"
"""The archive of face crops, and the member that says what they are."""
COLUMNS = ["file", "identity", "smiling", "male", "faces_detected"]
LEAF = (
    "all_data.json",
    "all_data/all_data.json",
    "data/all_data/all_data.json",
    "*all_data_*.json",
    "t[er]*/all_data_*.json",  # train/ and test/
    "data/t[er]*/all_data_*.json",
)
"""Where LEAF's scripts leave their output: all of it first, then what they split."""

ALIGNED, CROP = (178, 218), (84, 84)
"""Width and height of the images in the archives."""
LEAST = 16
"""Images smaller than this a side show no smile."""

REMEDY = (
    "put img_align_celeba.zip, identity_CelebA.txt and list_attr_celeba.txt "
    "(https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html), or the first of these and LEAF's all_data*.json, or "
    "celeba_faces84.zip into $METALEAF_RAW/celeba/."
)

Source = Literal["auto", "raw", "leaf", "faces84"]
_FILE = re.compile(r"\d{6}\.jpg", re.ASCII)


class Person(NamedTuple):
    """One identity: its number, its images' file names, and for each of them 1 if it has the attribute, 0 if not."""

    id: str
    names: list[str]
    labels: list[int]


class Row(NamedTuple):
    """What a file says of one image."""

    person: str
    name: str
    label: int


@dataclass(frozen=True)
class CelebA:
    """Faces of well-known people, one client per person; smiling or not.

    source: "raw" (the publisher's img_align_celeba.zip, identity_CelebA.txt, list_attr_celeba.txt), "leaf" (LEAF's
    JSON and the same images), "faces84" (celeba_faces84.zip), or "auto", the first of these that is there.

    attribute: what is asked, one of the publisher's 40; "Smiling" or "Male" with source "faces84", "Smiling" with
    "leaf". side: pixels a side. min_images: whoever has fewer is left out. single_face: of source "faces84", leave out
    images on which the detector found several faces, and may have cut out the wrong one.
    ConfigError for an option that does not exist or is out of range.
    """

    source: Source = "auto"
    attribute: str = "Smiling"
    side: int = 84
    min_images: int = 5
    single_face: bool = False

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(84, 84, 3),
        x_dtype="uint8",
        classes=2,
        model="face_cnn",
        licence="CelebA agreement of the Multimedia Laboratory, The Chinese University of Hong Kong",
        terms="for non-commercial research only; no image, and nothing made of one, may be copied, published or passed "
        "on, except inside one organisation at one site",
        homepage="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        citation="""@inproceedings{liu2015celeba,
  title = {Deep Learning Face Attributes in the Wild},
  author = {Liu, Ziwei and Luo, Ping and Wang, Xiaogang and Tang, Xiaoou},
  booktitle = {International Conference on Computer Vision (ICCV)},
  year = {2015}
}
@article{caldas2018leaf,
  title = {LEAF: A Benchmark for Federated Settings},
  author = {Caldas, Sebastian and Duddu, Sai Meher Karthik and Wu, Peter and Li, Tian
            and Kone{\\v{c}}n{\\'y}, Jakub and McMahan, H. Brendan and Smith, Virginia and Talwalkar, Ameet},
  journal = {arXiv preprint arXiv:1812.01097},
  year = {2018}
}""",
        published=Published(9343, 200_288, 21.44, 7.63, "https://leaf.cmu.edu"),
    )

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise unknown("celeba source", self.source, get_args(Source))
        for name, low, high in ("side", LEAST, ALIGNED[0]), ("min_images", 1, 10**4):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"celeba: {name} is {getattr(self, name)}, not from {low} to {high}.")
        # The side is an option here, so an instance has its own spec. On large images small_cnn is no longer small.
        small = "small_cnn" if self.side <= 40 else ""
        object.__setattr__(self, "spec", replace(self.spec, x_shape=(self.side, self.side, 3), small_model=small))

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        """Yield the persons in the order of their numbers, each's images in that of their file names.

        x uint8 [n, side, side, 3], red, green and blue from 0 to 255; y uint8 [n]. DataError if no source is there or
        it is damaged.
        """
        source = _first_source(raw) if self.source == "auto" else self.source
        faces = source == "faces84"
        path = raw.require([FACES if faces else IMAGES], REMEDY)
        folder, size = ("faces84", CROP) if faces else ("img_align_celeba", ALIGNED)
        persons = self.persons(raw, source)
        with raw.zip(path) as archive:
            for person in persons:
                images = [_image(archive, path, f"{folder}/{name}", size, self.side) for name in person.names]
                yield Client(person.id, "celeba", np.stack(images), np.array(person.labels, np.uint8))

    def persons(self, raw: RawFiles, source: Literal["raw", "leaf", "faces84"]) -> list[Person]:
        """Everyone with `min_images` or more, in the order of their numbers; reads no image.

        DataError if a file is not there or damaged, ConfigError if the source does not have the attribute.
        """
        read = {"raw": self._annotated, "leaf": self._of_leaf, "faces84": self._detected}
        found: dict[str, dict[str, int]] = {}
        for row in read[source](raw):
            found.setdefault(row.person, {})[row.name] = row.label
        return [
            Person(number, sorted(labels), [labels[name] for name in sorted(labels)])
            for number, labels in sorted(found.items(), key=lambda item: int(item[0]))
            if len(labels) >= self.min_images
        ]

    def _annotated(self, raw: RawFiles) -> Iterator[Row]:
        owners, path = raw.require([IDENTITIES], REMEDY), raw.require([ATTRIBUTES], REMEDY)
        persons, labels = _identities(raw, owners), _attribute(raw, path, self.attribute)
        if persons.keys() != labels.keys():
            name = min(persons.keys() ^ labels.keys())
            raise DataError(f"{name} is in only one of {owners} and {path}, of which one is cut off: {REMEDY}")
        return (Row(person, name, labels[name]) for name, person in persons.items())

    def _of_leaf(self, raw: RawFiles) -> Iterator[Row]:
        if self.attribute != "Smiling":
            raise unknown('attribute of celeba with source = "leaf"', self.attribute, ["Smiling"])
        paths = raw.find_all(*LEAF)
        if not paths:
            raise DataError(f"celeba: no {' or '.join(LEAF)} in {raw.looked_in()}: {REMEDY}")
        seen: set[str] = set()
        for path in paths:
            for user in read_shard(raw, path, _named_images):
                if not _is_number(user.id):
                    raise DataError(f"{path}: user {user.id!r} is no identity of CelebA: take LEAF's files of CelebA.")
                for name, label in zip(user.x.tolist(), user.y.tolist(), strict=True):
                    if name in seen:
                        raise DataError(f"{path}: {name} is there twice: use the files of one LEAF run only.")
                    seen.add(name)
                    yield Row(user.id, name, label)

    def _detected(self, raw: RawFiles) -> Iterator[Row]:
        if self.attribute not in ("Smiling", "Male"):
            raise unknown('attribute of celeba with source = "faces84"', self.attribute, ["Smiling", "Male"])
        path = raw.require([FACES], REMEDY)
        with raw.zip(path) as archive:
            rows = _table(archive, path)
        for row in rows:
            if row["faces_detected"] == "1" or not self.single_face:
                yield Row(row["identity"], row["file"], int(row[self.attribute.lower()]))


def _first_source(raw: RawFiles) -> Literal["raw", "leaf", "faces84"]:
    if raw.find(IMAGES):
        return "raw" if raw.find(IDENTITIES) or not raw.find_all(*LEAF) else "leaf"
    return "faces84" if raw.find(FACES) else "raw"


def _is_number(text: str) -> bool:
    """Whether it is an identity's number as the publisher writes it."""
    return re.fullmatch(r"[1-9]\d*", text, re.ASCII) is not None


# The publisher's annotations


def _lines(raw: RawFiles, path: Path) -> list[str]:
    with raw.open(path, limit=1 << 28) as file:
        data = file.read()
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged ({error}): {REMEDY}") from error
    if not text.endswith("\n"):  # a number that was cut short is still one
        raise DataError(f"{path} is cut off in its last line: {REMEDY}")
    return text.splitlines()


def _identities(raw: RawFiles, path: Path) -> dict[str, str]:
    """Whose each image is: file name -> number."""
    persons: dict[str, str] = {}
    for number, line in enumerate(_lines(raw, path), 1):
        name, person = _fields(path, number, line, 2)
        if not _is_number(person):
            raise DataError(f"{path}, line {number}: {person!r} is no identity: {REMEDY}")
        _add(persons, path, number, name, person)
    return persons


def _attribute(raw: RawFiles, path: Path, attribute: str) -> dict[str, int]:
    """Whether each image has the attribute: file name -> 1 or 0."""
    lines = _lines(raw, path)
    known = lines[1].split() if len(lines) > 1 else []
    if not known or len(set(known)) != len(known) or lines[0].strip() != str(len(lines) - 2):
        raise DataError(
            f"{path} is not whole: its first lines are the number of its images, {len(lines) - 2}, and the names of "
            f"the attributes: {REMEDY}"
        )
    if attribute not in known:
        raise unknown(f"attribute of {path.name}", attribute, known)
    column = 1 + known.index(attribute)
    labels: dict[str, int] = {}
    for number, line in enumerate(lines[2:], 3):
        name, *values = _fields(path, number, line, 1 + len(known))
        if odd := set(values) - {"1", "-1"}:
            raise DataError(f"{path}, line {number}: {min(odd)!r} is neither 1 nor -1: {REMEDY}")
        _add(labels, path, number, name, int(values[column - 1] == "1"))
    return labels


def _fields(path: Path, number: int, line: str, count: int) -> list[str]:
    fields = line.split()
    if len(fields) != count or not _FILE.fullmatch(fields[0]):
        raise DataError(f"{path}, line {number}: {line[:40]!r} is not an image's name and {count - 1} more: {REMEDY}")
    return fields


def _add(rows: dict[str, Any], path: Path, number: int, name: str, value: Any) -> None:
    if name in rows:
        raise DataError(f"{path}, line {number}: {name} is there twice: {REMEDY}")
    rows[name] = value


# LEAF's JSON


def _named_images(x: list[Any], y: list[Any]) -> Arrays:
    """A user's file names [n] and labels [n]; ValueError if they are none. LEAF's all_data.json writes 1 as 1.0."""
    for name in x:
        if not (isinstance(name, str) and _FILE.fullmatch(name)):
            raise ValueError(f"{name!r} is not the name of an image")
    if any(isinstance(label, bool) or label not in (0, 1) for label in y):
        raise ValueError("a label is neither 0 nor 1")
    return np.array(x, str), np.array(y, np.uint8)


# The archive of face crops


def _table(archive: ZipReader, path: Path) -> list[dict[str, str]]:
    """The rows of its table, checked: one for each image, and an image for each."""
    try:
        lines = list(csv.reader(io.StringIO(archive.read(TABLE).decode("ascii"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: {TABLE} is no table ({error}): fetch the archive again.") from error
    if not lines or lines[0] != COLUMNS:
        raise DataError(f"{path}: {TABLE} does not have the columns {', '.join(COLUMNS)}.")
    allowed = [_FILE, *(re.compile(form, re.ASCII) for form in (r"[1-9]\d*", "[01]", "[01]", r"[1-9]\d*"))]
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(COLUMNS) or not all(
            form.fullmatch(field) for form, field in zip(allowed, line, strict=True)
        ):
            raise DataError(f"{path}: {TABLE}, line {number}, {','.join(line)[:40]!r}, is not {', '.join(COLUMNS)}.")
    names, members = [line[0] for line in lines[1:]], set(archive.names()) - {TABLE}
    if len(set(names)) != len(names) or {f"faces84/{name}" for name in names} != members:
        raise DataError(f"{path}: {TABLE} does not have one row for each image that is there: fetch the archive again.")
    return [dict(zip(COLUMNS, line, strict=True)) for line in lines[1:]]


# Images


def _image(archive: ZipReader, path: Path, name: str, size: Sequence[int], side: int) -> np.ndarray:
    """An image of that width and height, in uint8 [side, side, 3]."""
    try:
        with Image.open(io.BytesIO(archive.read(name)), formats=["JPEG"]) as image:
            if image.size != size:
                raise DataError(f"{path}: {name} is {image.size[0]} x {image.size[1]}, not {size[0]} x {size[1]}.")
            pixels = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {name} is not a whole JPEG image ({error}): fetch the archive again.") from error
    return np.asarray(pixels)
