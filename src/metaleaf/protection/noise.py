"""Gaussian noise on what clients send, and how much privacy comes of it (differential privacy of clients)."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from metaleaf import seeds, trees
from metaleaf.errors import ConfigError
from metaleaf.trees import Tree

ORDERS = (*(1 + i / 10 for i in range(1, 100)), *range(11, 64), 80, 96, 128, 192, 256, 512)
"""Of Renyi's divergence, among which the accountant takes the best."""


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of the standard deviation `multiplier` times the clipping bound, on the sum of the updates.

    place: "server", once on the sum, which a server that is trusted does (McMahan, Ramage, Talwar, Zhang 2018, arXiv
    1710.06963); "clients", on everyone's own update before it is sent, for a server that is not. delta: of the
    guarantee; None for the number of training clients to the power of -1.1.
    """

    multiplier: PositiveFloat = 1.0
    place: Literal["server", "clients"] = "server"
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None

    def on_clients(self, updates: Tree, bound: Tensor, seed: Tensor) -> Tree:
        """Noise on each of the stacked updates [k, ...]."""
        return noisy(updates, self.multiplier * bound, seed)

    def on_mean(self, mean: Tree, bound: Tensor, clients: int, seed: Tensor) -> Tree:
        """Noise on the mean of so many updates: the sum's, divided by their number."""
        return noisy(mean, self.multiplier * bound / clients, seed)

    def split(self, count_noise: float) -> "Noise":
        """The noise on updates where the bound is learnt, too: both together tell as much as `multiplier` alone would.

        Andrew et al. 2021, theorem 1: a count of bits around 1/2 has the sensitivity 1/2.
        """
        rest = self.multiplier**-2 - (2 * count_noise) ** -2
        if rest <= 0:
            raise ConfigError(
                f"protection: count_noise = {count_noise:g} tells more than noise.multiplier = {self.multiplier:g} "
                f"allows: raise it above {self.multiplier / 2:g}."
            )
        return Noise(rest**-0.5, self.place, self.delta)

    def guarantee(self, rounds: int, cohort: int, clients: int, most: int) -> dict[str, Any]:
        """What so many rounds tell about one client, as a record has it.

        most: rounds in which the client that was drawn most often took part: what counts where noise is the clients'.
        """
        delta = self.delta or clients**-1.1
        found: dict[str, Any] = {"delta": delta, "rounds": rounds, "cohort": cohort, "clients": clients}
        if self.place == "clients":
            told = {"epsilon": epsilon_of_client(self.multiplier, most, delta), "most_rounds": most}
            return {**found, **told, "of": "each client's own messages, the server not trusted"}
        drawn = {"epsilon": epsilon(self.multiplier, rounds, cohort, clients, delta)}
        poisson = {"epsilon_poisson": epsilon_poisson(self.multiplier, rounds, cohort / clients, delta)}
        return {**found, **drawn, **poisson, "of": "all broadcasts, one client's data replaced by another's"}


def noisy(tree: Tree, deviation: Tensor, seed: Tensor) -> Tree:
    """Independent Gaussian noise on every number of a tree, drawn in float64."""
    named = trees.named_leaves(tree)
    drawn = {
        name: leaf + (deviation * seeds.normal(seed, leaf.shape, stream, torch.float64)).to(leaf)
        for stream, (name, leaf) in enumerate(named.items())
    }
    return trees.with_named_leaves(tree, drawn)


def epsilon(multiplier: float, rounds: int, cohort: int, clients: int, delta: float) -> float:
    """Of the sampling that happens: cohorts of one size without replacement, one client replaced by another.

    Replacing a client moves a sum of updates by two bounds at most, so the noise counts for half. Renyi's divergences
    of Wang, Balle, Kasiviswanathan 2019 (arXiv 1808.00087), theorem 27.
    """
    accounting = _accounting()
    each = accounting.GaussianDpEvent(multiplier / 2)
    event = each if cohort == clients else accounting.SampledWithoutReplacementDpEvent(clients, cohort, each)
    return _epsilon(event, rounds, delta, accounting.NeighboringRelation.REPLACE_ONE)


def epsilon_poisson(multiplier: float, rounds: int, share: float, delta: float) -> float:
    """As most papers count: as if every client were drawn on its own with this probability, one added or taken away."""
    accounting = _accounting()
    event = accounting.PoissonSampledDpEvent(share, accounting.GaussianDpEvent(multiplier))
    return _epsilon(event, rounds, delta, accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)


def epsilon_of_client(multiplier: float, rounds: int, delta: float) -> float:
    """Of one client's own noisy messages in so many rounds: its data replaced by any other."""
    accounting = _accounting()
    return _epsilon(
        accounting.GaussianDpEvent(multiplier / 2), rounds, delta, accounting.NeighboringRelation.REPLACE_ONE
    )


def _epsilon(event: Any, rounds: int, delta: float, relation: Any) -> float:
    if rounds == 0:
        return 0.0
    accountant = _accounting().rdp.RdpAccountant(ORDERS, relation)
    found = float(accountant.compose(event, rounds).get_epsilon(delta))
    return found if math.isfinite(found) else math.inf


def _accounting() -> Any:
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError:
        raise ConfigError(
            "protection: noise needs the package dp-accounting to say how much privacy it gives: "
            "pip install 'metaleaf[privacy]'."
        ) from None
    return dp_accounting
