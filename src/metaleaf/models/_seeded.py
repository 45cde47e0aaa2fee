"""Forward passes whose chance is a function of a seed, and that torch.func.vmap and second derivatives can take.

torch's dropout draws from the process's generator: two runs of one command would differ, and so would engines, threads
and a resumed run. Within `Seeded` it draws from the client's seed instead, by hashing the seed, the number of the draw
in the forward pass and the element's place (SplitMix64, as `metaleaf.seeds`). The place is hashed dimension
by dimension, so that rows that only pad a client change nothing for the others.

Attention is written out there, since torch's fused form has no second derivatives, draws its own dropout and has no
batching rule. Chance that cannot be had from the seed is refused.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from metaleaf.errors import ConfigError
from metaleaf.seeds import mix

_DRAWING = threading.Lock()


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Within the block torch's generators start from the seed; afterwards they are as before.

    They are the process's, and clients may run on several threads.
    """
    with _DRAWING, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _generators() -> list[bytes]:
    """The states of torch's generators, while nobody is `drawing`."""
    # Levels of torch.func would wrap the states, and a recording (`metaleaf.engine.replay.tape`) note them.
    with _DRAWING, torch._C._DisableFuncTorch(), torch._C._DisableTorchDispatch():
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        return [state.numpy().tobytes() for state in (torch.get_rng_state(), *on_gpus)]


class Seeded(TorchFunctionMode):
    """Within the block, one forward pass draws from the seed (int64 scalar); None: it is scored and may not draw.

    owner: whose forward pass it is, for errors.
    """

    needed = False
    """Whether anything came that torch would have done otherwise."""

    def __init__(self, seed: Tensor | None, owner: str) -> None:
        super().__init__()
        self.seed, self.owner, self.draws = seed, owner, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function, or what takes its place."""
        kwargs = kwargs or {}
        if func in _RULES:
            self.needed = True
            return _RULES[func](self, *args, **kwargs)
        if func in _ENTERED:
            self.needed = True
            with self:
                return _unasked(func)(*args, **kwargs)
        return func(*args, **kwargs)

    def kept(self, shape: torch.Size, p: float, device: torch.device) -> Tensor:
        """Bool [shape], False with probability p."""
        if self.seed is None:
            raise ConfigError(
                f"{self.owner} drops units while it is scored, which leaves scores to chance: use nn.Dropout, or "
                "F.dropout with training=self.training."
            )
        self.draws += 1
        key = mix(mix(self.seed + _OF_DROPOUT) + self.draws)
        for size in shape:
            key = mix(key.unsqueeze(-1) + torch.arange(size, device=device))
        return key >= math.floor(p * 2.0**64) - 2**63  # of all int64, this part is below


class Watched(Seeded):
    """The same, for a first forward pass: ConfigError if it draws from torch's own generators."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function, or what takes its place."""
        before = _generators()
        found = super().__torch_function__(func, types, args, kwargs)
        if _generators() != before:
            raise ConfigError(
                f"{self.owner} draws random numbers by {getattr(func, '__name__', func)}, which no seed of a run "
                "decides: use nn.Dropout, nn.Dropout2d or F.dropout, which draw from the client's seed."
            )
        return found


def _dropout(mode: Seeded, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return _dropped(mode, x, x.shape, p, training, inplace)


def _dropout_of_channels(mode: Seeded, x: Tensor, p: float, train: bool) -> Tensor:
    """torch.feature_dropout, of x [n, channels, ...]."""
    return _dropped(mode, x, torch.Size([*x.shape[:2], *[1] * (x.dim() - 2)]), p, train, inplace=False)


def _dropped(mode: Seeded, x: Tensor, shape: torch.Size, p: float, training: bool, inplace: bool) -> Tensor:
    if not training or p == 0:
        return x
    if p == 1:
        factor = torch.zeros(shape, dtype=x.dtype, device=x.device)
    else:
        factor = mode.kept(shape, p, x.device).to(x.dtype) / (1 - p)
    return x.mul_(factor) if inplace else x * factor


def _attention(
    mode: Seeded,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """F.scaled_dot_product_attention, as its documentation writes it."""
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return _dropout(mode, scores.softmax(-1), dropout_p) @ value


@cache
def _unasked(function: FunctionType) -> Callable[..., Any]:
    """A function of torch's that does not ask whether a mode wants it: then the mode sees what it calls."""
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    everywhere = {**function.__globals__, **dict.fromkeys(names, lambda *_: False)}
    entered = FunctionType(function.__code__, everywhere, function.__name__, function.__defaults__)
    entered.__kwdefaults__ = function.__kwdefaults__
    return entered


_OF_DROPOUT = 0x2545F4914F6CDD1D
"""Keeps its keys apart from those of orders."""

_RULES: dict[Any, Callable[..., Tensor]] = {
    F.dropout: _dropout,
    torch.dropout: _dropout,
    torch.feature_dropout: _dropout_of_channels,
    torch.feature_dropout_: lambda mode, x, p, train: x.copy_(_dropout_of_channels(mode, x, p, train)),
    F.scaled_dot_product_attention: _attention,
}
"""What takes a function's place."""

_ENTERED = {F.multi_head_attention_forward, F.dropout1d, F.dropout2d, F.dropout3d}
"""Functions in Python whose own calls a mode has to see."""
