"""Robust aggregation: cases by hand, what each rule bears, and the same numbers as byzfl where that is there."""

from dataclasses import replace
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
from metaleaf.protection import aggregation
from metaleaf.protection.aggregation import (
    RULES,
    Bulyan,
    CentredClipping,
    FLTrust,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    NearestNeighbours,
    NormClipping,
    Rule,
    TrimmedMean,
    squared_distances,
)
from metaleaf.trees import Tree

K = 11
BEARING = [
    Median(),
    TrimmedMean(0.18),
    Krum(2),
    MultiKrum(2),
    MultiKrum(2, kept=9),
    Bulyan(2),
    GeometricMedian(iterations=30),
    NearestNeighbours(2),
]
"""Rules that bear 2 attackers of K clients and keep the aggregate near the honest ones."""
CLIPPING = [NormClipping(0.5), CentredClipping(1.0, 3)]
ALL = [*BEARING, *CLIPPING]
DTYPES = [torch.float32, torch.float64]


def named(rule: Rule) -> str:
    return repr(rule)


def even(k: int) -> Tensor:
    return torch.full((k,), 1 / k, dtype=torch.float64)


def aggregate(rule: Rule, updates: Tree, weights: Tensor | None = None) -> Any:
    k = len(trees.leaves(updates)[0])
    rule.check(k)
    return rule(updates, even(k) if weights is None else weights, rule.start(trees.unstack(updates)[0]))[0]


