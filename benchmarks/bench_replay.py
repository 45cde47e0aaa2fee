"""The recorded operators of one group's clients, beside PyTorch's own tracer on the same arguments (docs/design.md).

``pytest benchmarks/bench_replay.py``: `record` and `make_fx` are what a further shape costs once, the others a call.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree

from metaleaf import trees
from metaleaf.bench.contenders import Metaleaf
from metaleaf.bench.workloads import Workload
from metaleaf.data.deferred import made
from metaleaf.engine.padding import batch
from metaleaf.engine.replay.as_python import Replay
from metaleaf.engine.replay.as_torchscript import scripted
from metaleaf.engine.replay.traced import Traced
from metaleaf.shots import rows

WORKS = {
    "fedavg": Workload("fedavg", "fedavg", "logistic", 100, mean=110),
    "maml": Workload("maml", "maml", "logistic", 100, mean=110, options={"inner_steps": 5}),
}


@cache
def given(name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A group's clients side by side as a function, and its arguments."""
    run = Metaleaf(WORKS[name], mode="vectorised")
    engine: Any = run.engine.used  # type: ignore[attr-defined]
    [*_, group] = engine._groups([rows(episode) for episode in run.cohort])
    return engine.client.function, made((run.state.broadcast, batch([run.cohort[i] for i in group], engine.device)))


def flat(name: str) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """The same as a function of tensors."""
    function, arguments = given(name)
    leaves, shape = _pytree.tree_flatten(arguments)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        whole = [next(left) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return tuple(trees.leaves(function(*_pytree.tree_unflatten(whole, shape))))

    return run, [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def replayed(name: str) -> tuple[Replay, list[Tensor]]:
    """Our replay and what it reads."""
    function, (broadcast, clients) = given(name)
    traced = Traced(function, name)
    for scale in (1.0, 2.0):  # another broadcast, so that it is trusted
        traced(trees.tree_map(lambda leaf, scale=scale: leaf * scale, broadcast), clients)
    [known] = traced.replays.values()
    return known.replay, known.inputs(_pytree.tree_leaves((broadcast, clients)))


def expected(name: str) -> tuple[Tensor, ...]:
    run, tensors = flat(name)
    return run(*tensors)


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("way", ["vmap", "replay", "torchscript", "make_fx", "make_fx in torchscript"])
def test_call(benchmark: Any, name: str, way: str) -> None:
    torch.set_num_threads(1)
    run, tensors = flat(name)
    call: Callable[[], Any]
    with torch.no_grad():
        if way in ("replay", "torchscript"):
            replay, tensors = replayed(name)
            ready = replay if way == "replay" else scripted(replay, tensors)
            call = lambda: ready(tensors)  # noqa: E731
        elif way == "vmap":
            call = lambda: run(*tensors)  # noqa: E731
        else:
            graph: Any = make_fx(run)(*tensors)
            if way != "make_fx":
                jit: Any = torch.jit
                graph = jit.trace(lambda *tensors, run=graph: run(*tensors), tuple(tensors), check_trace=False)
            call = lambda: graph(*tensors)  # noqa: E731
        found = benchmark(call)
    torch.testing.assert_close(tuple(found), expected(name))


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("way", ["record", "make_fx"])
def test_start(benchmark: Any, name: str, way: str) -> None:
    torch.set_num_threads(1)
    run, tensors = flat(name)
    with torch.no_grad():
        if way == "record":
            function, arguments = given(name)
            traced = Traced(function, name)
            traced.trusted = True
            leaves, shape = _pytree.tree_flatten(arguments)
            benchmark(lambda: traced._keep(way, traced._record(arguments, leaves, shape)))
        else:
            benchmark.pedantic(lambda: make_fx(run)(*tensors), rounds=3)
