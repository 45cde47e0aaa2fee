"""Loops of an algorithm's own take the steps that `fit` takes, padded or not."""

from typing import Any

import pytest
import torch
from small_tasks import shots, task
from torch.testing import assert_close

from metaleaf.engine.padding import pad
from metaleaf.gradient import grad
from metaleaf.learning import fit, where_real
from metaleaf.optimizers import SGD, Adam
from metaleaf.shots import minibatches


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, momentum=0.9, weight_decay=0.1), Adam(0.1)])
@pytest.mark.parametrize("padding", [0, 7])
def test_a_batch_of_padding_is_no_step(optimizer: Any, padding: int) -> None:
    work, alone = task("logistic"), shots("logistic", 5, 0)
    given = pad(alone, 5 + padding) if padding else alone
    params, start = work.params(), optimizer.init(work.params())
    state, steps = start, torch.tensor(0)
    for batch in minibatches(given, 2):
        moved = *optimizer.step(params, grad(work.loss)(params, batch), state), steps + 1
        params, state, steps = where_real(batch, moved, (params, state, steps))
    assert steps == 3
    assert_close(params, fit(work, work.params(), alone, optimizer, batch_size=2))
