"""Rows that a recording takes of padded clients come from where they lie, and are the same to the bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_tasks import shots
from test_algorithms import CPU
from torch import Tensor
from torch.nn.functional import embedding

from metaleaf.data.deferred import made
from metaleaf.engine.padding import batch
from metaleaf.engine.replay.as_python import compiled
from metaleaf.engine.replay.simplify import simplified
from metaleaf.engine.replay.tape import Recorder, Tape
from metaleaf.engine.replay.unpadded import direct
from metaleaf.shots import Shots, minibatches
from metaleaf.trees import leaves

Function = Callable[[Shots], list[Tensor]]


def rewritten(function: Function, model: str = "logistic") -> tuple[Tape, list[bool]]:
    """The tape of the function over padded clients, and whether it reads x and y without a padded copy.

    It comes to the same for these and for other clients that are padded to the same length.
    """
    given, later = (batch([shots(model, n, seed=n + k) for n in sizes], CPU) for k, sizes in ((0, (5, 8)), (9, (8, 2))))
    with Recorder(leaves(made(given))) as recorder:
        tape = simplified(recorder.tape(function(Shots(*recorder.inputs))))
    tape, sources = direct(tape, leaves(given))
    for cohort in (given, later):
        copied = [_copies(leaf) for leaf in (cohort.x, cohort.y)]
        found = compiled(tape)([source(leaves(cohort)) for source in sources])
        directly = [not copies for copies in copied]
        for a, b in zip(found, function(made(cohort)), strict=True):
            assert (a.dtype, a.stride()) == (b.dtype, b.stride())
            assert torch.equal(a, b)
    return tape, directly


def _copies(leaf: Any) -> list[Tensor]:
    """Will have all padded copies that are made of it."""
    made_of_it: list[Tensor] = []

    def noted() -> Tensor:
        made_of_it.append(leaf._filled())
        return made_of_it[-1]

    leaf._make = noted
    return made_of_it


def count(tape: Tape, name: str) -> int:
    return sum(step.operator._schema.name == f"aten::{name}" for step in tape.steps)


def one_by_one(function: Function) -> Function:
    return lambda padded: [torch.func.vmap(lambda one: function(one)[0])(padded)]


def first_batch(padded: Shots) -> list[Tensor]:
    one = next(iter(minibatches(padded, 4)))
    assert one.mask is not None
    return [one.x.float().flatten(1).sum(1) + one.y * one.mask]


@pytest.mark.parametrize("model", ["logistic", "small_cnn"])
def test_what_is_shuffled_is_not_copied_first(model: str) -> None:
    tape, direct_ones = rewritten(one_by_one(first_batch), model)
    assert direct_ones == [True, True]
    assert count(tape, "take") == 1, "x and y are taken by the same numbers"


def test_what_is_read_as_it_is_stays_padded() -> None:
    rows = torch.tensor([[1, 0], [2, 3]])

    def both(padded: Shots) -> list[Tensor]:
        x = embedding(rows, padded.x.view(-1, padded.x.shape[-1]))
        return [x, padded.x.sum(0), embedding(rows, padded.y.view(-1, 1))]

    assert rewritten(both)[1] == [False, True]
    assert rewritten(lambda padded: [padded.x.view(-1), padded.y + 1])[1] == [False, False], "a view is a result"
    assert rewritten(lambda padded: [embedding(padded.y, padded.x.view(-1, padded.x.shape[-1]))])[1] == [True, False]


def test_rows_of_another_shape_are_other_rows() -> None:
    def pairs(padded: Shots) -> list[Tensor]:
        return [embedding(torch.tensor([1, 0]), padded.x.view(-1, 2 * padded.x.shape[-1]))]

    assert rewritten(pairs)[1] == [False, True]
