"""Federated training inside one environment, as differentiable functions: what algorithms for environments build on.

All participants do the same local training, `task.local_steps` steps of gradient descent with rate `task.local_lr` on
all their examples; the protocol fixes both for every method.
"""

from collections.abc import Iterator

from torch import Tensor

from metaleaf.gradient import over
from metaleaf.learning import descend, last
from metaleaf.shots import Shots
from metaleaf.task import Params, Task
from metaleaf.trees import add, subtract, weighted_sum


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
