"""Adapt one client's model and score it step by step, as an engine does for each client."""

from collections import deque
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from metaleaf.algorithm import Algorithm
from metaleaf.shots import Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


def score(task: Task, algorithm: Algorithm, broadcast: Tree, client: tuple[Shots, Shots], every_step: bool) -> Tensor:
    """Rows of (query examples, correct, summed loss): before adapting, then after each step or only the last."""
    support, query = client
    models = algorithm.adapt(task, broadcast, support)
    if not every_step:
        models = _ends(models)
    predict = partial(algorithm.predict, task) if hasattr(algorithm, "predict") else task.logits
    return torch.stack([task.score(model, query, partial(predict, model)) for model in models])


def _ends(models: Iterator[Params]) -> Iterator[Params]:
    """The first and, if there is another, the last."""
    yield next(models)
    yield from deque(models, maxlen=1)
