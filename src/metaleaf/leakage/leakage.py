"""What a client can lose: for cells of a suite, what a curious server finds in what clients send, layer by layer.

The attacker follows the protocol and knows what the server knows: the broadcast, the algorithm and the layers with all
their options. It is told what it might have to guess: how many examples a client has, their labels, the order of its
batches, the range of its inputs. It does not know noise or masks. See docs/leakage.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithm import State
from metaleaf.config.config import RunConfig
from metaleaf.config.suite import Suite
from metaleaf.data.prepare import load
from metaleaf.errors import ConfigError, refuse_unknown
from metaleaf.jobs.cells import cells_of, select
from metaleaf.jobs.execute import Settings, runner
from metaleaf.leakage.inversion import Inputs, Inversion
from metaleaf.leakage.measure import Array, matched, psnr, recovered, squared_errors
from metaleaf.leakage.scene import Scene, layers_of, sees_single_updates
from metaleaf.leakage.subjects import subject_of, update_of
from metaleaf.leakage.tokens import embedding_of, largest, moved
from metaleaf.protection.pipeline import numbers
from metaleaf.records.records import Record, read_record
from metaleaf.runs.run import Run
from metaleaf.runs.saved import load_state
from metaleaf.runs.store import Cell
from metaleaf.seeds import derive
from metaleaf.trees import Tree


@dataclass(frozen=True)
class Question:
    """Who is attacked, and how."""

    clients: PositiveInt = 4
    """Of the first round's cohort, the first so many."""
    examples: tuple[PositiveInt, ...] = (1,)
    """Each client has: one attack for each number."""
    model: Literal["untrained", "final", "selected"] = "untrained"
    """What is broadcast: the start, or what the cell's saved run broadcasts in the end."""
    inversion: Inversion = field(default_factory=Inversion)


class Leak(NamedTuple):
    """What was found in one setting: a row a client (see docs/leakage.md).

    images: pairs of true ones and those that stand for them, [m, *x_shape] between 0 and 1; none where x are no images,
    or nothing was sent.
    """

    config: RunConfig
    examples: int
    rows: list[dict[str, Any]]
    images: list[tuple[Array, Array]]


def leak(
    suite: Suite,
    settings: Settings,
    question: Question,
    *,
    datasets: Sequence[str] = (),
    algorithms: Sequence[str] = (),
    seed: int | None = None,
) -> Iterator[Leak]:
    """Attack the cells of these datasets and algorithms (labels; none: all) under one seed, by default each's first."""
    refuse_unknown("dataset of the suite", datasets, suite.datasets)
    every = select(suite, cells_of(suite, settings.root, algorithms), algorithms, () if seed is None else (seed,))
    chosen = [
        config
        for config in every
        if config.dataset_label in (datasets or suite.datasets)
        and config.seed == (suite.seeds_for(config.algorithm_label)[0] if seed is None else seed)
    ]
    if not chosen:
        raise ConfigError(f"no algorithm of those has the seed {seed} in the suite {suite.name}: choose another seed.")
    torch.set_num_threads(settings.threads_per_worker())
    for config in chosen:
        yield from _of_cell(config, settings, question)


def _of_cell(config: RunConfig, settings: Settings, question: Question) -> Iterator[Leak]:
    if config.protocol.environments:
        raise ConfigError(
            f"{config.dataset_label}: updates are attacked on the tracks of clients, not in environments."
        )
    store = load(config.dataset, config.build_dataset(), raw=settings.raw, stale=settings.stale)
    run = runner(config)(config, store, mode="sequential", device=settings.device)
    state = _state(run, Cell(settings.root, config), question)
    for examples in question.examples:
        yield of_run(run, state, examples, question)


def _state(run: Run, cell: Cell, question: Question) -> State:
    """What the server has when it broadcasts."""
    start = run.algorithm.init(run.task, run.task.params())
    if question.model == "untrained":
        return start
    if not cell.done():
        raise ConfigError(f"there is no {cell.record_path}: run the suite with --save, or attack the untrained model.")
    saved = load_state(cell.record_path, read_record(Record, cell.record_path).content, start)
    return State(*trees.to((saved.broadcast(question.model), saved.final.kept), run.task.device))


