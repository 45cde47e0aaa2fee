"""FedBN: two rounds by hand on normalised inputs, what stays with the clients, and what a new client does."""

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import cohort, handed, reference_batches, shots, task
from softmax_by_hand import (
    ALL,
    CLASSES,
    FEATURES,
    SEEDS,
    SUPPORTS,
    THETA,
    Array,
    Data,
    array,
    as_shots,
    both,
    gradient,
    history,
    mean,
    softmax,
    tensors,
)
from torch import Tensor, nn

from metaleaf import trees
from metaleaf.algorithms.fedbn import FedBN
from metaleaf.engine.engine import Mode, engine
from metaleaf.errors import ConfigError
from metaleaf.models import BatchNorm, Model
from metaleaf.optimizers import SGD
from metaleaf.task import Params, Task


class Normalised(Model):
    """Softmax regression on normalised inputs."""

    parts = {"head": ("out",), "norm": ("norm",)}

    def __init__(self) -> None:
        super().__init__()
        self.norm = BatchNorm(FEATURES)
        self.out = nn.Linear(FEATURES, CLASSES)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.norm(x[:, :, None, None], mask)
        return found.flatten(1)


NORM = np.array([[1.3, 0.6], [0.1, -0.4]])  # scale and bias


def normalised() -> Task:
    model = Normalised().double()
    model.load_state_dict({**norm_tensors(NORM), **tensors(THETA)})
    return Task(model)


def norm_tensors(norm: Array) -> Params:
    return {"norm.scale": torch.tensor(norm[0]), "norm.bias": torch.tensor(norm[1])}


def norm_array(params: Params) -> Array:
    return np.stack([params["norm.scale"].numpy(), params["norm.bias"].numpy()])


def gradients(theta: Array, norm: Array, data: Data) -> tuple[Array, Array]:
    """Of the mean cross-entropy on a batch, by the head and by (scale, bias)."""
    x, y = data
    plain = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    seen = norm[0] * plain + norm[1]
    slope = (softmax(theta, seen)[1] - np.eye(CLASSES)[y]) / len(y) @ theta[:, :FEATURES]
    return gradient(theta, (seen, y)), np.stack([(slope * plain).sum(0), slope.sum(0)])


def trained(theta: Array, norm: Array, data: Data, seed: int, lr: float) -> tuple[Array, Array]:
    """After 2 epochs in batches of 2."""
    for rows in reference_batches(seed, len(data[1]), 2, 2):
        by_theta, by_norm = gradients(theta, norm, (data[0][rows], data[1][rows]))
        theta, norm = theta - lr * by_theta, norm - lr * by_norm
    return theta, norm


@both
def test_three_rounds_by_hand(mode: Mode) -> None:
    algorithm = FedBN(SGD(0.5), epochs=2, batch_size=2, decay=0.6)
    theta, norms = THETA, [NORM, NORM]
    for number, (state, memories) in enumerate(history(algorithm, mode, 3, normalised())):
        rate = 0.5 * 0.6**number
        ends = [trained(theta, norms[i], ALL[i], SEEDS[i], rate) for i in (0, 1)]
        theta, norms = mean([end[0] for end in ends]), [end[1] for end in ends]
        assert state.broadcast.keys() == {"out.weight", "out.bias"}
        np.testing.assert_allclose(array(state.broadcast), theta, rtol=1e-10, atol=1e-12)
        for found, expected in zip(memories, norms, strict=True):
            np.testing.assert_allclose(norm_array(found), expected, rtol=1e-10, atol=1e-12)


def test_a_new_client_learns_its_normalisation_only() -> None:
    theta = THETA + 0.2
    algorithm = FedBN(adapt_lr=0.3, adapt_steps=3)
    for client in (0, 1):
        norm, steps = NORM, [NORM]
        for _ in range(3):
            norm = norm - 0.3 * gradients(theta, norm, SUPPORTS[client])[1]
            steps.append(norm)
        models = list(algorithm.adapt(normalised(), tensors(theta), as_shots(SUPPORTS[client], SEEDS[client])))
        for model, expected in zip(models, steps, strict=True):
            np.testing.assert_array_equal(array(model), theta)
            np.testing.assert_allclose(norm_array(model), expected, rtol=1e-11, atol=1e-13)


@both
def test_normalisation_of_faces_stays_with_the_clients(mode: Mode) -> None:
    work, algorithm = task("face_cnn"), FedBN(SGD(0.1))
    state = algorithm.init(work, work.params())
    episodes = handed(algorithm, work, state, cohort("face_cnn"))
    update, memories = engine(work, algorithm, mode).gather(state.broadcast, episodes, [0.25] * 4)
    following: Any = tuple(algorithm.server(state, update))
    for tree in (state.broadcast, update, following):
        names = trees.named_leaves(tree)
        assert names
        assert not any("norm" in name for name in names)
    own = {f"norm{i}.{part}" for i in range(4) for part in ("scale", "bias")}
    assert update.keys() | own == work.params().keys()
    for i, one in enumerate(memories):
        assert one.keys() == own
        for other in memories[:i]:
            assert all(not torch.equal(one[name], other[name]) for name in own)


def test_a_returning_client_goes_on_from_its_own_normalisation() -> None:
    work, algorithm = task("face_cnn"), FedBN(SGD(0.1))
    state = algorithm.init(work, work.params())
    first, second = (cohort("face_cnn")[i] for i in (0, 2))
    fresh = algorithm.memory(work, state.broadcast)
    _, kept = algorithm.client(work, state.broadcast, first._replace(memory=fresh))
    _, again = algorithm.client(work, state.broadcast, second._replace(memory=kept))
    _, anew = algorithm.client(work, state.broadcast, second._replace(memory=fresh))
    assert not torch.equal(again["norm0.scale"], anew["norm0.scale"])


def test_a_new_clients_face_model_is_whole() -> None:
    work = task("face_cnn")
    algorithm = FedBN(adapt_lr=0.1, adapt_steps=2)
    state = algorithm.init(work, work.params())
    *_, end = algorithm.adapt(work, state.broadcast, shots("face_cnn", 6, seed=1))
    shared, norm = work.split(work.params(), "norm")
    assert end.keys() == work.params().keys()
    assert all(torch.equal(end[name], p) for name, p in shared.items())
    assert not any(torch.equal(end[name], p) for name, p in norm.items() if name.endswith("scale"))


def test_a_model_without_normalisation_is_refused() -> None:
    """It was FedAvg under another name, without a word."""
    work = task("cnn")
    with pytest.raises(ConfigError, match=r"^CNN has no parameters in a part 'norm', which the alg.*\.$"):
        FedBN().init(work, work.params())
