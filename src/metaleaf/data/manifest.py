"""The manifest of a prepared folder, ``about.json``: what was prepared, from what, and the hash of every file."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from metaleaf.config.config import digest, explain
from metaleaf.errors import DataError
from metaleaf.files.verified import Verified

FORMAT = 1
"""Version of the on-disk layout; a store of another version has to be prepared again."""

ARRAYS = ("x", "y", "offsets", "ids", "environments")
"""The arrays of every prepared folder, in the order in which ``data_hash`` covers them."""

REMEDY = "prepare it again (`metaleaf data prepare` with --again)."

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def arrays(grouped: bool) -> tuple[str, ...]:
    """The arrays of a prepared folder, in the order in which ``data_hash`` covers them."""
    return (*ARRAYS, "groups") if grouped else ARRAYS


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Spec(_Part):
    """What is read of a `metaleaf.dataset.Spec`."""

    version: str
    x_shape: tuple[NonNegativeInt, ...]
    x_dtype: str
    classes: NonNegativeInt
    model: str | dict[str, Any]
    window: NonNegativeInt
    published: dict[str, Any] | None = None
    task: str | dict[str, Any] = "multiclass"
    y_shape: tuple[NonNegativeInt, ...] = ()
    y_dtype: str = ""
    standardise: Literal["", "x", "xy", "series"] = ""
    grouped: bool = False


class _Raw(_Part):
    name: str
    size: NonNegativeInt
    sha256: Hash
    dataset: str | None = None


class _About(_Part):
    format: Literal[1]
    name: str
    version: str
    options: dict[str, Any]
    spec: _Spec
    clients: PositiveInt
    samples: PositiveInt
    data_hash: Hash
    hashes: dict[str, Hash]
    records: dict[str, Hash]
    raw: list[_Raw]
    source_hash: Hash | None = None
    about_hash: Hash | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "_About":
        if set(self.hashes) != {f"{array}.npy" for array in arrays(self.spec.grouped)}:
            raise ValueError("it does not list the arrays")
        if data_hash(self.hashes) != self.data_hash:
            raise ValueError("its data_hash is wrong")
        return self


def data_hash(hashes: Mapping[str, str]) -> str:
    """One sha256 for the data: of the arrays' own, in the order of `arrays`."""
    found = arrays("groups.npy" in hashes)
    return hashlib.sha256("".join(hashes[f"{array}.npy"] for array in found).encode()).hexdigest()


def write(directory: Path, about: Mapping[str, Any]) -> None:
    """Write a manifest, with a hash over all else that it says."""
    text = json.dumps({**about, "about_hash": _own_hash(about)}, indent=2, ensure_ascii=False) + "\n"
    (directory / "about.json").write_text(text, encoding="utf-8")


def read(directory: Path) -> dict[str, Any]:
    """The manifest of a prepared folder; DataError if it is missing, damaged, or of another format."""
    path = directory / "about.json"
    try:
        text = path.read_text(encoding="utf-8")
        about = json.loads(text)
        if isinstance(about, dict) and about.get("format", FORMAT) != FORMAT:
            raise DataError(f"{path} has format {about['format']!r}, this version reads {FORMAT}: {REMEDY}")
        _About.model_validate_json(text)
        if about.get("about_hash", own := _own_hash(about)) != own:
            raise DataError(f"{path} is damaged (it is not as it was written): {REMEDY}")
    except OSError as error:
        raise DataError(f"{path} is missing or cannot be read ({error.strerror}): {REMEDY}") from error
    except ValidationError as error:
        raise DataError(f"{path} is damaged ({explain(error, 'it').rstrip('.')}): {REMEDY}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}): {REMEDY}") from error
    return dict(about)


def check_file(path: Path, sha256: str, verified: Verified, *, anew: bool = False) -> None:
    """DataError unless a file is what it was when the manifest was written; read if that is not known, or `anew`."""
    try:
        if not verified.same(path, sha256, anew=anew):
            raise DataError(f"{path} is damaged (not the recorded sha256): {REMEDY}")
    except OSError as error:
        raise DataError(f"{path} is missing or cannot be read ({error.strerror}): {REMEDY}") from error


def _own_hash(about: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in about.items() if key != "about_hash"})
