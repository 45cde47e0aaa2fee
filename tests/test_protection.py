"""The layers on their own: bounds, noise, how much privacy it gives, masks and shares."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.errors import ConfigError
from metaleaf.protection import noise as privacy
from metaleaf.protection.clipping import Clip, norms
from metaleaf.protection.noise import Noise, epsilon, epsilon_of_client, epsilon_poisson, noisy
from metaleaf.protection.secure import PRIME, SecureAggregation, recovered, shared
from metaleaf.trees import Tree

SEED = torch.tensor(7)


def updates(clients: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Tree:
    """Stacked, of two leaves."""
    drawn = torch.Generator().manual_seed(3)
    a, b = torch.randn(clients, 4, 5, generator=drawn), torch.randn(clients, 3, generator=drawn)
    return {"a": (scale * a).to(dtype), "b": ((scale * b).to(dtype),)}


def bound(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


class TestClip:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_longer_updates_are_scaled_to_the_bound_and_others_stay(self, dtype: torch.dtype) -> None:
        cohort = trees.tree_map(
            lambda leaf: leaf * torch.tensor([0.1, 1.0, 9.0]).to(leaf).reshape(-1, *[1] * (leaf.dim() - 1)),
            updates(3, dtype),
        )
        lengths = norms(cohort)
        limit = bound(float(lengths[1]) * 1.01)
        found = Clip()(cohort, limit, 0.0, SEED)
        assert_close(norms(found.updates), torch.minimum(lengths, limit), rtol=1e-6, atol=0)
        assert float(found.short) == pytest.approx(2 / 3)
        for one in (0, 1):
            assert_close(trees.unstack(found.updates)[one], trees.unstack(cohort)[one], rtol=0, atol=0)
        direction = trees.tree_map(lambda leaf: leaf / lengths[2].to(leaf), trees.unstack(cohort)[2])
        clipped = trees.tree_map(lambda leaf: leaf / limit.to(leaf), trees.unstack(found.updates)[2])
        assert_close(clipped, direction, rtol=1e-5, atol=1e-6)

    def test_whatever_one_client_sends_the_mean_moves_by_two_bounds_at_most(self) -> None:
        cohort = updates(5, scale=100.0)
        means = []
        for sign in (1.0, -1.0):
            cohort["a"][0], cohort["b"][0][0] = sign * 1e12, sign * 1e12
            clipped = Clip()(cohort, bound(0.5), 0.0, SEED).updates
            means.append(trees.weighted_sum(clipped, torch.full((5,), 0.2, dtype=torch.float64)))
        assert trees.length(trees.subtract(*means)) == pytest.approx(2 * 0.5 / 5)

    def test_zero_updates_are_short(self) -> None:
        found = Clip()(trees.zeros_like(updates(2)), bound(1.0), 0.0, SEED)
        assert float(found.short) == 1
        assert trees.length(found.updates) == 0

    def test_the_bound_follows_the_quantile(self) -> None:
        """Algorithm 1 of Andrew et al.: C exp(-rate (share - quantile)); in the end the quantile of the norms."""
        clip, cohort = Clip(norm=0.1, quantile=0.5, rate=0.3), updates(40)
        found = clip(cohort, clip.start(), 0.0, SEED)
        assert float(found.bound) == pytest.approx(0.1 * math.exp(-0.3 * (0 - 0.5)))
        limit = clip.start()
        for _ in range(200):
            limit = clip(cohort, limit, 0.0, SEED).bound
        assert float(limit) == pytest.approx(float(norms(cohort).median()), rel=0.05)

    def test_noise_is_on_the_count(self) -> None:
        clip, cohort = Clip(norm=3.0, quantile=0.5, rate=1.0), updates(10)
        exact = clip(cohort, bound(3.0), 0.0, SEED).bound
        steps = [float((clip(cohort, bound(3.0), 2.0, torch.tensor(i)).bound / exact).log()) for i in range(2000)]
        assert np.mean(steps) == pytest.approx(0, abs=4 * 0.2 / math.sqrt(2000))
        assert np.std(steps) == pytest.approx(2.0 / 10, rel=0.1)


class TestNoise:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_it_is_gaussian_of_the_multiplier_times_the_bound(self, dtype: torch.dtype) -> None:
        zero = {"a": torch.zeros(300, 200, dtype=dtype), "b": torch.zeros(40_000, dtype=dtype)}
        found = Noise(multiplier=1.5).on_mean(zero, bound(0.8), 10, SEED)
        drawn = trees.flatten(found).double().numpy() / (1.5 * 0.8 / 10)
        assert stats.kstest(drawn, "norm").pvalue > 1e-3
        assert np.corrcoef(found["a"].flatten()[:40_000], found["b"])[0, 1] == pytest.approx(0, abs=0.02)
        assert found["a"].dtype == dtype

    def test_everyones_own_noise_is_independent(self) -> None:
        found = Noise(multiplier=2.0).on_clients({"a": torch.zeros(4, 50_000)}, bound(0.5), SEED)["a"]
        assert_close(torch.corrcoef(found), torch.eye(4), rtol=0, atol=0.02)
        assert_close(found.std(1), torch.ones(4), rtol=0.02, atol=0)

    def test_another_seed_is_other_noise_and_the_same_the_same(self) -> None:
        zero = torch.zeros(10)
        one, two = noisy(zero, bound(1.0), SEED), noisy(zero, bound(1.0), SEED + 1)
        assert not torch.equal(one, two)
        assert torch.equal(one, noisy(zero, bound(1.0), SEED))

    def test_a_learnt_bound_takes_its_part(self) -> None:
        """Theorem 1 of Andrew et al.: for a multiplier of 1 and count noise of 0.5 m / 10 at m = 100."""
        rest = Noise(multiplier=1.0).split(5.0).multiplier
        assert rest == pytest.approx((1 - 1 / 100) ** -0.5)
        assert rest**-2 + (2 * 5.0) ** -2 == pytest.approx(1.0)
        with pytest.raises(ConfigError, match=r"count_noise = 0\.5 tells more than"):
            Noise(multiplier=1.0).split(0.5)


class TestEpsilon:
    def test_abadi_and_others(self) -> None:
        """Abadi et al. 2016 (arXiv 1607.00133), figure 2: q = 0.01, noise 4, 10,000 steps, delta 1e-5: 1.26.

        The conversion of Canonne, Kamath & Steinke 2020 that dp-accounting has gives a little less.
        """
        assert 1.0 < epsilon_poisson(4.0, 10_000, 0.01, 1e-5) < 1.26

    def test_without_sampling_it_is_the_gaussian_mechanism(self) -> None:
        """Renyi's divergence a / (2 s**2) a round, s half the multiplier, by the conversion of Canonne et al. 2020."""
        rounds, z, delta = 10, 8.0, 1e-5
        by_order = [
            rounds * a / (2 * (z / 2) ** 2) + math.log1p(-1 / a) - math.log(delta * a) / (a - 1) for a in privacy.ORDERS
        ]
        assert epsilon(z, rounds, 50, 50, delta) == pytest.approx(min(by_order), rel=1e-6)
        assert epsilon_of_client(z, rounds, delta) == pytest.approx(min(by_order), rel=1e-6)

    def test_it_is_not_below_what_an_attacker_can_do(self) -> None:
        """Balle & Wang 2018: the exact delta of one Gaussian mechanism at that epsilon is below the one asked for."""
        z, delta = 4.0, 1e-5
        found, mu = epsilon(z, 1, 9, 9, delta), 2 / z
        exact = stats.norm.cdf(mu / 2 - found / mu) - math.exp(found) * stats.norm.cdf(-mu / 2 - found / mu)
        assert 0 < exact <= delta

    def test_it_grows_with_rounds_and_share_and_falls_with_noise(self) -> None:
        base = epsilon(2.0, 100, 10, 1000, 1e-4)
        assert epsilon(2.0, 200, 10, 1000, 1e-4) > base > epsilon(4.0, 100, 10, 1000, 1e-4)
        assert epsilon(2.0, 100, 20, 1000, 1e-4) > base
        assert epsilon(2.0, 0, 10, 1000, 1e-4) == 0
        assert base > epsilon_poisson(2.0, 100, 0.01, 1e-4)  # replaced is more than taken away

    def test_what_a_record_says(self) -> None:
        found = Noise(multiplier=3.0).guarantee(50, 10, 300, 4)
        assert found["delta"] == pytest.approx(300**-1.1)
        assert found["epsilon"] == epsilon(3.0, 50, 10, 300, found["delta"])
        local = Noise(multiplier=30.0, place="clients", delta=1e-4).guarantee(50, 10, 300, 4)
        assert local["epsilon"] == epsilon_of_client(30.0, 4, 1e-4)
        assert "epsilon_poisson" not in local

    def test_without_the_package_the_remedy_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
        with pytest.raises(ConfigError, match=r"pip install 'metaleaf\[privacy\]'"):
            epsilon(1.0, 1, 1, 2, 1e-3)


