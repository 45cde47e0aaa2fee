"""Leave out of a recording what its results do not need; not a bit of them changes."""

from typing import Any

import torch

from metaleaf.engine.replay.tape import Geometry, Slot, Step, Tape, read, slots

_ATEN = torch.ops.aten
VIEWS = {
    *(_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.expand.default, _ATEN.transpose.int, _ATEN.t.default),
    *(_ATEN.permute.default, _ATEN.unsqueeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims, _ATEN.squeeze.default),
    *(_ATEN.slice.Tensor, _ATEN.select.int, _ATEN.detach.default, _ATEN.alias.default),
}
"""Operators that look at the memory of their first argument, as it is, in another way."""


def simplified(tape: Tape) -> Tape:
    """The tape without steps that are done twice, that do nothing or that no result needs."""
    steps = tape.steps if any(step.writes for step in tape.steps) else None
    renamed: dict[Slot, Slot] = {}
    if steps is None:
        steps, renamed = _once(tape)
    return needed(tape._replace(steps=steps, outputs=[renamed.get(slot, slot) for slot in tape.outputs]))


def needed(tape: Tape) -> Tape:
    """The tape without steps and constants that no result needs."""
    wanted, kept = set(tape.outputs), []
    for step in reversed(tape.steps):
        if step.writes or not wanted.isdisjoint(step.out):
            wanted.update(slots((step.args, step.kwargs)))
            kept.append(step)
    found = tape._replace(steps=kept[::-1])
    return found._replace(constants={slot: tape.constants[slot] for slot in read(found) if slot in tape.constants})


def _once(tape: Tape) -> tuple[list[Step], dict[Slot, Slot]]:
    """(steps that make something new, the earlier result for each result that is left out)."""
    kept: dict[Any, Step] = {}
    renamed: dict[Slot, Slot] = {}
    seen = _Seen(tape)
    for step in tape.steps:
        moved = step._replace(args=rename(step.args, renamed), kwargs=rename(step.kwargs, renamed))
        same = seen.before(step, moved)
        if same is not None:
            renamed[moved.out[0]] = same  # type: ignore[index]
            continue
        earlier = kept.setdefault(moved.key(), moved)
        if earlier is not moved:
            pairs = zip(step.out, earlier.out, strict=True)
            renamed.update((a, b) for a, b in pairs if a is not None and b is not None)
    return list(kept.values()), renamed


class _Seen:
    """Finds an earlier tensor that is what a step would make."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self._base: dict[Slot, Slot] = {}
        """Whose memory a view looks at."""
        self._views: dict[tuple[Slot, Geometry], Slot] = {}
        self._offset: dict[Slot, int] = {}
        """Of views of what is left out: where they lie in the memory of what is there instead."""

    def before(self, recorded: Step, step: Step) -> Slot | None:
        """The earlier tensor, None if there is none. recorded: the step as it was, before what it reads was renamed."""
        if len(step.out) != 1 or step.out[0] is None or not step.args or not isinstance(step.args[0], Slot):
            return None
        slot, geometry = step.args[0], self.tape.geometry
        if step.operator in VIEWS:
            base, view = self._base.get(slot, slot), geometry[step.out[0]]
            # A copy that is left out had a memory of its own, the tensor in its place may be a part of another's.
            moved = self._offset.get(slot, geometry[slot].offset) - geometry[recorded.args[0]].offset
            self._offset[step.out[0]] = view.offset + moved
            self._views.setdefault((base, geometry[base]), base)
            found = self._views.setdefault((base, view._replace(offset=view.offset + moved)), step.out[0])
            self._base[step.out[0]] = base
            return None if found is step.out[0] else found
        before, after = geometry[slot], geometry[step.out[0]]
        return slot if self._changes_nothing(step) and after == before._replace(offset=after.offset) else None

    def _changes_nothing(self, step: Step) -> bool:
        """Whether it adds nothing, or multiplies by one."""
        if len(step.args) != 2 or step.kwargs:
            return False
        other = step.args[1]
        if step.operator in (_ATEN.mul.Tensor, _ATEN.mul.Scalar):
            return not isinstance(other, Slot) and other == 1
        if step.operator is not _ATEN.add.Tensor:
            return False
        if isinstance(other, Slot):  # -0.0, as adding 0.0 makes 0.0 of -0.0
            zeros = self.tape.constants.get(other)
            floats = zeros is not None and zeros.is_floating_point() and zeros.dim() == 0
            return zeros is not None and floats and bool((zeros == 0) & zeros.signbit())
        return other == 0 and not self.tape.geometry[step.args[0]].dtype.is_floating_point


def rename(value: Any, renamed: dict[Slot, Any]) -> Any:
    """Nested arguments with other values for some slots."""
    if isinstance(value, Slot):
        return renamed.get(value, value)
    if isinstance(value, (tuple, list)):
        return type(value)(rename(item, renamed) for item in value)
    if isinstance(value, dict):
        return {key: rename(item, renamed) for key, item in value.items()}
    return value
