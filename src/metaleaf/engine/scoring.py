"""Make one client's model and score it step by step, as an engine does for each client."""

from collections import deque
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from metaleaf.algorithm import Algorithm
from metaleaf.shots import Episode, Scored, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


def score(task: Task, algorithm: Algorithm, broadcast: Tree, client: Scored, every_step: bool) -> Tensor:
    """Rows of `Task.score`: before adapting, then after each step or only the last."""
    own, query = client
    models = _models(task, algorithm, broadcast, own)
    if not every_step:
        models = _ends(models)
    predict = partial(algorithm.predict, task) if hasattr(algorithm, "predict") else task.logits
    return torch.stack([task.score(model, query, partial(predict, model)) for model in models])


def _models(task: Task, algorithm: Algorithm, broadcast: Tree, own: Shots | Episode) -> Iterator[Params]:
    if not isinstance(own, Episode):
        return algorithm.adapt(task, broadcast, own)
    if hasattr(algorithm, "personal"):
        found: Iterator[Params] = algorithm.personal(task, broadcast, own)
        return found
    return algorithm.adapt(task, broadcast, own.data)


def _ends(models: Iterator[Params]) -> Iterator[Params]:
    """The first and, if there is another, the last."""
    yield next(models)
    yield from deque(models, maxlen=1)
