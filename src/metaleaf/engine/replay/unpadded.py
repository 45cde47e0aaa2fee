"""Where a recording takes rows of a padded tensor by their numbers, take them from the rows that were padded.

To shuffle a cohort's examples is such a step: it needs to know which row is which, and no padded copy of them first.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from metaleaf.data.deferred import tensor
from metaleaf.data.ragged import Padded, Ragged
from metaleaf.engine.replay.simplify import needed
from metaleaf.engine.replay.tape import Slot, Step, Tape, read, slots

Source = Callable[[Sequence[Any]], Tensor]
"""Makes what a tape reads out of its function's arguments, which are tensors and `Deferred`."""

_ATEN = torch.ops.aten


def direct(tape: Tape, arguments: Sequence[Any]) -> tuple[Tape, list[Source]]:
    """A tape of the same results whose inputs are what it reads, and where each of them comes from."""
    rewriting = _Rewriting(tape)
    for place, argument in enumerate(arguments):
        if isinstance(argument, Padded):
            rewriting.look_at(place, argument)
    return rewriting.finished()


class _Rewriting:
    """Of one tape."""

    def __init__(self, tape: Tape) -> None:
        self.tape, self.slots = tape, len(tape.geometry)
        self.sources: dict[Slot, Source] = {slot: _whole(place) for place, slot in enumerate(tape.inputs)}
        self.tables: dict[Slot, tuple[Slot, Slot]] = {}
        """By matrix [clients * rows, numbers of a row] that only rows are taken of: its table, and `Ragged.numbers`."""
        self.numbers: dict[Ragged, Slot] = {}
        self.rows: dict[tuple[Slot, Slot], Slot] = {}
        """Row numbers in a table, by `Ragged.numbers` and by those in the matrix."""

    def look_at(self, place: int, padded: Padded) -> None:
        """See whether this argument may be read from its table."""
        matrices = self._matrices(self.tape.inputs[place], padded)
        if not matrices:
            return
        if padded.ragged not in self.numbers:
            self.numbers[padded.ragged] = self._input(_numbers(place))
        table = self._input(_table(place, math.prod(padded.shape[2:])))
        self.tables |= dict.fromkeys(matrices, (table, self.numbers[padded.ragged]))

    def finished(self) -> tuple[Tape, list[Source]]:
        """The tape and the sources of its inputs."""
        steps = [new for step in self.tape.steps for new in self._instead(step)]
        tape = needed(self.tape._replace(steps=steps))
        wanted = read(tape)
        sources = {slot: source for slot, source in self.sources.items() if slot in wanted}
        return tape._replace(inputs=list(sources)), list(sources.values())

    def _matrices(self, slot: Slot, padded: Padded) -> set[Slot]:
        """The argument's views that it is read as, if only rows are taken of it; otherwise none."""
        shape = (math.prod(padded.shape[:2]), math.prod(padded.shape[2:]))
        names, found = {slot}, set()
        for step in self.tape.steps:
            reads = names.intersection(slots((step.args, step.kwargs)))
            if reads and step.operator is _ATEN.view.default:
                names.update(slots(step.out))
            elif reads and (not _takes_rows(step, reads) or self.tape.geometry[step.args[0]].shape != shape):
                return set()
            else:
                found |= reads
        return set() if names.intersection(self.tape.outputs) else found

    def _instead(self, step: Step) -> list[Step]:
        """Steps for the same result, where that is one of rows from a matrix in `tables`."""
        if step.operator is not _ATEN.embedding.default or step.args[0] not in self.tables:
            return [step]
        (table, numbers), (_, chosen, *rest) = self.tables[step.args[0]], step.args
        before = []
        if (numbers, chosen) not in self.rows:
            self.rows[numbers, chosen] = self._slot()
            before = [Step(_ATEN.take.default, (numbers, chosen), {}, (self.rows[numbers, chosen],), False)]
        return [*before, step._replace(args=(table, self.rows[numbers, chosen], *rest))]

    def _input(self, source: Source) -> Slot:
        slot = self._slot()
        self.sources[slot] = source
        return slot

    def _slot(self) -> Slot:
        self.slots += 1
        return Slot(self.slots - 1)


def _whole(place: int) -> Source:
    return lambda arguments: tensor(arguments[place])


def _numbers(place: int) -> Source:
    return lambda arguments: arguments[place].ragged.numbers


def _table(place: int, width: int) -> Source:
    return lambda arguments: arguments[place].table().view(-1, width)


def _takes_rows(step: Step, of: set[Slot]) -> bool:
    """Whether it takes rows of one of these tensors, which is not their numbers, too."""
    return step.operator is _ATEN.embedding.default and of == {step.args[0]}
