"""Make a flat Python function of a recording."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from metaleaf.engine.replay.tape import Slot, Step, Tape, slots

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


def compiled(tape: Tape) -> Replay:
    """The tape as a function of its inputs' values; tensors are let go of after their last use."""
    names = _Names(tape.constants)
    last = {slot: i for i, step in enumerate(tape.steps) for slot in (*slots((step.args, step.kwargs)), *step.out)}
    dying: dict[int, list[str]] = {}
    for slot, i in last.items():
        if slot is not None and slot not in tape.constants and slot not in tape.outputs:
            dying.setdefault(i, []).append(repr(slot))
    lines = [f"    {', '.join(map(repr, tape.inputs))}, = inputs"] if tape.inputs else []
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
