"""What a run starts from: the parameters that another algorithm reaches with a part of the budget, computed once.

Several methods of a suite start from the same parameters, so these are kept beside the prepared data, under a hash of
all that decides them. They are a cache: deleting them costs time only.
"""

import fcntl
from pathlib import Path
from typing import TYPE_CHECKING

from metaleaf import tensor_files
from metaleaf.config import RunConfig, Start, digest
from metaleaf.errors import ConfigError
from metaleaf.provenance import device_facts, versions
from metaleaf.raw import data_home
from metaleaf.sources import of_run
from metaleaf.task import Params
from metaleaf.whole_files import write_atomically

if TYPE_CHECKING:
    from metaleaf.environment_run import EnvironmentRun


def start_params(run: "EnvironmentRun") -> Params:
    """The parameters that the run's configured start reaches."""
    config = _config(run.config)
    sources = of_run(config, type(run).__module__, run.store.about)
    made_by = [run.store.about["data_hash"], sources, versions(config), device_facts(run.device)]
    key = digest([config.resolved(), config.seed, *made_by, *([run.rounding] if run.rounding.said() else [])])
    path = data_home() / "starts" / f"{key[:24]}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # runs that start alike wait for the first of them
        if (found := _kept(path)) is None:
            _compute(run, config, path)
            found, _ = tensor_files.read(path)
    return {name: found[name].to(run.task.device) for name in run.task.params()}


def _kept(path: Path) -> Params | None:
    try:
        return tensor_files.read(path)[0]
    except tensor_files.Damaged:  # or not there: it costs time only
        return None


def _config(config: RunConfig) -> RunConfig:
    """The configuration of the start as a run of its own, on other cohorts than those that follow."""
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
        }
    )


def _compute(run: "EnvironmentRun", config: RunConfig, path: Path) -> None:
    other = type(run)(config, run.store, mode="auto", device=run.device, rounding=run.rounding)
    progress = other.train()
    if progress.diverged:
        raise ConfigError(f"{config.algorithm_label}: its start {config.algorithm} diverged ({progress.diverged}).")
    params = other.algorithm_params(progress.state.broadcast)
    write_atomically(path, lambda target: tensor_files.write(target, params))