def on_line(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def drawn(seed: int, k: int = K, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Updates around (1, 1, ...), a tree with a scalar, a matrix and an empty part."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(k,), (k, 3, 2), (k, 5)]
    a, b, c = (1 + 0.1 * torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for shape in shapes)
    return {"scale": a, "deep": (b, {"bias": c}, ()), "nothing": torch.zeros(k, 0, dtype=dtype)}


def flat(updates: Tree) -> Tensor:
    return torch.cat([leaf.flatten(1) if leaf.dim() > 1 else leaf[:, None] for leaf in trees.leaves(updates)], 1)


def vector(rule: Rule, updates: Tree) -> Tensor:
    """The aggregate in one vector."""
    return trees.flatten(aggregate(rule, updates))


def with_attackers(updates: Tree, value: float, count: int = 2) -> Tree:
    """The last clients send this in all places."""

    def attacked(leaf: Tensor) -> Tensor:
        found = leaf.clone()
        found[len(leaf) - count :] = value
        return found

    return trees.tree_map(attacked, updates)


def test_rules_by_name() -> None:
    assert [rule.name for rule in RULES.values()] == list(RULES)
    assert {type(rule) for rule in ALL} | {FLTrust} == set(RULES.values())


def test_median_by_hand() -> None:
    assert aggregate(Median(), on_line(5, 1, 2)).tolist() == [2]
    assert aggregate(Median(), on_line(5, 1, 2, 100)).tolist() == [3.5]
    assert aggregate(Median(), torch.tensor([[1.0, 9], [2, 8], [3, 1]])).tolist() == [2, 8]
    assert aggregate(Median(), torch.full((2, 1), 3e38)).item() == pytest.approx(3e38)


def test_trimmed_mean_by_hand() -> None:
    assert aggregate(TrimmedMean(0.2), on_line(100, 1, 2, 6, -50)).tolist() == [3]
    assert aggregate(TrimmedMean(0.25), on_line(100, 1, 2, 6, -50)).tolist() == [2]
    assert aggregate(TrimmedMean(0), on_line(1, 2, 6)).tolist() == [3]
    assert TrimmedMean(0.1).trimmed(30) == 3


def test_krum_by_hand() -> None:
    # Of 7, with 2 attackers, 3 neighbours count: 1 + 1 + 2.25 for 2, and more for all others.
    assert aggregate(Krum(2), on_line(1, 2, 3, 4.2, 0.5, 50, 60)).tolist() == [2]


def test_krum_chooses_of_two_next_to_one_another_the_one_in_the_middle() -> None:
    for order in ([4, 3, 9], [3, 4, 9], [9, 4, 3]):  # one neighbour counts
        assert aggregate(Krum(0), on_line(*order)).tolist() == [4]


def test_multi_krum_by_hand() -> None:
    updates = on_line(1, 2, 3, 4.2, 0.5, 50, 60)  # sums of three: 5.25, 4.25, 6.44, 16.52, 8.75, ...
    assert aggregate(MultiKrum(2, kept=1), updates).tolist() == [2]
    assert aggregate(MultiKrum(2, kept=2), updates).tolist() == [1.5]
    assert aggregate(MultiKrum(2), updates).item() == pytest.approx(2)  # 1, 2 and 3
    assert aggregate(MultiKrum(2, kept=5), updates).item() == pytest.approx(10.7 / 5)


def test_bulyan_by_hand() -> None:
    # Krum chooses 3, 4, 2, 5 and 6.5, in this order; 3, 4 and 5 are nearest to their median.
    assert aggregate(Bulyan(1), on_line(1, 2, 3, 4, 5, 6.5, 50)).item() == pytest.approx(4)
    assert aggregate(Bulyan(0), on_line(1, 2, 6)).item() == pytest.approx(3)


def test_geometric_median_by_hand() -> None:
    corners = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    assert_close(aggregate(GeometricMedian(100), corners), torch.tensor([0.5, 0.5], dtype=torch.float64))
    # Fermat's point of a right-angled triangle with legs of 1: (3 - sqrt 3) / 6 from both.
    triangle = torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    assert_close(aggregate(GeometricMedian(100), triangle), torch.full((2,), (3 - 3**0.5) / 6, dtype=torch.float64))


def test_geometric_median_counts_by_weight() -> None:
    weights = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64)
    assert aggregate(GeometricMedian(60), on_line(1, 5, 7), weights).item() == pytest.approx(1, abs=1e-4)
    assert aggregate(GeometricMedian(60), on_line(1, 5, 7)).item() == pytest.approx(5, abs=1e-4)


def test_norm_clipping_by_hand() -> None:
    assert aggregate(NormClipping(0.5), on_line(1, -2, 8)).item() == pytest.approx((1 - 2 + 2) / 3)
    assert aggregate(NormClipping(1.0), on_line(1, -2, 8)).item() == pytest.approx(7 / 3)
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert aggregate(NormClipping(0.5), on_line(1, -2, 8), weights).item() == pytest.approx(0.5)
    assert aggregate(NormClipping(0.5), on_line(0, 0, 8)).item() == 0


def test_centred_clipping_by_hand() -> None:
    rule = CentredClipping(radius=2)
    found, state = rule(on_line(1, 4, -1, 10), even(4), rule.start(torch.zeros(1, dtype=torch.float64)))
    assert found.tolist() == state.tolist() == [1]  # (1 + 2 - 1 + 2) / 4
    found, state = rule(on_line(1, 4, -1, 10), even(4), state)
    assert found.tolist() == [1.5]  # 1 + (0 + 2 - 2 + 2) / 4
    assert aggregate(replace(rule, iterations=2), on_line(1, 4, -1, 10)).tolist() == [1.5]


def test_nearest_neighbours_by_hand() -> None:
    # With the three nearest others: four times the mean of 0, 1, 2, 3 and once that of 1, 2, 3, 50, which is cut off.
    assert aggregate(NearestNeighbours(1), on_line(0, 1, 2, 3, 50)).item() == pytest.approx(1.5)


def test_without_attackers_most_rules_are_the_mean() -> None:
    updates = drawn(0)
    mean = trees.weighted_sum(updates, even(K))
    for rule in (TrimmedMean(0), MultiKrum(0, kept=K), Bulyan(0), NormClipping(1), CentredClipping(1e6)):
        assert_close(aggregate(rule, updates), mean)
    assert_close(aggregate(NearestNeighbours(0), updates), mean)


@pytest.mark.parametrize("rule", ALL, ids=named)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_dtypes_stay(rule: Rule, dtype: torch.dtype) -> None:
    updates = drawn(1, dtype=dtype)
    found = aggregate(rule, updates)
    one = trees.unstack(updates)[0]
    assert trees.tree_map(lambda leaf: (leaf.shape, leaf.dtype), found) == trees.tree_map(
        lambda leaf: (leaf.shape, leaf.dtype), one
    )
    assert_close(
        trees.tree_map(torch.Tensor.double, found), aggregate(rule, trees.tree_map(torch.Tensor.double, updates))
    )


@pytest.mark.parametrize("rule", ALL, ids=named)
def test_trees_may_be_empty(rule: Rule) -> None:
    assert rule({"a": (), "b": {}}, even(K), rule.start({"a": (), "b": {}}))[0] == {"a": (), "b": {}}


@pytest.mark.parametrize("rule", ALL, ids=named)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(K)))
def test_the_order_of_clients_does_not_matter(rule: Rule, seed: int, order: list[int]) -> None:
    updates, weights = drawn(seed), torch.arange(1, K + 1).double() / (K * (K + 1) / 2)
    shuffled = trees.tree_map(lambda leaf: leaf[order], updates)
    assert_close(aggregate(rule, shuffled, weights[order]), aggregate(rule, updates, weights))


