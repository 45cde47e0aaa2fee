"""Replays in TorchScript: the same bits, and the replay itself where there is no such script."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from metaleaf.engine.replay.as_torchscript import scripted

JIT: Any = torch.jit


def replay(inputs: Sequence[Tensor]) -> list[Tensor]:
    x, y = inputs
    return [torch.addmm(y, x, x.t()).log_softmax(-1), torch.where(x > 0, x, float("nan"))]


def inputs(seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(5, 5), torch.randn(5, 5)]


def test_the_same_bits_without_the_replay() -> None:
    calls = []

    def counted(given: Sequence[Tensor]) -> list[Tensor]:
        calls.append(1)
        return replay(given)

    script = scripted(counted, inputs(0))
    made = len(calls)
    for seed in range(5):
        found, expected = script(inputs(seed)), replay(inputs(seed))
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(found, expected, strict=True))
    assert len(calls) == made


def test_what_has_no_script_or_other_bits_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def unscriptable(given: Sequence[Tensor]) -> list[Tensor]:
        if JIT.is_tracing():
            raise RuntimeError("no")
        return [given[0] + 1]

    def otherwise(given: Sequence[Tensor]) -> list[Tensor]:
        return [given[0] + (2 if JIT.is_tracing() else 1)]

    for function in (unscriptable, otherwise):
        assert scripted(function, [torch.ones(2)]) is function
    assert scripted(otherwise, []) is otherwise, "of nothing, nothing is learnt"
    monkeypatch.delattr(torch, "jit")
    assert scripted(replay, inputs(0)) is replay