def of_run(run: Run, state: State, examples: int, question: Question) -> Leak:
    """Attack clients of a run's first round, who have so many examples each, given the server's state.

    ConfigError if they send nothing, or the attack cannot be made on what they send.
    """
    if not getattr(run.algorithm, "federated", True):
        raise ConfigError(f"{run.config.algorithm} sends nothing that could be attacked: leave it out.")
    cohort, alone = run.federation.cohort(1), sees_single_updates(layers_of(run))
    if question.clients > len(cohort):
        raise ConfigError(
            f"{question.clients} clients are to be attacked and {len(cohort)} take part in a round: attack fewer, or "
            "raise clients_per_round."
        )
    senders = cohort[: question.clients] if alone else cohort
    subjects = [subject_of(run, state, client, examples) for client in senders]
    updates = [trees.tree_map(Tensor.detach, update_of(run, state, one.episode)) for one in subjects]
    scene = Scene(run, state, senders, subjects)
    sides = [[i] for i in range(len(subjects))] if alone else [list(range(len(subjects)))]
    seen = scene.arrived(updates)
    found = [_attacked(scene, side, message, question) for side, message in zip(sides, seen, strict=True)]
    rows = [
        {
            "dataset": run.config.dataset_label,
            "algorithm": run.config.algorithm_label,
            "seed": run.config.seed,
            "model": question.model,
            "client": str(run.store.ids[client]),
            "examples": len(one.x),
            "summed": 1 if alone else len(cohort),
            "update_norm": trees.length(numbers(update)),
            **scores,
        }
        for client, one, update, scores in zip(
            senders, subjects, updates, (row for each in found for row in each.rows), strict=True
        )
    ]
    return Leak(run.config, examples, rows[: question.clients], [one.images for one in found if one.images])


class _Found(NamedTuple):
    """In one message: a row of scores a client who has a part in it; images as in `Leak`."""

    rows: list[dict[str, float]]
    images: tuple[Array, Array] | None = None


def _attacked(scene: Scene, side: Sequence[int], message: Tree, question: Question) -> _Found:
    if trees.length(message) == 0:  # as of MAML without a query: there is nothing to attack
        return _Found([{} for _ in side])
    return _tokens(scene, side, message) if scene.kind == "tokens" else _inputs(scene, side, message, question)


def _inputs(scene: Scene, side: Sequence[int], message: Tree, question: Question) -> _Found:
    """Images and features, by inversion."""
    subjects = [scene.subjects[i] for i in side]
    images, (low, high) = scene.kind == "images", scene.range()
    if images:
        scene.check_floats(subjects[0])
    travelled = scene.travelled(message)

    def update(inputs: Inputs) -> Tree:
        return scene.modelled(side, [low + (high - low) * x for x in inputs], travelled)

    seed = torch.tensor(derive(scene.run.config.seed, "leakage"), device=scene.run.task.device)
    best = question.inversion(update, message, [one.x.shape for one in subjects], seed, images=images)
    true = _unit(np.concatenate([one.x.cpu().numpy() for one in subjects]), low, high)
    found = torch.cat(best.inputs).cpu().numpy().astype(np.float64)
    found = found[matched(squared_errors(found, true))]
    others, ends = _unit(scene.others, low, high), np.cumsum([len(one.x) for one in subjects])[:-1]
    parts = zip(np.split(found, ends), np.split(true, ends), strict=True)
    rows = [{"objective": best.objective, **_scores(images, mine, own, others)} for mine, own in parts]
    return _Found(rows, (true, found) if images else None)


def _unit(x: Array, low: float, high: float) -> Array:
    """X as numbers between 0 and 1."""
    found: Array = (x.astype(np.float64) - low) / (high - low)
    return found


def _scores(images: bool, found: Array, true: Array, others: Array) -> dict[str, float]:
    """How near those found are to the true ones, in their order, beside what the others' examples tell anyhow."""
    errors = np.square(found - true).reshape(len(true), -1).mean(1)
    mean = squared_errors(others.mean(0)[None], true)[0]
    nearest = squared_errors(others, true).min(0)
    if images:
        ratios = {"psnr": errors, "psnr_mean_image": mean, "psnr_nearest": nearest}
        means = {name: float(psnr(each).mean()) for name, each in ratios.items()}
        return {**means, "psnr_best": float(psnr(errors).max())}
    return {"error": float(errors.mean() / mean.mean()), "error_nearest": float(nearest.mean() / mean.mean())}


def _tokens(scene: Scene, side: Sequence[int], message: Tree) -> _Found:
    """Tokens, by the rows of the embedding that have moved. The attacker is told how many different ones there are."""
    subjects = [scene.subjects[i] for i in side]
    own = [set(one.x.flatten().tolist()) for one in subjects]
    lengths = moved(scene.moves(message), embedding_of(scene.run.task, subjects[0].x))
    count = len(set().union(*own))
    found = largest(lengths, count)
    frequent = largest(torch.from_numpy(np.bincount(scene.others.ravel().astype(np.int64))), count)
    return _Found(
        [
            {"tokens": len(true), **recovered(found, true)._asdict(), "f1_frequent": recovered(frequent, true).f1}
            for true in own
        ]
    )
