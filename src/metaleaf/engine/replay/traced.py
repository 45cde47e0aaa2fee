"""Run a function's recorded operators instead of the function, where that is sure to come to the same.

A vectorised client costs far more in torch.func's bookkeeping than in arithmetic where the model is small. But what is
left below it is a plain list of operators on the whole cohort; and since clients may neither branch on values, nor draw
random numbers, nor keep anything, the list is the same for all inputs of the same shapes.

A function is trusted once two runs on inputs of the same shapes, with another first argument, have made the same
recording, numbers and tensors from elsewhere included; then one recording for each further shape is enough. Every
replay is compared with the function's own result before it is used. A function that cannot be recorded, or is not
repeatable, simply runs itself.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree

from metaleaf import trees
from metaleaf.data.deferred import Deferred, made
from metaleaf.engine.replay.as_python import Replay, compiled
from metaleaf.engine.replay.as_torchscript import scripted
from metaleaf.engine.replay.pieces_at_once import all_pieces_at_once
from metaleaf.engine.replay.simplify import simplified
from metaleaf.engine.replay.tape import Recorder, Tape, Unrecordable
from metaleaf.engine.replay.unpadded import Source, direct
from metaleaf.trees import Tree

LONGEST = 100_000
"""Operators in all replays that one function keeps (about 1 kB each); those used longest ago are forgotten."""
WAITING = 16
"""Recordings that are kept while the function is not trusted yet."""
OFTEN = 50
"""Calls after which a replay is put into TorchScript, which takes as long as it has saved in about as many."""
PATIENCE = 100
"""Recordings after which a function whose arguments never have the same shapes is not recorded any more."""


class _Recorded(NamedTuple):
    """What a call did: its operators, the leaves of what it was given, what the results were and their tree."""

    tape: Tape
    given: list[Any]
    results: list[Tensor]
    shape: Any


@dataclass
class _Known:
    """A replay, what its inputs are made of, the results' tree, the number of operators; how often it was called."""

    replay: Replay
    sources: list[Source]
    shape: Any
    size: int
    calls: int = 0

    def prepared(self, leaves: list[Any]) -> Callable[[], Tree]:
        """The function's results for arguments with these leaves, to be asked for by any thread."""
        inputs = self.inputs(leaves)
        self.calls += 1
        if self.calls == OFTEN:
            with torch.no_grad():
                self.replay = scripted(self.replay, inputs)
        return partial(self._call, self.replay, inputs)

    def inputs(self, leaves: list[Any]) -> list[Tensor]:
        """What the replay reads."""
        arguments = _tensors(leaves)
        return [source(arguments) for source in self.sources]

    def _call(self, replay: Replay, inputs: list[Tensor]) -> Tree:
        with torch.no_grad():
            return _pytree.tree_unflatten(replay(inputs), self.shape)


