"""Steps that do nothing are left out, those that do something stay."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metaleaf.engine.replay.as_python import compiled
from metaleaf.engine.replay.simplify import simplified
from metaleaf.engine.replay.tape import Recorder

IDLE: dict[str, Callable[[Tensor], Tensor]] = {
    "adding -0.0": lambda x: x + torch.tensor(-0.0),
    "multiplying by one": lambda x: torch.ops.aten.mul.Scalar(x, 1),
    "there and back": lambda x: x.t().t(),
    "a view that is the same": lambda x: x.reshape(6).view(2, 3),
}
BUSY: dict[str, Callable[[Tensor], Tensor]] = {
    "adding 0.0": lambda x: x + torch.tensor(0.0),  # -0.0 becomes 0.0
    "adding a number": lambda x: x + 0,
    "another type": lambda x: x * torch.ones((), dtype=torch.float64) + torch.ones(1, dtype=torch.float64),
    "another shape": lambda x: x * torch.ones(2, 1, 1),
    "another view": lambda x: x.t(),
}


def steps(function: Callable[[Tensor], Tensor]) -> int:
    x = torch.tensor([[1.0, -0.0, 3.0], [float("nan"), 5.0, 6.0]])
    with Recorder([x]) as recorder:
        whole = recorder.tape([function(recorder.inputs[0])])
    tape = simplified(whole)
    (found,), expected = compiled(tape)([x]), function(x)
    assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
    assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))
    assert torch.equal(found.signbit(), expected.signbit())
    return len(tape.steps)


@pytest.mark.parametrize("what", IDLE)
def test_nothing_is_left_of(what: str) -> None:
    assert steps(IDLE[what]) == 0


@pytest.mark.parametrize("what", BUSY)
def test_something_stays_of(what: str) -> None:
    assert steps(BUSY[what]) > 0


def test_a_product_with_the_second_input_is_one() -> None:
    """Slots are numbers; 1 is not one."""
    given = [torch.tensor([2.0]), torch.tensor([3.0])]
    with Recorder(given) as recorder:
        tape = recorder.tape([recorder.inputs[0] * recorder.inputs[1]])
    assert compiled(simplified(tape))(given)[0].item() == 6


def test_views_of_copies_that_are_left_out_are_told_apart() -> None:
    """Each copy began its own memory; without them, the views lie at different places in the memory of one tensor."""
    x = torch.arange(12.0).view(2, 2, 3)

    def function(x: Tensor) -> list[Tensor]:
        copies = [x.select(0, i) + torch.tensor(-0.0) for i in (0, 1)]
        rows = [copy[1:2] for copy in copies]
        return [*(copy.t() for copy in copies), *rows, *(row.t() for row in rows), x.select(0, 0).t()]

    with Recorder([x]) as recorder:
        tape = recorder.tape(function(recorder.inputs[0]))
    for found, expected in zip(compiled(simplified(tape))([x]), function(x), strict=True):
        assert torch.equal(found, expected)


def test_views_of_two_rows_are_two_also_where_a_step_between_does_nothing() -> None:
    """Rows lie behind each other, what was made of them each at the start of its own memory."""

    def both_rows(x: Tensor) -> Tensor:
        first, second = (torch.ops.aten.mul.Scalar(x.select(0, row), 1).view(3, 1) for row in (0, 1))
        found: Tensor = first - second
        return found

    x = torch.arange(6.0).view(2, 3)
    with Recorder([x]) as recorder:
        tape = simplified(recorder.tape([both_rows(recorder.inputs[0])]))
    assert torch.equal(compiled(tape)([x])[0], both_rows(x))
    assert both_rows(x).any()
    names = [step.operator.overloadpacket.__name__ for step in tape.steps]
    assert names == ["select", "view", "select", "view", "sub"]


def test_the_same_view_of_a_row_and_of_its_copy_is_one() -> None:
    def twice(x: Tensor) -> Tensor:
        row = x.select(0, 1)
        found: Tensor = row.view(3, 1) + torch.ops.aten.mul.Scalar(row, 1).view(3, 1)
        return found

    x = torch.arange(6.0).view(2, 3)
    with Recorder([x]) as recorder:
        tape = simplified(recorder.tape([twice(recorder.inputs[0])]))
    assert torch.equal(compiled(tape)([x])[0], twice(x))
    assert len(tape.steps) == 3
