"""Attacks: what malicious clients send, or what they learn from. For measuring what a rule of aggregation bears.

An attack is a frozen dataclass of options, and pure. `malicious` says which clients follow it, the same in all rounds:
a share of those that train.

On updates (``on = "updates"``): ``attack(updates, malicious, weights, seed)`` gives a cohort's updates (leaves
[k, ...]) with the rows of malicious clients (bool [k]) replaced; weights float64 [k], seed int64 scalar, another every
round. Nothing changes without a malicious client. Attackers may know what the honest clients of their cohort send, and
where it says so use it; where all are malicious they take their own updates for that. Mean and standard deviation do
not count by weight, as in the papers.

On data (``on = "data"``): ``attack.check(spec)`` refuses data that it makes no sense for, and
``attack.poison(episode, spec)`` is the episode of a malicious client, whose update may be made longer as well. spec: a
`metaleaf.dataset.Spec` as a dict. The episode holds tensors, not yet padded; what is read when it is asked for has to
be read first.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf.errors import ConfigError
from metaleaf.seeds import choice, derive, mix, normal, step_seed
from metaleaf.shots import Episode, Shots
from metaleaf.trees import Tree, tree_map

Spec = Mapping[str, Any]
Share = Annotated[float, Field(ge=0, le=1)]


def malicious(share: float, clients: int, seed: int) -> Tensor:
    """Which of the clients 0, 1, ... are malicious: int64 [round(share * clients)], sorted.

    Drawn from the seed. Those of a smaller share are among those of a greater one.
    """
    drawn = choice(torch.tensor(derive(seed, "malicious")), clients, round(share * clients))
    return drawn.sort().values


@dataclass(frozen=True)
class Attack:
    """What all attacks have. share: of the clients that train, that are malicious."""

    share: Share = 0.1

    name: ClassVar[str]
    on: ClassVar[Literal["updates", "data"]]

    def check(self, spec: Spec) -> None:
        """ConfigError for data that the attack makes no sense for."""

    def refuse(self, why: str) -> ConfigError:
        """The error for such data."""
        return ConfigError(f"attack {self.name}: {why}.")


@dataclass(frozen=True)
class OnUpdates(Attack):
    """Replaces what malicious clients send."""

    on: ClassVar[Literal["updates", "data"]] = "updates"

    def __call__(self, updates: Tree, malicious: Tensor, weights: Tensor, seed: Tensor) -> Tree:
        """The updates [k, ...] with the rows of malicious clients (bool [k]) replaced."""
        raise NotImplementedError


@dataclass(frozen=True)
class SignFlip(OnUpdates):
    """Each sends its own update times -scale (Li et al. 2019, arXiv 1811.03761)."""

    scale: PositiveFloat = 1.0

    name: ClassVar[str] = "sign_flip"

    def __call__(self, updates: Tree, malicious: Tensor, weights: Tensor, seed: Tensor) -> Tree:
        """See `OnUpdates`."""
        return _replaced(updates, malicious, lambda x: -self.scale * x)


@dataclass(frozen=True)
class Scaling(OnUpdates):
    """Each sends its own update times a factor: model replacement (Bagdasaryan et al. 2020, arXiv 1807.00459).

    factor: by default 1 / the weight of the malicious clients of the cohort, so that the weighted mean is moved by
    their whole update as if nobody else was there.
    """

    factor: PositiveFloat | None = None

    name: ClassVar[str] = "scaling"

    def __call__(self, updates: Tree, malicious: Tensor, weights: Tensor, seed: Tensor) -> Tree:
        """See `OnUpdates`."""
        weight = float(weights[malicious].sum())
        factor = self.factor or (1 / weight if weight else 1.0)
        return _replaced(updates, malicious, lambda x: factor * x)


@dataclass(frozen=True)
class Gaussian(OnUpdates):
    """Each sends noise of its own, of mean 0, instead of its update (Blanchard et al. 2017, arXiv 1703.02757).

    deviation: of every number, in the updates' own unit.
    """

    deviation: NonNegativeFloat = 1.0

    name: ClassVar[str] = "gaussian"

    def __call__(self, updates: Tree, malicious: Tensor, weights: Tensor, seed: Tensor) -> Tree:
        """See `OnUpdates`."""
        rows = malicious.nonzero().flatten().tolist()
        streams = iter(range(1 << 30))

        def noise(leaf: Tensor) -> Tensor:
            found, stream = leaf.clone(), next(streams)
            for row in rows:
                own = step_seed(seed.to(leaf.device), row)
                found[row] = self.deviation * normal(own, (found[row].numel(),), stream, leaf.dtype).view_as(found[row])
            return found

        return tree_map(noise, updates)


@dataclass(frozen=True)
class Alie(OnUpdates):
    """All send the mean of the honest updates plus z of their standard deviations ("a little is enough").

    Baruch et al. 2019 (arXiv 1902.06635). z: by default the paper's, from k and the number of malicious ones: the
    largest for which enough honest values are expected farther from the mean that, with them, the malicious ones are a
    majority. That is 0 where few attack, and then they send the mean; give z for more. The paper's attackers estimate
    both figures from their own updates; here, as is usual since, they know the honest ones, of whom there are more.
    """

    z: float | None = None

    name: ClassVar[str] = "alie"

    def __call__(self, updates: Tree, malicious: Tensor, weights: Tensor, seed: Tensor) -> Tree:
        """See `OnUpdates`."""
        z = self.deviations(len(malicious), int(malicious.sum())) if self.z is None else self.z
        honest = _known(malicious)

        def bad(leaf: Tensor) -> Tensor:
            known = leaf[honest]
            mean = known.mean(0)
            return mean + z * ((known - mean).square().sum(0) / max(len(known) - 1, 1)).sqrt()

        return _replaced(updates, malicious, bad)

    @staticmethod
    def deviations(clients: int, attackers: int) -> float:
        """The paper's z for so many clients of which so many attack: at least 0, and finite."""
        honest = clients - attackers
        if not honest:
            return 0.0
        supporters = clients // 2 + 1 - attackers
        share = min(max((honest - supporters) / honest, 0.5), 1 - 1 / (2 * clients))
        return NormalDist().inv_cdf(share)


