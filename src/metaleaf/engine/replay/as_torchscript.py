"""Replays in TorchScript, whose interpreter runs one operator after the other without Python.

Python's share of an operator on small tensors is as large as the arithmetic, and threads that replay side by side would
wait for one another's. PyTorch calls TorchScript deprecated: where it is gone, cannot express a replay, or gives other
bits, the replay stays as it is.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from metaleaf.engine.replay.as_python import Replay

RUNS = 3
"""After which TorchScript has rewritten what it ever will."""


def scripted(replay: Replay, given: Sequence[Tensor]) -> Replay:
    """The replay by TorchScript, if that comes to the same bits with what is given."""
    # On a GPU, TorchScript fuses operators into others, and the time is not Python's.
    if not given or any(x.device.type != "cpu" for x in given):
        return replay
    expected = replay(given)
    try:
        script = _traced(replay, given)
        found = [script(*given) for _ in range(RUNS)]
    except Exception:  # whatever it is: there is the replay
        return replay
    if not all(_same(a, b) for one in found for a, b in zip(one, expected, strict=True)):
        return replay
    return lambda inputs: list(script(*inputs))


def _traced(replay: Replay, given: Sequence[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        made = cast(Any, torch.jit).trace(lambda *inputs: tuple(replay(inputs)), tuple(given), check_trace=False)
    return cast(Callable[..., tuple[Tensor, ...]], made)


def _same(a: Tensor, b: Tensor) -> bool:
    """To the bit; NaN are alike."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
