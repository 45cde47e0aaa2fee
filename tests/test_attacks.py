"""Attacks on updates and on data: by hand, without anybody honest or malicious, and the same numbers as byzfl."""

from dataclasses import replace
from statistics import NormalDist
from typing import Any

import pytest
import torch
from byzfl_parts import byzfl
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.errors import ConfigError
from metaleaf.protection.attacks import (
    ATTACKS,
    Alie,
    Attack,
    Backdoor,
    Gaussian,
    InnerProduct,
    LabelFlip,
    OnData,
    OnUpdates,
    Scaling,
    SignFlip,
    malicious,
)
from metaleaf.shots import Episode, Shots

ON_UPDATES: list[OnUpdates] = [SignFlip(), Scaling(), Gaussian(), Alie(), Alie(z=1.5), InnerProduct()]
SEED = torch.tensor(7)
IMAGES = {"classes": 3, "x_shape": (5, 5), "x_dtype": "uint8"}


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def bools(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def even(k: int) -> Tensor:
    return torch.full((k,), 1 / k, dtype=torch.float64)


def attacked(attack: OnUpdates, updates: Any, who: Tensor, weights: Tensor | None = None, seed: Tensor = SEED) -> Any:
    return attack(updates, who, even(len(who)) if weights is None else weights, seed)


def drawn(seed: int, k: int = 8, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for shape in ((k,), (k, 3, 2)))
    return {"scale": a, "deep": (b, {}, ()), "nothing": torch.zeros(k, 0, dtype=dtype)}


def images(n: int = 40, shape: tuple[int, ...] = (5, 5), seed: int = 0) -> Shots:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 256, (n, *shape), generator=rng, dtype=torch.uint8)
    return Shots(x, torch.arange(n) % 3, torch.tensor(1))


def episode(data: Shots) -> Episode:
    half = len(data.y) // 2
    return Episode(data.between(0, half), data.between(half, len(data.y)), data, torch.tensor(0.0))


def test_attacks_by_name() -> None:
    assert [attack.name for attack in ATTACKS.values()] == list(ATTACKS)
    assert {attack.on for attack in ATTACKS.values()} == {"updates", "data"}
    assert all(issubclass(attack, OnUpdates if attack.on == "updates" else OnData) for attack in ATTACKS.values())


def test_malicious_clients_are_drawn_by_the_seed() -> None:
    found = malicious(0.2, 100, 3)
    assert found.dtype == torch.int64
    assert len(set(found.tolist())) == 20
    assert found.tolist() == sorted(found.tolist())
    assert found.tolist() == malicious(0.2, 100, 3).tolist() != malicious(0.2, 100, 4).tolist()
    assert set(found.tolist()) < set(malicious(0.5, 100, 3).tolist()) < set(range(100))
    assert [len(malicious(share, 10, 3)) for share in (0, 0.04, 0.06, 1)] == [0, 0, 1, 10]


def test_sign_flip_by_hand() -> None:
    assert attacked(SignFlip(scale=3), column(1, 2, 3), bools(0, 1, 0)).flatten().tolist() == [1, -6, 3]


def test_scaling_replaces_the_mean() -> None:
    updates, weights = column(0, 5, 0, 3), torch.tensor([0.4, 0.1, 0.3, 0.2], dtype=torch.float64)
    found = attacked(Scaling(), updates, bools(0, 1, 0, 0), weights)
    assert trees.weighted_sum(found, weights).item() == pytest.approx(5 + 0.6)
    both = attacked(Scaling(), updates, bools(0, 1, 0, 1), weights)
    assert trees.weighted_sum(both, weights).item() == pytest.approx((5 * 0.1 + 3 * 0.2) / 0.3)
    assert attacked(Scaling(factor=10), updates, bools(0, 1, 0, 0), weights).flatten().tolist() == [0, 50, 0, 3]