@dataclass(frozen=True)
class InnerProduct(OnUpdates):
    """All send the mean of the honest updates times -scale (Xie et al. 2019, arXiv 1903.03936).

    So the aggregate's inner product with what honest clients want becomes negative. Small scales are hard to tell from
    honest updates, large ones reverse the mean.
    """

    scale: PositiveFloat = 2.0

    name: ClassVar[str] = "inner_product"

    def __call__(self, updates: Tree, malicious: Tensor, weights: Tensor, seed: Tensor) -> Tree:
        """See `OnUpdates`."""
        honest = _known(malicious)
        return _replaced(updates, malicious, lambda x: -self.scale * x[honest].mean(0))


@dataclass(frozen=True)
class OnData(Attack):
    """Changes what malicious clients learn from: support, query and data alike.

    factor: what they send of it is multiplied by that; above 1 it is model replacement (see `Scaling`).
    """

    factor: PositiveFloat = 1.0

    on: ClassVar[Literal["updates", "data"]] = "data"

    def __call__(self, updates: Tree, malicious: Tensor, weights: Tensor, seed: Tensor) -> Tree:
        """The updates [k, ...], those of malicious clients (bool [k]) times the factor."""
        return updates if self.factor == 1 else _replaced(updates, malicious, lambda x: self.factor * x)

    def poison(self, episode: Episode, spec: Spec) -> Episode:
        """The episode with poisoned examples."""
        support, query, data = (self.poisoned(shots, spec) for shots in (episode.support, episode.query, episode.data))
        return episode._replace(support=support, query=query, data=data)

    def poisoned(self, shots: Shots, spec: Spec) -> Shots:
        """The examples, poisoned: the same ones in every round, in whatever part of the client's data they are."""
        raise NotImplementedError


@dataclass(frozen=True)
class LabelFlip(OnData):
    """All labels are wrong (Tolpegin et al. 2020, arXiv 2007.08432, flip some classes; here all).

    to: "mirror", class y becomes classes - 1 - y (of an odd number of classes the middle one stays); or "next",
    y + 1, and the last class 0. Labels of -1, which are not judged, stay.
    """

    to: Literal["mirror", "next"] = "mirror"

    name: ClassVar[str] = "label_flip"

    def check(self, spec: Spec) -> None:
        """ConfigError unless y is of classes."""
        if int(spec["classes"]) < 2:
            raise self.refuse("it needs labels of two classes or more, but y is of numbers")

    def poisoned(self, shots: Shots, spec: Spec) -> Shots:
        """With other labels."""
        classes = int(spec["classes"])
        other = classes - 1 - shots.y if self.to == "mirror" else (shots.y + 1) % classes
        return shots._replace(y=torch.where(shots.y < 0, shots.y, other))


