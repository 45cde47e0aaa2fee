"""Whether low-rank weights (`metaleaf.engine.factored`) pay: counted while a small client trains both ways.

They spare a client the matrices of its own that a step makes of a big layer: its gradient, its moved weights. Rules
that read every entry (Adam's moments) have these matrices made all the same, on top of the thin products.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metaleaf.algorithm import Algorithm, respond, sent
from metaleaf.engine.factored import Unsupported, dense, lift
from metaleaf.shots import Episode, Shots
from metaleaf.task import Task

ROWS = 40
"""Examples of the client that is counted: some steps of the usual minibatches."""
LEAST = 2
"""Times fewer matrices than ordinary weights make: descending makes 1 of 9 here, Adam as many as they do."""


def pays(task: Task, algorithm: Algorithm, examples: Shots, shapes: Collection[tuple[int, int]]) -> bool:
    """Whether the algorithm's client makes few matrices of these shapes [out, in] if their weights are factored."""
    try:
        return LEAST * matrices(task, algorithm, examples, shapes, lifted=True) <= matrices(
            task, algorithm, examples, shapes, lifted=False
        )
    except Unsupported:
        return False


def matrices(
    task: Task, algorithm: Algorithm, examples: Shots, shapes: Collection[tuple[int, int]], *, lifted: bool
) -> int:
    """How many matrices of these sizes operators write while the client trains on the examples, repeated."""
    with torch.no_grad():
        state = algorithm.init(task, task.params())
        data = examples.take(torch.arange(ROWS) % len(examples.y))
        episode = Episode(data, data, data, torch.tensor(0.0))
        memory = algorithm.memory(task, state.broadcast) if hasattr(algorithm, "memory") else ()
        given = state.broadcast, memory, sent(algorithm, task, state, episode.client)
        broadcast, memory, received = lift(given, shapes) if lifted else given
        with _Written({out * inner for out, inner in shapes}) as written:
            dense(respond(algorithm, task, broadcast, episode._replace(memory=memory, received=received)))
    return int(written.total)


class _Written(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensors of these numbers of elements that operators make or change; views cost nothing."""

    def __init__(self, sizes: Collection[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes = sizes
        self.total: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: see `metaleaf.engine.cost`."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        returns = found if isinstance(found, tuple | list) else (found,)
        for value, declared in zip(returns, func._schema.returns, strict=False):
            is_view = declared.alias_info is not None and not declared.alias_info.is_write
            if isinstance(value, torch.Tensor) and not is_view and value.numel() in self.sizes:
                self.total += 1
        return found
