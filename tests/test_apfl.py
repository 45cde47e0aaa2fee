"""APFL: rounds by hand, what alpha's extremes are, and what a new client does."""

import numpy as np
import pytest
import torch
from small_tasks import reference_batches
from softmax_by_hand import (
    ALL,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    adapted,
    array,
    assert_models,
    both,
    episodes,
    gradient,
    history,
    local_sgd,
    mean,
    tensors,
    tiny,
)

from metaleaf.algorithms.apfl import APFL
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.config.config import build
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError
from metaleaf.optimizers import SGD


def mixed(w: Array, v: Array, alpha: float) -> Array:
    return alpha * v + (1 - alpha) * w


def client_round(w: Array, v: Array, alpha: float, data: Data, seed: int, lr: float) -> tuple[Array, Array, float]:
    """(w, v, alpha) after two epochs in batches of 2; alpha's rate is 0.9."""
    batches = [(data[0][rows], data[1][rows]) for rows in reference_batches(seed, len(data[1]), 2, 2)]
    alpha = float(np.clip(alpha - 0.9 * ((v - w) * gradient(mixed(w, v, alpha), batches[0])).sum(), 0, 1))
    for batch in batches:
        w, v = w - lr * gradient(w, batch), v - lr * alpha * gradient(mixed(w, v, alpha), batch)
    return w, v, alpha


@both
def test_four_rounds_by_hand(mode: Mode) -> None:
    """v and alpha stay with their client, and move with the w of the same step."""
    algorithm = APFL(SGD(0.5), epochs=2, batch_size=2, decay=0.9, alpha=0.6, alpha_lr=0.9)
    w, own, alphas = THETA, [THETA, THETA], [0.6, 0.6]
    seen = set()
    for number, (state, memories) in enumerate(history(algorithm, mode, 4)):
        ends = [client_round(w, own[i], alphas[i], ALL[i], SEEDS[i], 0.5 * 0.9**number) for i in (0, 1)]
        w, own, alphas = mean([end[0] for end in ends]), [end[1] for end in ends], [end[2] for end in ends]
        np.testing.assert_allclose(array(state.broadcast), w, rtol=1e-11, atol=1e-13)
        for i in (0, 1):
            np.testing.assert_allclose(array(memories[i]["own"]), own[i], rtol=1e-11, atol=1e-13)
            assert float(memories[i]["alpha"]) == pytest.approx(alphas[i], rel=1e-11)
        seen |= set(alphas)
    assert len(seen) > 4, "alpha learns, and differs between clients"


@both
def test_the_global_model_is_fedavgs(mode: Mode) -> None:
    pair = [history(cls(SGD(0.5, momentum=0.9), epochs=2, batch_size=2), mode, 3) for cls in (APFL, FedAvg)]
    for (one, _), (other, _) in zip(*pair, strict=True):
        torch.testing.assert_close(one.broadcast, other.broadcast, rtol=1e-13, atol=1e-15)


@both
def test_alpha_1_is_local_training_and_alpha_0_leaves_the_own_model(mode: Mode) -> None:
    for alpha in (0, 1):
        algorithm = APFL(SGD(0.5), epochs=2, batch_size=2, alpha=alpha, alpha_lr=0.0)
        *_, (_, memories) = history(algorithm, mode, 2)
        for i in (0, 1):
            expected = THETA
            for _ in range(2 * alpha):
                expected = local_sgd(expected, ALL[i], SEEDS[i], 0.5, 2, 2)
            np.testing.assert_allclose(array(memories[i]["own"]), expected, rtol=1e-11, atol=1e-13)
            assert memories[i]["alpha"] == alpha


def test_alpha_stays_within_0_and_1() -> None:
    for alpha, end in ((0.9, 1.0), (0.1, 0.0)):
        work, one = tiny(), episodes()[1]
        better = local_sgd(THETA, ALL[1], 1, 0.5, 8, 9)
        own, w = (better, THETA) if end else (THETA, better)
        memory = {"own": tensors(own), "alpha": torch.tensor(alpha, dtype=torch.float64)}
        kept = APFL(alpha_lr=1e6).client(work, tensors(w), one._replace(memory=memory)).memory
        assert kept["alpha"] == end


def test_participants_mix_and_new_clients_train_a_mixture() -> None:
    algorithm = APFL(SGD(0.5), batch_size=2, alpha=0.7, adapt_epochs=3)
    memory = {"own": tensors(THETA + 1), "alpha": torch.tensor(0.25, dtype=torch.float64)}
    found = [array(m) for m in algorithm.personal(tiny(), tensors(THETA), episodes()[0]._replace(memory=memory))]
    assert_models(found, [THETA, THETA + 0.25])
    for client in (0, 1):

        def slope(v: Array, data: Data) -> Array:
            found: Array = 0.7 * gradient(mixed(THETA, v, 0.7), data)
            return found

        owns = [local_sgd(THETA, SUPPORTS[client], SEEDS[client], 0.5, 2, e, slope=slope) for e in range(4)]
        assert_models(adapted(algorithm, tensors(THETA), client), [mixed(THETA, v, 0.7) for v in owns])


@pytest.mark.parametrize("wrong", [{"alpha": 1.1}, {"alpha": -0.1}, {"alpha_lr": -1.0}])
def test_refuses_wrong_values(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build("algorithms", "apfl", wrong)