@dataclass(frozen=True)
class Backdoor(OnData):
    """Some images have a trigger, a square in the lower right corner, and the target for a label.

    BadNets (Gu et al. 2017, arXiv 1708.06733), in federated learning Bagdasaryan et al. 2020 (arXiv 1807.00459).
    target: a class. size: of the square, in pixels. value: of its pixels, in the unit of x (for uint8 0 is black, and
    255 the paper of handwriting). poisoned_share: of a malicious client's examples; each is drawn by itself, by a hash
    of its pixels, so that an example is poisoned in every round and part of the data or in none.

    `triggered` are the examples on which the attack's success is measured: it is the accuracy there.
    """

    target: NonNegativeInt = 0
    size: PositiveInt = 4
    value: float = 0.0
    poisoned_share: Share = 0.5

    name: ClassVar[str] = "backdoor"

    def check(self, spec: Spec) -> None:
        """ConfigError unless x are images on which the square has room, and y one class an example."""
        side, *others = tuple(spec["x_shape"]) or (0,)
        kind = str(spec["x_dtype"])
        if others not in ([side], [side, 1], [side, 3]) or not kind.startswith(("uint8", "float")):
            shape = ", ".join(map(str, ("n", *spec["x_shape"])))
            raise self.refuse(
                f"it needs images, [n, side, side] or [n, side, side, channels], but x is {kind} [{shape}]"
            )
        if not spec["classes"] or spec.get("y_shape"):
            raise self.refuse("it needs one class an example")
        if self.target >= spec["classes"]:
            raise self.refuse(f"target = {self.target}, but classes are 0 to {spec['classes'] - 1}")
        if self.size > side:
            raise self.refuse(f"size = {self.size}, but images are {side} pixels wide")
        if kind == "uint8" and self.value not in range(256):
            raise self.refuse(f"value = {self.value}, but pixels are whole numbers from 0 to 255")

    def poisoned(self, shots: Shots, spec: Spec) -> Shots:
        """With the trigger and the target on some examples."""
        chosen = _hashed(shots.x) < self.poisoned_share
        x = torch.where(_beside(chosen, shots.x), self._marked(shots.x), shots.x)
        return shots._replace(x=x, y=torch.where(chosen, self.target, shots.y))

    def triggered(self, shots: Shots) -> Shots:
        """The examples of other classes than the target, all with the trigger and the target for a label.

        There may be none.
        """
        others = shots.take((shots.y != self.target).nonzero().flatten())
        return others._replace(x=self._marked(others.x), y=torch.full_like(others.y, self.target))

    def _marked(self, x: Tensor) -> Tensor:
        """Images [n, side, side, ...] with the trigger."""
        found = x.clone()
        found[:, -self.size :, -self.size :] = self.value
        return found


def _replaced(updates: Tree, malicious: Tensor, bad: Callable[[Tensor], Tensor]) -> Tree:
    """The tree whose malicious rows are those of bad(leaf), or bad(leaf) where that is one row."""
    if not malicious.any():
        return updates
    return tree_map(lambda x: torch.where(_beside(malicious, x), bad(x), x), updates)


def _known(malicious: Tensor) -> Tensor:
    """Whose updates attackers take for honest ones, bool [k]: everybody's if nobody is honest."""
    return malicious if malicious.all() else ~malicious


def _beside(rows: Tensor, x: Tensor) -> Tensor:
    """rows [k] in the shape of x [k, ...], to choose among its rows."""
    return rows.view(-1, *[1] * (x.dim() - 1))


def _hashed(x: Tensor) -> Tensor:
    """A number from [0, 1) for each example [n, ...], by its values alone, float64 [n]."""
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    places = mix(torch.arange(flat.shape[1], device=x.device))
    keys = mix(mix(flat.double().view(torch.int64) + places).sum(1))
    return ((keys >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


_ALL: Iterable[type[Attack]] = (SignFlip, Scaling, Gaussian, Alie, InnerProduct, LabelFlip, Backdoor)

ATTACKS: Mapping[str, type[Attack]] = {attack.name: attack for attack in _ALL}
"""The attacks by name."""
