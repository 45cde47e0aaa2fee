"""Whether a model's clients can run side by side: tried on a few examples, before a run relies on it."""

import warnings
from functools import partial

import torch

from metaleaf import trees
from metaleaf.algorithm import Algorithm
from metaleaf.engine.padding import pad
from metaleaf.errors import UserError
from metaleaf.gradient import grad, over
from metaleaf.learning import descend, last
from metaleaf.shots import Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree

ALIKE = 1e-2
"""Part of a gradient's norm that is no rounding: padding that counts as examples moves it by far more."""


def obstacle(task: Task, algorithm: Algorithm, examples: Shots) -> str | None:
    """Why clients with this model cannot run side by side, in half a sentence; None if they can.

    They learn from the examples (with as many derivatives as the algorithm takes) and are scored on them, once side by
    side with padding and once alone, where errors are the model's own and are raised.
    """
    order = getattr(getattr(algorithm, "about", None), "order", 1)
    work, params = partial(_learnt_and_scored, task, order), task.params()
    padded = pad(examples, len(examples.y) + 2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, of operators that it takes client by client
        alone = work(params, trees.to(examples, task.device))
        try:
            together = over(partial(work, params))(trees.to(trees.stack([padded, padded]), task.device))
        except UserError:
            raise
        except Exception as error:  # whatever torch says of an operator that it cannot vectorise
            return f"torch.func.vmap cannot run it ({said(error)})"
    for found in trees.unstack(together):
        if trees.length(trees.subtract(found, alone)) > ALIKE * trees.length(alone):
            return "it computes other numbers where rows pad a client: it does not heed the mask"
    return None


def said(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _learnt_and_scored(task: Task, order: int, params: Params, shots: Shots) -> Tree:
    """The loss's gradient, for order 2 through a step of gradient descent, and the loss of a prediction."""

    def loss(start: Params) -> torch.Tensor:
        return task.loss(last(descend(task, start, shots, 1e-3, order - 1)), shots)

    return grad(loss)(params), task.score(params, shots)[-1]
