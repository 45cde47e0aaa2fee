"""What a run starts from: the parameters that another algorithm reaches with a part of the budget, computed once.

Several methods of a suite start from the same parameters, so these are kept beside the prepared data, under a hash of
all that decides them. They are a cache: deleting them costs time only.
"""

import fcntl
from collections.abc import Callable
from typing import Any

from metaleaf.config.config import RunConfig, Start, digest
from metaleaf.files import tensor_files
from metaleaf.files.whole_files import write_atomically
from metaleaf.raw import data_home
from metaleaf.task import Params


def kept(decided_by: Any, compute: Callable[[], Params]) -> Params:
    """The parameters that were computed under the same values, JSON of all that decides them; computed if none were."""
    path = data_home() / "starts" / f"{digest(decided_by)[:24]}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # runs that start alike wait for the first of them
        try:
            return tensor_files.read(path)[0]
        except tensor_files.Damaged:  # or not there: it costs time only
            params = compute()
            write_atomically(path, lambda target: tensor_files.write(target, params))
            return tensor_files.read(path)[0]


def start_of(config: RunConfig) -> RunConfig:
    """The configuration of a run's start as a run of its own, on other cohorts than those that follow.

    Without layers, which are for new environments.
    """
    start: Start = config.start  # type: ignore[assignment]  # only asked for where there is one
    rules = config.protocol.environments
    assert rules is not None
    budget = int(start.share * rules.budget)
    protocol = config.protocol.model_copy(
        update={"environments": rules.model_copy(update={"budget": budget}), "evaluate_every": 10**9}
    )
    return config.model_copy(
        update={
            "algorithm": start.name,
            "hyperparameters": start.hyperparameters,
            "protocol": protocol,
            "start": start.start and start.start.model_copy(update={"share": start.start.share / start.share}),
            "seed": config.seed + 1_000_000,
            "protection": {},
        }
    )
