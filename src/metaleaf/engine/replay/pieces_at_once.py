"""What a recording does with one piece of a tensor after the other, done with all pieces at once.

Local training takes a batch after the other from a client's examples. What depends on the batch and not on the model
(which rows are real, how much they weigh, where their labels are) is the same operators for each, which take longer to
start than to compute. They are found by their form, not by what they are for: steps that do the same with the pieces of
one number, and read nothing else that is not the same for all. Only such operators as come to the same bits at once.
"""

from typing import Any

import torch
from torch import Tensor

from metaleaf.engine.replay.simplify import VIEWS, needed, rename
from metaleaf.engine.replay.tape import Geometry, Recorder, Slot, Step, Tape, slots

_ATEN = torch.ops.aten
_ELEMENTWISE = """
    abs add bitwise_and bitwise_not bitwise_or bitwise_xor clamp clamp_min clamp_max div eq ge gt le logical_and
    logical_not logical_or lt maximum minimum mul ne neg reciprocal rsub sub where
"""
_EXACT = {
    getattr(getattr(_ATEN, name), overload)
    for name in _ELEMENTWISE.split()
    for overload in getattr(_ATEN, name).overloads()
    if not overload.endswith("out")
}
_EXACT |= {_ATEN.gather.default, _ATEN.scatter_add.default, _ATEN._to_copy.default, *VIEWS}
_COUNTING = {_ATEN.sum.dim_IntList, _ATEN.any.dim, _ATEN.all.dim}
"""Exact of integers and truth values."""

Row = tuple[Any, ...]
"""What tensors have in common that are made alike, each from other pieces."""


def all_pieces_at_once(tape: Tape) -> Tape:
    """The tape with fewer steps, for the same results."""
    return tape if any(step.writes for step in tape.steps) else needed(_Rows(tape).at_once())


