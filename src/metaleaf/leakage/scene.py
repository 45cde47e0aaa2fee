"""What an attacker sees of clients' updates, and what it knows of how they are made."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from metaleaf import trees
from metaleaf.algorithm import Replies, State
from metaleaf.config.protection import pipeline_of
from metaleaf.errors import ConfigError
from metaleaf.leakage.inversion import TINY, Inputs
from metaleaf.leakage.measure import Array
from metaleaf.leakage.subjects import Subject, update_of
from metaleaf.protection.compression import Sign, Sparse
from metaleaf.protection.pipeline import Pipeline, numbers, zeros
from metaleaf.runs.run import Run
from metaleaf.seeds import derive
from metaleaf.trees import Tree

POOL = 100
"""Other training clients, at most, who make the guesses of somebody without any update."""
POOL_EXAMPLES = 10_000
"""Examples of theirs, at most."""

Kind = Literal["images", "features", "tokens"]


def layers_of(run: Run) -> Pipeline:
    """What honest clients' updates pass through; nobody is lost on the way."""
    pipeline = pipeline_of(run.config.protection)
    secure = pipeline.secure and replace(pipeline.secure, drop_outs=0.0)
    return replace(pipeline, attack=None, aggregate=None, secure=secure)


def sees_single_updates(pipeline: Pipeline) -> bool:
    """Whether the attacker sees each client's update, or only the cohort's sum.

    With secure aggregation the server is the attacker, and sees the sum. A server that is to add noise is trusted and
    sees everything; there the attacker is whoever sees the broadcasts, and with them the noisy sum.
    """
    central = pipeline.noise is not None and pipeline.noise.place == "server"
    return pipeline.secure is None and not central


class Scene:
    """The clients under attack and what everybody knows of them."""

    def __init__(self, run: Run, state: State, clients: Sequence[int], subjects: Sequence[Subject]) -> None:
        """clients: the subjects' numbers in the store."""
        self.run, self.state, self.subjects, self.pipeline = run, state, subjects, layers_of(run)
        weights = run.federation.weights(list(clients), getattr(run.algorithm, "weighting", None))
        self.weights = torch.tensor(weights, dtype=torch.float64, device=run.task.device)
        self.kind = kind_of(run.spec)
        self.others = _others(run)

    def arrived(self, updates: Sequence[Tree]) -> list[Tree]:
        """What the attacker sees: one message a client, or that of all of them together."""
        alone = sees_single_updates(self.pipeline)
        clients = torch.stack([one.episode.client for one in self.subjects])
        passed = self.pipeline(
            Replies(trees.stack(updates), self.weights),
            clients,
            torch.zeros(len(clients), dtype=torch.bool, device=clients.device),
            self.pipeline.start(updates[0]),
            trees.stack([zeros(one) for one in updates]) if self.pipeline.feeds_back else (),
            torch.tensor(derive(self.run.config.seed, "protection", 0), device=clients.device),
            each=alone,
        ).update
        return [numbers(one) for one in (trees.unstack(passed.updates) if alone else [passed])]

    def modelled(self, side: Sequence[int], inputs: Inputs, travelled: Tree) -> Tree:
        """What those clients together would send if these were their inputs, without what is random."""
        updates = [
            numbers(update_of(self.run, self.state, self.subjects[i].holding(x)))
            for i, x in zip(side, inputs, strict=True)
        ]
        made = [self._bounded(trees.tree_map(torch.mul, one, travelled)) for one in updates]
        weights = self.weights[list(side)]
        return Replies(trees.stack(made), weights / weights.sum()).mean()

    def _bounded(self, update: Tree) -> Tree:
        """No longer than the first bound: `Clip`, differentiable for an update of zero, too."""
        if self.pipeline.clip is None:
            return update
        factor = (self.pipeline.clip.norm / trees.norm(update).clamp(min=TINY)).clamp(max=1)
        return trees.tree_map(lambda leaf: leaf * factor.to(leaf), update)

    def travelled(self, message: Tree) -> Tree:
        """1 where a number of the message travelled, 0 where a sparse message has none."""
        sparse = isinstance(self.pipeline.compress, Sparse) and self.pipeline.noise is None
        return trees.tree_map(lambda leaf: (leaf != 0).to(leaf) if sparse else torch.ones_like(leaf), message)

    def moves(self, message: Tree) -> Tree:
        """The message from where nothing moves on: signs have no zero, and send one as positive."""
        if not isinstance(self.pipeline.compress, Sign):
            return message
        return trees.tree_map(lambda leaf: leaf - leaf.abs().median(), message)

    def range(self) -> tuple[float, float]:
        """The least and the greatest number of x: of whole numbers by their type, of others among training clients."""
        x = self.subjects[0].x
        if not x.is_floating_point():
            return 0.0, float(torch.iinfo(x.dtype).max)
        known = [self.others, *(one.x.cpu().numpy() for one in self.subjects)]
        low, high = min(float(each.min()) for each in known), max(float(each.max()) for each in known)
        return low, high if high > low else low + 1

    def check_floats(self, one: Subject) -> None:
        """ConfigError unless the model makes the same of whole numbers as of the same numbers as floats."""
        name, dtype = type(self.run.task.model).__name__, next(self.run.task.model.parameters()).dtype
        try:
            as_floats = update_of(self.run, self.state, one.holding(one.x.to(dtype)))
        except (RuntimeError, TypeError) as error:
            raise ConfigError(f"{name} takes no floats, which the attack looks among: {error}.") from error
        as_they_are = numbers(update_of(self.run, self.state, one.episode))
        apart = trees.length(trees.subtract(numbers(as_floats), as_they_are))
        if apart > 1e-3 * trees.length(as_they_are):
            raise ConfigError(
                f"{name} makes something else of floats than of the same whole numbers, and the attack looks among "
                "floats: let it scale both alike."
            )


def kind_of(spec: Any) -> Kind:
    """What x of a dataset's spec are: whole numbers in a row are tokens, in rows and columns pixels."""
    if np.dtype(spec["x_dtype"]).kind not in "iu":
        return "features"
    return "tokens" if len(spec["x_shape"]) == 1 else "images"


def _others(run: Run) -> Array:
    """Examples of training clients who are not in the cohort."""
    others = np.setdiff1d(run.federation.clients["train"], run.federation.cohort(1))
    if not len(others):
        raise ConfigError(
            "every training client is in the cohort, and nobody is left to guess from: lower clients_per_round."
        )
    draw = np.random.default_rng(derive(run.config.seed, "leakage", "others"))
    chosen = draw.permutation(others)[:POOL]
    x = np.concatenate([run.store.client(int(client))[0] for client in chosen])[:POOL_EXAMPLES]
    return run.federation.scale.x(x)