@pytest.mark.parametrize("rule", BEARING, ids=named)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-100, 100), scale=st.floats(0.1, 100))
def test_shifted_and_scaled_updates_give_that_aggregate(rule: Rule, seed: int, shift: float, scale: float) -> None:
    if isinstance(rule, GeometricMedian):
        rule = replace(rule, smoothing=1e-12)  # it has a unit
    updates = drawn(seed)
    moved = aggregate(rule, trees.tree_map(lambda leaf: scale * leaf + shift, updates))
    expected = trees.tree_map(lambda leaf: scale * leaf + shift, aggregate(rule, updates))
    assert_close(moved, expected, rtol=1e-6, atol=1e-7)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 100))
def test_clipping_scales_with_the_updates(seed: int, scale: float) -> None:
    updates = drawn(seed)
    scaled = trees.tree_map(lambda leaf: scale * leaf, updates)
    for rule, other in (NormClipping(), NormClipping()), (CentredClipping(0.5, 2), CentredClipping(0.5 * scale, 2)):
        assert_close(aggregate(other, scaled), trees.tree_map(lambda leaf: scale * leaf, aggregate(rule, updates)))


@pytest.mark.parametrize("rule", BEARING, ids=named)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    value=st.sampled_from([0.0, 1.05, 2.0, -5.0, 1e3, 1e30, -1e30, float("nan"), float("inf"), float("-inf")]),
)
def test_few_attackers_cannot_move_the_aggregate_away(rule: Rule, dtype: torch.dtype, seed: int, value: float) -> None:
    updates = drawn(seed, dtype=dtype)
    found = vector(rule, with_attackers(updates, value))
    honest = flat(updates)[: K - 2]
    spread = (honest.amax(0) - honest.amin(0)).max()
    assert ((found - honest.mean(0)).abs() <= 2 * spread).all()


@pytest.mark.parametrize("rule", [Median(), Krum(2), MultiKrum(2), Bulyan(2), GeometricMedian(), *CLIPPING], ids=named)
@pytest.mark.parametrize("value", [1e200, -1e308])
def test_numbers_whose_squares_overflow(rule: Rule, value: float) -> None:
    found = vector(rule, with_attackers(drawn(2), value))
    assert ((found - 1).abs() <= 1).all()


def test_two_attackers_may_send_different_things() -> None:
    updates = drawn(3)
    for leaf in trees.leaves(updates):
        leaf[-1], leaf[-2] = float("nan"), -1e30
    for rule in BEARING:
        assert ((vector(rule, updates) - 1).abs() < 0.5).all(), rule