class Traced:
    """A function of trees of tensors that is recorded and replayed; name: for warnings; replay: False for never.

    Leaves of its arguments may be `Deferred`: a replay makes those that it reads.
    """

    def __init__(self, function: Callable[..., Tree], name: str, *, replay: bool = True) -> None:
        self.function, self.name = function, name
        self.trusted: bool | None = None if replay else False
        """None: not known yet; False: never replay."""
        self.replays: OrderedDict[Any, _Known] = OrderedDict()
        """By the shapes of the arguments."""
        self._waiting: OrderedDict[Any, tuple[Tape, list[Any]]] = OrderedDict()
        """By the shapes of the arguments: the recording, and the leaves of the first argument."""
        self._recordings = 0

    def __call__(self, *arguments: Tree) -> Tree:
        """What the function returns; its first argument is what has to change before it is trusted."""
        return self.prepared(*arguments)()

    def prepared(self, *arguments: Tree) -> Callable[[], Tree]:
        """The same as a call that any thread may make; what is no replay has run by then."""
        leaves, spec = _pytree.tree_flatten(arguments)
        key = (spec, *map(_kind, leaves))
        if key in self.replays:
            self.replays.move_to_end(key)
            return self.replays[key].prepared(leaves)
        whole = made(arguments)
        result = self.function(*whole) if self.trusted is False else self._watched(key, whole, leaves, spec)
        return lambda: result

    def _watched(self, key: Any, arguments: tuple[Tree, ...], leaves: list[Any], spec: Any) -> Tree:
        """The function's own result; its operators are noted. leaves: of the arguments, some of them `Deferred`."""
        try:
            recorded = self._record(arguments, leaves, spec)
        except Exception as error:  # whatever it is, the function itself shows whether it is one of its own
            result = self.function(*arguments)
            self._give_up(str(error))
            return result
        try:
            self._learn(key, recorded, trees.leaves(arguments[0]))
        except Exception as error:  # what is wrong with a replay must not end a run
            self._give_up(str(error))
        return _pytree.tree_unflatten(recorded.results, recorded.shape)

    def _record(self, arguments: tuple[Tree, ...], leaves: list[Any], spec: Any) -> _Recorded:
        tensors = trees.leaves(arguments)
        with torch.no_grad(), Recorder(_tensors(tensors)) as recorder:
            inputs = iter(recorder.inputs)
            named = [next(inputs) if isinstance(leaf, Tensor) else leaf for leaf in tensors]
            result = self.function(*_pytree.tree_unflatten(named, spec))
        results, shape = _pytree.tree_flatten(result)
        return _Recorded(recorder.tape(results), leaves, results, shape)

    def _learn(self, key: Any, recorded: _Recorded, first: list[Any]) -> None:
        self.trusted = self.trusted or self._confirmed(key, recorded.tape, first)
        if self.trusted:
            self._waiting.clear()
            self._keep(key, recorded)
            return
        self._waiting[key] = recorded.tape, first
        if len(self._waiting) > WAITING:
            self._waiting.popitem(last=False)
        self._recordings += 1
        if self._recordings == PATIENCE:
            self.trusted = False
            self._waiting.clear()

    def _confirmed(self, key: Any, tape: Tape, first: list[Any]) -> bool | None:
        """Whether an earlier call did the same with another first argument."""
        if key not in self._waiting:
            return None
        earlier, its_first = self._waiting[key]
        if not earlier.same(tape):
            raise Unrecordable("two calls with arguments of the same shapes used other operators, numbers or tensors")
        return _differ(its_first, first) or None

    def _keep(self, key: Any, recorded: _Recorded) -> None:
        tape, sources = direct(all_pieces_at_once(simplified(recorded.tape)), _tensors(recorded.given))
        known = _Known(compiled(tape), sources, recorded.shape, len(tape.steps))
        with torch.no_grad():
            found = known.replay(known.inputs(recorded.given))
        torch.testing.assert_close(found, recorded.results, equal_nan=True, check_stride=False)
        self.replays[key] = known
        while len(self.replays) > 1 and sum(known.size for known in self.replays.values()) > LONGEST:
            self.replays.popitem(last=False)

    def _give_up(self, reason: str) -> None:
        self.trusted = False
        self.replays.clear()
        self._waiting.clear()
        message = f"{self.name} runs without recorded operators from now on, which is slower: {reason.splitlines()[0]}"
        warnings.warn(message, stacklevel=7)


def _tensors(leaves: Sequence[Any]) -> list[Any]:
    """Those that are or make tensors."""
    return [leaf for leaf in leaves if isinstance(leaf, (Tensor, Deferred))]


def _kind(leaf: Any) -> Any:
    """What a recording depends on."""
    if isinstance(leaf, Deferred):
        return leaf.shape, leaf.dtype, leaf.device
    if not isinstance(leaf, Tensor):
        return type(leaf), repr(leaf)
    return leaf.shape, leaf.stride(), leaf.dtype, leaf.device


def _differ(some: list[Any], others: list[Any]) -> bool:
    """Whether any tensor of the lists has other values; lists without a tensor count as different."""
    pairs = [(a, b) for a, b in zip(some, others, strict=True) if isinstance(a, Tensor)]
    return not pairs or not all(a is b or torch.equal(a, b) for a, b in pairs)
