"""The model that a run keeps when asked to (``--save``): the server's state, one safetensors file beside the record.

Tensors are named by their place, e.g. ``final.broadcast.out.weight``. `final` is the state after the last round, what
is broadcast and what the server kept. `selected` is what was broadcast after the round that validation chose, which is
all that clients ever see of it; it is in the file only where that was not the last round. What *clients* keep between
rounds (`metaleaf.algorithm`, memory) is theirs and is never saved.

A file may come from anyone: it has to have the size and the hash that its record names, and the tensors that the
record's configuration makes, before one of them is used. Nothing is unpickled.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from metaleaf import trees
from metaleaf.algorithm import State
from metaleaf.errors import DataError
from metaleaf.files import tensor_files
from metaleaf.files.whole_files import write_atomically
from metaleaf.raw import sha256_of
from metaleaf.trees import Tree

if TYPE_CHECKING:  # what only runs need not import: pandas takes half a second
    from metaleaf.records.records import Head, Model, SavedState


class Saved(NamedTuple):
    """What is kept of a run: the state after the last round, and what was broadcast after the selected round."""

    final: State
    selected: Tree

    def broadcast(self, model: "Model") -> Tree:
        """What clients receive of the model."""
        return self.final.broadcast if model == "final" else self.selected


def save_state(path: Path, final: State, selected: Tree | None) -> dict[str, Any]:
    """Write the file and return what the record says of it; selected is None where the last round is the selected."""
    named = trees.named_leaves(_tree(final, selected))
    write_atomically(path, lambda temporary: tensor_files.write(temporary, named))
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size, "tensors": sorted(named)}


def load_state(record: Path, content: "Head", like: State) -> Saved:
    """The state of the record's run, on the CPU, in the shape of `like`.

    like: a state of the same run, e.g. the one that it began with; it may be on the device "meta". DataError if there
    is no such file, it is not the one that the record names, or it does not fit.
    """
    path = state_path(record)
    _check(path, content)
    same = content.selected_round == content.rounds
    tree = _tree(like, None if same else like.broadcast)
    found = trees.with_named_leaves(tree, _tensors(path, trees.named_leaves(tree)))
    final = State(*found["final"])
    return Saved(final, final.broadcast if same else found["selected"]["broadcast"])


def state_path(record: Path) -> Path:
    """Where the model of a record's run lies, if it was kept."""
    return record.with_suffix(".safetensors")


def is_named(path: Path, about: "SavedState") -> bool:
    """Whether the file is the one that a record names."""
    return path.stat().st_size == about.bytes and sha256_of(path) == about.sha256


def _tree(final: State, selected: Tree | None) -> dict[str, Tree]:
    return {"final": final, **({} if selected is None else {"selected": {"broadcast": selected}})}


def _check(path: Path, content: "Head") -> None:
    if content.saved is None:
        raise DataError(f"the run of {path.with_suffix('.json')} did not keep its model: run its cell with --save.")
    if not path.is_file():
        raise DataError(f"there is no {path.name} in {path.parent}: the run's model belongs beside its record.")
    if not is_named(path, content.saved):
        raise DataError(f"{path} is not the file that its record names, by its size and SHA-256.")


def _tensors(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the file, which must have these names, shapes and dtypes."""
    try:
        found, _ = tensor_files.read(path)
    except tensor_files.Damaged as error:
        raise DataError(f"{path} is damaged ({error}): run the cell again.") from error
    if different := found.keys() ^ expected.keys():
        name = min(different)
        raise DataError(
            f"{path} {'lacks' if name in expected else 'has'} a tensor {name!r}: "
            "the configuration here makes a state of other parts."
        )
    for name, like in expected.items():
        if found[name].dtype != like.dtype or found[name].shape != like.shape:
            raise DataError(
                f"{path}: {name!r} is not {like.dtype} of shape {tuple(like.shape)}, as the configuration has it."
            )
    return found
