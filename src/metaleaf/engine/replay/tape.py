"""Record the operators that a function runs on tensors, to run them again on others without the function.

Recorded is what is left below torch.func's vmap and gradients: plain operators on whole cohorts. A recording cannot see
what Python took from elsewhere. So an operator that hands a value to Python, draws random numbers or has a result whose
shape depends on values is `Unrecordable`, and tensors that were neither given nor computed are noted as constants;
`metaleaf.engine.replay.traced` decides when a recording may be trusted.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

FOLDED = 1 << 20
"""Bytes up to which a result that depends on no input is kept instead of being made anew."""

_ATEN = torch.ops.aten
_OF_SHAPES = {_ATEN.zeros_like.default, _ATEN.ones_like.default, _ATEN.full_like.default}
_OF_SHAPES |= {_ATEN.new_zeros.default, _ATEN.new_ones.default, _ATEN.new_full.default}
"""Operators whose result does not depend on their argument's values."""


class Unrecordable(RuntimeError):
    """The operators of a function may be others next time, or it writes where it must not."""


class Slot(int):
    """A tensor's number: the inputs first, then constants and results as they come."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"v{int(self)}"


class Step(NamedTuple):
    """One operator, with slots in place of tensors; out: the slots of its results, None where one is nothing new."""

    operator: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: tuple[Slot | None, ...]
    several: bool
    """Whether it returns a sequence."""

    @property
    def writes(self) -> bool:
        """Whether it changes an argument."""
        return _nature(self.operator).writes

    def key(self) -> tuple[OpOverload, str, str]:
        """What is equal for steps that do the same; 1, 1.0, True and slot 1 are four things."""
        return self.operator, repr(self.args), repr(self.kwargs)


class Geometry(NamedTuple):
    """How a tensor lies in its memory."""

    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device


class Tape(NamedTuple):
    """A whole recording; inputs are the function's, constants the tensors from elsewhere, outputs the function's."""

    inputs: list[Slot]
    steps: list[Step]
    constants: dict[Slot, Tensor]
    outputs: list[Slot]
    geometry: dict[Slot, Geometry]
    """Of every tensor; an input's offset may be another when it is given again."""

    def same(self, other: "Tape") -> bool:
        """Whether both do the same with their inputs; constants are compared by value."""
        if (self.inputs, self.outputs, len(self.steps)) != (other.inputs, other.outputs, len(other.steps)):
            return False
        if any(a.out != b.out or a.key() != b.key() for a, b in zip(self.steps, other.steps, strict=True)):
            return False
        return self.constants.keys() == other.constants.keys() and all(
            _equal(constant, other.constants[slot]) for slot, constant in self.constants.items()
        )


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, notes every operator that runs on `inputs`, which are the given tensors under other names."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.constants: dict[Slot, Tensor] = {}
        self._constant: dict[Any, Slot] = {}
        """Places of the constants, by id (they live as long as this), or by how they are made."""
        self._geometry: dict[Slot, Geometry] = {}
        # Each its own object: the same tensor may be given twice, and be two the next time.
        self.inputs = [leaf.detach() for leaf in given]
        self._protected = {_memory(leaf) for leaf in given}
        for leaf in self.inputs:
            self._mark(leaf, self._next(leaf))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped it would have to be imported, which takes seconds, and nothing is compiled here."""
        return False

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        nature = _nature(func)
        if nature.by_values and not _by_row_numbers(func, args):
            raise Unrecordable(f"it uses {func}")
        noted, named = self._noted(args), {key: self._noted(value) for key, value in kwargs.items()}
        if nature.writes and _memory(args[0]) in self._protected:
            raise Unrecordable(f"it uses {func} on what it was given")
        before = _geometry(args[0]) if nature.views else None
        found = func(*args, **kwargs)
        if isinstance(found, Tensor):
            if before is not None and _geometry(found) == before:
                self._mark(found, noted[0])
                return found
            if self._fold(func, noted, named, found):
                return found
            if nature.reshapes:  # only the Python object changes its shape: a new tensor by another name
                func, found._noted = nature.reshapes, None  # type: ignore[attr-defined]
        results = found if isinstance(found, (tuple, list)) else (found,)
        out = tuple(self._new(x) for x in results)
        self.steps.append(Step(func, noted, named, out, found is results))
        return found

    def tape(self, outputs: Sequence[Tensor]) -> Tape:
        """The recording of a function with these results."""
        inputs, results = ([self._slot(leaf) for leaf in tensors] for tensors in (self.inputs, outputs))
        return Tape(inputs, self.steps, self.constants, results, self._geometry)

    def _fold(self, func: OpOverload, noted: Any, named: Any, found: Tensor) -> bool:
        """Note a small result that no input has a part in as a constant."""
        of_shapes = func in _OF_SHAPES
        if self._knows(found) or found.nbytes > FOLDED or _nature(func).writes:
            return False
        if not of_shapes and not all(slot in self.constants for slot in slots((noted, named))):
            return False
        made = noted[1:] if of_shapes else noted
        key = (func, _geometry(found), repr(made), repr(named)) if of_shapes else (func, repr(made), repr(named))
        if key in self._constant:
            self._mark(found, self._constant[key])
        else:
            self._constant[key] = self._keep(found)
        return True

    def _keep(self, constant: Tensor) -> Slot:
        slot = self._next(constant)
        self.constants[slot] = constant
        self._constant[id(constant)] = slot
        self._protected.add(_memory(constant))
        return slot

    def _noted(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._slot(value)
        if isinstance(value, (tuple, list)):
            return type(value)(self._noted(item) for item in value)
        return value

    def _slot(self, tensor: Tensor) -> Slot:
        if self._knows(tensor):
            slot: Slot = tensor._noted[1]  # type: ignore[attr-defined]
            return slot
        known = self._constant.get(id(tensor))
        return self._keep(tensor) if known is None else known

    def _knows(self, tensor: Tensor) -> bool:
        noted = getattr(tensor, "_noted", None)
        return noted is not None and noted[0] is self

    def _new(self, result: Any) -> Slot | None:
        if not isinstance(result, Tensor) or self._knows(result) or id(result) in self._constant:
            return None
        self._mark(result, slot := self._next(result))
        return slot

    def _mark(self, tensor: Tensor, slot: Slot) -> None:
        # On the tensor, not in a table by id: it may die, and its id is then another's.
        tensor._noted = (self, slot)  # type: ignore[attr-defined]

    def _next(self, tensor: Tensor) -> Slot:
        slot = Slot(len(self._geometry))
        self._geometry[slot] = _geometry(tensor)
        return slot


def slots(value: Any) -> Iterator[Slot]:
    """All slots in nested arguments."""
    if isinstance(value, Slot):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from slots(item)
    elif isinstance(value, dict):
        yield from slots(tuple(value.values()))


def read(tape: Tape) -> set[Slot]:
    """What the tape's steps and outputs read."""
    return {slot for step in tape.steps for slot in slots((step.args, step.kwargs))}.union(tape.outputs)