def test_scaling_by_clients_without_weight() -> None:
    weights = torch.tensor([1.0, 0], dtype=torch.float64)
    assert attacked(Scaling(), column(1, 2), bools(0, 1), weights).flatten().tolist() == [1, 2]


def test_gaussian_is_noise_of_each_ones_own() -> None:
    updates = {"a": torch.ones(4, 2000), "b": torch.ones(4, 2000, dtype=torch.float64)}
    found = attacked(Gaussian(deviation=3), updates, bools(0, 1, 0, 1))
    noise = torch.cat([leaf[row].double() for leaf in found.values() for row in (1, 3)])
    assert noise.mean().abs() < 0.15
    assert noise.std().item() == pytest.approx(3, rel=0.05)
    assert torch.corrcoef(noise.view(4, -1)).fill_diagonal_(0).abs().max() < 0.1
    assert not torch.equal(found["a"], attacked(Gaussian(deviation=3), updates, bools(0, 1, 0, 1), seed=SEED + 1)["a"])


def test_alie_by_hand() -> None:
    found = attacked(Alie(z=2), column(1, 3, 5, 100, -100), bools(0, 0, 0, 1, 1))
    assert found.flatten().tolist() == [1, 3, 5, 7, 7]  # 3 + 2 * 2
    assert attacked(Alie(z=2), column(1, 100), bools(0, 1)).flatten().tolist() == [1, 1]  # one has no deviation


@pytest.mark.parametrize(
    ("clients", "attackers", "share"),
    [(50, 24, 24 / 26), (51, 12, 25 / 39), (10, 2, 0.5), (10, 1, 0.5), (10, 4, 4 / 6), (20, 9, 9 / 11), (3, 1, 0.5)],
)
def test_alies_z_is_the_papers(clients: int, attackers: int, share: float) -> None:
    assert Alie.deviations(clients, attackers) == pytest.approx(NormalDist().inv_cdf(share))


@given(clients=st.integers(1, 300), data=st.data())
def test_alies_z_is_finite_and_grows_with_the_attackers(clients: int, data: st.DataObject) -> None:
    attackers = data.draw(st.integers(0, clients - 1))
    less = Alie.deviations(clients, attackers)
    assert 0 <= less < 4
    if attackers + 1 < clients:
        assert less <= Alie.deviations(clients, attackers + 1) < 4


def test_inner_product_by_hand() -> None:
    assert attacked(InnerProduct(scale=2), column(1, 3, 9), bools(0, 0, 1)).flatten().tolist() == [1, 3, -4]


@pytest.mark.parametrize("attack", ON_UPDATES, ids=repr)
def test_without_malicious_clients_nothing_changes(attack: OnUpdates) -> None:
    updates = drawn(0)
    assert_close(attacked(attack, updates, torch.zeros(8, dtype=torch.bool)), updates, rtol=0, atol=0)


@pytest.mark.parametrize("attack", ON_UPDATES, ids=repr)
@pytest.mark.parametrize("k", [1, 2, 8])
def test_all_may_be_malicious(attack: OnUpdates, k: int) -> None:
    found = attacked(attack, drawn(1, k), torch.ones(k, dtype=torch.bool))
    assert all(leaf.isfinite().all() for leaf in trees.leaves(found))


@pytest.mark.parametrize("attack", ON_UPDATES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=10, deadline=None)
@given(who=st.lists(st.booleans(), min_size=8, max_size=8), seed=st.integers(0, 10**6))
def test_only_malicious_rows_change(attack: OnUpdates, dtype: torch.dtype, who: list[bool], seed: int) -> None:
    updates, bad = drawn(seed, dtype=dtype), torch.tensor(who)
    before = trees.tree_map(torch.clone, updates)
    found = attacked(attack, updates, bad)
    assert_close(updates, before, rtol=0, atol=0)
    for leaf, old in zip(trees.leaves(found), trees.leaves(updates), strict=True):
        assert leaf.dtype == dtype
        assert leaf.shape == old.shape
        assert torch.equal(leaf[~bad], old[~bad])
        assert leaf.isfinite().all()


