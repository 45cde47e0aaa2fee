"""Federated training inside one environment, as differentiable functions: what algorithms for environments build on.

All participants do the same local training, `task.local_steps` steps of gradient descent with rate `task.local_lr` on
all their examples; the protocol fixes both for every method.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import vmap

from metaleaf.gradient import vectorising
from metaleaf.learning import descend, last
from metaleaf.shots import Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, add, subtract, weighted_sum


def over(f: Callable[..., Tree]) -> Callable[..., Tree]:
    """The function that applies f along the first dimension of its arguments' leaves, side by side."""

    def decomposed(*arguments: Tree) -> Tree:
        # As in metaleaf.vectorised: a gradient takes operators without a batching rule (a whole LSTM) apart.
        _, result = torch.func.grad(lambda unused: (unused, f(*arguments)), has_aux=True)(torch.zeros(()))
        return result

    def run(*arguments: Tree) -> Tree:
        with vectorising():
            return vmap(decomposed)(*arguments)

    return run


def train(task: Task, params: Params, shots: Shots) -> Iterator[Params]:
    """The protocol's local training of one participant: the parameters before, and after each step."""
    return descend(task, params, shots, task.local_lr, task.local_steps)


def difference(task: Task, params: Params, shots: Shots) -> Params:
    """What local training changes."""
    change: Params = subtract(last(train(task, params, shots)), params)
    return change


def differences(task: Task, params: Params, participants: Shots) -> Params:
    """What local training changes at each participant, leaves [k, ...]."""
    found: Params = over(lambda shots: difference(task, params, shots))(participants)
    return found


def averaged(task: Task, params: Params, participants: Shots, weights: Tensor) -> Params:
    """One round of federated averaging; weights [k] sum to 1."""
    moved: Params = add(params, weighted_sum(differences(task, params, participants), weights))
    return moved


def loss(task: Task, params: Params, clients: Shots, weights: Tensor) -> Tensor:
    """The clients' mean losses, weighted, a scalar."""
    each: Tensor = over(lambda shots: task.loss(params, shots))(clients)
    return (weights.to(each.dtype) * each).sum()
