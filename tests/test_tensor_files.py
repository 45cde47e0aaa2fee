"""Tensors come back from a file as they were written, in aligned memory, or not at all."""

import errno
from pathlib import Path

import pytest
import torch

from metaleaf import trees
from metaleaf.files import tensor_files

NOTE = {"rows": [{"round": 1, "loss": 0.1}], "names": ["é", "\n"]}


def tensors() -> dict[str, torch.Tensor]:
    """Of several types and odd sizes, so that in the file they lie anywhere."""
    generator = torch.Generator().manual_seed(0)
    found = {f"weight{i}": torch.randn(i, 3, generator=generator) for i in range(1, 9)}
    whole = {
        "flag": torch.tensor(True),
        "steps": torch.tensor(7),
        "none": torch.empty(0, 4),
        "half": torch.ones(3).half(),
    }
    return found | whole | {"turned": torch.randn(5, 2, generator=generator).t()}


def test_tensors_and_note_come_back(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    tensor_files.write(path, tensors(), NOTE)
    found, note = tensor_files.read(path)
    assert note == NOTE
    assert found.keys() == tensors().keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors().items()
    )


def test_what_is_read_lies_as_torch_lays_it(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    for i in range(8):  # the header's length moves everything
        tensor_files.write(path, tensors(), {"x" * i: i})
        found, _ = tensor_files.read(path)
        assert not any(tensor.data_ptr() % trees.ALIGNMENT for tensor in found.values() if tensor.numel())


def test_owned_leaves_are_aligned_and_contiguous() -> None:
    whole = torch.arange(100.0)
    tree = {"view": whole[1:], "turned": whole.view(10, 10).t(), "same": whole, "spread": whole[:1].expand(7)}
    found = trees.owned(tree)
    assert found["same"] is whole
    for name, leaf in found.items():
        assert torch.equal(leaf, tree[name])
        assert leaf.is_contiguous()
        assert leaf.data_ptr() % trees.ALIGNMENT == 0


def test_a_changed_byte_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    tensor_files.write(path, tensors(), NOTE)
    whole = path.read_bytes()
    for place in range(8, len(whole)):
        if whole[place : place + 1] == b" " and place < 8 + int.from_bytes(whole[:8], "little"):
            continue  # fills the header up
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(tensor_files.Damaged, match="not as it was written"):
            tensor_files.read(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(tensor_files.Damaged, match="not as it was written"):
        tensor_files.read(path)
    with pytest.raises(tensor_files.Damaged, match="there is none"):
        tensor_files.read(tmp_path / "other")


def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=str(path)) as caught:
        tensor_files.write(path, tensors())
    assert caught.value.errno == errno.ENOSPC
