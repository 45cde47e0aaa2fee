"""Trials one after the other, each proposed from the scores of those before, by Optuna's TPE sampler.

Bergstra, Bardenet, Bengio, Kégl (2011), NeurIPS 24; Akiba et al. (2019), arXiv 1907.10902. The sampler is seeded, and
what it proposes depends on the scores alone: so a search is resumed by asking it again for everything, with the
outcomes that are there, and needs no database. Another version of Optuna may propose other trials.

A search has the same grid and the same number of different trials as the balanced draw. Where all values of a
hyper-parameter are numbers, TPE models their positions, from the first to the last, and else each value for itself.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metaleaf.algorithm import Space
from metaleaf.errors import ConfigError

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

Changes = dict[str, Any]
Outcome = Callable[[Changes], dict[str, Any] | None]
"""A trial's outcome, whose `score` is null if it diverged; None if it has not run."""

REPEATS = 50
"""Proposals that repeat a trial before one of the grid that is not tried yet is drawn instead."""


def proposed(space: Space, trials: int, seed: int, outcome: Outcome) -> list[Changes]:
    """The trials in order: all that have an outcome, and the next one after them if there are fewer than `trials`.

    A diverged trial counts as a score of 0 where higher is better, else for nothing. No trial comes twice. ConfigError
    if Optuna is not installed.
    """
    study = _study(trials, seed)
    found: list[Changes] = []
    while len(found) < trials:
        trial = _new(study, space, found)
        found.append(_changes(trial, space))
        result = outcome(found[-1])
        if result is None:
            break
        _tell(study, trial, result)
    return found


def _tell(study: "Study", trial: "Trial", result: Mapping[str, Any]) -> None:
    from optuna.trial import TrialState

    score, higher_is_better = result["score"], (result.get("metric") or {}).get("higher_is_better", True)
    if score is None and not higher_is_better:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, float(score or 0.0) if higher_is_better else -float(score))


def _study(trials: int, seed: int) -> "Study":
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            'the sampler "tpe" needs Optuna: pip install \'metaleaf[optuna]\', or choose sampler = "grid".'
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `multivariate`, before Optuna 5
        # Its default of ten random trials first would be most or all of a search.
        startup = max(2, trials // 3)
        sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=startup, multivariate=True)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _new(study: "Study", space: Space, found: Sequence[Changes]) -> "Trial":
    """The next proposal that is not among those found."""
    from optuna.trial import TrialState

    for _ in range(REPEATS):
        trial = study.ask()
        if _changes(trial, space) not in found:
            return trial
        study.tell(trial, state=TrialState.FAIL)  # nothing is learnt twice from one score
    rng = np.random.default_rng(len(found))
    while _at(point := {name: int(rng.integers(len(values))) for name, values in space.items()}, space) in found:
        pass  # there is one, since the grid is not smaller than the number of trials
    study.enqueue_trial(point)
    return study.ask()


def _changes(trial: "Trial", space: Space) -> Changes:
    """The trial's proposal; asked again, it is the same."""
    return _at({name: _position(trial, name, values) for name, values in space.items()}, space)


def _position(trial: "Trial", name: str, values: Sequence[Any]) -> int:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return trial.suggest_int(name, 0, len(values) - 1)
    return int(trial.suggest_categorical(name, range(len(values))))


def _at(positions: Mapping[str, int], space: Space) -> Changes:
    return {name: values[positions[name]] for name, values in space.items()}
