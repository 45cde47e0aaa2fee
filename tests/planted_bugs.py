"""Real mistakes, planted one at a time into the harness or an algorithm, to see whether the gate notices."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metaleaf.algorithms.maml import MAML
from metaleaf.algorithms.meta_sgd import MetaSGD
from metaleaf.data.federation import Federation
from metaleaf.gradient import grad
from metaleaf.optimizers import Adam, Adaptive
from metaleaf.shots import Episode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree, tree_map

Patch = pytest.MonkeyPatch


def second_order_dropped(patch: Patch) -> None:
    """MAML's gradient is taken at the adapted parameters, not through the inner steps."""

    def client(self: MAML, task: Task, params: Params, episode: Episode) -> Tree:
        return grad(task.loss)(self._adapted(task, params, episode), episode.query)

    patch.setattr(MAML, "client", client)


def rate_gradient_negated(patch: Patch) -> None:
    """Meta-SGD's rates go up where they should go down."""
    right = MetaSGD.client

    def client(self: MetaSGD, task: Task, learned: Tree, episode: Episode) -> Tree:
        update = right(self, task, learned, episode)
        return {**update, "rates": tree_map(lambda g: -g, update["rates"])}

    patch.setattr(MetaSGD, "client", client)


def weights_ignored(patch: Patch) -> None:
    """Every client of a cohort counts the same, however many examples it has."""
    patch.setattr(Federation, "weights", lambda self, cohort: [1 / len(cohort)] * len(cohort))


def support_in_query(patch: Patch) -> None:
    """A client is scored on all of its examples, those it has adapted to included."""
    _scored(patch, lambda held, query: torch.cat([held, query]))


def support_in_query_unnoticed(patch: Patch) -> None:
    """The same, but with as many query examples as there should be, so that counting them shows nothing."""
    _scored(patch, lambda held, query: torch.cat([held, query])[: len(query)])


def _scored(patch: Patch, on: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Score on other examples, whose x and y are on(the support's, the query's)."""
    right = Federation.support_queries

    def support_queries(*given: Any) -> list[tuple[Shots, Shots]]:
        return [(held, Shots(on(held.x, query.x), on(held.y, query.y), query.seed)) for held, query in right(*given)]

    patch.setattr(Federation, "support_queries", support_queries)


def moments_reset(patch: Patch) -> None:
    """The server's Adam starts afresh in every round."""
    for kind in (Adam, Adaptive):
        right: Callable[..., Any] = kind.step

        def step(self: Any, params: Tree, gradient: Tree, state: Tree, rate: Any = 1.0, right: Any = right) -> Any:
            return right(self, params, gradient, self.init(params), rate)

        patch.setattr(kind, "step", step)


def steps_reset(patch: Patch) -> None:
    """The server's Adam keeps its moments but counts every step as its first."""
    right = Adam.step

    def step(self: Adam, params: Tree, gradient: Tree, state: Tree, rate: Any = 1.0) -> Any:
        return right(self, params, gradient, {**state, "steps": state["steps"] * 0}, rate)

    patch.setattr(Adam, "step", step)


def label_shifted(patch: Patch) -> None:
    """Examples of one class are read as the next one."""
    right = Federation._shots

    def shots(self: Federation, *arguments: Any) -> list[list[Shots]]:
        return [[s._replace(y=s.y + (s.y == 1).long()) for s in each] for each in right(self, *arguments)]

    patch.setattr(Federation, "_shots", shots)


BUGS: tuple[Callable[[Patch], None], ...] = (
    second_order_dropped,
    rate_gradient_negated,
    weights_ignored,
    support_in_query,
    support_in_query_unnoticed,
    moments_reset,
    label_shifted,
)
"""All that the gate has to catch."""
