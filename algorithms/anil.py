"""ANIL: MAML whose inner loop adapts the head only, while the server learns all parameters.

Raghu, Raghu, Bengio, Vinyals (2020), arXiv 1909.09157 ("almost no inner loop", in training and when clients adapt);
federated as `metaleaf.algorithms.maml` federates MAML. The gradient is taken through the inner steps (second order) by
the head and the body. On a model that is only a head (logistic regression) it is MAML.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from metaleaf.algorithm import About
from metaleaf.algorithms.maml import MAML
from metaleaf.learning import descend, last
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task


@dataclass(frozen=True)
class ANIL(MAML):
    """MAML with the body held still in the inner loop."""

    title: ClassVar[str] = "ANIL"
    about: ClassVar[About] = About(
        "meta-gradient", "MAML whose inner loop adapts the head only", "Raghu et al. 2020, arXiv 1909.09157", order=2
    )

    def _adapted(self, task: Task, params: Params, episode: Episode) -> Params:
        return last(self._heads(task, params, episode.support, self.inner_steps))

    def _heads(self, task: Task, params: Params, support: Shots, steps: int) -> Iterator[Params]:
        body, head = task.split(params, "head")
        for adapted in descend(task.holding(body), head, support, self.inner_lr, steps):
            yield {**body, **adapted}

    def adapt(self, task: Task, params: Params, support: Shots) -> Iterator[Params]:
        """The inner loop, on the head."""
        return self._heads(task, params, support, self.inner_steps if self.adapt_steps is None else self.adapt_steps)
