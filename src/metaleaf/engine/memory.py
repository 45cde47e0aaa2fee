"""What clients keep between the rounds they are sampled in: one file each on disk, only for clients that were sampled.

SCAFFOLD on LEAF's CNN keeps 26 MB a writer, so memories are read and written a client at a time. A file is never
changed: a newer one lies beside it until a checkpoint names it, so that a killed run finds the memories which belong to
its last checkpoint.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from metaleaf import trees
from metaleaf.errors import DataError
from metaleaf.files import tensor_files
from metaleaf.trees import Tree


class ClientMemory:
    """The memories of a run's clients. Which is whose current one, the run knows: {client number: round}.

    folder: where they lie; None for a temporary folder that goes with this object.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory()
            folder = Path(self._temporary.name)
        self.folder = folder

    def get(self, client: int, number: int, like: Tree) -> Tree:
        """The memory that the client had after round `number`; in the shape and on the device of `like`."""
        path = self._path(client, number)
        try:
            memory = trees.with_named_leaves(like, tensor_files.read(path)[0])
        except (tensor_files.Damaged, KeyError) as error:
            raise DataError(
                f"a client's memory {path} is missing or damaged ({error}): delete {self.folder.parent} to start "
                "the run again."
            ) from error
        return trees.tree_map(lambda leaf, other: leaf.to(other.device), memory, like)

    def put(self, client: int, number: int, memory: Tree) -> None:
        """Keep the client's memory as of round `number`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensor_files.write(self._path(client, number), trees.named_leaves(memory))

    def tidy(self, *current: Mapping[int, int]) -> None:
        """Delete the files that are no longer, or not yet, a client's memory."""
        kept = {self._path(client, number) for rounds in current for client, number in rounds.items()}
        for path in self.folder.glob("*.safetensors"):
            if path not in kept:
                path.unlink()

    def _path(self, client: int, number: int) -> Path:
        return self.folder / f"{client}-{number}.safetensors"