class _Rows:
    """The rows of tensors that a tape makes alike."""

    def __init__(self, tape: Tape) -> None:
        self.steps: list[Step] = []
        self.constants, self.geometry = dict(tape.constants), dict(tape.geometry)
        self.tape = tape
        self.place: dict[Slot, tuple[Row, int]] = {}
        """The row of a tensor, and its number there."""
        self.names: dict[Row, str] = {}
        """Short ones: a row is named in those made from it, and in a recurrence these are made from it ever again."""
        self.members: dict[Row, dict[int, Step]] = {}
        self.stacked: dict[Row, tuple[Slot, Tensor]] = {}
        """All of a row in one tensor: its slot, and a tensor that lies in memory in the same way."""

    def at_once(self) -> Tape:
        """The tape with whole rows made by one step, and its pieces cut by one."""
        for step in self.tape.steps:
            if place := self._piece(step) or self._alike(step):
                row, number = self.place[step.out[0]] = place  # type: ignore[index]
                self.members.setdefault(row, {})[number] = step
        for step in self.tape.steps:
            row, number = next((self.place[slot] for slot in step.out if slot in self.place), ((), -1))
            if not self._whole(row):
                self.steps.append(step)
            elif number == 0:
                self._make(row)
        return self.tape._replace(steps=self.steps, constants=self.constants, geometry=self.geometry)

    def _piece(self, step: Step) -> tuple[Row, int] | None:
        """(row, number) of a slice that is one of equal ones."""
        if step.operator is not _ATEN.slice.Tensor or len(step.args) != 4:
            return None
        source, dim, start, _ = step.args
        length = self.geometry[step.out[0]].shape[dim]  # type: ignore[index]
        return (("piece", source, dim, length), start // length) if length and start % length == 0 else None

    def _alike(self, step: Step) -> tuple[Row, int] | None:
        """(row, number) of a step that reads members of other rows, all of one number."""
        read = list(slots((step.args, step.kwargs)))
        numbers = {self.place[slot][1] for slot in read if slot in self.place}
        exact = step.operator in _EXACT and "alpha" not in step.kwargs
        exact |= step.operator in _COUNTING and not self.geometry[step.args[0]].dtype.is_floating_point
        if len(numbers) != 1 or not exact or len(step.out) != 1 or step.several or step.out[0] is None:
            return None
        rows = {slot: self._name(self.place[slot][0]) for slot in read if slot in self.place}
        return (step.operator, repr(rename(step.args, rows)), repr(rename(step.kwargs, rows))), numbers.pop()

    def _name(self, row: Row) -> str:
        return self.names.setdefault(row, f"row {len(self.names)}")

    def _whole(self, row: Row) -> bool:
        """Whether the row has members of the numbers from 0, as many as the rows that it is made from."""
        if not row:
            return False
        found = self.members[row]
        if len(found) < 2 or set(found) != set(range(len(found))):
            return False
        read = [slot for slot in slots((found[0].args, found[0].kwargs)) if slot in self.place]
        return all(len(self.members[self.place[slot][0]]) == len(found) for slot in read)

    def _make(self, row: Row) -> None:
        members = [self.members[row][i] for i in range(len(self.members[row]))]
        made = [_out(step) for step in members]
        if row[0] == "piece":
            _, source, dim, length = row
            missing = -(-self.geometry[source].shape[dim] // length) - len(made)
            self.steps.append(Step(_ATEN.split.Tensor, (source, length, dim), {}, (*made, *[None] * missing), True))
            return
        together = self._together(members[0])
        self.stacked[row] = together
        if all(_lies(piece) == self.geometry[slot][:2] for piece, slot in zip(together[1], made, strict=True)):
            self.steps.append(Step(_ATEN.unbind.int, (together[0], 0), {}, tuple(made), True))
        else:  # they are here for what reads one of them; what nobody reads is left out in the end
            self.steps += members

    def _together(self, step: Step) -> tuple[Slot, Tensor]:
        """What the step does, for its whole row."""
        read = list(dict.fromkeys(slots((step.args, step.kwargs))))
        rows = [self.place[slot][0] if slot in self.place else None for slot in read]
        given = [
            self._of_row(row) if row else (slot, self._example(slot)) for slot, row in zip(read, rows, strict=True)
        ]
        with torch.no_grad(), Recorder([example for _, example in given]) as recorder:
            inputs = recorder.inputs

            def one(*members: Tensor) -> Tensor:
                named = dict(zip(read, inputs, strict=True)) | dict(zip(in_rows, members, strict=True))
                found: Tensor = step.operator(*rename(step.args, named), **rename(step.kwargs, named))
                return found

            in_rows = [slot for slot, row in zip(read, rows, strict=True) if row]
            result = torch.func.vmap(one)(*(x for x, row in zip(inputs, rows, strict=True) if row))
        return self._taken_over(recorder.tape([result]), [slot for slot, _ in given]), result

    def _taken_over(self, tape: Tape, given: list[Slot]) -> Slot:
        """Put the steps of another tape here, which reads these; where its result is."""
        names = dict(zip(tape.inputs, given, strict=True))
        for slot in sorted(set(tape.geometry) - set(names)):
            names[slot] = self._new(tape.geometry[slot])
        self.constants |= {names[slot]: constant for slot, constant in tape.constants.items()}
        for step in tape.steps:
            args, kwargs = rename(step.args, names), rename(step.kwargs, names)
            out = tuple(slot if slot is None else names[slot] for slot in step.out)
            self.steps.append(step._replace(args=args, kwargs=kwargs, out=out))
        return names[tape.outputs[0]]

    def _of_row(self, row: Row) -> tuple[Slot, Tensor]:
        if row not in self.stacked:  # pieces
            pieces = [_out(step) for _, step in sorted(self.members[row].items())]
            example = torch.stack([self._example(slot) for slot in pieces])
            slot = self._new(Geometry(example.shape, example.stride(), 0, example.dtype, example.device))
            self.steps.append(Step(_ATEN.stack.default, (pieces,), {}, (slot,), False))
            self.stacked[row] = slot, example
        return self.stacked[row]

    def _example(self, slot: Slot) -> Tensor:
        """A tensor that lies in memory like that of the tape."""
        shape, stride, _, dtype, device = self.geometry[slot]
        return torch.empty_strided(shape, stride, dtype=dtype, device=device).zero_()

    def _new(self, geometry: Geometry) -> Slot:
        slot = Slot(len(self.geometry))
        self.geometry[slot] = geometry
        return slot


def _out(step: Step) -> Slot:
    (slot,) = step.out
    assert slot is not None
    return slot


def _lies(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride()
