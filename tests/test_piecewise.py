"""Steps for one batch after the other become one, and not a bit changes."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.testing import assert_close

from metaleaf.engine.replay.as_python import compiled
from metaleaf.engine.replay.pieces_at_once import all_pieces_at_once
from metaleaf.engine.replay.simplify import simplified
from metaleaf.engine.replay.tape import Recorder, Tape


def recorded(function: Callable[..., Tensor], *given: Tensor) -> tuple[Tape, Tape]:
    """The function's recording, and what is left of it; both come to what the function does with other numbers."""
    with Recorder(given) as recorder:
        tape = recorder.tape([function(*recorder.inputs)])
    before = simplified(tape)
    after = all_pieces_at_once(before)
    others = [torch.randn_like(leaf) if leaf.is_floating_point() else leaf.flip(0) for leaf in given]
    for inputs in (list(given), others):
        expected = function(*inputs)
        for one in (tape, before, after):
            found = compiled(one)(inputs)[0]
            assert_close(found, expected, rtol=0, atol=0)
            assert found.stride() == expected.stride()
    return before, after


def names(tape: Tape) -> list[str]:
    return [step.operator._schema.name.removeprefix("aten::") for step in tape.steps]


def training(x: Tensor, mask: Tensor, p: Tensor) -> Tensor:
    """Batches of 3 of 10 rows, so that the last is a row: each moves p by its real rows' mean."""
    for start in range(0, x.shape[1], 3):
        real, rows = mask[:, start : start + 3], x[:, start : start + 3]
        share = torch.where(real, 1 / real.sum(1, keepdim=True).clamp(min=1), 0.0)
        p = p - (rows * p[:, None] * share).sum(1)
    return p


def test_what_depends_on_the_batch_only_is_done_once() -> None:
    before, after = recorded(training, torch.randn(2, 10), torch.rand(2, 10) > 0.3, torch.randn(2))
    assert names(before).count("where") == 4
    assert names(after).count("where") == 2, "once for all whole batches, once for the rest"
    assert names(after).count("clamp") == 2
    # What follows from the parameters goes on step by step, in its order.
    assert names(after).count("sub") == names(before).count("sub") == 4


def test_sums_of_floats_stay_as_they_are() -> None:
    def sums(x: Tensor) -> Tensor:
        return torch.stack([x[:, i : i + 5].sum(1) for i in range(0, 20, 5)])

    before, after = recorded(sums, torch.randn(3, 20))
    assert names(after).count("sum") == names(before).count("sum") == 4
    assert names(after).count("split") == 1


def test_pieces_of_different_numbers_are_not_alike() -> None:
    def neighbours(x: Tensor) -> Tensor:
        a, b, c = (x[:, i : i + 2] for i in (0, 2, 4))
        return (a * b) + (b * c) + (c * a) + (a * a)

    before, after = recorded(neighbours, torch.randn(3, 6))
    assert names(after).count("mul") == names(before).count("mul")


def test_what_writes_is_left_alone() -> None:
    def function(x: Tensor) -> Tensor:
        own = x * 2
        own[:, 0:2].neg_()
        return own[:, 2:4].neg() + own[:, 0:2].neg()

    before, after = recorded(function, torch.randn(3, 4))
    assert before is after


def test_what_is_made_again_and_again_takes_no_longer_than_its_steps() -> None:
    """As the gates of a recurrence are: their rows' names must not contain one another's."""

    def states(x: Tensor) -> Tensor:
        h = x[:, :2]
        for _ in range(40):
            h = h - h * h / 2
        return h

    before, after = recorded(states, torch.rand(3, 4))
    assert names(after) == names(before)
