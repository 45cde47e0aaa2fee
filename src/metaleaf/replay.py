"""Make a flat Python function of a recording, without what its results do not need."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from metaleaf.recording import Slot, Step, Tape, slots

Replay = Callable[[Sequence[Tensor]], list[Tensor]]

_BINDINGS = """
    _log_softmax _log_softmax_backward_data abs add addcmul addmm any argmax baddbmm bitwise_and bitwise_or
    bitwise_xor bmm cat clamp div eq exp gather gt log lt maximum minimum mm mul ne neg pow rsub scatter select sqrt
    squeeze stack sub sum tanh transpose unsqueeze where
"""
_FAST: dict[Any, Callable[..., Any]] = {
    getattr(getattr(torch.ops.aten, name), overload): getattr(torch, name)
    for name in _BINDINGS.split()
    for overload in getattr(torch.ops.aten, name).overloads()
    if not overload.endswith("out")
}
_FAST |= {torch.ops.aten.view.default: Tensor.view, torch.ops.aten.expand.default: Tensor.expand}
"""Torch's own functions of the same meaning, which Python calls twice as fast as the operators by themselves."""


def simplified(tape: Tape) -> Tape:
    """The tape without steps that are done twice or that no result needs."""
    steps = tape.steps if any(step.writes for step in tape.steps) else None
    renamed: dict[Slot, Slot] = {}
    if steps is None:
        steps, renamed = _once(tape.steps)
    outputs = [renamed.get(slot, slot) for slot in tape.outputs]
    kept = _needed(steps, outputs)
    found = tape._replace(steps=kept, outputs=outputs)
    return found._replace(constants={slot: tape.constants[slot] for slot in read(found) if slot in tape.constants})


def read(tape: Tape) -> set[Slot]:
    """What the tape's steps and outputs read."""
    return {slot for step in tape.steps for slot in slots((step.args, step.kwargs))}.union(tape.outputs)


def _once(steps: Sequence[Step]) -> tuple[list[Step], dict[Slot, Slot]]:
    """(steps that no earlier one is equal to, the earlier result for each result that is left out)."""
    kept: dict[Any, Step] = {}
    renamed: dict[Slot, Slot] = {}
    for step in steps:
        moved = step._replace(args=_rename(step.args, renamed), kwargs=_rename(step.kwargs, renamed))
        earlier = kept.setdefault(moved.key(), moved)
        if earlier is not moved:
            pairs = zip(step.out, earlier.out, strict=True)
            renamed.update((a, b) for a, b in pairs if a is not None and b is not None)
    return list(kept.values()), renamed


def _rename(value: Any, renamed: dict[Slot, Slot]) -> Any:
    if isinstance(value, Slot):
        return renamed.get(value, value)
    if isinstance(value, (tuple, list)):
        return type(value)(_rename(item, renamed) for item in value)
    if isinstance(value, dict):
        return {key: _rename(item, renamed) for key, item in value.items()}
    return value


def _needed(steps: Sequence[Step], outputs: Sequence[Slot]) -> list[Step]:
    needed, kept = set(outputs), []
    for step in reversed(steps):
        if step.writes or not needed.isdisjoint(step.out):
            needed.update(slots((step.args, step.kwargs)))
            kept.append(step)
    return kept[::-1]


def compiled(tape: Tape) -> Replay:
    """The tape as a function of its inputs' values; tensors are let go of after their last use."""
    names = _Names(tape.constants)
    last = {slot: i for i, step in enumerate(tape.steps) for slot in (*slots((step.args, step.kwargs)), *step.out)}
    dying: dict[int, list[str]] = {}
    for slot, i in last.items():
        if slot is not None and slot not in tape.constants and slot not in tape.outputs:
            dying.setdefault(i, []).append(repr(slot))
    lines = [f"    {', '.join(f'v{i}' for i in range(tape.inputs))}, = inputs"] if tape.inputs else []
    for i, step in enumerate(tape.steps):
        lines.append(f"    {_target(step)}{names.of(_FAST.get(step.operator, step.operator))}({names.call(step)})")
        if i in dying:
            lines.append(f"    del {', '.join(dying[i])}")
    source = "\n".join(["def replay(inputs):", *lines, f"    return [{', '.join(map(repr, tape.outputs))}]"])
    exec(compile(source, "<replay>", "exec"), names.scope)
    replay: Replay = names.scope["replay"]
    return replay


def _target(step: Step) -> str:
    made = [repr(slot) if slot is not None else "_" for slot in step.out]
    if step.several:
        return f"{', '.join(made)}, = "
    return "" if step.out == (None,) else f"{made[0]} = "


class _Names:
    """The scope of the function: its constants, operators, and values that have no literal."""

    def __init__(self, constants: dict[Slot, Tensor]) -> None:
        self.scope: dict[str, Any] = {repr(slot): constant for slot, constant in constants.items()}
        self._known: dict[int, str] = {}

    def of(self, value: Any) -> str:
        """A name for the value, which the scope keeps."""
        if id(value) not in self._known:
            self._known[id(value)] = f"c{len(self._known)}"
            self.scope[self._known[id(value)]] = value
        return self._known[id(value)]

    def call(self, step: Step) -> str:
        """The arguments as Python writes them."""
        positional = [self._written(value) for value in step.args]
        return ", ".join([*positional, *(f"{key}={self._written(value)}" for key, value in step.kwargs.items())])

    def _written(self, value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(self._written, value))}]"
        return repr(value) if value is None or isinstance(value, (bool, int)) else self.of(value)