@pytest.mark.parametrize("value", [1e30, -1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_clipping_bounds_what_attackers_do(value: float, dtype: torch.dtype) -> None:
    updates = with_attackers(drawn(4, dtype=dtype), value)
    longest = flat(updates)[: K - 2].norm(dim=1).max()
    assert trees.length(aggregate(NormClipping(0.5), updates)) <= longest
    assert trees.length(aggregate(CentredClipping(0.3, 1), updates)) <= 0.3 + 1e-6


def test_more_void_updates_than_a_rule_bears_are_seen() -> None:
    for rule in ALL:
        assert not vector(rule, with_attackers(drawn(5), float("nan"), K)).isfinite().all(), rule


def test_distances_lose_no_digits_beside_a_huge_update() -> None:
    updates = 1e6 + torch.tensor([[0.0, 0], [3e-2, 4e-2], [0, 1], [0, 1]], dtype=torch.float64)
    for last in (updates[3], torch.full((2,), 1e30, dtype=torch.float64)):
        rows = torch.stack([*updates[:3], last])
        found = squared_distances({"a": rows[:, :1], "b": rows[:, 1]}, rows.norm(dim=1))
        assert found[0, 1].item() == pytest.approx(2.5e-3)
        assert_close(found, found.T)
    assert found[0, 3].item() == pytest.approx(2e60)


def test_pieces_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [aggregate(rule, drawn(6)) for rule in ALL]
    monkeypatch.setattr(aggregation, "NUMBERS", 2 * K)
    for rule, expected in zip(ALL, whole, strict=True):
        assert_close(aggregate(rule, drawn(6)), expected)


@pytest.mark.parametrize(
    ("rule", "clients", "why"),
    [
        (TrimmedMean(0.4), 4, "share = 0.4 leaves nobody of 4 clients"),
        (Krum(2), 6, "attackers = 2 needs at least 7 clients a round, but 6 take part"),
        (MultiKrum(2), 6, "needs at least 7 clients"),
        (MultiKrum(2, kept=6), 7, "attackers = 2, kept = 6 keeps more of 7 clients than can be honest"),
        (Bulyan(2), 10, "aggregation bulyan with attackers = 2 needs at least 11 clients"),
        (NearestNeighbours(3), 6, "needs at least 7 clients"),
    ],
)
def test_cohorts_that_are_too_small_are_refused(rule: Rule, clients: int, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        rule.check(clients)
    rule.check(clients + 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("trimmed_mean", {"share": 0.5}),
        ("krum", {"attackers": -1}),
        ("multi_krum", {"kept": 0}),
        ("geometric_median", {"smoothing": 0}),
        ("norm_clipping", {"quantile": 0}),
        ("centred_clipping", {"radius": 0}),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(RULES[name]).validate_python(options)


@pytest.mark.parametrize("attackers", [0, 1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_byzfl(attackers: int, seed: int) -> None:
    theirs = byzfl("aggregators.aggregators")
    updates = drawn(seed, dtype=torch.float32)
    rows = flat(updates)
    pairs = [
        (Median(), theirs.Median()),
        (TrimmedMean(attackers / K), theirs.TrMean(f=attackers)),
        # byzfl counts n - f - 1 neighbours, the paper n - f - 2.
        (Krum(attackers), theirs.Krum(f=attackers + 1)),
        (MultiKrum(attackers, kept=K - attackers - 1), theirs.MultiKrum(f=attackers + 1)),
        # byzfl starts from zero: so both go on until they are there.
        (GeometricMedian(200), theirs.GeometricMedian(nu=1e-6, T=200)),
        (CentredClipping(0.3, 1), theirs.CenteredClipping(L=1, tau=0.3)),
        (CentredClipping(0.3, 20), theirs.CenteredClipping(L=20, tau=0.3)),
    ]
    for ours, peer in pairs:
        assert_close(vector(ours, updates), peer(rows), msg=f"{ours} differs")


@pytest.mark.parametrize("attackers", [0, 1, 3])
def test_mixing_is_the_same_as_byzfls(attackers: int) -> None:
    mixed, trimmed = byzfl("aggregators.preaggregators").NNM, byzfl("aggregators.aggregators").TrMean
    updates = drawn(7, dtype=torch.float32)
    assert_close(vector(NearestNeighbours(attackers), updates), trimmed(f=attackers)(mixed(f=attackers)(flat(updates))))


class TestFLTrust:
    """Its state is the honest update, so it stands apart from the rules that see nothing but the cohort."""

    honest = torch.tensor([2.0, 0.0], dtype=torch.float64)

    def made(self, *updates: list[float], honest: Tensor | None = None) -> Any:
        rows = torch.tensor(updates, dtype=torch.float64)
        parts = {"a": rows[:, :1], "b": (rows[:, 1],)}
        own = self.honest if honest is None else honest
        found, state = FLTrust()(parts, even(len(rows)), {"a": own[:1], "b": (own[1],)})
        assert_close(trees.flatten(state), own)
        return trees.flatten(found)

    def test_by_hand(self) -> None:
        """Cosines 1, 0, -1 and 1/sqrt 2; the first and the last count, both made 2 long."""
        found = self.made([1, 0], [0, 3], [-1, 0], [1, 1])
        share = 0.5**0.5
        expected = [(1 * 2 + share * 2 * share) / (1 + share), share * 2 * share / (1 + share)]
        assert found.tolist() == pytest.approx(expected)

    def test_length_buys_nothing(self) -> None:
        assert_close(self.made([1, 0], [1, 1]), self.made([1, 0], [1e6, 1e6]))
        assert self.made([5, 0], [7, 0]).tolist() == [2, 0]

    @pytest.mark.parametrize("void", [torch.nan, torch.inf, -torch.inf, 1e200])
    def test_void_updates_do_not_count(self, void: float) -> None:
        assert_close(self.made([1, 1], [void, 1]), self.made([1, 1]))

    def test_where_nobody_is_trusted_nothing_moves(self) -> None:
        assert self.made([-1, 0], [0, 1], [0, 0]).tolist() == [0, 0]
        assert self.made([1, 0], honest=torch.zeros(2, dtype=torch.float64)).tolist() == [0, 0]

    def test_before_the_first_round_it_knows_nobody(self) -> None:
        like = {"a": torch.ones(3)}
        assert FLTrust().start(like)["a"].tolist() == [0, 0, 0]