class TestSecureAggregation:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("drop_outs", [0.0, 0.3])
    def test_the_mean_of_those_who_stay_to_half_a_step_each(self, dtype: torch.dtype, drop_outs: float) -> None:
        layer, cohort = SecureAggregation(drop_outs=drop_outs, bits=24), updates(10, dtype)
        weights = torch.arange(1, 11, dtype=torch.float64) / 55
        limit = norms(cohort).max()
        found = layer(cohort, weights, limit, SEED)
        masked = layer.mask(torch.zeros(10, 4, dtype=torch.int64), SEED)
        assert masked.messages.shape == (10, 4)
        means = []
        for stay in combinations(range(10), 10 - layer.lost(10)):
            rows = list(stay)
            part = trees.tree_map(lambda leaf, rows=rows: leaf[rows], cohort)
            means.append(trees.weighted_sum(part, weights[rows] / weights[rows].sum()))
        away = min(
            max(float((a - b).abs().max()) for a, b in zip(trees.leaves(found), trees.leaves(mean), strict=True))
            for mean in means
        )
        unit = float(layer.step(limit, weights)) / float(weights.sum())
        assert away <= 10 * unit + (1e-6 if dtype == torch.float32 else 0)
        assert found["a"].dtype == dtype

    @given(st.lists(st.integers(-(2**20), 2**20), min_size=3, max_size=7), st.integers(0, 2**40), st.integers(0, 2))
    def test_the_sum_is_exact(self, numbers: list[int], seed: int, lost: int) -> None:
        layer, count = SecureAggregation(), len(numbers)
        rows = torch.tensor(numbers)[:, None] * torch.tensor([1, -1, 3])
        stay = [i for i in range(count) if i >= min(lost, count - layer.needed(count))]
        found = layer.unmask(layer.mask(rows, torch.tensor(seed)), stay)
        assert found.tolist() == rows[stay].sum(0).tolist()

    def test_what_the_server_sees_is_uniform(self) -> None:
        """Each message alone; and all sums of some messages but not all, which pairwise masks have to hide."""
        layer = SecureAggregation(bits=16)
        round_ = layer.mask(torch.full((4, 20_000), 5), SEED)
        groups = [group for size in (1, 2, 3) for group in combinations(range(4), size)]
        for group in groups:
            seen = round_.messages[list(group)].sum(0)
            for i in group:
                seen = seen - layer._mask(round_.own[i], 20_000, seen)  # even if it knows their own masks
            counts = np.bincount((seen & 0xFFFF).numpy() >> 10, minlength=64)
            assert stats.chisquare(counts).pvalue > 1e-4, group

    def test_a_message_without_its_own_mask_would_tell_the_update_if_all_others_were_lost(self) -> None:
        """Why there are two masks: the server that gets the pairs' seeds of a slow client must not read it."""
        layer = SecureAggregation(bits=16)
        round_ = layer.mask(torch.full((3, 5000), 5), SEED)
        seen = round_.messages[0].clone()
        for (i, j), secret in round_.pairs.items():
            if j == 0:
                seen += layer._mask(secret, 5000, seen)
            assert i > j
        assert stats.chisquare(np.bincount((seen & 0xFFFF).numpy() >> 10, minlength=64)).pvalue > 1e-4
        bare = (seen - layer._mask(round_.own[0], 5000, seen)) & 0xFFFF
        assert bool((bare == 5).all())

    @given(st.integers(0, PRIME - 1), st.integers(2, 6), st.integers(0, 3))
    def test_enough_shares_bring_a_secret_back_and_fewer_do_not(self, secret: int, needed: int, more: int) -> None:
        shares = shared(secret, needed, needed + more)
        for holders in combinations(range(needed + more), needed):
            assert recovered(shares, holders) == secret
        assert recovered(shares, range(needed - 1)) != secret or secret == 0

    def test_too_many_drop_outs_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="needs 7 of 10 clients to stay, and 5 do"):
            SecureAggregation(drop_outs=0.5).check(10)
        with pytest.raises(ConfigError, match="needs 2 of 1 clients"):
            SecureAggregation().check(1)
        SecureAggregation(drop_outs=0.3).check(10)

    def test_bytes_by_hand(self) -> None:
        """Of 23 numbers of 20 bits, 58 bytes, in a cohort of 4."""
        like = trees.unstack(updates(4))[0]
        down, up = SecureAggregation(bits=20).nbytes(like, 4)
        assert down == 4 * 64 + 2 * 3 * 48
        assert up == 64 + 2 * 3 * 48 + 58 + 4 * 48