class _Nature(NamedTuple):
    """What an operator does besides computing its result."""

    by_values: bool
    """Values, or chance, decide what Python gets or of which shape the result is."""
    writes: bool
    """It changes the numbers in its first argument."""
    views: bool
    """Its result lies in the memory of its first argument."""
    reshapes: OpOverload | None
    """Of an operator that changes the shape of its first argument in place: the one that makes a view."""


@cache
def _nature(func: OpOverload) -> _Nature:
    refused = (torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    mutable, reshapes = func._schema.is_mutable, None
    if torch.Tag.inplace_view in func.tags:
        name, overload = func._schema.name.removeprefix("aten::").removesuffix("_"), func._overloadname
        reshapes = getattr(getattr(_ATEN, name), overload)
    returned = func._schema.returns
    views = len(returned) == 1 and returned[0].alias_info is not None and not mutable
    return _Nature(any(tag in func.tags for tag in refused), mutable and reshapes is None, views, reshapes)


def _by_row_numbers(func: OpOverload, args: Any) -> bool:
    """Whether this is an index by row numbers; only that by truth values has a shape that depends on them."""
    if func is not _ATEN.index.Tensor:
        return False
    return all(i is None or i.dtype not in (torch.bool, torch.uint8) for i in args[1])


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _geometry(tensor: Tensor) -> Geometry:
    return Geometry(tensor.shape, tensor.stride(), int(tensor.storage_offset()), tensor.dtype, tensor.device)


def _equal(a: Tensor, b: Tensor) -> bool:
    alike = (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    return a is b or (alike and torch.equal(a, b))
