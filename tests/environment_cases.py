"""Algorithms that learn from whole environments, and small environments of any model for them."""

from typing import Any

import torch
from small_tasks import shots

from metaleaf import registry, trees
from metaleaf.algorithm import Algorithm, State
from metaleaf.algorithms.few_round import FewRound
from metaleaf.algorithms.learned_start import LearnedStart
from metaleaf.engine.padding import pad
from metaleaf.environments.newcomers import Newcomer
from metaleaf.gradient import over
from metaleaf.optimizers import SGD
from metaleaf.shots import EnvironmentEpisode, Shots
from metaleaf.task import Task
from metaleaf.trees import Tree

NAMES = [
    name
    for name in registry.names("algorithms")
    if getattr(registry.plugin("algorithms", name), "unit", "client") == "environment"
]

VARIANTS: dict[str, Any] = {
    "few_round_first_meeting": FewRound(horizon=(0,), optimizer=SGD(0.1)),
    "few_round_gap": FewRound(horizon=(2,)),
    "moving": LearnedStart(frozen=False, directions=3, width=5),
    "moving_first_order": LearnedStart(frozen=False, first_order=True, directions=3, width=5),
    "horizon": LearnedStart(horizon=(0, 2), directions=3, width=5, reader="mean"),
    "linear": LearnedStart(reader="linear", directions=4),
    "dense": LearnedStart(writer="dense", width=4),
    "coordinate": LearnedStart(writer="coordinate", width=4, frozen=False, horizon=(1,)),
    "no_residual": LearnedStart(residual=False, directions=3),
    "read": LearnedStart(onward="read", directions=3, width=5),
    "learn": LearnedStart(onward="learn", directions=3, width=5),
}
ALL: dict[str, Any] = {
    **{name: registry.plugin("algorithms", name)() for name in NAMES},
    **VARIANTS,
}

SIZES: list[list[tuple[int, ...]]] = [[(4, 2, 6), (3, 5)], [(1, 7, 2), (2,)], [(5, 3), (1, 4)]]
"""Examples of the participants and of the judges of three environments; the last has a participant less."""


def clients(model: str, sizes: tuple[int, ...], size: int, seed: int) -> tuple[Shots, torch.Tensor]:
    """Clients of these sizes, padded to `size` clients of 7 examples; weights by examples."""
    stacked = trees.stack([pad(shots(model, n, seed + i), 7) for i, n in enumerate(sizes)])
    missing = size - len(sizes)
    padding = trees.tree_map(lambda leaf: torch.zeros((missing, *leaf.shape[1:]), dtype=leaf.dtype), stacked)
    whole: Shots = trees.tree_map(lambda a, b: torch.cat([a, b]), stacked, padding)
    return whole, torch.tensor([*(n / sum(sizes) for n in sizes), *[0.0] * missing])


def environment(model: str, number: int = 0, *, participants: int = 3, judges: int = 2) -> EnvironmentEpisode:
    taking: tuple[int, ...]
    judging: tuple[int, ...]
    taking, judging = SIZES[number]
    return EnvironmentEpisode(
        *clients(model, taking, participants, 100 * number),
        *clients(model, judging, judges, 100 * number + 50),
        torch.tensor(0.0),
    )


def prepared(algorithm: Algorithm, task: Task, state: State, episode: EnvironmentEpisode) -> EnvironmentEpisode:
    """The episode as a run hands it to the algorithm: with the first updates, if it keeps them."""
    if not getattr(algorithm, "keeps_first", False):
        return episode
    newcomer = Newcomer(task, algorithm, state.broadcast)
    return episode._replace(first=over(newcomer.first)(episode.participants))


def cohort(algorithm: Algorithm, task: Task, state: State, model: str) -> list[EnvironmentEpisode]:
    return [prepared(algorithm, task, state, environment(model, i)) for i in range(3)]


def local(task: Task, rate: float = 0.2, steps: int = 2) -> Task:
    task.local_lr, task.local_steps, task.rounds = rate, steps, 50
    return task


def shaken(state: State, size: float = 0.3, seed: int = 3) -> State:
    """The state with random numbers added to what is trained: at the start much of it is 0, which would hide much."""
    generator = torch.Generator().manual_seed(seed)

    def shake(leaf: torch.Tensor) -> torch.Tensor:
        return leaf + size * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)

    broadcast: Any = state.broadcast
    if "learned" in broadcast:
        broadcast = {**broadcast, "learned": trees.tree_map(shake, broadcast["learned"])}
        broadcast = {
            **broadcast,
            "scale": broadcast["scale"] * torch.linspace(0.5, 2, len(broadcast["scale"])).double(),
        }
    return State(broadcast, state.kept)


def trained_parts(broadcast: Tree, gradient: Tree) -> Tree:
    """What of the broadcast a gradient is of."""
    return broadcast if broadcast.keys() == gradient.keys() else {key: broadcast[key] for key in gradient}