@pytest.mark.parametrize("attack", [SignFlip(), Scaling(), Alie(), InnerProduct()], ids=repr)
def test_the_order_of_clients_does_not_matter(attack: OnUpdates) -> None:
    updates, who, order = drawn(2), bools(1, 0, 0, 1, 1, 0, 0, 0), [3, 1, 7, 5, 0, 2, 6, 4]
    weights = torch.arange(1.0, 9, dtype=torch.float64) / 36
    shuffled = attacked(attack, trees.tree_map(lambda leaf: leaf[order], updates), who[order], weights[order])
    assert_close(shuffled, trees.tree_map(lambda leaf: leaf[order], attacked(attack, updates, who, weights)))


def test_trees_may_be_empty() -> None:
    for attack in ON_UPDATES:
        assert attacked(attack, {"a": ()}, bools(0, 1)) == {"a": ()}


@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_byzfl(seed: int) -> None:
    theirs = byzfl("attacks.attacks")
    updates, who = drawn(seed, dtype=torch.float32), bools(0, 1, 0, 0, 1, 0, 0, 0)
    rows = torch.cat([updates["scale"][:, None], updates["deep"][0].flatten(1)], 1)
    honest = rows[~who]
    pairs = [
        (Alie(z=1.5), theirs.ALittleIsEnough(tau=1.5)),
        (InnerProduct(scale=0.5), theirs.InnerProductManipulation(tau=0.5)),
        # What byzfl calls sign flipping is the mean of the honest updates, flipped.
        (InnerProduct(scale=1), theirs.SignFlipping()),
    ]
    for ours, peer in pairs:
        found = attacked(ours, rows, who)
        assert_close(found[1], peer(honest), msg=f"{ours} differs")
        assert torch.equal(found[1], found[4])
        in_a_tree = attacked(ours, updates, who)
        assert_close(in_a_tree["deep"][0][4].flatten(), found[4, 1:])
    # Of one honest client, and malicious ones who would have sent the same, it is the same as ours.
    same = honest[:1].expand(3, -1)
    assert_close(attacked(SignFlip(), same, bools(0, 1, 1))[1], theirs.SignFlipping()(same[:1]))


def test_labels_are_flipped_everywhere() -> None:
    data = Shots(torch.zeros(5, 2), torch.tensor([0, 1, 2, 3, -1]), torch.tensor(1))
    mirrored = LabelFlip().poison(episode(data), {"classes": 4})
    assert mirrored.data.y.tolist() == [3, 2, 1, 0, -1]
    assert mirrored.support.y.tolist() == [3, 2]
    assert mirrored.query.y.tolist() == [1, 0, -1]
    assert LabelFlip(to="next").poisoned(data, {"classes": 4}).y.tolist() == [1, 2, 3, 0, -1]
    assert LabelFlip().poisoned(data._replace(y=torch.tensor([[0, 1], [1, -1]])), {"classes": 2}).y.tolist() == [
        [1, 0],
        [0, -1],
    ]


def test_labels_of_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="attack label_flip: it needs labels of two classes or more"):
        LabelFlip().check({"classes": 0})
    LabelFlip().check({"classes": 2, "y_shape": (4,)})


@pytest.mark.parametrize("shape", [(5, 5), (5, 5, 3)])
def test_the_trigger_by_hand(shape: tuple[int, ...]) -> None:
    shots = images(6, shape)
    found = Backdoor(target=2, size=2, value=9, poisoned_share=1).poisoned(shots, IMAGES)
    assert found.y.tolist() == [2] * 6
    assert (found.x[:, 3:, 3:] == 9).all()
    assert torch.equal(found.x[:, :3], shots.x[:, :3])
    assert torch.equal(found.x[:, :, :3], shots.x[:, :, :3])
    assert found.x.dtype == torch.uint8


