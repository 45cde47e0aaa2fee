"""The layers between clients and server, in the order of their meaning: what a suite's [protection] declares.

Malicious clients send something else; what is sent is compressed, made no longer than a bound, and hidden by noise;
then the server sums it up without seeing it, or by a rule that bears liars, or as ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from metaleaf import seeds, trees
from metaleaf.algorithm import Replies
from metaleaf.errors import ConfigError
from metaleaf.protection.clipping import Clip
from metaleaf.protection.compression import with_feedback
from metaleaf.protection.noise import Noise
from metaleaf.protection.secure import SecureAggregation
from metaleaf.trees import Tree


class Passed(NamedTuple):
    """What came through: what the server reads, the layers' state, what compression left at each client [k, ...]."""

    update: Tree
    state: Tree
    residuals: Tree
    facts: dict[str, float]


@dataclass(frozen=True)
class Pipeline:
    """The layers that are declared; None is a layer that is not there."""

    attack: Any = None
    compress: Any = None
    clip: Clip | None = None
    noise: Noise | None = None
    secure: SecureAggregation | None = None
    aggregate: Any = None

    def check(self, weighting: str, cohort: int, *, each: bool = False, traffic: bool = False) -> None:
        """ConfigError if the layers make no sense together, or with this algorithm and so many clients a round.

        weighting: how the clients count, by the protocol or the algorithm. each: its server reads every update itself;
        traffic: it counts its bytes itself.
        """
        for holds, why in self._senseless(each, traffic, weighting):
            if holds:
                raise ConfigError(f"protection: {why}.")
        for layer in (self.secure, self.aggregate):
            if layer is not None:
                layer.check(cohort)
        self._noise(cohort)

    def _senseless(self, each: bool, traffic: bool, weighting: str) -> list[tuple[Any, str]]:
        central = self.noise is not None and self.noise.place == "server"
        bounded = self.clip is not None
        learnt = self.clip is not None and self.clip.quantile is not None
        return [
            (self.noise and not bounded, "noise has no measure without clip: give clip = { norm = ... } as well"),
            (self.secure and not bounded, "secure aggregation needs a range of numbers: give clip = { norm = ... }"),
            (
                self.noise and not central and learnt,
                "a bound that follows the clients' norms tells a server that is not trusted whose are short: leave out "
                "quantile",
            ),
            (self.noise and weighting != "uniform", "noise counts clients alike: set weighting = 'uniform'"),
            (central and each, "a server that reads every update sees it without noise: noise.place = 'clients'"),
            (central and self.aggregate, "noise on the server is for the mean: leave out aggregate or noise"),
            (
                bounded and hasattr(self.aggregate, "trusted"),
                "this rule makes every update as long as the trusted clients' own, which nobody bounds: leave out clip "
                "or aggregate",
            ),
            (self.secure and each, "secure aggregation hides what this algorithm's server reads, every single update"),
            (self.secure and self.aggregate, "secure aggregation hides what the rule in aggregate compares"),
            (self.secure and self.compress, "a masked update is as long as any: leave out compress or secure"),
            (self.aggregate and each, "this algorithm's server reads every update itself: leave out aggregate"),
            (
                traffic and (self.compress or self.secure),
                "this algorithm counts its own bytes: no compress, no secure",
            ),
        ]

    def start(self, like: Tree) -> Tree:
        """What the layers keep from round to round, at first; like: one client's update.

        ConfigError if there is noise, and the update has whole numbers, which noise would not hide.
        """
        if self.noise is not None and len(numbers(like)) < len(trees.leaves(like)):
            raise ConfigError("protection: this algorithm sends whole numbers, which noise does not hide: no noise.")
        found: dict[str, Tree] = {}
        if self.clip is not None:
            found["bound"] = self.clip.start()
        if self.aggregate is not None:
            found["rule"] = self.aggregate.start(numbers(like))
        return found

    @property
    def feeds_back(self) -> bool:
        """Whether clients keep what compression lost and add it to their next update."""
        return self.compress is not None and bool(self.compress.feedback)

    def __call__(
        self,
        replies: Replies,
        clients: Tensor,
        malicious: Tensor,
        state: Tree,
        residuals: Tree,
        seed: Tensor,
        *,
        each: bool = False,
    ) -> Passed:
        """Pass a cohort's updates [k, ...] on.

        clients: their numbers, int64 [k]; malicious: which of them are, bool [k]; residuals: what they kept, like the
        updates, or () where nothing is kept. each: the server reads every update itself.
        """
        updates, weights = numbers(replies.updates), replies.weights
        facts: dict[str, float] = {}
        if not updates:
            return Passed(replies if each else replies.mean(), state, residuals, facts)
        draws = [seeds.step_seed(seed, place) for place in range(5)]
        if self.attack is not None:
            updates = self.attack(updates, malicious, weights, draws[0])
        if self.compress is not None:
            updates, residuals = self._compressed(updates, residuals, clients, draws[1])
        bound, noise = None, self.noise
        if self.clip is not None:
            noise, count_noise = self._noise(len(weights))
            bounded = self.clip(updates, state["bound"], count_noise, draws[2])
            updates, bound, state = bounded.updates, state["bound"], {**state, "bound": bounded.bound}
            facts = {"clip_bound": float(bound), "clipped": 1 - float(bounded.short)}
        if noise is not None and bound is not None and noise.place == "clients":
            updates = noise.on_clients(updates, bound, draws[3])
        if each:
            whole = _with(replies.updates, updates)
            return Passed(Replies(whole, weights), state, residuals, facts)
        update, state = self._summed(Replies(updates, weights), state, bound, draws[4])
        if noise is not None and bound is not None and noise.place == "server":
            lost = self.secure.lost(len(weights)) if self.secure is not None else 0
            update = noise.on_mean(update, bound, len(weights) - lost, draws[3])
        return Passed(_with(replies.mean(), update), state, residuals, facts)

    def _compressed(self, updates: Tree, residuals: Tree, clients: Tensor, seed: Tensor) -> tuple[Tree, Tree]:
        if self.feeds_back:
            decoded, lost = with_feedback(self.compress, updates, residuals, clients, seed)
            # What is not finite once would stay so for ever.
            return decoded, trees.tree_map(lambda leaf: leaf.nan_to_num(0.0, 0.0, 0.0), lost)
        return self.compress(updates, clients, seed), ()

    def _summed(self, replies: Replies, state: Tree, bound: Tensor | None, seed: Tensor) -> tuple[Tree, Tree]:
        if self.secure is not None and bound is not None:
            return self.secure(*replies, bound, seed), state
        if self.aggregate is not None:
            update, rule = self.aggregate(*replies, state["rule"])
            return update, {**state, "rule": rule}
        return replies.mean(), state

    def _noise(self, cohort: int) -> tuple[Noise | None, float]:
        """The noise on updates and the deviation of that on the count of short ones: both where the bound is learnt."""
        if self.noise is None or self.clip is None or self.clip.quantile is None:
            return self.noise, 0.0
        count_noise = self.clip.count_noise or cohort / 20
        return self.noise.split(count_noise), count_noise

    def sent_bytes(self, like: Tree, clients: int) -> tuple[int, int]:
        """Bytes that one client of so many receives beside what it is sent, and sends; like: its update."""
        real = numbers(like)
        rest = trees.nbytes(like) - trees.nbytes(real)
        if self.secure is not None:
            down, up = self.secure.nbytes(real, clients)
            return down, rest + up
        return 0, rest + (trees.nbytes(real) if self.compress is None else int(self.compress.nbytes(real)))


def numbers(update: Tree) -> dict[str, Tensor]:
    """What layers work on: the leaves of real numbers, by name. Whole ones, such as a choice, travel as they are."""
    return {name: leaf for name, leaf in trees.named_leaves(update).items() if leaf.is_floating_point()}


def zeros(like: Tree) -> Tree:
    """What a client that never compressed has kept."""
    return trees.zeros_like(numbers(like))


def _with(update: Tree, changed: Mapping[str, Tensor]) -> Tree:
    return trees.with_named_leaves(update, {**trees.named_leaves(update), **changed})
