"""Tensors in files: one safetensors file each, with a JSON note and a checksum in its header. Nothing is unpickled.

Everything that reads tensors back reads them here, because they have to be copied: in a file they lie wherever they
fall, and torch multiplies what is not aligned to a cache line with other kernels, which round otherwise. A run that
went on from such tensors would not end with the bits of one that was never stopped.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metaleaf.errors import DataError
from metaleaf.files.whole_files import naming


class Damaged(DataError):
    """What is in the file is not what was written; the message is the reason, the caller names file and remedy."""


def write(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any] | None = None) -> None:
    """Write tensors by name, and a note that JSON can hold, into one file, so that they cannot disagree.

    OSError names `path`. Use within `metaleaf.files.whole_files.write_atomically` where a half-written file would be
    found.
    """
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(note or {})
    with naming(path):
        # Not save_file: it puts a file of its own in the place of `path`, and hides what the disk says.
        path.write_bytes(save(whole, metadata={"note": text, "checksum": _checksum(whole, text)}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU in memory of torch's own, and the note. Damaged if either is not as it was written."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (no mapping)
        text = header["note"]
        if header["checksum"] != _checksum(tensors, text):
            raise Damaged("not as it was written: its checksum is wrong")
        return tensors, json.loads(text)
    except FileNotFoundError:
        raise Damaged("there is none") from None
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise Damaged(f"not as it was written: {error}") from error


def _checksum(tensors: Mapping[str, Tensor], note: str) -> str:
    """CRC-32 over the note and every tensor's name, type, shape and bytes: finds what a disk does, and is quick."""
    found = zlib.crc32(note.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