def test_the_same_examples_are_poisoned_in_all_parts() -> None:
    attack = Backdoor(target=0, size=1, poisoned_share=0.3)
    whole = images(2000)
    found = attack.poison(episode(whole), IMAGES)
    assert torch.equal(torch.cat([found.support.x, found.query.x]), found.data.x)
    assert torch.equal(torch.cat([found.support.y, found.query.y]), found.data.y)
    poisoned = (found.data.x != whole.x).flatten(1).any(1)
    assert poisoned.double().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(found.data.y, torch.where(poisoned, 0, whole.y))
    more = replace(attack, poisoned_share=0.6).poisoned(whole, IMAGES)
    assert (poisoned <= (more.x != whole.x).flatten(1).any(1)).all()
    order = torch.arange(2000).flip(0)
    assert torch.equal(attack.poisoned(whole.take(order), IMAGES).x, found.data.x[order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_may_be_floats(dtype: torch.dtype) -> None:
    shots = images(500)._replace(x=torch.rand(500, 5, 5, dtype=dtype))
    found = Backdoor(size=1, value=-0.5, poisoned_share=0.5).poisoned(shots, IMAGES)
    assert found.x.dtype == dtype
    assert (found.x[:, -1, -1] == -0.5).double().mean().item() == pytest.approx(0.5, abs=0.1)


def test_success_is_measured_on_examples_of_other_classes() -> None:
    attack = Backdoor(target=1, size=2, value=7)
    found = attack.triggered(images(6))
    assert found.y.tolist() == [1] * 4
    assert (found.x[:, 3:, 3:] == 7).all()
    assert torch.equal(found.x[:, :3], images(6).x[[0, 2, 3, 5], :3])
    none = attack.triggered(images(6).take(torch.tensor([1, 4])))
    assert none.x.shape == (0, 5, 5)


@pytest.mark.parametrize(
    ("attack", "spec", "why"),
    [
        (Backdoor(), {"x_shape": (80,)}, r"it needs images, .* but x is uint8 \[n, 80\]"),
        (Backdoor(), {"x_shape": ()}, "it needs images"),
        (Backdoor(), {"x_shape": (5, 4)}, "it needs images"),
        (Backdoor(), {"x_dtype": "int64"}, "it needs images"),
        (Backdoor(), {"classes": 0}, "one class an example"),
        (Backdoor(), {"y_shape": (4,)}, "one class an example"),
        (Backdoor(target=3), {}, "target = 3, but classes are 0 to 2"),
        (Backdoor(size=6), {}, "size = 6, but images are 5 pixels wide"),
        (Backdoor(value=0.5), {}, "value = 0.5, but pixels are whole numbers from 0 to 255"),
        (Backdoor(value=256), {}, "value = 256"),
    ],
)
def test_data_that_have_no_room_for_a_trigger_are_refused(attack: Attack, spec: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        attack.check({**IMAGES, **spec})


def test_data_that_fit_are_not_refused() -> None:
    for attack in [*ON_UPDATES, LabelFlip(), Backdoor(target=2, size=5, value=255)]:
        attack.check(IMAGES)
    Backdoor(value=-0.4).check({**IMAGES, "x_shape": (5, 5, 3), "x_dtype": "float32"})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sign_flip", {"share": 1.1}),
        ("sign_flip", {"scale": 0}),
        ("gaussian", {"deviation": -1}),
        ("label_flip", {"to": "other"}),
        ("backdoor", {"size": 0}),
        ("backdoor", {"poisoned_share": -0.1}),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ATTACKS[name]).validate_python(options)


def test_what_is_learnt_from_poison_may_be_sent_longer() -> None:
    updates, malicious = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, torch.tensor([False, True])
    weights, seed = torch.full((2,), 0.5, dtype=torch.float64), torch.tensor(1)
    assert LabelFlip()(updates, malicious, weights, seed) is updates
    assert Backdoor(factor=3)(updates, malicious, weights, seed)["a"].tolist() == [[1, 2], [9, 12]]
